//! The phases of an operation: which of them comes when, which step each has next, what a step that is done changes.

use crate::function::{AssignedFunction, ResetOutcome};
use crate::host::{Outcome, Step};
use crate::interrupts::{Settled, Vector};
use crate::operation::{Target, Task};
use crate::windows::Window;

/// How far an operation has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Look at the next piece of the access.
    Piece,
    /// Read what the piece needs of hardware.
    Read,
    /// Take away what the guest no longer has.
    Revoke,
    /// Write what goes to hardware.
    Forward,
    /// Set up what the guest has now.
    Establish,
    /// Nothing is left to do.
    Finish,
}

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// Finds the next step, or that there is none.
    pub(crate) fn advance(&mut self) {
        // An access has at most 64 pieces, and a piece goes through each phase once.
        for _ in 0..512 {
            let step = match self.operation.phase {
                Phase::Piece => {
                    self.next_piece();
                    None
                }
                Phase::Read => self.next_read(),
                Phase::Revoke => self.next_revoke(),
                Phase::Forward => self.next_forward(),
                Phase::Establish => self.next_establish(),
                Phase::Finish => return,
            };
            if step.is_some() {
                self.operation.step = step;
                return;
            }
        }
        self.operation.phase = Phase::Finish;
    }

    pub(crate) fn enter_revoke(&mut self) {
        self.operation.phase = Phase::Revoke;
        self.interrupts.begin_settle();
    }

    fn next_revoke(&mut self) -> Option<Step> {
        if let Some(step) = self.interrupts.next_revoke() {
            return Some(step);
        }
        if let Some(window) = self.windows.next(true, &|bar, part| self.wanted_window(bar, part)) {
            return Some(Step::Unmap(window));
        }
        if let Some(step) = self.next_trap(true) {
            return Some(step);
        }
        self.operation.phase = Phase::Forward;
        None
    }

    fn next_forward(&mut self) -> Option<Step> {
        if self.gone {
            self.operation.forwards.clear();
        }
        if let Some(step) = self.operation.forwards.pop() {
            return Some(step);
        }
        if self.operation.resetting {
            self.operation.resetting = false;
            self.interrupts.reset();
            if self.operation.task != Task::Detach {
                self.interrupts.turn_on();
                self.interrupts.begin_settle();
            }
        }
        let inside_bar_write =
            matches!(self.operation.task, Task::Write(Target::Memory(_) | Target::Port(_)))
                && !self.operation.settling_all;
        self.operation.phase = if inside_bar_write { Phase::Piece } else { Phase::Establish };
        None
    }

    fn next_establish(&mut self) -> Option<Step> {
        if self.gone {
            self.operation.phase = Phase::Finish;
            return None;
        }
        if let Some(step) = self.next_trap(false) {
            return Some(step);
        }
        if let Some(window) = self.windows.next(false, &|bar, part| self.wanted_window(bar, part)) {
            return Some(Step::Map(window));
        }
        if let Some(step) = self.interrupts.next_establish() {
            return Some(step);
        }
        self.operation.phase = if self.operation.settling_all { Phase::Finish } else { Phase::Piece };
        None
    }

    /// What a completed step changes.
    pub(crate) fn apply(&mut self, step: Step, outcome: Outcome) {
        let done = outcome.is_done();
        let mut unknown = false;
        match step {
            Step::ReadConfig { .. } | Step::ReadBar { .. } | Step::PollPending { .. } => {
                self.read_done(step, outcome);
            }
            Step::WriteConfig { offset, .. } => self.config_written(offset, done),
            Step::ResetFunction => {
                self.last_reset = Some(if done { ResetOutcome::Reset } else { ResetOutcome::NotReset });
                // A reset ends in D0.
                self.power_unknown &= !done;
            }
            Step::Unmap(window) => {
                self.windows.unmapped(window.index, done);
                unknown = !done;
            }
            Step::Untrap { bar, range } if !done => {
                self.untrap_failed(bar, range);
                unknown = true;
            }
            Step::Trap { bar, .. } if !done => self.trap_failed(bar),
            Step::Map(window) => self.windows.mapped(window, done),
            // Of what else there is, interrupts know; what is left leaves nothing behind.
            _ => {
                unknown = self.interrupts.complete(step, outcome) == Settled::Unknown;
            }
        }
        self.operation.unknown |= unknown;
        self.quarantined |= unknown;
    }
}
