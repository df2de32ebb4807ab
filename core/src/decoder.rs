//! What vCPUs read without the function's lock: which guest addresses are this function's, and which of those
//! only pass through.
//!
//! The embedder keeps a copy of the [`Decoder`] where vCPUs can read it, and replaces it when a
//! [`Trap`](crate::host::Step::Trap) or [`Untrap`](crate::host::Step::Untrap) step says so.

use crate::access::Width;
use crate::addr::{BarIndex, GuestAddr, GuestBarOffset, GuestPort, PhysBarOffset};
use crate::host::GuestRange;
use crate::interrupts::TablePlace;
use crate::span::Span;

/// Where an access goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// To the device, unchanged: the function need not be asked.
    Passthrough {
        /// The BAR.
        bar: BarIndex,
        /// The first byte of it.
        offset: PhysBarOffset,
    },
    /// To the function: [`begin`](crate::AssignedFunction::begin) it.
    Function,
    /// Nowhere in this function.
    Miss,
}

/// A snapshot of what a function decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Decoder {
    bars: [Option<GuestRange>; 7],
    /// What is emulated inside BARs: the MSI-X table, the Pending Bit Array, and what has no device behind it.
    emulated: [Option<TablePlace>; 3],
    /// From the first to the last byte of all that, in whatever BAR: most accesses are to neither side of it.
    around: Option<Span<GuestBarOffset>>,
    /// Where the guest finds the MSI-X table, unless another BAR hides any of it: it is accessed most.
    table: Option<Span<GuestAddr>>,
    generation: u64,
    /// The BARs that decode memory now, a bit each: most functions have one or two of seven.
    memory: u8,
}

impl Decoder {
    pub(crate) fn new(emulated: [Option<TablePlace>; 3]) -> Self {
        let spans = emulated.iter().flatten().map(|place| place.span);
        let around = spans.reduce(Span::hull);
        Self { bars: [None; 7], emulated, around, table: None, generation: 0, memory: 0 }
    }

    /// What is emulated inside BARs: the table, the Pending Bit Array, and what has no device behind it.
    pub(crate) fn emulated(&self) -> &[Option<TablePlace>; 3] {
        &self.emulated
    }

    /// What of a BAR the guest was shown and the device does not have: nobody answers there, but for the structures
    /// of MSI-X.
    pub(crate) fn beyond_device(&self) -> Option<TablePlace> {
        let [_, _, beyond] = self.emulated;
        beyond
    }

    /// How often the decoder has changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What `bar` decodes now.
    pub fn range(&self, bar: BarIndex) -> Option<GuestRange> {
        self.bars.get(bar.position()).copied().flatten()
    }

    /// Whether nothing is decoded.
    pub(crate) fn is_empty(&self) -> bool {
        self.bars.iter().all(Option::is_none)
    }

    /// `bar` decodes this from now on.
    pub(crate) fn set(&mut self, bar: BarIndex, range: Option<GuestRange>) {
        if let Some(place) = self.bars.get_mut(bar.position()) {
            *place = range;
            self.generation = self.generation.wrapping_add(1);
            let bit = 1u8.wrapping_shl(u32::from(bar.get()));
            let decodes = matches!(range, Some(GuestRange::Memory(_)));
            self.memory = if decodes { self.memory | bit } else { self.memory & !bit };
            self.table = self.find_table();
        }
    }

    fn find_table(&self) -> Option<Span<GuestAddr>> {
        let [table, ..] = self.emulated;
        let table = table?;
        let Some(GuestRange::Memory(range)) = self.range(table.bar) else {
            return None;
        };
        let found = table.span.moved_to(range.first().checked_add(table.span.first().get())?)?;
        let (bar, _) = self.memory_at(found)?;
        (bar == table.bar).then_some(found)
    }

    /// The lowest BAR that decodes any of this memory, and what it decodes.
    #[inline]
    fn memory_at(&self, access: Span<GuestAddr>) -> Option<(BarIndex, Span<GuestAddr>)> {
        let mut left = self.memory;
        while left != 0 {
            let place = usize::try_from(left.trailing_zeros()).ok()?;
            if let Some(Some(GuestRange::Memory(span))) = self.bars.get(place)
                && span.overlaps(access)
            {
                return BarIndex::ALL.get(place).map(|bar| (*bar, *span));
            }
            left &= left.wrapping_sub(1);
        }
        None
    }

