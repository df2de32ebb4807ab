//! Brings the host's vectors into step with what the guest has programmed: what is on, what stands in the host, what is
//! still to be settled.
//!
//! Host vectors are taken when the guest first unmasks an entry and kept until it turns MSI-X off; masking only cuts an
//! event off from the guest. MSI and INTx take all of theirs when they are turned on. Which step comes next is in
//! `step.rs`, what a step leaves behind in `settled.rs`.

use super::pass::{Pass, Range, Which};
use super::vector::{PendingQuery, Vector, VectorState};
use crate::addr::VectorIndex;
use crate::host::InterruptKind;

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

/// What of one kind of interrupt the guest has turned on, what stands in the host, and how far a settling has come.
///
/// The vectors themselves are with whoever owns this, and come into each call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Settle {
    pub(super) kind: InterruptKind,
    /// The guest has turned the kind on.
    pub(super) enable: bool,
    /// The guest has turned on a kind that goes before this one.
    pub(super) preempted: bool,
    /// The guest has masked all vectors.
    pub(super) function_mask: bool,
    /// The host can add vectors while others are in use.
    pub(super) resizable: bool,
    /// It is on in the host.
    pub(super) live: bool,
    /// How many vectors the host said it has, if it was last asked for more.
    pub(super) fewer: Option<u16>,
    /// The host may have masked the pin, and is to unmask it.
    pub(super) unmask: bool,
    /// On a host that cannot add vectors: how many it has allocated.
    pub(super) allocated: u16,
    /// The host may hold events and routes.
    pub(super) held: bool,
    /// The entries that the next settling must look at.
    pub(super) dirty: Range,
    /// A step has failed that is worth another try in the next operation, and not before.
    pub(super) again: bool,
    /// The entries that the settling under way looks at.
    pub(super) working: Range,
    /// Every state that one of those entries may be in: a pass that looks for another has nothing to do.
    pub(super) seen: VectorState,
    /// Messages were told and not committed.
    pub(super) uncommitted: bool,
    pub(super) pass: Pass,
    pub(super) cursor: u16,
    /// The most vectors to wire in one call: halved when a call fails.
    pub(super) run_limit: u16,
    /// The first ranged call failed: turn the kind on by itself before trying smaller runs.
    pub(super) enable_alone: bool,
    pub(super) growth: Option<Growth>,
    /// The function is stopped: nothing is delivered, and nothing lost.
    pub(super) stopped: bool,
    /// An interrupt that comes while nothing is wired is lost to the device too, which cannot mask it.
    pub(super) lossy: bool,
}

impl Settle {
    pub(super) fn new(kind: InterruptKind, resizable: bool) -> Self {
        Self {
            kind,
            enable: false,
            preempted: false,
            function_mask: false,
            resizable,
            live: false,
            fewer: None,
            unmask: false,
            allocated: 0,
            held: false,
            dirty: Range::NONE,
            working: Range::NONE,
            seen: VectorState::all(),
            again: false,
            uncommitted: false,
            pass: Pass::Done,
            cursor: 0,
            run_limit: VectorIndex::LIMIT,
            enable_alone: false,
            growth: None,
            stopped: false,
            lossy: false,
        }
    }

    pub(super) fn enter(&mut self, pass: Pass) {
        self.pass = pass;
        self.cursor = self.working.first;
    }

    /// Whether the guest has turned the kind on, and none that goes before it.
    pub(super) fn is_on(&self) -> bool {
        self.enable && !self.preempted
    }

    /// Whether vectors that are not masked themselves can deliver.
    pub(super) fn is_able(&self) -> bool {
        self.is_on() && !self.function_mask
    }

    /// Whether vectors that are not [`SILENT`] are to deliver now.
    pub(super) fn delivers(&self) -> bool {
        self.is_able() && !self.stopped
    }

    /// The vectors that are to have an event, of those that have none of `lacks`: of MSI-X those that the guest
    /// unmasks, or had unmasked before a stop; of the others all, since none can be added later.
    #[inline(never)]
    pub(super) fn taking(&self, lacks: VectorState) -> Option<Which> {
        if !self.is_on() || self.stopped {
            return None;
        }
        let none = VectorState::empty();
        Some(match self.kind {
            InterruptKind::Msix if self.function_mask => Which::these(VectorState::KEPT, lacks),
            InterruptKind::Msix => Which {
                or: Some((VectorState::KEPT, lacks)),
                ..Which::these(none, lacks | VectorState::MASKED)
            },
            InterruptKind::Intx | InterruptKind::Msi => Which::these(none, lacks | VectorState::UNUSED),
        })
    }

