//! What a step of a settling leaves behind, done or failed.

use super::pass::Pass;
use super::settle::{Settle, qword_of};
use super::vector::{Vector, VectorState};
use crate::addr::VectorIndex;
use crate::host::{InterruptKind, Outcome, Step};

/// How a step has left the function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Settled {
    /// The machine knows what stands in the host.
    Known,
    /// The machine cannot know: the function must be quarantined.
    Unknown,
}

impl Settled {
    fn known(done: bool) -> Self {
        if done { Self::Known } else { Self::Unknown }
    }
}

impl Settle {
    /// Hears how a step of this machine went.
    pub(super) fn complete(&mut self, table: &mut [Vector], step: Step, outcome: Outcome) -> Settled {
        let done = outcome.is_done();
        match step {
            Step::Disarm { vector, .. }
            | Step::Route { vector, .. }
            | Step::Signal { vector, .. }
            | Step::Arm { vector, .. } => return self.vector_done(table, vector, done),
            Step::DisableInterrupts { .. } => {
                self.disabled(done);
                return Settled::known(done);
            }
            Step::TakePending { first, mask, .. } => self.taken(table, first, mask, outcome.value()),
            Step::ReleaseVectors { .. } => self.released(table, done),
            Step::EnableInterrupts { .. } => self.enabled(done),
            Step::Wire { first, last, .. } => self.wired(table, first, last, outcome),
            Step::CommitRoutes => self.committed(table, done),
            Step::UnmaskIntx => {
                self.enter(Pass::Done);
                self.unmask |= !done;
                self.again |= !done;
            }
            _ => {}
        }
        Settled::Known
    }

    /// The pass under way, which goes from vector to vector, has taken its step for this one.
    fn vector_done(&mut self, table: &mut [Vector], vector: VectorIndex, done: bool) -> Settled {
        if let (Some(change), Some(Vector { state, .. })) = (self.change(), table.get_mut(vector.position()))
        {
            if done {
                change.apply(state);
            } else if matches!(self.pass, Pass::Route | Pass::Arm) {
                state.insert(VectorState::REFUSED);
            }
        }
        self.cursor = vector.get().saturating_add(1);
        self.step_taken(done);
        Settled::known(done || !matches!(self.pass, Pass::Disarm | Pass::DisarmUnrouted))
    }

    /// What such a step leaves behind beside its vector's state.
    #[inline(never)]
    fn step_taken(&mut self, done: bool) {
        match self.pass {
            // What the pin has asserted is ended by nobody now.
            Pass::Disarm | Pass::DisarmUnrouted => self.unmask = self.kind == InterruptKind::Intx,
            Pass::Route => self.uncommitted |= done,
            Pass::Signal => self.again |= !done,
            _ => {}
        }
    }

    /// Has `take` take the step of such a pass for each vector that is left of it, as far as they are done. Of one that
    /// is not, which is the last, this machine has to hear.
    pub(super) fn run(&mut self, table: &mut [Vector], mut take: impl FnMut(Step) -> bool) {
        let Some(change) = self.change() else {
            return;
        };
        let (kind, pass) = (self.kind, self.pass);
        let mut any = false;
        let mut next = self.cursor;
        let rest = table.get_mut(self.places(table.len())).unwrap_or(&mut []);
        for found in rest {
            if change.which.holds(*found) {
                let step = VectorIndex::new(next).map(|vector| pass.step(kind, vector, *found));
                if !step.is_some_and(&mut take) {
                    break;
                }
                change.apply(&mut found.state);
                any = true;
            }
            next = next.wrapping_add(1);
        }
        self.cursor = next;
        if any {
            self.step_taken(true);
        }
    }

    /// The pin is to be unmasked at the next settling.
    pub(super) fn unmask_due(&mut self) {
        self.unmask = true;
        self.touch(0);
    }

    fn disabled(&mut self, done: bool) {
        if done {
            self.live = false;
        }
        match self.growth {
            Some(_) if done => self.enter(Pass::GrowWire),
            _ => {
                self.growth = None;
                self.allocated = 0;
                self.enter(Pass::TakePending);
            }
        }
    }

    /// Those of the 64 vectors from `first` on that `mask` names signal nothing any longer; these `bits` of them
    /// held an interrupt.
    fn taken(&mut self, table: &mut [Vector], first: VectorIndex, mask: u64, bits: u64) {
        self.seen |= VectorState::LATCHED;
        // One too many is allowed, one too few is not.
        let bits = if self.stopped && self.lossy { mask } else { bits };
        let mut bit = 1u64;
        for vector in table.get_mut(qword_of(table, first)).unwrap_or(&mut []) {
            if mask & bit != 0 {
                vector.state.remove(VectorState::WIRED);
                vector.state.insert(VectorState::KEPT);
                if bits & bit != 0 {
                    vector.state.insert(VectorState::LATCHED);
                }
            }
            bit = bit.wrapping_shl(1);
        }
        self.cursor = first.get().saturating_add(64);
    }

