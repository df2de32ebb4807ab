//! Exactly one kind of interrupt is on: MSI-X if the guest enables it, else MSI if the guest enables that, else the
//! interrupt pin, if there is one.
//!
//! The kinds that are off are turned off before the one that is on is turned on: that is the order of revoking and
//! establishing, and the only one that the kernel takes.

use super::intx::Intx;
use super::msi::Msi;
use super::msix::Msix;
use super::settle::Settle;
use super::settled::Settled;
use super::vector::Vector;
use crate::addr::VectorIndex;
use crate::host::{InterruptKind, Outcome, Step};

/// The interrupts of a function: each kind that the device has and the host can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Interrupts<V> {
    pub(crate) msix: Option<Msix<V>>,
    pub(crate) msi: Option<Msi>,
    pub(crate) intx: Option<Intx>,
    /// The kind that the step under way belongs to.
    settling: InterruptKind,
}

/// The kinds, the one that goes before the others first.
const BY_RANK: [InterruptKind; 3] = [InterruptKind::Msix, InterruptKind::Msi, InterruptKind::Intx];

impl<V: AsRef<[Vector]> + AsMut<[Vector]>> Interrupts<V> {
    pub(crate) fn new(msix: Option<Msix<V>>, msi: Option<Msi>, intx: Option<Intx>) -> Self {
        Self { msix, msi, intx, settling: InterruptKind::Msix }
    }

    /// The kind that the guest has on.
    pub(crate) fn mode(&self) -> Option<InterruptKind> {
        BY_RANK.iter().copied().find(|kind| self.settle(*kind).is_some_and(Settle::is_on))
    }

    /// What settles a kind, and its vectors.
    // One copy of it: the core is to be small.
    #[inline(never)]
    fn parts(&self, kind: InterruptKind) -> Option<(&Settle, &[Vector])> {
        match kind {
            InterruptKind::Msix => self.msix.as_ref().map(Msix::parts),
            InterruptKind::Msi => self.msi.as_ref().map(Msi::parts),
            InterruptKind::Intx => self.intx.as_ref().map(Intx::parts),
        }
    }

    fn settle(&self, kind: InterruptKind) -> Option<&Settle> {
        self.parts(kind).map(|(settle, _)| settle)
    }

    /// The same, to change.
    #[inline(never)]
    fn parts_mut(&mut self, kind: InterruptKind) -> Option<(&mut Settle, &mut [Vector])> {
        match kind {
            InterruptKind::Msix => self.msix.as_mut().map(Msix::parts_mut),
            InterruptKind::Msi => self.msi.as_mut().map(Msi::parts_mut),
            InterruptKind::Intx => self.intx.as_mut().map(Intx::parts_mut),
        }
    }

    #[inline(never)]
    fn each(&mut self, visit: fn(&mut Settle, &[Vector])) {
        for kind in &BY_RANK {
            if let Some((settle, table)) = self.parts_mut(*kind) {
                visit(settle, table);
            }
        }
    }

    /// Finds which kind is on; whether that has changed.
    fn choose(&mut self) -> bool {
        let mut taken = false;
        let mut changed = false;
        for kind in &BY_RANK {
            if let Some((settle, table)) = self.parts_mut(*kind) {
                if settle.preempted != taken {
                    settle.preempted = taken;
                    settle.retry(table);
                    settle.touch_all();
                    changed = true;
                }
                taken |= settle.enable;
            }
        }
        changed
    }

    /// Whether there is nothing to settle.
    pub(crate) fn is_settled(&self) -> bool {
        self.all(Settle::is_settled)
    }

    #[inline(never)]
    fn all(&self, holds: fn(&Settle) -> bool) -> bool {
        BY_RANK.iter().all(|kind| self.settle(*kind).is_none_or(holds))
    }

    /// Whether there is nothing to settle, and nothing that a new operation would try again.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.all(Settle::is_at_rest)
    }

    /// A new operation begins.
    pub(crate) fn begin_operation(&mut self) {
        self.each(Settle::try_again);
    }

    /// A new settling starts, with what one that was cut short has left.
    #[inline(never)]
    pub(crate) fn begin_settle(&mut self) {
        self.choose();
        self.each(Settle::begin);
    }

    /// The next thing to take away, until none is left.
    pub(crate) fn next_revoke(&mut self) -> Option<Step> {
        self.next(Settle::next_revoke)
    }

    /// The next thing to set up, until none is left.
    pub(crate) fn next_establish(&mut self) -> Option<Step> {
        let step = self.next(Settle::next_establish);
        // A kind that could not be turned on makes way for the next.
        if step.is_some() || !self.choose() {
            return step;
        }
        self.each(Settle::begin);
        self.next(Settle::next_establish)
    }

    #[inline(never)]
    fn next(&mut self, next: fn(&mut Settle, &[Vector]) -> Option<Step>) -> Option<Step> {
        BY_RANK.iter().find_map(|kind| {
            let (settle, table) = self.parts_mut(*kind)?;
            let step = next(settle, table)?;
            self.settling = *kind;
            Some(step)
        })
    }

    /// Hears how a step of a settling went.
    pub(crate) fn complete(&mut self, step: Step, outcome: Outcome) -> Settled {
        match self.parts_mut(self.settling) {
            Some((settle, table)) => settle.complete(table, step, outcome),
            None => Settled::Known,
        }
    }

    /// [`Settle::run`] of the kind whose step is under way.
    pub(crate) fn run(&mut self, take: impl FnMut(Step) -> bool) {
        if let Some((settle, table)) = self.parts_mut(self.settling) {
            settle.run(table, take);
        }
    }

    /// An interrupt has reached the embedder and not the guest.
    pub(crate) fn latch(&mut self, kind: InterruptKind, vector: VectorIndex) {
        match self.parts_mut(kind) {
            // A level comes again once the pin is unmasked, if it is still asserted.
            Some((settle, _)) if kind == InterruptKind::Intx => settle.unmask_due(),
            Some((settle, table)) => settle.latch(table, vector),
            None => {}
        }
    }

    /// Whether the host is to give an event to this vector.
    pub(crate) fn wants_event(&self, kind: InterruptKind, vector: VectorIndex) -> bool {
        self.parts(kind).is_some_and(|(settle, table)| settle.wants_event(table, vector))
    }

    /// All kinds off for the guest, to be settled: the first half of a reset.
    pub(crate) fn turn_off(&mut self) {
        self.each(Settle::turn_off);
    }

    /// Holds every interrupt, or delivers them again, to be settled.
    pub(crate) fn set_stopped(&mut self, stopped: bool) {
        for kind in BY_RANK {
            if let Some((settle, table)) = self.parts_mut(kind) {
                settle.set_stopped(table, stopped);
            }
        }
    }

    /// Whether MSI or MSI-X is on in the host, or the host may hold events and routes for them.
    pub(crate) fn stands(&self) -> bool {
        let messages = [InterruptKind::Msi, InterruptKind::Msix];
        messages.into_iter().any(|kind| self.settle(kind).is_some_and(Settle::stands))
    }

    /// Registers as after reset, once nothing stands in the host: the second half of a reset.
    #[inline(never)]
    pub(crate) fn reset(&mut self) {
        if let Some(msix) = &mut self.msix {
            msix.reset();
        }
        if let Some(msi) = &mut self.msi {
            msi.reset();
        }
        if let Some(intx) = &mut self.intx {
            intx.reset();
        }
    }

    /// The function is the guest's: its pin may interrupt, to be settled.
    pub(crate) fn turn_on(&mut self) {
        if let Some(intx) = &mut self.intx {
            intx.turn_on();
        }
    }
}
