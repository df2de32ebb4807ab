//! Files of guest memory keep their size: where one becomes smaller, touching what is gone ends the process (SIGBUS), and
//! the guest meets a fault that nobody can explain.
//!
//! What remains to whoever has the file is to punch holes into it. A hole is zeros when it is touched, but of huge pages
//! one must be free for it. The seal against that would keep the guest from writing.

use crate::errno::Errno;
use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals};
use std::os::fd::{AsFd, BorrowedFd};

/// Keeps the size of a file that this crate has made.
pub(super) fn seal(file: impl AsFd) -> Result<(), Errno> {
    Ok(fcntl_add_seals(file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?)
}

/// Keeps a file that somebody else has made from becoming smaller, where that can be had: whether it is.
///
/// A memfd made without `MFD_ALLOW_SEALING` cannot be sealed, nor can a file with a name, of huge pages or others.
pub(super) fn seal_foreign(file: BorrowedFd<'_>) -> bool {
    let sealed = fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    sealed || fcntl_add_seals(file, SealFlags::SHRINK).is_ok()
}
