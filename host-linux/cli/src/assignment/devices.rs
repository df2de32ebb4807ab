//! The devices of the machine: all of them together where a reset or a report is about all, and one where it leaves.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vfio_assign_core::Bdf;
use vfio_assign_linux::Assigned;

use super::device::AssignedDevice;
use super::report::DeviceReport;
use super::saved::{NotHandedOn, SavedDevice};
use crate::machine::pci::PciBus;

/// The devices, and the bus that they are on.
pub(crate) struct Devices {
    bus: Arc<PciBus>,
    members: Mutex<Members>,
    /// Held while a device is closed that has left, and while the machine is reset: before it is closed it is no member
    /// any more and still this process's, and what can only be reset with it could not be reset.
    closing: Mutex<()>,
    /// The same of a device that is being opened, and is no member yet.
    opening: Mutex<()>,
}

#[derive(Default)]
struct Members {
    there: Vec<Member>,
    /// The last report of each device that has left.
    left: BTreeMap<Bdf, serde_json::Value>,
}

/// A device and its slot.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) slot: u8,
    pub(super) device: Arc<AssignedDevice>,
}

impl Devices {
    /// No devices, for this bus.
    pub(super) fn new(bus: Arc<PciBus>) -> Self {
        Self { bus, members: Mutex::default(), closing: Mutex::default(), opening: Mutex::default() }
    }

    /// For as long as devices are opened for the guest: a reset of others waits until it is dropped.
    pub(super) fn opening(&self) -> Opening<'_> {
        Opening { devices: self, _lock: lock(&self.opening) }
    }

    /// Takes a device out of the guest and closes it, if nobody else looks at it now.
    pub(super) fn take(&self, bdf: Bdf) {
        let _closing = lock(&self.closing);
        // Closing it resets it, for which only a reset of the machine waits.
        drop(self.take_out(bdf));
    }

    /// Takes a device out of the guest.
    fn take_out(&self, bdf: Bdf) -> Option<Member> {
        let mut members = self.lock();
        let place = members.there.iter().position(|member| member.device.bdf() == bdf)?;
        let member = members.there.swap_remove(place);
        self.bus.take(member.slot);
        members.left.extend(report(&member.device).map(|report| (bdf, report)));
        Some(member)
    }

    /// The device of this address.
    pub(super) fn find(&self, bdf: Bdf) -> Option<Member> {
        self.lock().there.iter().find(|member| member.device.bdf() == bdf).cloned()
    }

    /// All that are there.
    pub(super) fn there(&self) -> Vec<Member> {
        self.lock().there.clone()
    }

    /// Brings every device to its power-on state, by the order of `docs/ARCHITECTURE.md`, "Decide, then drive":
    /// interrupts off, windows out, then the device reset, with those that can only be reset together. No processor
    /// runs meanwhile.
    ///
    /// The guest is started all the same where a device cannot be reset.
    pub(crate) fn reset(&self) {
        let _closed = lock(&self.closing);
        let any = !self.lock().there.is_empty();
        // Nobody waits for the first device, with which all of the guest's memory is pinned: it has nothing beside it.
        let _opened = any.then(|| lock(&self.opening));
        let members = self.lock();
        let assigned: Vec<_> = members.there.iter().map(|member| &member.device.assigned).collect();
        let outcomes = Assigned::reset_all(&assigned);
        members.there.iter().zip(outcomes).for_each(|(member, outcome)| member.device.was_reset(outcome));
    }

    /// The machine stops: interrupts are held. No processor runs.
    pub(crate) fn stop(&self) {
        self.there().iter().for_each(|member| member.device.stop());
    }

    /// The machine goes on, and what was held is delivered.
    pub(crate) fn start(&self) {
        self.there().iter().for_each(|member| member.device.start());
    }

    /// Another process goes on with them.
    pub(super) fn hand_over(&self) {
        self.there().iter().for_each(|member| member.device.hand_over());
    }

    /// What another process needs to go on with the stopped devices: what is in the file, and what is handed over.
    pub(crate) fn hand_on(&self) -> Result<(Vec<SavedDevice>, Vec<OwnedFd>), NotHandedOn> {
        let handed = self.there().iter().map(SavedDevice::of).collect::<Result<Vec<_>, _>>()?;
        let (saved, files): (Vec<_>, Vec<_>) = handed.into_iter().unzip();
        Ok((saved, files.into_iter().flatten().collect()))
    }

    /// What the run's report says of every device that is there, or was.
    pub(crate) fn reports(&self) -> Vec<serde_json::Value> {
        let members = self.lock();
        let there = members.there.iter().filter_map(|member| report(&member.device));
        let back = |bdf: &Bdf| members.there.iter().any(|member| member.device.bdf() == *bdf);
        let left = members.left.iter().filter(|(bdf, _)| !back(bdf)).map(|(_, report)| report.clone());
        there.chain(left).collect()
    }

    /// What failed while the guest ran, a line for each device that has something to say.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complaint = |member: &Member| DeviceReport::of(&member.device).complaint();
        self.lock().there.iter().filter_map(complaint).collect()
    }

    /// After the other locks, by whoever takes one of those, too.
    fn lock(&self) -> MutexGuard<'_, Members> {
        lock(&self.members)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Devices, while some are opened.
