//! The kernel's side of one kind of a fake device's interrupts, the events that vectors signal, and who hears them.
//!
//! That one kind is on at a time is in `irqs.rs`, with the interrupt pin.

use super::faults::FakeError;
use super::shape::Shape;
use crate::addr::VectorIndex;
use crate::host::{InterruptKind, Message};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Where an interrupt of the device went.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Raised {
    /// To the guest.
    Delivered,
    /// Into an event that reaches nobody.
    Held,
    /// Into the device's own Pending Bit Array: its entry is masked, or the device is no bus master.
    Latched,
    /// Nowhere: neither MSI nor MSI-X is on.
    Lost,
}

/// The events and the kernel's view of the vectors.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    kind: InterruptKind,
    resizable: bool,
    /// How many vectors the kernel can allocate.
    supply: u16,
    room_for_routes: usize,
    on: bool,
    /// Vectors that are allocated: only these can be wired without growing.
    allocated: BTreeSet<VectorIndex>,
    wired: BTreeSet<VectorIndex>,
    /// The device's own Pending Bit Array.
    latched: BTreeSet<VectorIndex>,
    /// How often each event was signalled since it was last taken.
    events: BTreeMap<VectorIndex, u64>,
    noted: BTreeMap<VectorIndex, Message>,
    committed: BTreeMap<VectorIndex, Message>,
    armed: BTreeSet<VectorIndex>,
    delivered: Vec<(VectorIndex, Message)>,
    lost: u64,
}

