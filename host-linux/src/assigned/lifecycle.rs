//! What the embedder does with an assigned function besides handing it accesses.

use super::{Assigned, Function};
use crate::guest::GuestSide;
use crate::host_side::HostSide;
use crate::region::RegionIndex;
use std::sync::atomic::Ordering;
use vfio_assign_core::{BusMastering, RestoreError, SaveError};

/// Revision ID, Class Code, Cache Line Size, Latency Timer, Header Type and BIST: PCI Local Bus 3.0, 6.1.
const CLASS_TO_BIST: u64 = 0x08;

/// After how many [watches](Assigned::watch) in a row without an answer a device is gone. One that resets itself, or
/// comes out of a sleep, may miss one.
pub const MISSES: u8 = 3;

impl<G: GuestSide> Assigned<G> {
    /// The guest has ended an interrupt of the function's pin, where the guest's line is one that the monitor is
    /// [told](crate::LineEnd::Told) of.
    pub fn handle_intx_eoi(&self) {
        self.drive(|function, host| {
            function.handle_intx_eoi();
            function.settle(host);
        });
    }

    /// Whether the device still answers. One that is gone loses its windows here and decodes nothing from now on, and
    /// [is told](crate::DeviceEvent::Gone): call this when `KVM_RUN` fails with `EFAULT`, and run the vCPU again if any
    /// function was gone.
    pub fn check_health(&self) -> bool {
        self.drive(|function, host| {
            if !function.is_gone() && !self.answers() {
                self.found_gone(function, host);
            }
            !function.is_gone()
        })
    }

    /// The same, for a monitor that looks every second or so: of most devices that vanish nobody tells, and nothing
    /// fails, for a guest that reaches the registers without an exit just reads ones. Only [`MISSES`] looks in a row
    /// without an answer make a device gone.
    pub fn watch(&self) -> bool {
        self.drive(|function, host| {
            if function.is_gone() {
                return false;
            }
            let misses = match self.answers() {
                true => 0,
                false => self.misses.load(Ordering::Relaxed).saturating_add(1),
            };
            self.misses.store(misses, Ordering::Relaxed);
            if misses >= MISSES {
                self.found_gone(function, host);
            }
            !function.is_gone()
        })
    }

    /// The kernel answers for the ids by itself; these bytes come from the device, and no function has all of them set.
    fn answers(&self) -> bool {
        let mut class_to_bist = [0xff; 8];
        let read = self.device().read(RegionIndex::CONFIG, CLASS_TO_BIST, &mut class_to_bist);
        read.is_ok() && class_to_bist != [0xff; 8]
    }

    fn found_gone(&self, function: &mut Function, host: &mut HostSide<G>) {
        log::error!("{}: the device is gone", self.bdf());
        function.handle_gone();
        function.settle(host);
        self.events.tell_gone();
    }

    /// The virtual machine stops: no interrupt reaches the guest before [`start`](Self::start), and none is lost.
    ///
    /// Call it when no vCPU runs. The device goes on with what its driver has told it to do, and writes memory, unless
    /// bus mastering is to go [off](BusMastering::Off); many devices do not survive losing that in the middle of work.
    pub fn stop(&self, bus_mastering: BusMastering) {
        self.drive(|function, host| function.stop(bus_mastering, host));
    }

    /// The virtual machine goes on: what was held is delivered.
    pub fn start(&self) {
        self.drive(|function, host| function.start(host));
    }

    /// All that the guest can see of the function and the device does not keep itself: registers, the MSI-X table, what
    /// is pending.
    ///
    /// # Errors
    ///
    /// The function is not [stopped](Self::stop), or the device is lost.
    pub fn save(&self) -> Result<Vec<u8>, SaveError> {
        let driven = self.lock();
        let mut state = vec![0; driven.function.saved_size()];
        let length = driven.function.save(&mut state)?;
        state.truncate(length);
        Ok(state)
    }

    /// The function becomes what was [saved](Self::save); it is not stopped, and what was pending is delivered.
    ///
    /// # Errors
    ///
    /// The state is not that of a function of this shape, or this one is in use: it is to be newly assigned, or newly
    /// [reset](Self::reset). Nothing has changed then.
    pub fn restore(&self, state: &[u8]) -> Result<(), RestoreError> {
        self.drive(|function, host| {
            function.restore(state)?;
            function.settle(host);
            Ok(())
        })
    }
}