    /// Where a memory access of `size` bytes at `address` goes.
    #[inline]
    pub fn memory(&self, address: GuestAddr, size: u64) -> Decoded {
        let Some(access) = Span::from_size(address, size) else {
            return Decoded::Miss;
        };
        match self.memory_at(access) {
            Some((bar, span)) if span.covers(access) => {
                self.within(bar, address.get().wrapping_sub(span.first().get()), size)
            }
            Some(_) => Decoded::Function,
            None => Decoded::Miss,
        }
    }

    /// Where an I/O access of `size` bytes at `port` goes.
    pub fn ports(&self, port: GuestPort, size: u64) -> Decoded {
        let Some(access) = Span::from_size(port, size) else {
            return Decoded::Miss;
        };
        let hit = self.bars.iter().any(|range| match range {
            Some(GuestRange::Ports(span)) => span.overlaps(access),
            _ => false,
        });
        if hit { Decoded::Function } else { Decoded::Miss }
    }

    /// An access that lies wholly in `bar`.
    #[inline]
    fn within(&self, bar: BarIndex, offset: u64, size: u64) -> Decoded {
        let offset = GuestBarOffset::new(offset);
        let Some(access) = Span::from_size(offset, size) else {
            return Decoded::Miss;
        };
        let natural = matches!(size, 1 | 2 | 4 | 8) && offset.get() & size.wrapping_sub(1) == 0;
        let near = self.around.is_some_and(|around| around.overlaps(access));
        if !natural || bar == BarIndex::ROM || (near && self.is_emulated(bar, access)) {
            return Decoded::Function;
        }
        Decoded::Passthrough { bar, offset: physical(offset) }
    }

    /// Whether any of an access to `bar` is emulated.
    fn is_emulated(&self, bar: BarIndex, access: Span<GuestBarOffset>) -> bool {
        self.emulated.iter().flatten().any(|place| place.hits(bar, access))
    }

    /// The lowest BAR that decodes `address`, and the offset in it.
    #[inline]
    pub(crate) fn memory_byte(&self, address: GuestAddr) -> Option<(BarIndex, GuestBarOffset)> {
        let (bar, span) = self.memory_at(Span::new(address, address)?)?;
        Some((bar, GuestBarOffset::new(address.get().wrapping_sub(span.first().get()))))
    }

    /// The byte of the MSI-X table that an access of a dword or a qword, naturally aligned, is to.
    #[inline]
    pub(crate) fn table_piece(&self, address: GuestAddr, size: usize) -> Option<(u64, Width)> {
        let (width, mask) = match size {
            4 => (Width::Dword, 3),
            8 => (Width::Qword, 7),
            _ => return None,
        };
        let table = self.table.filter(|table| table.contains(address))?;
        let offset = address.get().wrapping_sub(table.first().get());
        (offset & mask == 0).then_some((offset, width))
    }

    /// The lowest BAR that decodes `port`, and the offset in it.
    pub(crate) fn port_byte(&self, port: GuestPort) -> Option<(BarIndex, GuestBarOffset)> {
        BarIndex::ALL.iter().zip(&self.bars).find_map(|(bar, range)| match range {
            Some(GuestRange::Ports(span)) if span.contains(port) => {
                Some((*bar, GuestBarOffset::new(port.get().wrapping_sub(span.first().get()))))
            }
            _ => None,
        })
    }
}

impl TablePlace {
    /// Whether an access to `bar` touches this.
    pub(crate) fn hits(&self, bar: BarIndex, access: Span<GuestBarOffset>) -> bool {
        self.bar == bar && self.span.overlaps(access)
    }
}

