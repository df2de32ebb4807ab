//! An assigned device on the guest's PCI bus, and what is said of it when something fails.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vfio_assign_core::{Bdf, BusMastering, GuestAddr, ResetOutcome};
use vfio_assign_linux::{Assigned, DeviceEvent, Host, ResetError};

use super::record::{Ending, Recording, Turn};
use super::tap::TappedGuest;
use crate::machine::pci::{PciFunction, Quarantine};

/// An assigned device.
pub(super) struct AssignedDevice {
    // Dropped in this order: what becomes of the device is in its recording.
    pub(super) assigned: Assigned<TappedGuest>,
    recording: Ending,
    /// Where its calls to the kernel are counted.
    pub(super) host: Host,
    pub(super) resets: Resets,
    dead: AtomicBool,
    events: [Heard; DeviceEvent::ALL.len()],
}

/// What was heard of one of the host's events.
#[derive(Default)]
struct Heard {
    count: AtomicU64,
    /// It could not be taken, and is not waited for any more: it would be there again and again.
    lost: AtomicBool,
}

/// How resets of the machine went for a device.
#[derive(Default)]
pub(super) struct Resets {
    failed: AtomicU64,
}

/// The device was not reset.
#[derive(Debug, thiserror::Error)]
#[error("{bdf}: the guest goes on with a device that was not reset: {}", Why(.source.as_ref()))]
struct NotReset {
    bdf: Bdf,
    source: Option<ResetError>,
}

/// Why a device was not reset.
struct Why<'a>(Option<&'a ResetError>);

impl std::fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(error) => error.fmt(f)?,
            None => f.write_str("it is gone, or something of it could not be taken away from the guest")?,
        }
        f.write_str("; its bus mastering is off, the rest is as the guest left it")
    }
}

