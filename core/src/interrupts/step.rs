//! Which step of a settling comes next.
//!
//! One settling goes through the passes of [`Pass`] in order, each with a cursor over the entries that may have changed,
//! and tries nothing twice.

use super::pass::{Pass, Range, Which};
use super::settle::{Growth, Settle, qword_of};
use super::vector::{Vector, VectorState};
use crate::addr::VectorIndex;
use crate::host::{InterruptKind, Step};

impl Settle {
    /// A new settling starts, with what one that was cut short has left.
    pub(super) fn begin(&mut self, table: &[Vector]) {
        self.working = self.working.join(self.dirty);
        self.dirty = Range::NONE;
        self.enter(if self.working.is_none() { Pass::Done } else { Pass::Disarm });
        let states = self.under_work(table).iter().map(|vector| vector.state);
        self.seen = states.fold(VectorState::empty(), VectorState::union);
        self.run_limit = VectorIndex::LIMIT;
        self.enable_alone = false;
        self.growth = None;
    }

    /// The next thing to take away, until none is left.
    pub(super) fn next_revoke(&mut self, table: &[Vector]) -> Option<Step> {
        self.next_before(table, Pass::GrowDisable)
    }

    /// The next thing to set up, until none is left.
    pub(super) fn next_establish(&mut self, table: &[Vector]) -> Option<Step> {
        let step = self.next_before(table, Pass::Done);
        if step.is_none() {
            // An interrupt that was told meanwhile is in `dirty`, and waits there for the next settling.
            self.working = Range::NONE;
        }
        step
    }

    fn next_before(&mut self, table: &[Vector], end: Pass) -> Option<Step> {
        // Each pass is entered once, and once more if nothing could be enabled: the bound is never reached.
        for _ in 0..32 {
            if self.pass >= end {
                return None;
            }
            let step = self.step(table);
            if step.is_some() {
                return step;
            }
            self.enter(self.pass.next());
        }
        None
    }

    /// The next step of the pass under way.
    // By itself, so that each pass writes its step where it is to be: the core is to be small.
    #[inline(never)]
    fn step(&mut self, table: &[Vector]) -> Option<Step> {
        let kind = self.kind;
        match self.pass {
            Pass::Disable => self.disable(),
            Pass::Unwire => self.unwire(table),
            Pass::TakePending => self.take_pending(table),
            Pass::Release => self.going().then_some(Step::ReleaseVectors { kind }),
            Pass::GrowDisable => self.grow(table),
            Pass::GrowWire => self.grow_wire(),
            Pass::Wire => self.wire(table),
            Pass::Commit => self.uncommitted.then_some(Step::CommitRoutes),
            Pass::Unmask => self.unmask(table),
            Pass::Disarm | Pass::DisarmUnrouted | Pass::Route | Pass::Signal | Pass::Arm => {
                let vector = self.find(table, self.change()?.which)?;
                Some(self.pass.step(kind, vector, *table.get(vector.position())?))
            }
            Pass::Done => None,
        }
    }

    /// The places of the entries under work, from the cursor on, in a table of so many.
    pub(super) fn places(&self, count: usize) -> core::ops::Range<usize> {
        let end = usize::from(self.working.last).saturating_add(1).min(count);
        usize::from(self.cursor).min(end)..end
    }