/// The byte of the device's BAR that stands behind a byte of the guest's. What the guest was shown in another place
/// is only ever what is emulated, so that every byte with a device behind it is where the device has it.
pub(crate) fn physical(offset: GuestBarOffset) -> PhysBarOffset {
    PhysBarOffset::new(offset.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAR0: BarIndex = BarIndex::BARS[0];
    const BAR2: BarIndex = BarIndex::BARS[2];

    fn decoder() -> Decoder {
        let table =
            TablePlace { bar: BAR0, span: Span::from_size(GuestBarOffset::new(0x2000), 0x40).unwrap() };
        let mut decoder = Decoder::new([Some(table), None, None]);
        decoder.set(BAR0, memory(0x1_0000, 0x4000));
        decoder.set(BAR2, memory(0x1_3000, 0x4000));
        decoder
    }

    fn memory(first: u64, size: u64) -> Option<GuestRange> {
        Span::from_size(GuestAddr::new(first), size).map(GuestRange::Memory)
    }

    fn at(address: u64, size: u64) -> Decoded {
        decoder().memory(GuestAddr::new(address), size)
    }

    fn through(bar: BarIndex, offset: u64) -> Decoded {
        Decoded::Passthrough { bar, offset: PhysBarOffset::new(offset) }
    }

    #[test]
    fn register_passes_through() {
        assert_eq!(at(0x1_1004, 4), through(BAR0, 0x1004));
    }

    #[test]
    fn table_needs_the_function() {
        assert_eq!(at(0x1_2000, 4), Decoded::Function);
    }

    #[test]
    fn register_between_two_structures_passes_through() {
        let [table, pba] = [0x1000, 0x2000].map(|offset| {
            Span::from_size(GuestBarOffset::new(offset), 0x40).map(|span| TablePlace { bar: BAR0, span })
        });
        let mut decoder = Decoder::new([table, pba, None]);
        decoder.set(BAR0, memory(0x1_0000, 0x4000));
        let found = [0x1_1000, 0x1_1800, 0x1_2000].map(|at| decoder.memory(GuestAddr::new(at), 4));
        assert_eq!(found, [Decoded::Function, through(BAR0, 0x1800), Decoded::Function]);
    }

    #[test]
    fn range_that_is_gone_is_a_miss_and_the_others_stay() {
        let mut decoder = decoder();
        decoder.set(BAR0, None);
        let found = [0x1_1000, 0x1_3000].map(|at| decoder.memory(GuestAddr::new(at), 4));
        assert_eq!(found, [Decoded::Miss, through(BAR2, 0)]);
    }

    #[test]
    fn lowest_index_wins_an_overlap() {
        assert_eq!(at(0x1_3800, 8), through(BAR0, 0x3800));
    }

    #[test]
    fn access_across_two_bars_needs_the_function() {
        assert_eq!(at(0x1_3ffc, 8), Decoded::Function);
    }

    #[test]
    fn unaligned_access_needs_the_function() {
        assert_eq!(at(0x1_0002, 4), Decoded::Function);
    }

    #[test]
    fn elsewhere_is_a_miss() {
        assert_eq!(at(0x2_0000, 4), Decoded::Miss);
    }

    #[test]
    fn eight_bytes_pass_through_and_sixteen_do_not() {
        assert_eq!((at(0x1_1000, 8), at(0x1_1000, 16)), (through(BAR0, 0x1000), Decoded::Function));
    }

    #[test]
    fn three_bytes_need_the_function() {
        assert_eq!(at(0x1_1000, 3), Decoded::Function);
    }

    #[test]
    fn ports_need_the_function_and_memory_is_none() {
        let mut decoder = decoder();
        decoder.set(BAR2, Span::from_size(GuestPort::new(0x1_0010), 4).map(GuestRange::Ports));
        let port = |port, size| decoder.ports(GuestPort::new(port), size);
        assert_eq!(
            [port(0x1_0013, 1), port(0x1_000f, 2), port(0x1_000f, 1), port(0x1_0014, 1)],
            [Decoded::Function, Decoded::Function, Decoded::Miss, Decoded::Miss]
        );
        assert_eq!(decoder.memory(GuestAddr::new(0x1_0010), 4), through(BAR0, 0x10));
    }

    #[test]
    fn wrapping_access_is_a_miss() {
        assert_eq!(at(u64::MAX, 8), Decoded::Miss);
    }
}
