//! An assigned device on the guest's PCI bus, and what is said of it when something fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vfio_assign_core::{Bdf, GuestAddr, ResetOutcome};
use vfio_assign_linux::kvm::KvmGuest;
use vfio_assign_linux::{Assigned, DeviceEvent, Host, ResetError};

use super::record::{Recording, Turn};
use crate::machine::pci::{PciFunction, Quarantine};

/// An assigned device.
pub(super) struct AssignedDevice {
    pub(super) assigned: Assigned<KvmGuest>,
    /// Where its calls to the kernel are counted.
    pub(super) host: Host,
    pub(super) resets: Resets,
    recording: Option<Arc<Recording>>,
    events: [AtomicU64; DeviceEvent::ALL.len()],
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
    pub(super) fn new(assigned: Assigned<KvmGuest>, host: Host, recording: Option<Arc<Recording>>) -> Self {
        Self { assigned, host, resets: Resets::default(), recording, events: Default::default() }
    }

    fn turn(&self) -> Turn<'_> {
        Turn::take(self.recording.as_deref())
    }

    /// The device's address on the host.
    pub(super) fn bdf(&self) -> Bdf {
        self.assigned.bdf()
    }

    /// Notes how a reset of the machine went for the device.
    pub(super) fn was_reset(&self, outcome: ResetOutcome) {
        if outcome == ResetOutcome::NotReset && self.resets.failed() {
            log::warn!("{}", NotReset { bdf: self.bdf(), source: self.assigned.reset_error() });
        }
    }

    /// Counts an event of the host's; true the first time.
    pub(super) fn count_event(&self, event: DeviceEvent) -> bool {
        let place = DeviceEvent::ALL.iter().position(|other| *other == event);
        place
            .and_then(|place| self.events.get(place))
            .is_some_and(|count| count.fetch_add(1, Ordering::Relaxed) == 0)
    }

    /// How often the host has said what.
    pub(super) fn events(&self) -> impl Iterator<Item = (DeviceEvent, u64)> {
        DeviceEvent::ALL.into_iter().zip(self.events.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

impl PciFunction for AssignedDevice {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let turn = self.turn();
        self.assigned.config_read(u32::from(offset), data);
        turn.wrote_down("config read", offset.into(), data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let turn = self.turn();
        self.assigned.config_write(u32::from(offset), data);
        turn.wrote_down("config write", offset.into(), data);
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) -> bool {
        let turn = self.turn();
        let ours = self.assigned.memory_read(GuestAddr::new(address), data);
        if ours {
            turn.wrote_down("memory read", address, data);
        }
        ours
    }

    fn memory_write(&self, address: u64, data: &[u8]) -> bool {
        let turn = self.turn();
        let ours = self.assigned.memory_write(GuestAddr::new(address), data);
        if ours {
            turn.wrote_down("memory write", address, data);
        }
        ours
    }

    fn port_read(&self, port: u16, data: &mut [u8]) -> bool {
        let turn = self.turn();
        let ours = self.assigned.port_read(port, data);
        if ours {
            turn.wrote_down("port read", port.into(), data);
        }
        ours
    }

    fn port_write(&self, port: u16, data: &[u8]) -> bool {
        let turn = self.turn();
        let ours = self.assigned.port_write(port, data);
        if ours {
            turn.wrote_down("port write", port.into(), data);
        }
        ours
    }

    fn revoke_if_dead(&self) -> bool {
        !self.assigned.check_health()
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