pub(super) struct Opening<'a> {
    devices: &'a Devices,
    _lock: MutexGuard<'a, ()>,
}

impl Opening<'_> {
    /// Puts a device into a slot of the bus.
    pub(super) fn put(&self, slot: u8, device: AssignedDevice) {
        let device = Arc::new(device);
        // Known first: a guest that finds it may reset the machine at once.
        self.devices.lock().there.push(Member { slot, device: Arc::clone(&device) });
        self.devices.bus.put(slot, device);
    }
}

#[cfg(test)]
fn is_held<T>(mutex: &Mutex<T>) -> bool {
    matches!(mutex.try_lock(), Err(std::sync::TryLockError::WouldBlock))
}

#[cfg(test)]
impl Devices {
    /// Whether a device is being opened.
    pub(super) fn is_opening(&self) -> bool {
        is_held(&self.opening)
    }
}

pub(super) fn report(device: &AssignedDevice) -> Option<serde_json::Value> {
    serde_json::to_value(DeviceReport::of(device)).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use vfio_assign_core::host::{Outcome, Step};
    use vfio_assign_linux::StepObserver;

    use super::super::testing::{TestHost, bdf};
    use super::*;
    use crate::machine::pci::{FIRST_SLOT, SlotPlan};

    /// How long a test waits for what is to come at once before it fails.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Whether each of the locks is held: that of the devices, and those for which a reset of the machine waits.
    fn held(devices: &Devices) -> [bool; 3] {
        [is_held(&devices.members), is_held(&devices.closing), is_held(&devices.opening)]
    }

    /// Notes of each step which locks are held meanwhile.
    #[derive(Default)]
    struct Locked {
        devices: OnceLock<Arc<Devices>>,
        steps: Mutex<Vec<[bool; 3]>>,
    }

    impl std::fmt::Debug for Locked {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Locked")
        }
    }

    impl StepObserver for Locked {
        fn taken(&self, _: Step, _: Outcome) {
            if let Some(devices) = self.devices.get() {
                self.steps.lock().unwrap().push(held(devices));
            }
        }
    }

    /// Devices of which there is one, and what is noted while this is done with them.
    fn noted(work: impl FnOnce(&Devices)) -> (Arc<Devices>, Vec<[bool; 3]>) {
        let (host, locked) = (TestHost::new(), Arc::new(Locked::default()));
        let (bus, _arrival) = PciBus::new(SlotPlan { devices: 1, hot_plug: 0 }, |_| {}).unwrap();
        let devices = Arc::new(Devices::new(bus));
        devices.opening().put(FIRST_SLOT, host.device(Some(Arc::clone(&locked) as _)));
        locked.devices.set(Arc::clone(&devices)).ok().unwrap();
        work(&devices);
        let mut steps = std::mem::take(&mut *locked.steps.lock().unwrap());
        steps.dedup();
        (devices, steps)
    }

    #[test]
    fn a_device_that_was_taken_is_closed_while_only_a_reset_of_the_machine_waits() {
        let (devices, steps) = noted(|devices| devices.take(bdf()));
        assert_eq!((steps, devices.reports().len()), (vec![[false, true, false]], 1));
    }

    #[test]
    fn the_machine_is_reset_while_no_device_is_closed_or_opened() {
        let (_devices, steps) = noted(Devices::reset);
        assert_eq!(steps, [[true; 3]]);
    }

    #[test]
    fn a_machine_without_devices_is_reset_while_the_first_is_opened() {
        let (bus, _arrival) = PciBus::new(SlotPlan { devices: 1, hot_plug: 0 }, |_| {}).unwrap();
        let devices = Arc::new(Devices::new(bus));
        let _opening = devices.opening();
        let (told, done) = channel();
        let machine = Arc::clone(&devices);
        std::thread::spawn(move || {
            machine.reset();
            told.send(())
        });
        done.recv_timeout(PATIENCE).expect("nothing is waited for");
    }
}
