//! Brings the host's vectors into step with what the guest has programmed.
//!
//! One settling goes through the passes of [`Pass`] in order, each with a cursor over the entries that may have
//! changed, and tries nothing twice. Host vectors are taken when the guest first unmasks an entry and kept until
//! it turns MSI-X off; masking only cuts an event off from the guest.

use super::msix::{Msix, Vector, VectorState};
use crate::addr::VectorIndex;
use crate::host::{Message, Outcome, Step};

/// How a step has left the function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Settled {
    /// The machine knows what stands in the host.
    Known,
    /// The machine cannot know: the function must be quarantined.
    Unknown,
}

/// What a settling does, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Pass {
    /// Events that must no longer reach the guest are cut off.
    Disarm,
    /// Before the vectors go: what has arrived is kept.
    TakePending,
    /// MSI-X off.
    Disable,
    /// Events and routes given back.
    Release,
    /// The vectors must be allocated anew, larger: what has arrived is kept.
    GrowTakePending,
    /// MSI-X off for a moment.
    GrowDisable,
    /// MSI-X on again.
    GrowWire,
    /// Vectors that the guest wants for the first time get an event.
    Wire,
    /// The host hears the messages.
    Route,
    /// The messages take effect, all at once.
    Commit,
    /// Events reach the guest.
    Arm,
    /// Interrupts that waited are delivered.
    Signal,
    /// Nothing is left to do.
    Done,
}

/// A growth of the host's vectors on a host that cannot add to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Growth {
    /// How many there were.
    old: u16,
    /// How many are needed.
    exact: u16,
    /// How many are asked for now.
    attempt: u16,
}

/// What of MSI-X stands in the host, and how far a settling has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Settle {
    /// The host can add vectors while others are in use.
    resizable: bool,
    /// MSI-X is on in the host.
    live: bool,
    /// On a host that cannot add vectors: how many it has allocated.
    allocated: u16,
    /// The host may hold events and routes.
    held: bool,
    /// The first and the last entry that may differ from the host.
    dirty: Option<(u16, u16)>,
    /// Messages were told and not committed.
    uncommitted: bool,
    pass: Pass,
    cursor: u16,
    /// The most vectors to wire in one call: halved when a call fails.
    run_limit: u16,
    /// The first ranged call failed: turn MSI-X on by itself before trying smaller runs.
    enable_alone: bool,
    growth: Option<Growth>,
}

impl Settle {
    pub(super) fn new(resizable: bool) -> Self {
        Self {
            resizable,
            live: false,
            allocated: 0,
            held: false,
            dirty: None,
            uncommitted: false,
            pass: Pass::Done,
            cursor: 0,
            run_limit: VectorIndex::LIMIT,
            enable_alone: false,
            growth: None,
        }
    }

    /// Whether MSI-X is on in the host.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    fn enter(&mut self, pass: Pass) {
        self.pass = pass;
        self.cursor = self.dirty.map_or(0, |(first, _)| first);
    }
}

impl<V: AsRef<[Vector]> + AsMut<[Vector]>> Msix<V> {
    /// Entry `index` may differ from what stands in the host.
    pub(super) fn touch(&mut self, index: usize) {
        let index = u16::try_from(index).unwrap_or(VectorIndex::LIMIT);
        self.settle.dirty = Some(match self.settle.dirty {
            Some((first, last)) => (first.min(index), last.max(index)),
            None => (index, index),
        });
    }

    /// Any entry may differ from what stands in the host.
    pub(super) fn touch_all(&mut self) {
        self.settle.dirty = Some((0, self.count().wrapping_sub(1)));
    }

    /// Whether there is anything to settle.
    pub(crate) fn is_settled(&self) -> bool {
        self.settle.dirty.is_none()
    }

    /// A new settling starts.
    pub(crate) fn begin_settle(&mut self) {
        let pass = if self.settle.dirty.is_some() { Pass::Disarm } else { Pass::Done };
        self.settle.enter(pass);
        self.settle.run_limit = VectorIndex::LIMIT;
        self.settle.enable_alone = false;
        self.settle.growth = None;
    }

    /// The next thing to take away, until none is left.
    pub(crate) fn next_revoke(&mut self) -> Option<Step> {
        self.next_before(Pass::GrowTakePending)
    }