    /// Events and routes are gone; if that failed, the next teardown tries again.
    fn released(&mut self, table: &mut [Vector], done: bool) {
        self.held = !done;
        self.allocated = 0;
        self.uncommitted = false;
        let mut gone = VectorState::WIRED | VectorState::KEPT;
        if self.kind != InterruptKind::Intx {
            gone |= VectorState::ROUTED | VectorState::UNCOMMITTED;
        }
        // An event that is gone reaches nobody, whether it could be cut off before or not.
        if done {
            gone |= VectorState::ARMED;
        }
        for vector in table {
            vector.state.remove(gone);
        }
        self.enter(Pass::GrowDisable);
    }

    fn enabled(&mut self, done: bool) {
        if done {
            self.live = true;
            self.allocated = 1;
        } else {
            self.give_up();
        }
    }

    /// Nothing could be enabled: the guest reads Enable as 0, and what stands in the host goes.
    fn give_up(&mut self) {
        self.enable = false;
        self.live = false;
        self.growth = None;
        self.work_on_all();
        self.enter(Pass::Disarm);
    }

    #[inline(never)]
    fn wired(&mut self, table: &mut [Vector], first: VectorIndex, last: VectorIndex, outcome: Outcome) {
        if self.pass == Pass::Unwire {
            // A range that could not be wired is not wired, either.
            self.enter(Pass::TakePending);
            return;
        }
        self.held = true;
        let done = outcome.is_done();
        self.fewer = match outcome {
            Outcome::Fewer(most) => Some(most),
            _ if done => None,
            _ => self.fewer,
        };
        if done {
            self.wired_now(table, first, last);
        } else if self.growth.is_some() {
            self.grow_failed(outcome);
        } else if first == last && (self.live || self.kind == InterruptKind::Intx) {
            if let Some(Vector { state, .. }) = table.get_mut(first.position()) {
                state.insert(VectorState::REFUSED);
            }
            self.cursor = first.get().saturating_add(1);
        } else if !self.live && !self.resizable {
            match self.what_it_has(outcome).filter(|most| *most <= last.get()) {
                Some(most) => self.run_limit = most,
                None => self.give_up(),
            }
        } else {
            self.enable_alone = true;
            self.run_limit = (last.get().wrapping_sub(first.get()).saturating_add(1) / 2).max(1);
        }
    }

    /// How many vectors of MSI to try instead: a power of two, as Multiple Message Enable can only say those to the
    /// device. MSI-X, whose vectors are taken one by one, is not tried with fewer.
    fn what_it_has(&self, outcome: Outcome) -> Option<u16> {
        match outcome {
            Outcome::Fewer(most) if self.kind == InterruptKind::Msi => {
                most.checked_ilog2().map(|log| 1u16.wrapping_shl(log))
            }
            _ => None,
        }
    }

    fn wired_now(&mut self, table: &mut [Vector], first: VectorIndex, last: VectorIndex) {
        let end = last.get().saturating_add(1);
        let grown = self.growth.take().is_some();
        let all = grown || !(self.live || self.resizable);
        self.live = true;
        self.unmask = false;
        self.allocated = if grown { end } else { self.allocated.max(end) };
        self.seen |= VectorState::WIRED;
        if grown {
            self.seen |= VectorState::LATCHED;
        }
        let lacking = self.lacking();
        for vector in table.get_mut(first.position()..usize::from(end).min(table.len())).unwrap_or(&mut []) {
            if lacking.is_some_and(|which| which.holds(*vector)) {
                vector.state = (vector.state | VectorState::WIRED) & !VectorState::KEPT;
            } else if grown && vector.state.contains(VectorState::WIRED) {
                // An interrupt may have come while the kind was off: one too many is allowed, one too few is not.
                vector.state.insert(VectorState::LATCHED);
            }
        }
        if all {
            self.refuse_from(table, end);
        }
        if grown {
            self.enter(Pass::Wire);
        } else {
            self.cursor = end;
        }
    }

    /// The host does not reach so far: what lies beyond stays without a vector until the guest's next attempt.
    fn refuse_from(&mut self, table: &mut [Vector], end: u16) {
        let lacking = self.lacking();
        for vector in table.get_mut(usize::from(end)..).unwrap_or(&mut []) {
            if lacking.is_some_and(|which| which.holds(*vector)) {
                vector.state.insert(VectorState::REFUSED);
            }
        }
    }

    /// So many vectors are not to be had: exactly those needed, then as many as there were, then none.
    fn grow_failed(&mut self, outcome: Outcome) {
        let fewer = self.what_it_has(outcome);
        let Some(growth) = &mut self.growth else {
            return;
        };
        if let Some(fewer) = fewer.filter(|fewer| *fewer < growth.attempt) {
            growth.attempt = fewer;
        } else if growth.attempt > growth.exact {
            growth.attempt = growth.exact;
        } else if growth.attempt > growth.old {
            growth.attempt = growth.old;
        } else {
            self.give_up();
        }
    }

    fn committed(&mut self, table: &mut [Vector], done: bool) {
        if done {
            self.uncommitted = false;
            self.seen |= VectorState::ROUTED;
            for vector in table {
                vector.state.remove(VectorState::UNCOMMITTED);
            }
        } else {
            self.again = true;
        }
        self.enter(Pass::DisarmUnrouted);
    }
}
