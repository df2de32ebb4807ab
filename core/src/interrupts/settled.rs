//! What a step of a settling leaves behind, done or failed.

use super::msix::{Msix, Vector, VectorState};
use super::settle::Pass;
use crate::addr::VectorIndex;
use crate::host::{Outcome, Step};

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

impl<V: AsRef<[Vector]> + AsMut<[Vector]>> Msix<V> {
    /// Hears how a step of this machine went.
    pub(crate) fn complete(&mut self, step: Step, outcome: Outcome) -> Settled {
        let done = outcome.is_done();
        match step {
            Step::Disarm { vector } => {
                self.advance(vector, |state| state.set(VectorState::ARMED, !done));
                return Settled::known(done);
            }
            Step::DisableInterrupts => {
                self.disabled(done);
                return Settled::known(done);
            }
            Step::TakePending { first, mask } => self.taken(first, mask, outcome.value()),
            Step::ReleaseVectors => self.released(done),
            Step::EnableInterrupts => self.enabled(done),
            Step::Wire { first, last } => self.wired(first, last, done),
            Step::Route { vector, .. } => {
                let state = if done { VectorState::ROUTE_SET } else { VectorState::REFUSED };
                self.settle.uncommitted |= done;
                self.advance(vector, |found| found.insert(state));
            }
            Step::CommitRoutes => self.committed(done),
            Step::Signal { vector } => {
                self.advance(vector, |state| state.set(VectorState::LATCHED, !done));
                if !done {
                    self.touch(vector.position());
                }
            }
            Step::Arm { vector } => {
                let state = if done { VectorState::ARMED } else { VectorState::REFUSED };
                self.advance(vector, |found| found.insert(state));
            }
            _ => {}
        }
        Settled::Known
    }

    /// Changes a vector and goes on to the next.
    fn advance(&mut self, vector: VectorIndex, change: impl FnOnce(&mut VectorState)) {
        if let Some(found) = self.table_mut().get_mut(vector.position()) {
            change(&mut found.state);
        }
        self.settle.cursor = vector.get().saturating_add(1);
    }

    fn disabled(&mut self, done: bool) {
        if done {
            self.settle.live = false;
        }
        match self.settle.growth {
            Some(_) if done => self.settle.enter(Pass::GrowWire),
            _ => {
                self.settle.growth = None;
                self.settle.allocated = 0;
                self.settle.enter(Pass::TakePending);
            }
        }
    }

    /// Those of the 64 vectors from `first` on that `mask` names signal nothing any longer; these `bits` of them
    /// held an interrupt.
    fn taken(&mut self, first: VectorIndex, mask: u64, bits: u64) {
        let mut bit = 1u64;
        for vector in self.table_mut().iter_mut().skip(first.position()).take(64) {
            if mask & bit != 0 {
                vector.state.remove(VectorState::WIRED);
                if bits & bit != 0 {
                    vector.state.insert(VectorState::LATCHED);
                }
            }
            bit = bit.wrapping_shl(1);
        }
        self.settle.cursor = first.get().saturating_add(64);
    }

    /// Events and routes are gone; if that failed, the next teardown tries again.
    fn released(&mut self, done: bool) {
        self.settle.held = !done;
        self.settle.allocated = 0;
        self.settle.uncommitted = false;
        let gone = VectorState::WIRED | VectorState::ROUTE_SET | VectorState::ROUTED;
        // An event that is gone reaches nobody, whether it could be cut off before or not.
        let gone = if done { gone | VectorState::ARMED } else { gone };
        for vector in self.table_mut() {
            vector.state.remove(gone);
        }
        self.settle.enter(Pass::GrowDisable);
    }

    fn enabled(&mut self, done: bool) {
        if done {
            self.settle.live = true;
            self.settle.allocated = 1;
        } else {
            self.give_up();
        }
    }

    /// Nothing could be enabled: the guest reads MSI-X Enable as 0, and what stands in the host goes.
    fn give_up(&mut self) {
        self.enable = false;
        self.settle.live = false;
        self.settle.growth = None;
        self.settle.working = self.all();
        self.settle.enter(Pass::Disarm);
    }

    fn wired(&mut self, first: VectorIndex, last: VectorIndex, done: bool) {
        if self.settle.pass == Pass::Unwire {
            // A range that could not be wired is not wired, either.
            self.settle.enter(Pass::TakePending);
            return;
        }
        self.settle.held = true;
        if done {
            self.wired_now(first, last);
        } else if self.settle.growth.is_some() {
            self.grow_failed();
        } else if !self.settle.live && !self.settle.resizable {
            self.give_up();
        } else if first == last && self.settle.live {
            self.advance(first, |state| state.insert(VectorState::REFUSED));
        } else {
            self.settle.enable_alone = true;
            self.settle.run_limit = (last.get().wrapping_sub(first.get()).saturating_add(1) / 2).max(1);
        }
    }

    fn wired_now(&mut self, first: VectorIndex, last: VectorIndex) {
        let end = last.get().saturating_add(1);
        let grown = self.settle.growth.take().is_some();
        self.settle.live = true;
        self.settle.allocated = if grown { end } else { self.settle.allocated.max(end) };
        for vector in (first.get()..end).filter_map(VectorIndex::new) {
            if !self.wants_event(vector) {
                continue;
            }
            if let Some(Vector { state, .. }) = self.table_mut().get_mut(vector.position()) {
                // An interrupt may have come while MSI-X was off: one too many is allowed, one too few is not.
                if grown && state.contains(VectorState::WIRED) {
                    state.insert(VectorState::LATCHED);
                }
                state.insert(VectorState::WIRED);
            }
        }
        if grown {
            self.refuse_from(end);
            self.settle.enter(Pass::Wire);
        } else {
            self.settle.cursor = end;
        }
    }

    /// The host does not reach so far: what lies beyond stays without a vector until its next unmask.
    fn refuse_from(&mut self, end: u16) {
        let able = self.is_able();
        for vector in self.table_mut().iter_mut().skip(usize::from(end)) {
            let lacks = !vector.state.intersects(VectorState::MASKED | VectorState::WIRED);
            if able && lacks {
                vector.state.insert(VectorState::REFUSED);
            }
        }
    }

    /// So many vectors are not to be had: exactly those needed, then as many as there were, then none.
    fn grow_failed(&mut self) {
        let Some(growth) = &mut self.settle.growth else {
            return;
        };
        if growth.attempt > growth.exact {
            growth.attempt = growth.exact;
        } else if growth.attempt > growth.old {
            growth.attempt = growth.old;
        } else {
            self.give_up();
        }
    }

    fn committed(&mut self, done: bool) {
        if done {
            self.settle.uncommitted = false;
            for vector in self.table_mut() {
                if vector.state.contains(VectorState::ROUTE_SET) {
                    vector.state.remove(VectorState::ROUTE_SET);
                    vector.state.insert(VectorState::ROUTED);
                }
            }
        } else {
            // Worth another try at the next drive.
            self.settle.dirty = self.all();
        }
        self.settle.enter(Pass::DisarmUnrouted);
    }
}