    /// The next thing to set up, until none is left.
    pub(crate) fn next_establish(&mut self) -> Option<Step> {
        let step = self.next_before(Pass::Done);
        if step.is_none() && !self.settle.uncommitted {
            self.settle.dirty = None;
        }
        step
    }

    /// MSI-X off for the guest, to be settled: the first half of a reset.
    pub(crate) fn turn_off(&mut self) {
        (self.enable, self.function_mask) = (false, false);
        self.touch_all();
    }

    /// Every entry as after reset: the second half of a reset, once nothing stands in the host.
    pub(crate) fn reset_table(&mut self) {
        self.table_mut().fill(Vector::RESET);
        self.settle.dirty = None;
        self.settle.uncommitted = false;
    }

    fn next_before(&mut self, end: Pass) -> Option<Step> {
        // Each pass is entered once, growth once more: the bound is never reached.
        for _ in 0..32 {
            if self.settle.pass >= end {
                return None;
            }
            let (step, next) = match self.settle.pass {
                Pass::Disarm => (self.disarm(), Pass::TakePending),
                Pass::TakePending => (self.take_pending_before_off(), Pass::Disable),
                Pass::Disable => (self.disable(), self.after_disable()),
                Pass::Release => (Some(Step::ReleaseVectors), Pass::GrowTakePending),
                Pass::GrowTakePending => self.grow_take_pending(),
                Pass::GrowDisable => (Some(Step::DisableInterrupts), Pass::GrowWire),
                Pass::GrowWire => (self.grow_wire(), Pass::Wire),
                Pass::Wire => (self.wire(), Pass::Route),
                Pass::Route => (self.route(), Pass::Commit),
                Pass::Commit => (self.settle.uncommitted.then_some(Step::CommitRoutes), Pass::Arm),
                Pass::Arm => (self.arm(), Pass::Signal),
                Pass::Signal => (self.signal(), Pass::Done),
                Pass::Done => return None,
            };
            if step.is_some() {
                return step;
            }
            self.settle.enter(next);
        }
        None
    }

    /// The first entry at or after the cursor, within what is dirty, for which `test` holds.
    fn find(&self, test: impl Fn(Vector) -> bool) -> Option<VectorIndex> {
        let (_, last) = self.settle.dirty?;
        (self.settle.cursor..=last)
            .zip(self.table().iter().skip(usize::from(self.settle.cursor)))
            .find(|(_, vector)| test(**vector))
            .and_then(|(index, _)| VectorIndex::new(index))
    }

    fn disarm(&self) -> Option<Step> {
        let vector = self.find(|vector| vector.state.contains(VectorState::ARMED) && !self.wants(vector))?;
        Some(Step::Disarm { vector })
    }

    /// Whether the guest has turned MSI-X off and the host has not.
    fn turning_off(&self) -> bool {
        self.settle.live && !self.enable
    }

    fn take_pending_before_off(&self) -> Option<Step> {
        if self.turning_off() { self.take_pending() } else { None }
    }

    /// The next 64 vectors that may hold an interrupt which has reached nobody.
    fn take_pending(&self) -> Option<Step> {
        let held = |vector: Vector| {
            vector.state.contains(VectorState::WIRED) && !vector.state.contains(VectorState::ARMED)
        };
        let first = self.find(held)?.pba_qword();
        let mut mask = 0u64;
        let mut bit = 1u64;
        for vector in self.table().iter().skip(first.position()).take(64) {
            if held(*vector) {
                mask |= bit;
            }
            bit = bit.wrapping_shl(1);
        }
        Some(Step::TakePending { first, mask })
    }

    /// What the host still holds for a function whose guest has no MSI-X goes too, even if it was off already.
    fn after_disable(&self) -> Pass {
        if !self.enable && self.settle.held { Pass::Release } else { Pass::GrowTakePending }
    }

    fn disable(&self) -> Option<Step> {
        self.turning_off().then_some(Step::DisableInterrupts)
    }

    /// Whether the guest wants this vector and the host has none for it.
    fn lacks_event(&self, vector: Vector) -> bool {
        self.wants(vector) && !vector.state.intersects(VectorState::WIRED | VectorState::REFUSED)
    }

