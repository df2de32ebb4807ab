//! MSI-X as the guest sees it: Message Control, the table, the Pending Bit Array.
//!
//! What follows from it for the host is worked out in `settle.rs`.

use super::layout::MsixLayout;
use super::settle::Settle;
use crate::access::Width;
use crate::addr::VectorIndex;
use crate::regs::msix as regs;
use bitflags::bitflags;

bitflags! {
    /// The state of one vector.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct VectorState: u8 {
        /// The guest has set the entry's Mask Bit.
        const MASKED = 1 << 0;
        /// An interrupt has arrived and waits to be delivered.
        const LATCHED = 1 << 1;
        /// The host vector signals an event.
        const WIRED = 1 << 2;
        /// The host was told the entry's message, and has not yet committed it.
        const ROUTE_SET = 1 << 3;
        /// The host has committed the entry's message.
        const ROUTED = 1 << 4;
        /// The event reaches the guest.
        const ARMED = 1 << 5;
        /// The host could not wire, route or arm it: not tried again before the guest's next attempt.
        const REFUSED = 1 << 6;

        const _ = !0;
    }
}

/// One table entry, with what stands for it in the host.
///
/// An embedder provides the storage, as many as the device has vectors, and never looks inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vector {
    address: u64,
    data: u32,
    pub(crate) state: VectorState,
}

const _: () = assert!(size_of::<Vector>() == 16);

impl Vector {
    /// An entry after reset: zero and masked.
    pub const RESET: Self = Self { address: 0, data: 0, state: VectorState::MASKED };

    /// The message that the guest has programmed: address and data.
    pub(crate) fn message(self) -> (u64, u32) {
        (self.address, self.data)
    }

    /// The entry as the guest reads it.
    fn to_bytes(self) -> [u8; 16] {
        let control = if self.state.contains(VectorState::MASKED) { regs::CONTROL_MASK_BIT } else { 0 };
        let value = u128::from(self.address)
            | u128::from(self.data).wrapping_shl(64)
            | u128::from(control).wrapping_shl(96);
        value.to_le_bytes()
    }

    /// The guest stores these bytes; what is reserved is dropped.
    fn store(&mut self, bytes: [u8; 16]) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, control, ..] = bytes;
        let address = u64::from_le_bytes([a, b, c, d, e, f, g, h]) & !regs::ADDRESS_ZERO_BITS;
        let data = u32::from_le_bytes([i, j, k, l]);
        let masked = u32::from(control) & regs::CONTROL_MASK_BIT != 0;
        if (address, data) != self.message() {
            (self.address, self.data) = (address, data);
            self.state.remove(VectorState::ROUTE_SET | VectorState::ROUTED | VectorState::REFUSED);
        }
        if !masked && self.state.contains(VectorState::MASKED) {
            self.state.remove(VectorState::REFUSED);
        }
        self.state.set(VectorState::MASKED, masked);
    }
}

impl Default for Vector {
    fn default() -> Self {
        Self::RESET
    }
}

/// Where the pending bits of 64 vectors are to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingQuery {
    /// Bits that are known to be set.
    pub known: u64,
    /// Bits that the host must poll: the vector signals an event that reaches nobody.
    pub poll: u64,
    /// Bits that are in the device's own Pending Bit Array: the vector was never wired.
    pub hardware: u64,
}

/// The MSI-X machine of a function. `V` holds at least as many vectors as the device has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Msix<V> {
    layout: MsixLayout,
    pub(super) vectors: V,
    pub(super) enable: bool,
    pub(super) function_mask: bool,
    pub(super) settle: Settle,
}

impl<V: AsRef<[Vector]> + AsMut<[Vector]>> Msix<V> {
    /// The machine in its state after reset.
    ///
    /// `resizable` says that the host can add vectors while others are in use.
    pub(crate) fn new(layout: MsixLayout, mut vectors: V, resizable: bool) -> Self {
        vectors.as_mut().fill(Vector::RESET);
        Self { layout, vectors, enable: false, function_mask: false, settle: Settle::new(resizable) }
    }

    /// Where its structures are.
    pub fn layout(&self) -> &MsixLayout {
        &self.layout
    }

    /// The number of vectors, 1 to 2048.
    pub fn count(&self) -> u16 {
        self.layout.vectors
    }

    /// The vectors, of which the guest may reach the first [`Self::count`].
    pub(super) fn table(&self) -> &[Vector] {
        let vectors = self.vectors.as_ref();
        vectors.get(..usize::from(self.layout.vectors)).unwrap_or(vectors)
    }

    /// The vectors, to change.
    pub(super) fn table_mut(&mut self) -> &mut [Vector] {
        let count = usize::from(self.layout.vectors);
        let vectors = self.vectors.as_mut();
        let count = count.min(vectors.len());
        vectors.get_mut(..count).unwrap_or(&mut [])
    }

    /// Message Control as the guest reads it.
    pub fn message_control(&self) -> u16 {
        let bit = |on: bool, bit: u16| if on { bit } else { 0 };
        (self.layout.vectors.wrapping_sub(1) & regs::TABLE_SIZE)
            | bit(self.function_mask, regs::FUNCTION_MASK)
            | bit(self.enable, regs::ENABLE)
    }

