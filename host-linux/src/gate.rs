//! Memory that is mapped for devices while the guest boots, and what must not happen before it is.
//!
//! Pinning guest memory takes the kernel most of a monitor's start-up. A device cannot reach memory before its
//! guest turns bus mastering on, which a driver does late; so the mapping goes on beside the boot, and only
//! that write waits for it.

use crate::dma::DmaError;
use crate::errno::Errno;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How far a VM's mappings in the background are.
#[derive(Debug, Default)]
pub(crate) struct MemoryGate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    waiting: usize,
    failed: Option<DmaError>,
}

impl MemoryGate {
    /// A mapping starts.
    pub(crate) fn begin(&self) {
        self.lock().running += 1;
    }

    /// A mapping has ended so.
    pub(crate) fn end(&self, result: &Result<(), DmaError>) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        if let Err(error) = result {
            state.failed.get_or_insert(error.clone());
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until no mapping is under way.
    ///
    /// # Errors
    ///
    /// One has failed: devices do not reach all of the guest's memory.
    pub(crate) fn wait(&self) -> Result<(), DmaError> {
        let mut state = self.lock();
        state.waiting += 1;
        let state = self.changed.wait_while(state, |state| state.running > 0);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.failed.clone().map_or(Ok(()), Err)
    }

    /// How many threads wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mapping in the background; dropping it waits for its end.
#[derive(Debug)]
pub struct MappingThread(pub(crate) Option<JoinHandle<Result<(), DmaError>>>);

impl MappingThread {
    /// Whether it has ended, and has said so.
    pub fn is_done(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// The memory is not mapped.
    pub fn wait(mut self) -> Result<(), DmaError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), DmaError> {
        let ended = self.0.take().map_or(Ok(Ok(())), JoinHandle::join);
        ended.unwrap_or_else(|_panic| {
            log::error!("{}", DmaError::Panicked);
            Err(DmaError::Panicked)
        })
    }
}

impl Drop for MappingThread {
    fn drop(&mut self) {
        // Whoever started it has heard of a failure already.
        drop(self.join());
    }
}

/// A mapping in the background was not started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the thread that maps guest memory for devices cannot be started: {errno}; raise `ulimit -u`")]
pub struct MappingThreadError {
    /// What the kernel said.
    pub errno: Errno,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vfio_assign_core::{Iova, Span};

    fn failure() -> DmaError {
        DmaError::Overlap { span: Span::from_size(Iova::new(0), 0x1000).unwrap() }
    }

    #[test]
    fn nobody_waits_for_nothing() {
        assert_eq!(MemoryGate::default().wait(), Ok(()));
    }

    #[test]
    fn failure_stays() {
        let gate = MemoryGate::default();
        gate.begin();
        gate.end(&Err(failure()));
        assert_eq!((gate.wait(), gate.wait()), (Err(failure()), Err(failure())));
    }

    #[test]
    fn who_waits_goes_on_when_the_last_mapping_has_ended() {
        let gate = Arc::new(MemoryGate::default());
        gate.begin();
        gate.begin();
        gate.end(&Ok(()));
        let waiting = gate.clone();
        let thread = std::thread::spawn(move || waiting.wait());
        while gate.waiting() == 0 && !thread.is_finished() {
            std::thread::yield_now();
        }
        assert_eq!(gate.waiting(), 1);
        gate.end(&Ok(()));
        assert_eq!(thread.join().unwrap(), Ok(()));
    }
}