    /// On a host that cannot add vectors: whether it must start over with more of them.
    fn grow_take_pending(&mut self) -> (Option<Step>, Pass) {
        if self.settle.growth.is_none() {
            self.settle.growth = self.growth();
            if self.settle.growth.is_some() {
                // Any vector of the function may hold an interrupt, not only those that changed.
                self.touch_all();
                self.settle.enter(Pass::GrowTakePending);
            }
        }
        if self.settle.growth.is_none() {
            return (None, Pass::Wire);
        }
        (self.take_pending(), Pass::GrowDisable)
    }

    fn growth(&self) -> Option<Growth> {
        if self.settle.resizable || !self.settle.live {
            return None;
        }
        let exact = self.highest_wanted()?.checked_add(1)?;
        let old = self.settle.allocated;
        if exact <= old {
            return None;
        }
        let attempt = exact.max(old.saturating_mul(2)).min(self.count());
        Some(Growth { old, exact, attempt })
    }

    fn highest_wanted(&self) -> Option<u16> {
        let last = self.table().iter().rposition(|vector| self.lacks_event(*vector))?;
        u16::try_from(last).ok()
    }

    fn grow_wire(&self) -> Option<Step> {
        let growth = self.settle.growth?;
        Some(Step::Wire { first: VectorIndex::default(), last: last_of(growth.attempt) })
    }

    fn wire(&self) -> Option<Step> {
        let Some(first) = self.find(|vector| self.lacks_event(vector)) else {
            return (self.enable && !self.settle.live).then_some(Step::EnableInterrupts);
        };
        if !self.settle.live {
            if !self.settle.resizable {
                let last = VectorIndex::new(self.highest_wanted()?)?;
                return Some(Step::Wire { first: VectorIndex::default(), last });
            }
            if self.settle.enable_alone || first != VectorIndex::default() {
                return Some(Step::EnableInterrupts);
            }
        }
        let (_, dirty) = self.settle.dirty?;
        let room = dirty.saturating_sub(first.get()).saturating_add(1).min(self.settle.run_limit);
        let run = self
            .table()
            .iter()
            .skip(first.position())
            .take(usize::from(room))
            .take_while(|vector| self.lacks_event(**vector))
            .count();
        let last = first.get().saturating_add(u16::try_from(run).ok()?).checked_sub(1)?;
        Some(Step::Wire { first, last: VectorIndex::new(last)? })
    }

    fn route(&self) -> Option<Step> {
        let told = VectorState::ROUTE_SET | VectorState::ROUTED | VectorState::REFUSED;
        let vector = self.find(|vector| {
            self.wants(vector) && vector.state.contains(VectorState::WIRED) && !vector.state.intersects(told)
        })?;
        let (address, data) = self.table().get(vector.position())?.message();
        Some(Step::Route { vector, message: Message { address, data } })
    }

    fn arm(&self) -> Option<Step> {
        let vector = self.find(|vector| {
            self.wants(vector)
                && vector.state.contains(VectorState::WIRED | VectorState::ROUTED)
                && !vector.state.intersects(VectorState::ARMED | VectorState::REFUSED)
        })?;
        Some(Step::Arm { vector })
    }

    fn signal(&self) -> Option<Step> {
        let waiting = VectorState::ARMED | VectorState::LATCHED;
        Some(Step::Signal { vector: self.find(|vector| vector.state.contains(waiting))? })
    }

    /// Hears how a step of this machine went.
    pub(crate) fn complete(&mut self, step: Step, outcome: Outcome) -> Settled {
        let done = outcome.is_done();
        match step {
            Step::Disarm { vector } => {
                self.change(vector, |state| state.remove(VectorState::ARMED));
                if !done {
                    return Settled::Unknown;
                }
            }
            Step::TakePending { first, mask } => self.taken(first, mask & outcome.value()),
            Step::DisableInterrupts => {
                self.disabled();
                if !done {
                    return Settled::Unknown;
                }
            }
            Step::ReleaseVectors => {
                self.settle.held = false;
                self.settle.enter(Pass::GrowTakePending);
            }
            Step::EnableInterrupts => self.enabled(done),
            Step::Wire { first, last } => self.wired(first, last, done),
            Step::Route { vector, .. } => {
                let state = if done { VectorState::ROUTE_SET } else { VectorState::REFUSED };
                self.settle.uncommitted |= done;
                self.advance(vector, |found| found.insert(state));
            }
            Step::CommitRoutes => {
                if done {
                    self.committed();
                }
                self.settle.enter(Pass::Arm);
            }
            Step::Arm { vector } => {
                let state = if done { VectorState::ARMED } else { VectorState::REFUSED };
                self.advance(vector, |found| found.insert(state));
            }
            Step::Signal { vector } => self.advance(vector, |state| {
                state.set(VectorState::LATCHED, !done);
            }),
            _ => {}
        }
        Settled::Known
    }