    /// Whether the host is to give an event to this vector: it takes one, or has it already.
    pub(super) fn wants_event(&self, table: &[Vector], vector: VectorIndex) -> bool {
        let taking = self.taking(VectorState::REFUSED);
        table.get(vector.position()).is_some_and(|found| {
            let wired = found.state.contains(VectorState::WIRED);
            (wired && !self.stopped) || taking.is_some_and(|which| which.holds(*found))
        })
    }

    /// Where the pending bits of the 64 vectors from `first` on are.
    pub(super) fn pending(&self, table: &[Vector], first: VectorIndex) -> PendingQuery {
        let mut query = PendingQuery { known: 0, poll: 0, hardware: 0 };
        let mut bit = 1u64;
        for vector in table.get(qword_of(table, first)).unwrap_or(&[]) {
            let state = vector.state;
            if state.contains(VectorState::LATCHED) {
                query.known |= bit;
            } else if state.contains(VectorState::WIRED) && !state.contains(VectorState::ARMED) {
                query.poll |= bit;
            } else if !state.contains(VectorState::WIRED) && self.live {
                query.hardware |= bit;
            }
            bit = bit.wrapping_shl(1);
        }
        query
    }

    /// An interrupt of `vector` has reached the embedder and not the guest: it waits until it can be delivered.
    pub(super) fn latch(&mut self, table: &mut [Vector], vector: VectorIndex) {
        let index = vector.position();
        if let Some(found) = table.get_mut(index) {
            found.state.insert(VectorState::LATCHED);
            self.seen.insert(VectorState::LATCHED);
            self.touch(index);
        }
    }

    /// What the host refused is worth another try.
    pub(super) fn retry(&mut self, table: &mut [Vector]) {
        table.iter_mut().for_each(|vector| vector.state.remove(VectorState::REFUSED));
    }

    /// Entry `index` may differ from what stands in the host.
    pub(super) fn touch(&mut self, index: usize) {
        let index = u16::try_from(index).unwrap_or(VectorIndex::LIMIT);
        self.dirty = self.dirty.join(Range { first: index, last: index });
    }

    /// Any entry may differ from what stands in the host.
    pub(super) fn touch_all(&mut self) {
        self.dirty = Range::ALL;
    }

    /// A new operation begins: what failed in the last one is tried again.
    pub(super) fn try_again(&mut self, _: &[Vector]) {
        if core::mem::take(&mut self.again) {
            self.touch_all();
        }
    }

    /// All that is under work.
    pub(super) fn work_on_all(&mut self) {
        (self.working, self.seen) = (Range::ALL, VectorState::all());
    }

    /// Whether there is nothing to settle.
    pub(super) fn is_settled(&self) -> bool {
        self.dirty.is_none() && self.working.is_none()
    }

    /// Whether there is nothing to settle, and nothing that a new operation would try again.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_settled() && !self.again
    }

    /// Whether something may stand in the host, or be due there, for a vector of MSI-X that the guest has changed. Most
    /// are changed while they are masked, or before the kind is on.
    pub(super) fn concerns(&self, vector: Vector) -> bool {
        let stands = VectorState::ARMED | VectorState::KEPT;
        let silent = vector.state.contains(VectorState::MASKED) || !self.is_able();
        vector.state.intersects(stands) || !silent || self.going()
    }

    /// Holds every interrupt, or delivers them again, to be settled.
    pub(super) fn set_stopped(&mut self, table: &mut [Vector], stopped: bool) {
        self.stopped = stopped;
        // A vector that was wired and refused afterwards is neither wired nor tried otherwise.
        self.retry(table);
        self.touch_all();
    }

    /// Whether the kind is on in the host, or the host may hold events and routes.
    pub(super) fn stands(&self) -> bool {
        self.live || self.held
    }

    /// Whether what the host holds is to be given back.
    pub(super) fn going(&self) -> bool {
        self.held && !self.is_on()
    }

    /// Off for the guest, to be settled: the first half of a reset.
    pub(super) fn turn_off(&mut self, _: &[Vector]) {
        (self.enable, self.function_mask) = (false, false);
        self.touch_all();
    }
}

/// The places of the 64 vectors that share a Pending Bit Array qword with this one, in this table.
pub(super) fn qword_of(table: &[Vector], vector: VectorIndex) -> core::ops::Range<usize> {
    let first = vector.pba_qword().position().min(table.len());
    first..first.saturating_add(64).min(table.len())
}

/// How many vectors signal an event, and how many of those events reach the guest.
pub(super) fn live(table: &[Vector]) -> (u16, u16) {
    let count = |state: VectorState| {
        let found = table.iter().filter(|vector| vector.state.contains(state)).count();
        u16::try_from(found).unwrap_or(VectorIndex::LIMIT)
    };
    (count(VectorState::WIRED), count(VectorState::ARMED))
}
