//! An eventfd: how VFIO tells that an interrupt came, and how KVM hears of it.

use crate::errno::Errno;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A counter in the kernel that an interrupt raises: nonblocking, closed on exec.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new eventfd, counter 0.
    ///
    /// # Errors
    ///
    /// `EMFILE` where RLIMIT_NOFILE is reached.
    pub fn new() -> Result<Self, Errno> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Ok(Self(rustix::event::eventfd(0, flags)?))
    }

    /// Signals once, as the interrupt would.
    ///
    /// # Errors
    ///
    /// What `write` gave. A counter at its highest value is signalled already, and no error.
    pub fn signal(&self) -> Result<(), Errno> {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes the count of signals since the last time, and leaves 0.
    ///
    /// # Errors
    ///
    /// What `read` gave. No signal is the count 0, and no error.
    pub fn take(&self) -> Result<u64, Errno> {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether a signal waits to be taken. Takes nothing.
    ///
    /// # Errors
    ///
    /// What `poll` gave.
    pub fn is_signalled(&self) -> Result<bool, Errno> {
        let mut poll = [PollFd::new(&self.0, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match rustix::event::poll(&mut poll, Some(&at_once)) {
                Ok(_) => return Ok(poll[0].revents().contains(PollFlags::IN)),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_one_is_not_signalled() {
        let event = EventFd::new().unwrap();
        assert!(!event.is_signalled().unwrap());
    }

    #[test]
    fn asking_takes_nothing() {
        let event = EventFd::new().unwrap();
        event.signal().unwrap();
        event.is_signalled().unwrap();
        assert!(event.is_signalled().unwrap());
    }

    #[test]
    fn take_counts_signals() {
        let event = EventFd::new().unwrap();
        event.signal().unwrap();
        event.signal().unwrap();
        assert_eq!(event.take(), Ok(2));
    }

    #[test]
    fn take_of_nothing_is_zero() {
        let event = EventFd::new().unwrap();
        assert_eq!(event.take(), Ok(0));
    }

    #[test]
    fn signal_at_the_highest_count_is_no_error() {
        let event = EventFd::new().unwrap();
        rustix::io::write(&event.0, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert_eq!(event.signal(), Ok(()));
    }
}
