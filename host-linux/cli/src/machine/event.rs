//! An event that one thread raises and another waits for, by `poll`.

use std::io;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;

/// An eventfd that never blocks.
#[derive(Debug)]
pub(crate) struct Event(OwnedFd);

impl Event {
    /// An event that is not raised.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Raises it. Safe in a signal handler.
    pub(crate) fn raise(&self) {
        loop {
            match rustix::io::write(&self.0, &1_u64.to_ne_bytes()) {
                Err(Errno::INTR) => {}
                // Written, or refused because the counter is full: raised either way.
                _ => return,
            }
        }
    }

    /// Lowers it.
    pub(crate) fn clear(&self) {
        // Refused only if it is not raised.
        let _lowered = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn raised(event: &Event) -> bool {
        let mut fds = [PollFd::new(event, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn an_event_stays_raised_until_it_is_cleared() {
        let event = Event::new().unwrap();
        event.raise();
        event.raise();
        let before = raised(&event);
        event.clear();
        assert_eq!((before, raised(&event)), (true, false));
    }
}