    /// The entries under work, from the cursor on.
    fn under_work<'a>(&self, table: &'a [Vector]) -> &'a [Vector] {
        table.get(self.places(table.len())).unwrap_or(&[])
    }

    /// The first entry at or after the cursor, of those under work, that is one of these.
    // One copy of it: the core is to be small.
    #[inline(never)]
    fn find(&self, table: &[Vector], which: Which) -> Option<VectorIndex> {
        let place = self.under_work(table).iter().position(|vector| which.holds(*vector))?;
        VectorIndex::new(self.cursor.saturating_add(u16::try_from(place).ok()?))
    }

    fn disable(&self) -> Option<Step> {
        (self.live && !self.is_on()).then_some(Step::DisableInterrupts { kind: self.kind })
    }

    /// All vectors that signal events, in one call: none of them is [wanted](Self::wants_event) now. A level stays
    /// wired: it comes again as long as it is asserted.
    fn unwire(&self, table: &[Vector]) -> Option<Step> {
        let wired = |vector: &Vector| vector.state.contains(VectorState::WIRED);
        if !self.stopped || !self.live || self.kind == InterruptKind::Intx {
            return None;
        }
        let first = u16::try_from(table.iter().position(wired)?).ok()?;
        let last = u16::try_from(table.iter().rposition(wired)?).ok()?;
        self.wire_range(first, last)
    }

    /// The next 64 vectors that may hold an interrupt which has reached nobody, if nothing signals them any longer. A
    /// level comes again as long as it is asserted, and is not taken.
    fn take_pending(&self, table: &[Vector]) -> Option<Step> {
        if !(self.stopped || self.going()) || self.kind == InterruptKind::Intx {
            return None;
        }
        let held = Which::these(VectorState::WIRED, VectorState::ARMED);
        let first = self.find(table, held)?.pba_qword();
        let mut mask = 0u64;
        let mut bit = 1u64;
        for vector in table.get(qword_of(table, first)).unwrap_or(&[]) {
            if held.holds(*vector) {
                mask |= bit;
            }
            bit = bit.wrapping_shl(1);
        }
        Some(Step::TakePending { kind: self.kind, first, mask })
    }

    /// The vectors that are to have an event and have none.
    pub(super) fn lacking(&self) -> Option<Which> {
        self.taking(VectorState::WIRED | VectorState::REFUSED)
    }

    /// On a host that cannot add vectors: whether it must start over with more of them.
    fn grow(&mut self, table: &[Vector]) -> Option<Step> {
        if self.resizable || !self.live {
            return None;
        }
        let exact = self.highest_wanted(table)?.checked_add(1)?;
        let old = self.allocated;
        if exact <= old {
            return None;
        }
        let count = u16::try_from(table.len()).unwrap_or(VectorIndex::LIMIT);
        let double = if self.kind == InterruptKind::Msix { old.saturating_mul(2) } else { exact };
        let attempt = exact.max(double).min(count);
        self.growth = Some(Growth { old, exact, attempt });
        // Any vector of the function may lose an interrupt, not only those that changed.
        self.work_on_all();
        Some(Step::DisableInterrupts { kind: self.kind })
    }

    fn highest_wanted(&self, table: &[Vector]) -> Option<u16> {
        let which = self.lacking()?;
        u16::try_from(table.iter().rposition(|vector| which.holds(*vector))?).ok()
    }

    fn wire_range(&self, first: u16, last: u16) -> Option<Step> {
        let (first, last) = (VectorIndex::new(first)?, VectorIndex::new(last)?);
        Some(Step::Wire { kind: self.kind, first, last })
    }

    fn grow_wire(&self) -> Option<Step> {
        self.wire_range(0, self.growth?.attempt.saturating_sub(1))
    }

    fn wire(&self, table: &[Vector]) -> Option<Step> {
        let enable = Step::EnableInterrupts { kind: self.kind };
        let which = self.lacking();
        let first = which.and_then(|which| self.find(table, which));
        let (Some(which), Some(first)) = (which, first) else {
            // A pin that the host refuses has no register in which the guest could read that.
            let alone = self.is_on() && !self.live && self.kind != InterruptKind::Intx;
            return alone.then_some(enable);
        };
        if !self.live {
            if !self.resizable {
                let most = self.run_limit.saturating_sub(1);
                return self.wire_range(0, self.highest_wanted(table)?.min(most));
            }
            if self.enable_alone || first != VectorIndex::default() {
                return Some(enable);
            }
        }
        let rest = table.get(first.position()..self.places(table.len()).end)?;
        let run = rest.iter().position(|vector| !which.holds(*vector)).unwrap_or(rest.len());
        let run = u16::try_from(run).ok()?.min(self.run_limit);
        let last = first.get().saturating_add(run).checked_sub(1)?;
        self.wire_range(first.get(), last)
    }

    /// Unmasks the pin once there is somebody to hear of it.
    fn unmask(&mut self, table: &[Vector]) -> Option<Step> {
        let armed = table.iter().any(|vector| vector.state.contains(VectorState::ARMED));
        // Forgotten at once: the guest may end the next interrupt before the host says that this is done.
        let due = armed && core::mem::take(&mut self.unmask);
        due.then_some(Step::UnmaskIntx)
    }
}