    /// The guest writes Message Control; only MSI-X Enable and Function Mask can change.
    pub(crate) fn write_message_control(&mut self, value: u16) {
        let enable = value & regs::ENABLE != 0;
        let function_mask = value & regs::FUNCTION_MASK != 0;
        if (enable, function_mask) == (self.enable, self.function_mask) {
            return;
        }
        let was_able = self.is_able();
        (self.enable, self.function_mask) = (enable, function_mask);
        // A vector that was refused is worth another try when the guest unmasks it, be it with all the others.
        if self.is_able() && !was_able {
            for vector in self.table_mut() {
                vector.state.remove(VectorState::REFUSED);
            }
        }
        self.touch_all();
    }

    /// The entries as they are saved: Message Address, Message Data, the Mask Bit, whether an interrupt waits.
    pub(crate) fn saved(&self) -> impl Iterator<Item = (u64, u32, bool, bool)> {
        self.table().iter().map(|vector| {
            let is = |state| vector.state.contains(state);
            (vector.address, vector.data, is(VectorState::MASKED), is(VectorState::LATCHED))
        })
    }

    /// The machine becomes what was [`saved`](Self::saved). Nothing of it stands in the host.
    pub(crate) fn restore(&mut self, control: u16, saved: impl Iterator<Item = (u64, u32, bool, bool)>) {
        self.enable = control & regs::ENABLE != 0;
        self.function_mask = control & regs::FUNCTION_MASK != 0;
        for (vector, (address, data, masked, latched)) in self.table_mut().iter_mut().zip(saved) {
            let mut state = VectorState::empty();
            state.set(VectorState::MASKED, masked);
            state.set(VectorState::LATCHED, latched);
            *vector = Vector { address, data, state };
        }
        self.set_stopped(false);
    }

    /// What the guest reads from the table: `width` bytes at `offset`, naturally aligned.
    pub(crate) fn read_table(&self, offset: u64, width: Width) -> u64 {
        let (index, at) = entry_of(offset);
        let bytes = self.table().get(index).map_or([0; 16], |vector| vector.to_bytes());
        let mut value = [0; 8];
        for (to, from) in value.iter_mut().zip(bytes.iter().skip(at).take(width.bytes())) {
            *to = *from;
        }
        u64::from_le_bytes(value)
    }

    /// The guest writes `width` bytes of the table at `offset`, naturally aligned.
    pub(crate) fn write_table(&mut self, offset: u64, width: Width, value: u64) {
        let (index, at) = entry_of(offset);
        let Some(vector) = self.table_mut().get_mut(index) else {
            return;
        };
        let before = *vector;
        let mut bytes = vector.to_bytes();
        for (to, from) in bytes.iter_mut().skip(at).take(width.bytes()).zip(value.to_le_bytes()) {
            *to = from;
        }
        vector.store(bytes);
        if *vector != before {
            self.touch(index);
        }
    }

    /// Where the pending bits of the 64 vectors from `first` on are.
    pub fn pending(&self, first: VectorIndex) -> PendingQuery {
        let mut query = PendingQuery { known: 0, poll: 0, hardware: 0 };
        let mut bit = 1u64;
        for vector in self.table().iter().skip(first.pba_qword().position()).take(64) {
            let state = vector.state;
            if state.contains(VectorState::LATCHED) {
                query.known |= bit;
            } else if state.contains(VectorState::WIRED) && !state.contains(VectorState::ARMED) {
                query.poll |= bit;
            } else if !state.contains(VectorState::WIRED) && self.settle.is_live() {
                query.hardware |= bit;
            }
            bit = bit.wrapping_shl(1);
        }
        query
    }

    /// An interrupt of `vector` has reached the embedder and not the guest: it waits until it can be delivered.
    pub(crate) fn latch(&mut self, vector: VectorIndex) -> bool {
        let index = vector.position();
        let Some(found) = self.table_mut().get_mut(index) else {
            return false;
        };
        found.state.insert(VectorState::LATCHED);
        self.touch(index);
        true
    }

    /// Whether vectors that are not masked themselves can deliver.
    pub(super) fn is_able(&self) -> bool {
        self.enable && !self.function_mask
    }

    /// Whether the guest wants interrupts of this vector delivered now.
    pub(super) fn wants(&self, vector: Vector) -> bool {
        self.is_able() && !self.settle.stopped && !vector.state.contains(VectorState::MASKED)
    }

    /// Whether the host is to give an event to this vector: the guest wants it now, or has it already.
    pub fn wants_event(&self, vector: VectorIndex) -> bool {
        self.table().get(vector.position()).filter(|_| !self.settle.stopped).is_some_and(|found| {
            found.state.contains(VectorState::WIRED)
                || (self.wants(*found) && !found.state.contains(VectorState::REFUSED))
        })
    }

    /// How many vectors signal an event, and how many of those events reach the guest.
    pub fn live(&self) -> (u16, u16) {
        let count = |state: VectorState| {
            let found = self.table().iter().filter(|vector| vector.state.contains(state)).count();
            u16::try_from(found).unwrap_or(VectorIndex::LIMIT)
        };
        (count(VectorState::WIRED), count(VectorState::ARMED))
    }
}

/// The entry that byte `offset` of the table belongs to, and the byte within the entry.
fn entry_of(offset: u64) -> (usize, usize) {
    let index = usize::try_from(offset / regs::ENTRY_SIZE).unwrap_or(usize::MAX);
    let at = usize::try_from(offset % regs::ENTRY_SIZE).unwrap_or(0);
    (index, at)
}
