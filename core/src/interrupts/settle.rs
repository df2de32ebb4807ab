//! Brings the host's vectors into step with what the guest has programmed: which step comes next.
//!
//! One settling goes through the passes of [`Pass`] in order, each with a cursor over the entries that may have
//! changed, and tries nothing twice. Host vectors are taken when the guest first unmasks an entry and kept until
//! it turns MSI-X off; masking only cuts an event off from the guest. What a step leaves behind is in
//! `settled.rs`.

use super::msix::{Msix, Vector, VectorState};
use crate::addr::VectorIndex;
use crate::host::{Message, Step};

/// What a settling does, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Pass {
    /// Events that must no longer reach the guest are cut off.
    Disarm,
    /// MSI-X off.
    Disable,
    /// While the function is stopped no vector signals an event: the device keeps what it wants to signal.
    Unwire,
    /// Nothing signals the events any longer: what they hold is kept.
    TakePending,
    /// Events and routes given back.
    Release,
    /// The vectors must be allocated anew, larger: MSI-X off for a moment. Events keep what they hold.
    GrowDisable,
    /// MSI-X on again.
    GrowWire,
    /// Vectors that the guest wants for the first time get an event.
    Wire,
    /// The host hears the messages.
    Route,
    /// The messages take effect, all at once.
    Commit,
    /// Events whose new message did not take effect must not send the old one.
    DisarmUnrouted,
    /// Interrupts that waited go into their events; into one that does not reach the guest yet they go first, so
    /// that together with what it holds they are one interrupt, as one pending bit is.
    Signal,
    /// Events reach the guest.
    Arm,
    /// Nothing is left to do.
    Done,
}

/// A growth of the host's vectors on a host that cannot add to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Growth {
    /// How many there were.
    pub(super) old: u16,
    /// How many are needed.
    pub(super) exact: u16,
    /// How many are asked for now.
    pub(super) attempt: u16,
}

/// The first and the last of the entries that a settling looks at.
pub(super) type Range = Option<(u16, u16)>;

/// What of MSI-X stands in the host, and how far a settling has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Settle {
    /// The host can add vectors while others are in use.
    pub(super) resizable: bool,
    /// MSI-X is on in the host.
    pub(super) live: bool,
    /// On a host that cannot add vectors: how many it has allocated.
    pub(super) allocated: u16,
    /// The host may hold events and routes.
    pub(super) held: bool,
    /// The entries that the next settling must look at.
    pub(super) dirty: Range,
    /// The entries that the settling under way looks at.
    pub(super) working: Range,
    /// Messages were told and not committed.
    pub(super) uncommitted: bool,
    pub(super) pass: Pass,
    pub(super) cursor: u16,
    /// The most vectors to wire in one call: halved when a call fails.
    pub(super) run_limit: u16,
    /// The first ranged call failed: turn MSI-X on by itself before trying smaller runs.
    pub(super) enable_alone: bool,
    pub(super) growth: Option<Growth>,
    /// The function is stopped: nothing is delivered, and nothing lost.
    pub(super) stopped: bool,
}

impl Settle {
    pub(super) fn new(resizable: bool) -> Self {
        Self {
            resizable,
            live: false,
            allocated: 0,
            held: false,
            dirty: None,
            working: None,
            uncommitted: false,
            pass: Pass::Done,
            cursor: 0,
            run_limit: VectorIndex::LIMIT,
            enable_alone: false,
            growth: None,
            stopped: false,
        }
    }

    /// Whether MSI-X is on in the host.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    pub(super) fn enter(&mut self, pass: Pass) {
        self.pass = pass;
        self.cursor = self.working.map_or(0, |(first, _)| first);
    }
}

/// The smallest range that holds both.
fn join(a: Range, b: Range) -> Range {
    match (a, b) {
        (Some((a_first, a_last)), Some((b_first, b_last))) => {
            Some((a_first.min(b_first), a_last.max(b_last)))
        }
        (one, None) | (None, one) => one,
    }
}

impl<V: AsRef<[Vector]> + AsMut<[Vector]>> Msix<V> {
    /// Entry `index` may differ from what stands in the host.
    pub(super) fn touch(&mut self, index: usize) {
        let index = u16::try_from(index).unwrap_or(VectorIndex::LIMIT);
        self.settle.dirty = join(self.settle.dirty, Some((index, index)));
    }