    fn change(&mut self, vector: VectorIndex, change: impl FnOnce(&mut VectorState)) {
        if let Some(found) = self.table_mut().get_mut(vector.position()) {
            change(&mut found.state);
        }
    }

    /// Changes a vector and goes on to the next.
    fn advance(&mut self, vector: VectorIndex, change: impl FnOnce(&mut VectorState)) {
        self.change(vector, change);
        self.settle.cursor = vector.get().saturating_add(1);
    }

    /// These of the 64 vectors from `first` on held an interrupt.
    fn taken(&mut self, first: VectorIndex, bits: u64) {
        let mut left = bits;
        for vector in self.table_mut().iter_mut().skip(first.position()).take(64) {
            if left & 1 != 0 {
                vector.state.insert(VectorState::LATCHED);
            }
            left = left.wrapping_shr(1);
        }
        self.settle.cursor = first.get().saturating_add(64);
    }

    fn disabled(&mut self) {
        self.settle.live = false;
        if self.settle.growth.is_some() {
            self.settle.enter(Pass::GrowWire);
            return;
        }
        self.settle.allocated = 0;
        for vector in self.table_mut() {
            vector.state.remove(VectorState::WIRED | VectorState::ROUTE_SET | VectorState::ROUTED);
        }
        self.settle.uncommitted = false;
        self.settle.enter(Pass::Release);
    }

    fn enabled(&mut self, done: bool) {
        self.settle.live = done;
        if done {
            self.settle.allocated = 1;
        } else {
            self.give_up();
        }
    }

    /// Nothing could be enabled: the guest reads MSI-X Enable as 0.
    fn give_up(&mut self) {
        self.enable = false;
        self.settle.live = false;
        self.settle.allocated = 0;
        self.settle.growth = None;
        self.touch_all();
        for vector in self.table_mut() {
            vector.state.remove(VectorState::WIRED);
        }
        self.settle.enter(Pass::Disarm);
    }

    fn wired(&mut self, first: VectorIndex, last: VectorIndex, done: bool) {
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
        let grown = self.settle.growth.take();
        let run = first.get()..=last.get();
        for vector in run.clone().filter_map(VectorIndex::new) {
            if !self.wants_event(vector) {
                continue;
            }
            self.change(vector, |state| {
                // An interrupt may have come while MSI-X was off: one too many is allowed, one too few is not.
                if grown.is_some() && state.contains(VectorState::WIRED) {
                    state.insert(VectorState::LATCHED);
                }
                state.insert(VectorState::WIRED);
            });
        }
        self.settle.live = true;
        self.settle.allocated = self.settle.allocated.max(last.get().saturating_add(1));
        if grown.is_some() {
            self.settle.allocated = last.get().saturating_add(1);
            self.settle.enter(Pass::Wire);
            let allocated = self.settle.allocated;
            // Back at the old size: what lies beyond stays without a vector.
            let wants = (self.enable, self.function_mask) == (true, false);
            for vector in self.table_mut().iter_mut().skip(usize::from(allocated)) {
                if wants && !vector.state.contains(VectorState::MASKED) {
                    vector.state.insert(VectorState::REFUSED);
                }
            }
        } else {
            self.settle.cursor = last.get().saturating_add(1);
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

    fn committed(&mut self) {
        self.settle.uncommitted = false;
        for vector in self.table_mut() {
            if vector.state.contains(VectorState::ROUTE_SET) {
                vector.state.remove(VectorState::ROUTE_SET);
                vector.state.insert(VectorState::ROUTED);
            }
        }
    }
}

/// The last of `count` vectors, at least vector 0.
fn last_of(count: u16) -> VectorIndex {
    VectorIndex::new(count.saturating_sub(1)).unwrap_or_default()
}
