//! How many files this process may have open: as many as root lets it, for each interrupt vector is one.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit, which is low for programs that cannot count further, to the hard one.
pub(crate) fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, limit) {
        log::warn!(
            "cannot raise the number of open files to the hard limit: {errno}; a device with many vectors may lack some"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_that_root_lets_it_have_may_be_open() {
        raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