    /// Any entry may differ from what stands in the host.
    pub(super) fn touch_all(&mut self) {
        self.settle.dirty = self.all();
    }

    /// Every entry.
    pub(super) fn all(&self) -> Range {
        Some((0, self.count().wrapping_sub(1)))
    }

    /// Whether there is nothing to settle.
    pub(crate) fn is_settled(&self) -> bool {
        self.settle.dirty.is_none() && self.settle.working.is_none()
    }

    /// A new settling starts, with what one that was cut short has left.
    pub(crate) fn begin_settle(&mut self) {
        self.settle.working = join(self.settle.working, self.settle.dirty.take());
        let pass = if self.settle.working.is_some() { Pass::Disarm } else { Pass::Done };
        self.settle.enter(pass);
        self.settle.run_limit = VectorIndex::LIMIT;
        self.settle.enable_alone = false;
        self.settle.growth = None;
    }

    /// The next thing to take away, until none is left.
    pub(crate) fn next_revoke(&mut self) -> Option<Step> {
        self.next_before(Pass::GrowDisable)
    }

    /// The next thing to set up, until none is left.
    pub(crate) fn next_establish(&mut self) -> Option<Step> {
        let step = self.next_before(Pass::Done);
        if step.is_none() {
            // An interrupt that was told meanwhile is in `dirty`, and waits there for the next settling.
            self.settle.working = None;
        }
        step
    }

    /// Holds every interrupt, or delivers them again, to be settled.
    pub(crate) fn set_stopped(&mut self, stopped: bool) {
        self.settle.stopped = stopped;
        self.touch_all();
    }

    /// Whether MSI-X is on in the host, or the host may hold events and routes.
    pub(crate) fn stands(&self) -> bool {
        self.settle.live || self.settle.held
    }

    /// MSI-X off for the guest, to be settled: the first half of a reset.
    pub(crate) fn turn_off(&mut self) {
        (self.enable, self.function_mask) = (false, false);
        self.touch_all();
    }

    /// Every entry as after reset: the second half of a reset, once nothing stands in the host.
    pub(crate) fn reset_table(&mut self) {
        for vector in self.table_mut() {
            // What the host could not cut off is not forgotten: the next teardown tries again.
            let left = vector.state & VectorState::ARMED;
            *vector = Vector::RESET;
            vector.state.insert(left);
        }
        self.settle.dirty = None;
        self.settle.working = None;
        self.settle.uncommitted = false;
    }

    fn next_before(&mut self, end: Pass) -> Option<Step> {
        // Each pass is entered once, and once more if nothing could be enabled: the bound is never reached.
        for _ in 0..32 {
            if self.settle.pass >= end {
                return None;
            }
            let (step, next) = match self.settle.pass {
                Pass::Disarm => (self.disarm(), Pass::Disable),
                Pass::Disable => (self.disable(), Pass::Unwire),
                Pass::Unwire => (self.unwire(), Pass::TakePending),
                Pass::TakePending => (self.take_pending(), Pass::Release),
                Pass::Release => (self.going().then_some(Step::ReleaseVectors), Pass::GrowDisable),
                Pass::GrowDisable => (self.grow(), Pass::Wire),
                Pass::GrowWire => (self.grow_wire(), Pass::Wire),
                Pass::Wire => (self.wire(), Pass::Route),
                Pass::Route => (self.route(), Pass::Commit),
                Pass::Commit => (self.settle.uncommitted.then_some(Step::CommitRoutes), Pass::DisarmUnrouted),
                Pass::DisarmUnrouted => (self.disarm_unrouted(), Pass::Signal),
                Pass::Signal => (self.signal(), Pass::Arm),
                Pass::Arm => (self.arm(), Pass::Done),
                Pass::Done => return None,
            };
            if step.is_some() {
                return step;
            }
            self.settle.enter(next);
        }
        None
    }

