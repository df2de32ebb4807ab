//! MSI-X as the guest sees it: Message Control, the table, the Pending Bit Array.
//!
//! What follows from it for the host is worked out in `settle.rs`.

use super::layout::MsixLayout;
use super::settle::{Settle, live};
use super::vector::{PendingQuery, Vector, VectorState};
use crate::access::Width;
use crate::addr::VectorIndex;
use crate::host::InterruptKind;
use crate::regs::msix as regs;

impl Vector {
    /// A half of the table entry as the guest reads it: Message Address; or Message Data and Vector Control.
    fn half(self, upper: bool) -> u64 {
        if !upper {
            return self.address;
        }
        let control = if self.state.contains(VectorState::MASKED) { regs::CONTROL_MASK_BIT } else { 0 };
        u64::from(self.data) | u64::from(control).wrapping_shl(32)
    }

    /// The guest stores one half, which is another one; what is reserved in it reads zero.
    fn store(&mut self, upper: bool, value: u64) {
        let before = self.message();
        if upper {
            self.data = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
            self.state.set(VectorState::MASKED, value.wrapping_shr(32) != 0);
        } else {
            self.address = value;
        }
        if self.message() != before {
            self.state.remove(VectorState::ROUTED | VectorState::UNCOMMITTED | VectorState::REFUSED);
        } else if !self.state.contains(VectorState::MASKED) {
            self.state.remove(VectorState::REFUSED);
        }
    }
}

/// The bits of an entry's lower and upper half that a guest can write.
const LOWER: u64 = !regs::ADDRESS_ZERO_BITS;
const UPPER: u64 = 0x0000_0001_ffff_ffff;
const _: () = assert!(UPPER >> 32 == 1 && regs::CONTROL_MASK_BIT == 1);

/// The MSI-X machine of a function. `V` holds at least as many vectors as the device has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Msix<V> {
    layout: MsixLayout,
    vectors: V,
    pub(super) settle: Settle,
}

impl<V: AsRef<[Vector]> + AsMut<[Vector]>> Msix<V> {
    /// The machine in its state after reset.
    ///
    /// `resizable` says that the host can add vectors while others are in use.
    #[inline(never)]
    pub(crate) fn new(layout: MsixLayout, mut vectors: V, resizable: bool) -> Self {
        vectors.as_mut().fill(Vector::RESET);
        Self { layout, vectors, settle: Settle::new(InterruptKind::Msix, resizable) }
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

    /// What settles it, and the vectors that are settled.
    pub(super) fn parts(&self) -> (&Settle, &[Vector]) {
        (&self.settle, self.table())
    }

    /// The same, to change.
    pub(super) fn parts_mut(&mut self) -> (&mut Settle, &mut [Vector]) {
        let count = usize::from(self.layout.vectors);
        let vectors = self.vectors.as_mut();
        let count = count.min(vectors.len());
        (&mut self.settle, vectors.get_mut(..count).unwrap_or(&mut []))
    }

    /// Message Control as the guest reads it.
    pub fn message_control(&self) -> u16 {
        let bit = |on: bool, bit: u16| if on { bit } else { 0 };
        (self.layout.vectors.wrapping_sub(1) & regs::TABLE_SIZE)
            | bit(self.settle.function_mask, regs::FUNCTION_MASK)
            | bit(self.settle.enable, regs::ENABLE)
    }

    /// The guest writes Message Control; only MSI-X Enable and Function Mask can change.
    pub(crate) fn write_message_control(&mut self, value: u16) {
        let enable = value & regs::ENABLE != 0;
        let function_mask = value & regs::FUNCTION_MASK != 0;
        let (settle, table) = self.parts_mut();
        if (enable, function_mask) == (settle.enable, settle.function_mask) {
            return;
        }
        let was_able = settle.is_able();
        (settle.enable, settle.function_mask) = (enable, function_mask);
        // A vector that was refused is worth another try when the guest unmasks it, be it with all the others.
        if settle.is_able() && !was_able {
            settle.retry(table);
        }
        settle.touch_all();
    }

    /// The entries as they are saved: Message Address, Message Data, and of the state what is [`VectorState::SAVED`].
    pub(crate) fn saved(&self) -> impl Iterator<Item = (u64, u32, u16)> {
        let state = |vector: &Vector| (vector.state & VectorState::SAVED).bits();
        self.table().iter().map(move |vector| (vector.address, vector.data, state(vector)))
    }

    /// The machine becomes what was [`saved`](Self::saved). Nothing of it stands in the host.
    pub(crate) fn restore(&mut self, control: u16, saved: impl Iterator<Item = (u64, u32, u16)>) {
        let (settle, table) = self.parts_mut();
        settle.enable = control & regs::ENABLE != 0;
        settle.function_mask = control & regs::FUNCTION_MASK != 0;
        for (vector, (address, data, state)) in table.iter_mut().zip(saved) {
            *vector = Vector { address, data, state: VectorState::from_bits_retain(state) };
        }
    }

    /// What the guest reads from the table: `width` bytes at `offset`, naturally aligned; 0 behind its end.
    pub fn read_table(&self, offset: u64, width: Width) -> u64 {
        let (index, upper, shift) = place_of(offset);
        let half = self.table().get(index).map_or(0, |vector| vector.half(upper));
        half.wrapping_shr(shift) & width.all_ones()
    }

    /// The guest writes `width` bytes of the table at `offset`, naturally aligned. Whether nothing has to be settled for
    /// it.
    pub(crate) fn write_table(&mut self, offset: u64, width: Width, value: u64) -> bool {
        let (index, upper, shift) = place_of(offset);
        let (settle, table) = self.parts_mut();
        let Some(vector) = table.get_mut(index) else {
            return true;
        };
        let before = vector.half(upper);
        let mask = width.all_ones().wrapping_shl(shift) & if upper { UPPER } else { LOWER };
        let after = (before & !mask) | (value.wrapping_shl(shift) & mask);
        if after == before {
            return true;
        }
        vector.store(upper, after);
        let settled = !settle.concerns(*vector);
        if !settled {
            settle.touch(index);
        }
        settled
    }

    /// Where the pending bits of the 64 vectors from `first` on are.
    pub fn pending(&self, first: VectorIndex) -> PendingQuery {
        self.settle.pending(self.table(), first)
    }

    /// How many vectors signal an event, and how many of those events reach the guest.
    pub fn live(&self) -> (u16, u16) {
        live(self.table())
    }

    /// How many vectors the host said it has, if it was last asked for more than that.
    pub fn host_vectors(&self) -> Option<u16> {
        self.settle.fewer
    }

    /// Every entry as after reset: the second half of a reset, once nothing stands in the host.
    pub(super) fn reset(&mut self) {
        let (_, table) = self.parts_mut();
        table.iter_mut().for_each(|vector| vector.reset_to(VectorState::MASKED));
    }
}

/// The entry that byte `offset` of the table belongs to, whether it is in its upper half, and the bit of the half that
/// it starts at. A naturally aligned access lies within a half.
#[inline]
fn place_of(offset: u64) -> (usize, bool, u32) {
    let index = usize::try_from(offset / regs::ENTRY_SIZE).unwrap_or(usize::MAX);
    let shift = u32::try_from(offset & 7).unwrap_or(0).wrapping_mul(8);
    (index, offset & 8 != 0, shift)
}