impl Resets {
    /// Counts a reset that did not reset the device; true the first time. A guest can repeat it at will.
    fn failed(&self) -> bool {
        self.failed.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// How many did not reset the device.
    pub(super) fn count(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

impl AssignedDevice {
    /// A device that has just been assigned.
    pub(super) fn new(
        assigned: Assigned<TappedGuest>,
        host: Host,
        recording: Option<Arc<Recording>>,
    ) -> Self {
        let (recording, dead) = (Ending(recording), AtomicBool::new(false));
        Self { assigned, recording, host, resets: Resets::default(), dead, events: Default::default() }
    }

    fn turn(&self) -> Turn<'_> {
        Turn::take(self.recording.0.as_deref())
    }

    /// Whether the device still answers; if not, none of its memory is in the guest any more.
    pub(super) fn is_alive(&self) -> bool {
        self.looked(Assigned::check_health)
    }

    /// The same, of which only several looks in a row without an answer are enough.
    pub(super) fn watch(&self) -> bool {
        self.looked(Assigned::watch)
    }

    fn looked(&self, look: impl FnOnce(&Assigned<TappedGuest>) -> bool) -> bool {
        let turn = self.turn();
        let alive = look(&self.assigned);
        if !alive && !self.dead.swap(true, Ordering::Relaxed) {
            turn.did(format_args!("gone"));
        }
        alive
    }

    /// The machine stops: interrupts are held. No processor runs.
    pub(super) fn stop(&self) {
        let turn = self.turn();
        self.assigned.stop(BusMastering::Kept);
        turn.did(format_args!("stop kept"));
    }

    /// The machine goes on, and what was held is delivered.
    pub(super) fn start(&self) {
        let turn = self.turn();
        self.assigned.start();
        turn.did(format_args!("start"));
    }

    /// Another process goes on with it.
    pub(super) fn hand_over(&self) {
        self.recording.hand_over();
    }

    /// The device's address on the host.
    pub(super) fn bdf(&self) -> Bdf {
        self.assigned.bdf()
    }

    /// Notes how a reset of the machine went for the device.
    pub(super) fn was_reset(&self, outcome: ResetOutcome) {
        let word = if outcome == ResetOutcome::Reset { "done" } else { "not-done" };
        self.turn().did(format_args!("reset {word}"));
        if outcome == ResetOutcome::NotReset && self.resets.failed() {
            log::warn!("{}", NotReset { bdf: self.bdf(), source: self.assigned.reset_error() });
        }
    }

    /// The host's events that there are, and what becomes readable when one comes.
    pub(super) fn event_fds(&self) -> impl Iterator<Item = (DeviceEvent, BorrowedFd<'_>)> {
        let there = self.heard().filter(|(_, heard)| !heard.lost.load(Ordering::Relaxed));
        there.filter_map(|(event, _)| Some((event, self.assigned.events().fd(event)?)))
    }

    /// Whether an event of the host's has come. One that cannot be told is not among those that there are from now on.
    pub(super) fn take_event(&self, event: DeviceEvent) -> bool {
        self.assigned.events().take(event).unwrap_or_else(|error| {
            log::error!("{}: from now on nobody hears whether {event}: {error}", self.bdf());
            let lost = self.heard().find(|(other, _)| *other == event);
            lost.inspect(|(_, heard)| heard.lost.store(true, Ordering::Relaxed));
            false
        })
    }

    /// Counts an event of the host's; true the first time.
    pub(super) fn count_event(&self, event: DeviceEvent) -> bool {
        let mut heard = self.heard().filter(|(other, _)| *other == event);
        heard.any(|(_, heard)| heard.count.fetch_add(1, Ordering::Relaxed) == 0)
    }

    /// Whether the host has ever wanted it back: it goes on to until it has it.
    pub(super) fn is_wanted_back(&self) -> bool {
        self.events().any(|(event, count)| event == DeviceEvent::ReleaseRequest && count != 0)
    }

    /// How often the host has said what.
    pub(super) fn events(&self) -> impl Iterator<Item = (DeviceEvent, u64)> {
        self.heard().map(|(event, heard)| (event, heard.count.load(Ordering::Relaxed)))
    }

    fn heard(&self) -> impl Iterator<Item = (DeviceEvent, &Heard)> {
        DeviceEvent::ALL.into_iter().zip(&self.events)
    }
}

impl PciFunction for AssignedDevice {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let turn = self.turn();
        self.assigned.config_read(u32::from(offset), data);
        turn.accessed("config read", offset.into(), data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let turn = self.turn();
        self.assigned.config_write(u32::from(offset), data);
        turn.accessed("config write", offset.into(), data);
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) -> bool {
        let turn = self.turn();
        let ours = self.assigned.memory_read(GuestAddr::new(address), data);
        if ours {
            turn.accessed("memory read", address, data);
        }
        ours
    }

    fn memory_write(&self, address: u64, data: &[u8]) -> bool {
        let turn = self.turn();
        let ours = self.assigned.memory_write(GuestAddr::new(address), data);
        if ours {
            turn.accessed("memory write", address, data);
        }
        ours
    }

    fn port_read(&self, port: u16, data: &mut [u8]) -> bool {
        let turn = self.turn();
        let ours = self.assigned.port_read(port, data);
        if ours {
            turn.accessed("port read", port.into(), data);
        }
        ours
    }

    fn port_write(&self, port: u16, data: &[u8]) -> bool {
        let turn = self.turn();
        let ours = self.assigned.port_write(port, data);
        if ours {
            turn.accessed("port write", port.into(), data);
        }
        ours
    }

    fn revoke_if_dead(&self) -> bool {
        !self.is_alive()
    }

    fn reset(&self) {
        self.was_reset(self.assigned.reset());
    }

    fn quarantine(&self) -> Option<Quarantine> {
        if !self.assigned.is_quarantined() {
            return None;
        }
        let failure = self.assigned.inspect(|_, _, _, failure| failure.cloned());
        Some(Quarantine { bdf: self.bdf(), failure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_that_fails_again_is_counted_and_not_told_again() {
        let resets = Resets::default();
        assert_eq!((resets.failed(), resets.failed(), resets.count()), (true, false, 2));
    }

    #[test]
    fn a_reset_that_failed_names_the_kernel_s_answer() {
        let bdf = Bdf::new(0, 0, 4, 0).unwrap();
        let source = Some(ResetError::Failed { bdf, errno: vfio_assign_linux::Errno::EIO });
        assert!(NotReset { bdf, source }.to_string().contains("EIO"));
    }
}
