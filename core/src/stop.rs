//! Stop and start: interrupts are held while the virtual machine does not run, and none is lost.
//!
//! A stopped function signals no event. What events held is latched here, and what the device wants to signal from
//! now on stays in its own Pending Bit Array, so that what is [saved](AssignedFunction::save) after a stop is all.

use crate::access::Width;
use crate::function::AssignedFunction;
use crate::interrupts::Vector;
use crate::operation::Begin;
use crate::regs::header::{self, Command};
use crate::regs::power::PowerState;
use crate::windows::Window;

/// What becomes of a device's own accesses to memory while its function is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BusMastering {
    /// They go on: a device whose driver has work for it may not survive losing them.
    Kept,
    /// They are turned off in hardware. The guest reads what it wrote.
    Off,
}

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// The virtual machine stops: no interrupt reaches the guest before [`begin_start`](Self::begin_start), and
    /// none is lost. Windows stay. A new assignment is not stopped.
    pub fn begin_stop(&mut self, bus_mastering: BusMastering) -> Begin {
        self.begin_stopped(true, bus_mastering == BusMastering::Off)
    }

    /// The virtual machine goes on: what was held is delivered.
    pub fn begin_start(&mut self) -> Begin {
        self.begin_stopped(false, false)
    }

    fn begin_stopped(&mut self, stopped: bool, bus_master_off: bool) -> Begin {
        if self.is_busy() {
            return Begin::Busy;
        }
        self.hardware_stale |= self.bus_master_off != bus_master_off;
        self.set_stopped(stopped);
        self.bus_master_off = bus_master_off;
        self.begin_settle()
    }

    /// Whether interrupts are held.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(crate) fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
        self.bus_master_off &= stopped;
        self.interrupts.set_stopped(stopped);
    }

    /// What hardware's Command may become of what the guest has written.
    pub(crate) fn allowed(&self, command: u32) -> u32 {
        let held = if self.bus_master_off { Command::BUS_MASTER } else { Command::empty() };
        command & !u32::from(held.bits())
    }

    /// Hardware's Command, and a power state that is not D0, are to become the guest's.
    pub(crate) fn rewrite_hardware(&mut self) {
        self.hardware_stale = false;
        let value = self.allowed(u32::from(self.command.bits()));
        self.operation.forwards.clear();
        let control = self.map.power_control();
        // They are taken from the end. A device may forget Command when it wakes.
        if let Some(control) = control.filter(|_| self.power != PowerState::D0) {
            self.operation.forward_config(control, Width::Byte, self.power.to_pmcsr());
        }
        self.operation.forward_config(header::COMMAND, Width::Word, value);
        if let Some(control) = control.filter(|_| self.power_unknown) {
            self.operation.forward_config(control, Width::Byte, 0);
        }
    }
}
