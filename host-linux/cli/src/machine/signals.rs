//! Signals that ask the command to end: noted while a guest runs, deadly again afterwards.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::process::Signal;
use signal_hook::{flag, low_level::pipe};

const ENDING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// The ending signals, caught until this is dropped. From then on each does what it does by default, so that a
/// command that takes long to clean up can still be ended.
pub(super) struct Signals {
    over: Arc<AtomicBool>,
    caught: Arc<AtomicUsize>,
    wake: UnixStream,
}

/// A signal has no handler.
#[derive(Debug, thiserror::Error)]
#[error("signal {signal}: {source}")]
pub(crate) struct NotCaught {
    signal: i32,
    source: io::Error,
}

impl Signals {
    /// Catches the ending signals, but for those that whoever started the command has it ignore, as `nohup` does.
    pub(super) fn catch() -> Result<Self, NotCaught> {
        Self::catch_of(&ENDING, ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default()))
    }

    fn catch_of(signals: &[Signal], ignored: u64) -> Result<Self, NotCaught> {
        let (over, caught) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let first = signals.first().map_or(0, |signal| signal.as_raw());
        let (wake, waker) = pair().map_err(|source| NotCaught { signal: first, source })?;
        for signal in signals.iter().map(|signal| signal.as_raw()) {
            if ignored >> (signal - 1) & 1 != 0 {
                continue;
            }
            let number = usize::try_from(signal).unwrap_or(0);
            // In this order: what is caught is noted before anybody is woken.
            flag::register_conditional_default(signal, Arc::clone(&over))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&caught), number))
                .and_then(|_| pipe::register(signal, waker.try_clone()?))
                .map_err(|source| NotCaught { signal, source })?;
        }
        Ok(Self { over, caught, wake })
    }

    /// The last signal since this was asked for; none if there was none.
    pub(super) fn take(&self) -> Option<i32> {
        // Nothing to read is as good as all of it read.
        let _read = (&self.wake).read(&mut [0; 64]);
        i32::try_from(self.caught.swap(0, Ordering::SeqCst)).ok().filter(|&signal| signal != 0)
    }
}

impl AsFd for Signals {
    /// Becomes readable when a signal comes.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    Ok((read, write))
}

/// The signals that a process of this `/proc/PID/status` ignores: bit 0 is signal 1.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{getpid, kill_process};

    #[test]
    fn a_caught_signal_wakes_and_is_told_once() {
        // Not one that a person or a shell sends to a test.
        let signals = Signals::catch_of(&[Signal::USR1], 0).unwrap();
        kill_process(getpid(), Signal::USR1).unwrap();
        poll(&mut [PollFd::new(&signals, PollFlags::IN)], None).unwrap();
        assert_eq!((signals.take(), signals.take()), (Some(Signal::USR1.as_raw()), None));
        // Its handler stays in the process: a default that comes back would end all tests.
        std::mem::forget(signals);
    }

    #[test]
    fn an_ignored_signal_stays_ignored() {
        let before = fs::read_to_string("/proc/self/status").unwrap();
        let mask = 1 << (Signal::USR2.as_raw() - 1);
        let _signals = Signals::catch_of(&[Signal::USR2], mask).unwrap();
        let after = fs::read_to_string("/proc/self/status").unwrap();
        let caught = |status: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap() & mask
        };
        assert_eq!((caught(&before), caught(&after)), (0, 0));
    }

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n"), 0x1001);
    }

    #[test]
    fn without_proc_nothing_is_known_to_be_ignored() {
        assert_eq!(ignored(""), 0);
    }
}