impl Kernel {
    pub(super) fn new(shape: &Shape, kind: InterruptKind) -> Self {
        Self {
            kind,
            // Neither MSI nor the pin can ever be added to.
            resizable: shape.resizable && kind == InterruptKind::Msix,
            supply: if kind == InterruptKind::Intx { 1 } else { shape.host_vectors },
            room_for_routes: shape.routes,
            on: false,
            allocated: BTreeSet::new(),
            wired: BTreeSet::new(),
            latched: BTreeSet::new(),
            events: BTreeMap::new(),
            noted: BTreeMap::new(),
            committed: BTreeMap::new(),
            armed: BTreeSet::new(),
            delivered: Vec::new(),
            lost: 0,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    pub(super) fn wired(&self) -> &BTreeSet<VectorIndex> {
        &self.wired
    }

    pub(super) fn armed(&self) -> &BTreeSet<VectorIndex> {
        &self.armed
    }

    pub(super) fn allocated(&self) -> usize {
        self.allocated.len()
    }

    pub(super) fn events(&self) -> usize {
        self.events.len()
    }

    pub(super) fn routes(&self) -> usize {
        self.noted.len()
    }

    pub(super) fn delivered(&self) -> &[(VectorIndex, Message)] {
        &self.delivered
    }

    pub(super) fn forget_delivered(&mut self) {
        self.delivered.clear();
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// The device signals an interrupt.
    pub(super) fn raise(&mut self, vector: VectorIndex, can_signal: bool) -> Raised {
        if !self.on {
            return Raised::Lost;
        }
        if !can_signal || !self.wired.contains(&vector) {
            self.latched.insert(vector);
            return Raised::Latched;
        }
        self.deliver(vector)
    }

    /// The event of `vector` is signalled, and reaches the guest if it is armed.
    fn deliver(&mut self, vector: VectorIndex) -> Raised {
        match self.committed.get(&vector) {
            Some(message) if self.armed.contains(&vector) => {
                self.delivered.push((vector, *message));
                Raised::Delivered
            }
            // A level has no message.
            None if self.kind == InterruptKind::Intx && self.armed.contains(&vector) => Raised::Delivered,
            _ => {
                *self.events.entry(vector).or_default() += 1;
                Raised::Held
            }
        }
    }

    /// The device may signal again: what waits in its Pending Bit Array goes out.
    pub(super) fn signalling_again(&mut self) {
        let waiting: Vec<_> = self.latched.intersection(&self.wired).copied().collect();
        for vector in waiting {
            self.latched.remove(&vector);
            self.deliver(vector);
        }
    }

    /// Bits `first` and on of the device's own Pending Bit Array.
    pub(super) fn pending_bits(&self, first: u16) -> u64 {
        bits(first, u64::MAX).filter(|(_, vector)| self.latched.contains(vector)).map(|(bit, _)| bit).sum()
    }

    /// The device was reset: it has forgotten what it wanted to signal.
    pub(super) fn device_was_reset(&mut self) {
        self.latched.clear();
    }

    pub(super) fn enable(&mut self) -> Result<(), FakeError> {
        self.wire(VectorIndex::default(), VectorIndex::default(), &|_| false)
    }

    /// One SET_IRQS with events for those vectors of the range that are wanted, and −1 for the others.
    pub(super) fn wire(
        &mut self,
        first: VectorIndex,
        last: VectorIndex,
        wanted: &dyn Fn(VectorIndex) -> bool,
    ) -> Result<(), FakeError> {
        let fresh = !self.on;
        if fresh {
            if last.get() >= self.supply {
                return Err(FakeError::FewerVectors(self.supply));
            }
            self.allocated = vectors(VectorIndex::default(), last).collect();
            self.on = true;
        }
        for vector in vectors(first, last) {
            if let Err(error) = self.wire_one(vector, wanted(vector)) {
                self.detach(first, last);
                if fresh {
                    self.switch_off();
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn wire_one(&mut self, vector: VectorIndex, wanted: bool) -> Result<(), FakeError> {
        self.wired.remove(&vector);
        if !self.allocated.contains(&vector) {
            if !self.resizable {
                return Err(FakeError::NotResizable(vector));
            }
            if wanted {
                if self.allocated.len() >= usize::from(self.supply) {
                    return Err(FakeError::FewerVectors(self.supply));
                }
                self.allocated.insert(vector);
            }
        }
        if wanted {
            self.events.entry(vector).or_default();
            self.wired.insert(vector);
        }
        Ok(())
    }

    /// None of the range is wired any longer; what was allocated stays so.
    pub(super) fn detach(&mut self, first: VectorIndex, last: VectorIndex) {
        self.wired.retain(|vector| *vector < first || last < *vector);
    }

    fn switch_off(&mut self) {
        self.on = false;
        self.allocated.clear();
        self.wired.clear();
    }

    pub(super) fn disable(&mut self) -> Result<(), FakeError> {
        if !self.on {
            return Err(FakeError::NotOn);
        }
        self.switch_off();
        Ok(())
    }

    /// Every event and every route goes; what an event still held is lost, and counted.
    pub(super) fn release(&mut self) {
        let held = self.events.iter().filter(|(vector, count)| **count > 0 && !self.armed.contains(*vector));
        // A level comes again as long as it is asserted.
        let lost = if self.kind == InterruptKind::Intx { 0 } else { held.count() };
        self.lost += u64::try_from(lost).unwrap_or(u64::MAX);
        self.events.clear();
        self.noted.clear();
        self.committed.clear();
        self.armed.clear();
    }

    pub(super) fn route(&mut self, vector: VectorIndex, message: Message) -> Result<(), FakeError> {
        if message.address & !0xf_ffff != 0xfee0_0000 {
            return Err(FakeError::NotAMessage(message.address));
        }
        if !self.noted.contains_key(&vector) && self.noted.len() >= self.room_for_routes {
            return Err(FakeError::RoutesFull(self.room_for_routes));
        }
        self.noted.insert(vector, message);
        Ok(())
    }

    pub(super) fn commit(&mut self) {
        self.committed.clone_from(&self.noted);
    }

    /// Whether the event held a signal, which has gone out now.
    pub(super) fn arm(&mut self, vector: VectorIndex) -> Result<bool, FakeError> {
        let held = *self.events.get(&vector).ok_or(FakeError::NoEvent(vector))?;
        if self.kind != InterruptKind::Intx && !self.committed.contains_key(&vector) {
            return Err(FakeError::NoRoute(vector));
        }
        if !self.armed.insert(vector) {
            return Err(FakeError::ArmState(vector));
        }
        if held > 0 {
            self.events.insert(vector, 0);
            self.deliver(vector);
        }
        Ok(held > 0)
    }

    pub(super) fn disarm(&mut self, vector: VectorIndex) -> Result<(), FakeError> {
        if !self.armed.remove(&vector) {
            return Err(FakeError::ArmState(vector));
        }
        Ok(())
    }

    /// The host signals the event of `vector`: of MSI or MSI-X, as a level is not kept in an event.
    pub(super) fn signal(&mut self, vector: VectorIndex) -> Result<(), FakeError> {
        if !self.events.contains_key(&vector) {
            return Err(FakeError::NoEvent(vector));
        }
        self.deliver(vector);
        Ok(())
    }

    pub(super) fn poll(&self, first: VectorIndex, mask: u64) -> Result<u64, FakeError> {
        let mut found = 0;
        for (bit, vector) in bits(first.get(), mask) {
            let count = self.events.get(&vector).ok_or(FakeError::NoEvent(vector))?;
            found |= if *count > 0 { bit } else { 0 };
        }
        Ok(found)
    }

    pub(super) fn take(&mut self, first: VectorIndex, mask: u64) -> Result<u64, FakeError> {
        let found = self.poll(first, mask)?;
        for (_, vector) in bits(first.get(), found) {
            self.events.insert(vector, 0);
        }
        Ok(found)
    }
}

/// The vectors from `first` to `last`.
fn vectors(first: VectorIndex, last: VectorIndex) -> impl Iterator<Item = VectorIndex> {
    (first.get()..=last.get()).filter_map(VectorIndex::new)
}

/// The bits of `mask` with the vector that each stands for, the lowest being `first`.
fn bits(first: u16, mask: u64) -> impl Iterator<Item = (u64, VectorIndex)> {
    (0..64u16).filter_map(move |place| {
        let bit = 1u64 << place;
        VectorIndex::new(first + place).filter(|_| mask & bit != 0).map(|vector| (bit, vector))
    })
}

#[cfg(test)]
mod tests;
