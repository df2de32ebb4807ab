//! How often an opening or a reset is tried again, and how long is waited in between.

use crate::errno::Errno;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// When to try again.
///
/// Opening a device resets it, which the kernel does not do under contention (`EAGAIN`); a device or a group
/// that a dying process still holds is `EBUSY`; a node that udev has yet to make is `ENOENT`; a driver that
/// is just binding gives `ENODEV`. All pass by themselves. Every other error is final at once.
#[derive(Clone)]
pub struct RetryPolicy {
    /// Between two tries.
    pub interval: Duration,
    /// How many tries in all; at least one is made.
    pub tries: u32,
    /// What waits.
    pub clock: Arc<dyn Clock>,
}

/// What waits between two tries.
pub trait Clock: Send + Sync {
    /// Comes back after this time.
    fn wait(&self, time: Duration);
}

/// The thread sleeps.
struct ThreadSleep;

impl Clock for ThreadSleep {
    fn wait(&self, time: Duration) {
        thread::sleep(time);
    }
}

impl Default for RetryPolicy {
    /// Eight tries, 250 ms apart.
    fn default() -> Self {
        Self { interval: Duration::from_millis(250), tries: 8, clock: Arc::new(ThreadSleep) }
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("RetryPolicy");
        fields.field("interval", &self.interval).field("tries", &self.tries).finish_non_exhaustive()
    }
}

impl RetryPolicy {
    /// One try.
    pub fn once() -> Self {
        Self { tries: 1, ..Self::default() }
    }

    pub(crate) fn run<T>(
        &self,
        what: &dyn fmt::Display,
        mut attempt: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut left = self.tries;
        loop {
            left = left.saturating_sub(1);
            match attempt() {
                Err(errno) if left > 0 && passes(errno) => {
                    if left + 1 == self.tries {
                        log::info!("{what}: {errno}; up to {left} more tries, {:?} apart", self.interval);
                    }
                    self.clock.wait(self.interval);
                }
                result => return result,
            }
        }
    }
}

fn passes(errno: Errno) -> bool {
    [Errno::ENODEV, Errno::ENOENT, Errno::EBUSY, Errno::EAGAIN].contains(&errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Waits(Mutex<Vec<Duration>>);

    impl Clock for Waits {
        fn wait(&self, time: Duration) {
            self.0.lock().unwrap().push(time);
        }
    }

    /// Runs attempts that give `results` in turn; the result, and how often was waited.
    fn run(tries: u32, results: &[Result<u8, Errno>]) -> (Result<u8, Errno>, usize) {
        let waits = Arc::new(Waits::default());
        let policy = RetryPolicy { interval: Duration::from_secs(3), tries, clock: waits.clone() };
        let mut results = results.iter();
        let result = policy.run(&"test", || *results.next().unwrap());
        let waited = waits.0.lock().unwrap();
        assert!(waited.iter().all(|time| *time == Duration::from_secs(3)));
        (result, waited.len())
    }

    #[test]
    fn success_waits_for_nothing() {
        assert_eq!(run(3, &[Ok(1)]), (Ok(1), 0));
    }

    #[test]
    fn c2_passing_errors_are_waited_out() {
        let results = [Err(Errno::EAGAIN), Err(Errno::EBUSY), Ok(1)];
        assert_eq!(run(3, &results), (Ok(1), 2));
    }

    #[test]
    fn c2_tries_are_bounded() {
        let results = [Err(Errno::ENODEV), Err(Errno::ENOENT), Ok(1)];
        assert_eq!(run(2, &results), (Err(Errno::ENOENT), 1));
    }

    #[test]
    fn c2_other_errors_are_final() {
        assert_eq!(run(3, &[Err(Errno::EACCES), Ok(1)]), (Err(Errno::EACCES), 0));
    }

    #[test]
    fn zero_tries_is_one_try() {
        assert_eq!(run(0, &[Ok(1)]), (Ok(1), 0));
    }
}
