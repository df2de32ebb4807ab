//! A guest whose interrupts can be heard on their way: of a run that is recorded, each goes through this process. Else KVM
//! takes it from the kernel, and nobody hears of it here.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use vfio_assign_core::host::Message;
use vfio_assign_core::{GuestAddr, Span, VectorIndex};
use vfio_assign_linux::kvm::{KvmError, KvmGuest};
use vfio_assign_linux::{Errno, EventFd, GuestSide, LineEnd, WindowMemory};

use super::record::{Recording, Turn};
use crate::machine::event::Event;

/// KVM as the guest's side, with somebody who may listen to interrupts.
pub(crate) struct TappedGuest {
    inner: KvmGuest,
    tap: Option<Tap>,
}

/// Why the guest's side did not do its part.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The interrupt would not be in the recording.
    #[error("an interrupt cannot be recorded: {0}")]
    Tap(#[from] Errno),
}

/// The thread that hands interrupts on, and what it knows.
struct Tap {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    recording: Arc<Recording>,
    wires: Mutex<Wires>,
    /// Raised when there is another wire, or the end has come.
    changed: Event,
}

#[derive(Default)]
struct Wires {
    there: BTreeMap<Source, Arc<Wire>>,
    ended: bool,
}

/// A kind of interrupt and a vector, as they are recorded.
type Source = (&'static str, u16);

/// An interrupt's way through this process.
struct Wire {
    /// Where VFIO signals it.
    from: OwnedFd,
    /// Where KVM hears it.
    to: EventFd,
}

impl TappedGuest {
    /// The guest's side; with a recording, all interrupts are in it.
    pub(super) fn new(inner: KvmGuest, recording: Option<Arc<Recording>>) -> io::Result<Self> {
        Ok(Self { inner, tap: recording.map(Tap::start).transpose()? })
    }
}

impl Tap {
    fn start(recording: Arc<Recording>) -> io::Result<Self> {
        let shared = Arc::new(Shared { recording, wires: Mutex::default(), changed: Event::new()? });
        let hears = Arc::clone(&shared);
        let thread = Builder::new().name("interrupts".into()).spawn(move || hears.hand_on())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Leads an event through this process; `arm` arms what then stands for it.
    fn arm(
        &self,
        source: Source,
        event: &EventFd,
        arm: impl FnOnce(&EventFd) -> Result<(), KvmError>,
    ) -> Result<(), GuestError> {
        let from = rustix::io::fcntl_dupfd_cloexec(event, 0).map_err(Errno::from)?;
        let wire = Wire { from, to: EventFd::new()? };
        arm(&wire.to)?;
        self.shared.lock().there.insert(source, Arc::new(wire));
        self.shared.changed.raise();
        Ok(())
    }

    /// Ends that; what has not reached the guest is in `event` again.
    fn disarm(
        &self,
        source: Source,
        event: &EventFd,
        disarm: impl FnOnce(&EventFd) -> Result<(), KvmError>,
    ) -> Result<(), GuestError> {
        let mut wires = self.shared.lock();
        // An event that never was armed is nothing to disarm.
        let Some(wire) = wires.there.get(&source) else { return Ok(()) };
        disarm(&wire.to)?;
        if wire.to.take()? > 0 {
            event.signal()?;
        }
        wires.there.remove(&source);
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes interrupts down and hands them on, until the end.
    fn hand_on(&self) {
        loop {
            let wires: Vec<(Source, Arc<Wire>)> = {
                let wires = self.lock();
                if wires.ended {
                    return;
                }
                wires.there.iter().map(|(source, wire)| (*source, Arc::clone(wire))).collect()
            };
            let fds = wires.iter().map(|(_, wire)| wire.from.as_fd());
            let fds: Vec<BorrowedFd<'_>> = std::iter::once(self.changed.as_fd()).chain(fds).collect();
            let mut polled: Vec<_> =
                fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
            match poll(&mut polled, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    log::error!("interrupts are no longer handed on, and the guest gets none: {errno}");
                    return;
                }
            }
            self.changed.clear();
            for ((source, wire), fd) in wires.iter().zip(polled.iter().skip(1)) {
                if !fd.revents().is_empty() {
                    self.came(source, wire);
                }
            }
        }
    }

    /// An interrupt, if it still leads to the guest: else it stays where it is.
    fn came(&self, source: &Source, wire: &Arc<Wire>) {
        // First: whoever disarms it has the turn, and waits for the wires.
        let turn = Turn::take(Some(&self.recording));
        let wires = self.lock();
        if !wires.there.get(source).is_some_and(|now| Arc::ptr_eq(now, wire)) {
            return;
        }
        if rustix::io::read(&wire.from, &mut [0; 8]).is_err() {
            // Somebody else has taken it.
            return;
        }
        let (kind, vector) = source;
        turn.did(format_args!("interrupt {kind} {vector}"));
        if let Err(errno) = wire.to.signal() {
            log::error!("interrupt {kind} {vector} has not reached the guest: {errno}");
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.raise();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that records interrupts ended by a panic");
        }
    }
}

const LINE: Source = ("intx", 0);

/// MSI and MSI-X share the guest's side, which is not told which of them is on.
fn message(vector: VectorIndex) -> Source {
    ("message", vector.get())
}

impl GuestSide for TappedGuest {
    type Error = GuestError;

    fn map(&mut self, index: usize, guest: Span<GuestAddr>, memory: WindowMemory) -> Result<(), GuestError> {
        Ok(self.inner.map(index, guest, memory)?)
    }

    fn unmap(&mut self, index: usize) -> Result<(), GuestError> {
        Ok(self.inner.unmap(index)?)
    }

    fn route(&mut self, vector: VectorIndex, message: Message) -> Result<(), GuestError> {
        Ok(self.inner.route(vector, message)?)
    }

    fn commit_routes(&mut self) -> Result<(), GuestError> {
        Ok(self.inner.commit_routes()?)
    }

    fn arm(&mut self, vector: VectorIndex, event: &EventFd) -> Result<(), GuestError> {
        let Self { inner, tap } = self;
        match tap {
            None => Ok(inner.arm(vector, event)?),
            Some(tap) => tap.arm(message(vector), event, |event| inner.arm(vector, event)),
        }
    }

    fn disarm(&mut self, vector: VectorIndex, event: &EventFd) -> Result<(), GuestError> {
        let Self { inner, tap } = self;
        match tap {
            None => Ok(inner.disarm(vector, event)?),
            Some(tap) => tap.disarm(message(vector), event, |event| inner.disarm(vector, event)),
        }
    }

    fn line(&self) -> Option<LineEnd> {
        self.inner.line()
    }

    fn arm_line(&mut self, event: &EventFd, resample: Option<&EventFd>) -> Result<(), GuestError> {
        let Self { inner, tap } = self;
        match tap {
            None => Ok(inner.arm_line(event, resample)?),
            Some(tap) => tap.arm(LINE, event, |event| inner.arm_line(event, resample)),
        }
    }

    fn disarm_line(&mut self, event: &EventFd) -> Result<(), GuestError> {
        let Self { inner, tap } = self;
        match tap {
            None => Ok(inner.disarm_line(event)?),
            Some(tap) => tap.disarm(LINE, event, |event| inner.disarm_line(event)),
        }
    }

    fn release_routes(&mut self) -> Result<(), GuestError> {
        Ok(self.inner.release_routes()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recording, where it is written, and the thread that listens.
    fn tap() -> (tempfile::TempDir, Arc<Recording>, Tap) {
        let folder = tempfile::tempdir().unwrap();
        let recording = Arc::new(Recording::create(&folder.path().join("run.record"), 1).unwrap());
        let tap = Tap::start(Arc::clone(&recording)).unwrap();
        (folder, recording, tap)
    }

    /// What stands in the file once nobody writes any more.
    fn written(folder: &tempfile::TempDir, recording: Arc<Recording>, tap: Tap) -> String {
        drop((tap, recording));
        std::fs::read_to_string(folder.path().join("run.record")).unwrap()
    }

    fn source() -> Source {
        message(VectorIndex::new(3).unwrap())
    }

    /// Armed: what then stands for the event.
    fn armed(tap: &Tap, event: &EventFd) -> OwnedFd {
        let mut heard = None;
        tap.arm(source(), event, |to| {
            heard = rustix::io::fcntl_dupfd_cloexec(to, 0).ok();
            Ok(())
        })
        .unwrap();
        heard.unwrap()
    }

    #[test]
    fn an_interrupt_is_written_down_and_handed_on() {
        let (folder, recording, tap) = tap();
        let event = EventFd::new().unwrap();
        // One that the event holds already is not lost.
        event.signal().unwrap();
        let heard = armed(&tap, &event);
        poll(&mut [PollFd::new(&heard, PollFlags::IN)], None).unwrap();
        assert!(!event.is_signalled().unwrap());
        tap.disarm(source(), &event, |_| Ok(())).unwrap();
        assert_eq!(written(&folder, recording, tap), "interrupt message 3\n");
    }

    #[test]
    fn what_has_not_reached_the_guest_is_in_the_event_again() {
        let (_folder, _recording, tap) = tap();
        let event = EventFd::new().unwrap();
        let heard = armed(&tap, &event);
        event.signal().unwrap();
        poll(&mut [PollFd::new(&heard, PollFlags::IN)], None).unwrap();
        tap.disarm(source(), &event, |_| Ok(())).unwrap();
        assert!(event.is_signalled().unwrap());
    }

    #[test]
    fn an_interrupt_that_comes_while_it_is_disarmed_stays_where_it_is() {
        let (folder, recording, tap) = tap();
        let event = EventFd::new().unwrap();
        let _heard = armed(&tap, &event);
        {
            // An access of the guest's that masks the vector.
            let _turn = Turn::take(Some(&recording));
            event.signal().unwrap();
            tap.disarm(source(), &event, |_| Ok(())).unwrap();
        }
        assert_eq!(written(&folder, recording, tap), "");
        assert!(event.is_signalled().unwrap());
    }

    #[test]
    fn an_event_that_kvm_does_not_take_leads_nowhere() {
        let (folder, recording, tap) = tap();
        let event = EventFd::new().unwrap();
        assert!(tap.arm(source(), &event, |_| Err(KvmError::NoLine)).is_err());
        event.signal().unwrap();
        assert_eq!(written(&folder, recording, tap), "");
        assert!(event.is_signalled().unwrap());
    }
}
