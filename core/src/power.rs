//! Power states and resets: what the guest's registers become, and what is written to hardware to match them.

use crate::access::Width;
use crate::addr::ConfigOffset;
use crate::function::AssignedFunction;
use crate::host::Step;
use crate::interrupts::Vector;
use crate::operation::Task;
use crate::regs::header;
use crate::regs::power::PowerState;
use crate::windows::Window;

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// The guest changes the power state; one that the function does not have, and a way out of sleep that does
    /// not lead to D0, are ignored, as hardware does.
    ///
    /// Source: PCI Power Management 1.2, 5.4 Power State Transitions.
    pub(crate) fn write_power_state(&mut self, state: PowerState) {
        let allowed = state == PowerState::D0 || state > self.power;
        if !allowed || !self.map.supports(state) || state == self.power {
            return;
        }
        let wakes = self.power == PowerState::D3Hot;
        if wakes && !self.map.no_soft_reset() {
            self.start_reset(None, false);
        }
        self.power = state;
        self.decode_changed();
    }

    /// The function goes to its state after reset: registers now, the table once nothing stands in the host,
    /// hardware's Command register last. Before that the device is woken by a write to the PMCSR at `wake`, and is
    /// quiet and reset if this is to be a reset of all of it.
    pub(crate) fn start_reset(&mut self, wake: Option<ConfigOffset>, whole: bool) {
        self.reset_registers();
        self.hardware_stale = false;
        let operation = &mut self.operation;
        operation.resetting = true;
        operation.forwards.clear();
        // They are taken from the end. With Command zero nothing decodes and nothing is a bus master.
        operation.forward_config(header::COMMAND, Width::Word, 0);
        if whole {
            let _ = operation.forwards.push(Step::ResetFunction);
            operation.forward_config(header::COMMAND, Width::Word, 0);
        }
        if let Some(control) = wake {
            operation.forward_config(control, Width::Byte, 0);
        }
    }

    /// The PMCSR whose write puts the device into D0, if it may be in another state: it must answer once it is reset.
    pub(crate) fn wake(&self) -> Option<ConfigOffset> {
        let asleep = self.power != PowerState::D0 || self.power_unknown;
        self.map.power_control().filter(|_| asleep)
    }

    /// A write to configuration space went to hardware, or did not: what the device decodes is known, or not.
    pub(crate) fn config_written(&mut self, offset: ConfigOffset, done: bool) {
        let known = if offset == header::COMMAND {
            &mut self.decode_unknown
        } else if self.map.power_control() == Some(offset) {
            &mut self.power_unknown
        } else {
            return;
        };
        *known = !done;
        // What the guest writes goes to hardware once; what it has written before, until hardware takes it.
        self.hardware_stale |= !done && self.operation.task == Task::Settle;
        self.decode_changed();
        if !done {
            // Windows of a device that may not answer have to go.
            self.enter_revoke();
        }
    }
}
