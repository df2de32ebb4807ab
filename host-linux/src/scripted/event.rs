//! The kernel's side of an eventfd: a reference to it, and by what it knows it again.

use crate::errno::Errno;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// An eventfd that the kernel keeps.
#[derive(Clone, Debug)]
pub(super) struct KernelEvent {
    fd: Arc<OwnedFd>,
    id: u64,
}

impl KernelEvent {
    pub(super) fn new(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let id = event_id(fd.as_raw_fd()).ok_or(Errno::EINVAL)?;
        let fd = fd.try_clone_to_owned().map_err(|error| Errno::of(&error).unwrap_or(Errno::EBADF))?;
        Ok(Self { fd: Arc::new(fd), id })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn signal(&self) {
        // A full counter is signalled.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Takes what the counter holds.
    pub(super) fn take(&self) -> bool {
        rustix::io::read(&self.fd, &mut [0; 8]).is_ok()
    }
}

/// The number that the kernel gives an eventfd; none where the descriptor is something else.
pub(super) fn event_id(fd: RawFd) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("eventfd-id:"))?;
    line.trim().parse().ok()
}

/// The eventfds that this process has open, but for `own` descriptors.
pub(super) fn open_events(own: &BTreeSet<RawFd>) -> BTreeSet<u64> {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    numbers.filter(|number| !own.contains(number)).filter_map(event_id).collect()
}
