//! Descriptors of our own for files that another library knows by their numbers only.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use vfio_assign_linux::Errno;

/// A duplicate of the file, by way of the kernel: a bare number proves nothing about who owns it.
pub(crate) fn own_descriptor(file: &impl AsRawFd) -> Result<OwnedFd, Errno> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, file.as_raw_fd(), PidfdGetfdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn duplicate_is_the_same_file() {
        let mut file = tempfile::tempfile().unwrap();
        let own = own_descriptor(&file).unwrap();
        file.write_all(b"x").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        std::fs::File::from(own).read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }
}