    /// The first entry at or after the cursor, of those under work, for which `test` holds.
    fn find(&self, test: impl Fn(Vector) -> bool) -> Option<VectorIndex> {
        let (_, last) = self.settle.working?;
        (self.settle.cursor..=last)
            .zip(self.table().iter().skip(usize::from(self.settle.cursor)))
            .find(|(_, vector)| test(**vector))
            .and_then(|(index, _)| VectorIndex::new(index))
    }

    fn disarm(&self) -> Option<Step> {
        let vector = self.find(|vector| vector.state.contains(VectorState::ARMED) && !self.wants(vector))?;
        Some(Step::Disarm { vector })
    }

    fn disarm_unrouted(&self) -> Option<Step> {
        let unrouted =
            |state: VectorState| state.contains(VectorState::ARMED) && !state.contains(VectorState::ROUTED);
        Some(Step::Disarm { vector: self.find(|vector| unrouted(vector.state))? })
    }

    fn disable(&self) -> Option<Step> {
        (self.settle.live && !self.enable).then_some(Step::DisableInterrupts)
    }

    /// All vectors that signal events, in one call: none of them is [wanted](Self::wants_event) now.
    fn unwire(&self) -> Option<Step> {
        let wired = |vector: &Vector| vector.state.contains(VectorState::WIRED);
        if !self.settle.stopped || !self.settle.live {
            return None;
        }
        let first = u16::try_from(self.table().iter().position(wired)?).ok()?;
        let last = u16::try_from(self.table().iter().rposition(wired)?).ok()?;
        Some(Step::Wire { first: VectorIndex::new(first)?, last: VectorIndex::new(last)? })
    }

    /// Whether what the host holds is to be given back.
    fn going(&self) -> bool {
        self.settle.held && !self.enable
    }

    /// The next 64 vectors that may hold an interrupt which has reached nobody, if nothing signals them any longer.
    fn take_pending(&self) -> Option<Step> {
        let held = |vector: Vector| {
            vector.state.contains(VectorState::WIRED) && !vector.state.contains(VectorState::ARMED)
        };
        let first = self.find(held).filter(|_| self.settle.stopped || self.going())?.pba_qword();
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

    /// Whether the guest wants this vector and the host has none for it.
    pub(super) fn lacks_event(&self, vector: Vector) -> bool {
        self.wants(vector) && !vector.state.intersects(VectorState::WIRED | VectorState::REFUSED)
    }

    /// On a host that cannot add vectors: whether it must start over with more of them.
    fn grow(&mut self) -> Option<Step> {
        if self.settle.resizable || !self.settle.live {
            return None;
        }
        let exact = self.highest_wanted()?.checked_add(1)?;
        let old = self.settle.allocated;
        if exact <= old {
            return None;
        }
        let attempt = exact.max(old.saturating_mul(2)).min(self.count());
        self.settle.growth = Some(Growth { old, exact, attempt });
        // Any vector of the function may lose an interrupt, not only those that changed.
        self.settle.working = self.all();
        Some(Step::DisableInterrupts)
    }

    fn highest_wanted(&self) -> Option<u16> {
        let last = self.table().iter().rposition(|vector| self.lacks_event(*vector))?;
        u16::try_from(last).ok()
    }

    fn grow_wire(&self) -> Option<Step> {
        let growth = self.settle.growth?;
        let last = VectorIndex::new(growth.attempt.saturating_sub(1)).unwrap_or_default();
        Some(Step::Wire { first: VectorIndex::default(), last })
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
        let (_, end) = self.settle.working?;
        let room = end.saturating_sub(first.get()).saturating_add(1).min(self.settle.run_limit);
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

    /// Whether the guest wants this vector and its event can reach it.
    fn deliverable(&self, vector: Vector) -> bool {
        self.wants(vector)
            && vector.state.contains(VectorState::WIRED | VectorState::ROUTED)
            && !vector.state.contains(VectorState::REFUSED)
    }

    fn signal(&self) -> Option<Step> {
        let waits = |vector: Vector| vector.state.contains(VectorState::LATCHED);
        Some(Step::Signal { vector: self.find(|vector| waits(vector) && self.deliverable(vector))? })
    }

    fn arm(&self) -> Option<Step> {
        let armed = |vector: Vector| vector.state.contains(VectorState::ARMED);
        Some(Step::Arm { vector: self.find(|vector| !armed(vector) && self.deliverable(vector))? })
    }
}
