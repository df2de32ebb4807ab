//! Descriptors of our own for files that another library knows by their numbers only.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno as RawErrno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use vfio_assign_linux::Errno;

use crate::help::Help;

/// A descriptor was not duplicated.
#[derive(Debug, thiserror::Error)]
#[error("cannot duplicate the descriptor of {what}: {call}: {}", Errno::from(*.errno))]
pub(crate) struct NoDescriptor {
    what: &'static str,
    call: &'static str,
    errno: RawErrno,
}

impl Help for NoDescriptor {
    fn help(&self) -> Option<String> {
        Some(match self.errno {
            RawErrno::NOSYS => "use Linux 5.6 or later, or a sandbox that does not hide pidfd_open and pidfd_getfd".into(),
            RawErrno::PERM | RawErrno::ACCESS => {
                "the sandbox that this runs in (seccomp, a container's profile) must allow pidfd_open and pidfd_getfd"
                    .into()
            }
            RawErrno::MFILE | RawErrno::NFILE => "raise the number of open files: `ulimit -n`".into(),
            _ => return None,
        })
    }
}

/// A duplicate of the file that `what` names, by way of the kernel: a bare number proves nothing about who owns it.
pub(crate) fn own_descriptor(what: &'static str, file: &impl AsRawFd) -> Result<OwnedFd, NoDescriptor> {
    let refused = |call| move |errno| NoDescriptor { what, call, errno };
    let this = pidfd_open(getpid(), PidfdFlags::empty()).map_err(refused("pidfd_open"))?;
    pidfd_getfd(this, file.as_raw_fd(), PidfdGetfdFlags::empty()).map_err(refused("pidfd_getfd"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn duplicate_is_the_same_file() {
        let mut file = tempfile::tempfile().unwrap();
        let own = own_descriptor("a file", &file).unwrap();
        file.write_all(b"x").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        std::fs::File::from(own).read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn a_sandbox_that_refuses_is_told_from_an_old_kernel() {
        let help = |errno| NoDescriptor { what: "a machine", call: "pidfd_getfd", errno }.help().unwrap();
        assert!(help(RawErrno::PERM).contains("seccomp") && help(RawErrno::NOSYS).contains("Linux 5.6"));
    }
}
