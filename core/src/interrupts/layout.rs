//! Where the MSI-X table and Pending Bit Array are: the capability, checked against the BARs.

use crate::addr::{BarIndex, ConfigOffset, GuestBarOffset, PhysBarOffset};
use crate::bars::{BarKind, Bars};
use crate::caps::ConfigImage;
use crate::description::Finding;
use crate::regs::capability::MSIX;
use crate::regs::msix::{self, MsixCapability};
use crate::span::Span;
use crate::text::{count, say};
use core::fmt;
use zerocopy::FromBytes;

/// A run of bytes in one BAR of the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TablePlace {
    /// The BAR.
    pub bar: BarIndex,
    /// The bytes of it.
    pub span: Span<GuestBarOffset>,
}

/// What is wrong with a device's MSI-X capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MsixFinding {
    /// The capability does not fit into the 256-byte area.
    CapabilityTruncated(u16),
    /// A second capability; the first counts.
    SecondCapability(u16),
    /// Table BIR names no memory BAR: MSI-X cannot be offered.
    TableBir(u8),
    /// The table does not fit into its BAR: MSI-X cannot be offered.
    TablePastEnd {
        /// The table's BAR.
        bar: BarIndex,
        /// Where it starts in the BAR.
        offset: u32,
        /// Its size in bytes.
        size: u64,
    },
    /// PBA BIR names no memory BAR: the guest gets a Pending Bit Array elsewhere.
    PbaBir(u8),
    /// The Pending Bit Array does not fit into its BAR: the guest gets one elsewhere.
    PbaPastEnd {
        /// The array's BAR.
        bar: BarIndex,
        /// Where it starts in the BAR.
        offset: u32,
    },
    /// The Pending Bit Array lies over the table: the guest gets one elsewhere.
    PbaOverTable {
        /// The array's BAR.
        bar: BarIndex,
        /// Where it starts in the BAR.
        offset: u32,
    },
    /// There is no room for a Pending Bit Array: MSI-X cannot be offered.
    NoRoomForPba(BarIndex),
    /// The caller gave storage for fewer vectors: MSI-X is not offered.
    StorageTooSmall {
        /// The vectors of the device.
        device: u16,
        /// The vectors that the storage holds.
        storage: usize,
    },
}

impl fmt::Display for MsixFinding {
    #[inline(never)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::CapabilityTruncated(at) => (
                    "the MSI-X capability at %2 runs past the end of the capability area",
                    [u64::from(at), 0, 0],
                ),
                Self::SecondCapability(at) => {
                    ("a second MSI-X capability at %2 is ignored", [u64::from(at), 0, 0])
                }
                Self::TableBir(bir) => {
                    ("the MSI-X table is in BAR%d, which is no memory BAR", [u64::from(bir), 0, 0])
                }
                Self::TablePastEnd { bar, offset, size } => (
                    "the MSI-X table at %x of %b, %x bytes, runs past the end of the BAR",
                    [u64::from(offset), bar.number(), size],
                ),
                Self::PbaBir(bir) => {
                    ("the Pending Bit Array is in BAR%d, which is no memory BAR", [u64::from(bir), 0, 0])
                }
                Self::PbaPastEnd { bar, offset } => (
                    "the Pending Bit Array at %x of %b runs past the end of the BAR",
                    [u64::from(offset), bar.number(), 0],
                ),
                Self::PbaOverTable { bar, offset } => (
                    "the Pending Bit Array at %x of %b lies over the table",
                    [u64::from(offset), bar.number(), 0],
                ),
                Self::NoRoomForPba(bar) => {
                    ("no room in %b for a Pending Bit Array beside the table", [bar.number(), 0, 0])
                }
                Self::StorageTooSmall { device, storage } => (
                    "the device has %d MSI-X vectors and the storage given is for %d",
                    [u64::from(device), count(storage), 0],
                ),
            },
        )
    }
}

/// The MSI-X capability of a function, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsixLayout {
    /// Where the capability starts.
    pub capability: ConfigOffset,
    /// The number of vectors, 1 to 2048.
    pub vectors: u16,
    /// The table as the guest sees it.
    pub table: TablePlace,
    /// The Pending Bit Array as the guest sees it.
    pub pba: TablePlace,
    /// Where hardware has its Pending Bit Array, if that is a usable place.
    pub hardware_pba: Option<(BarIndex, PhysBarOffset)>,
}

impl MsixLayout {
    /// The layout of a function's MSI-X. `finding` hears what is wrong with it.
    ///
    /// Source: PCI Local Bus 3.0, 6.8.2.
    pub fn new(image: ConfigImage<'_>, bars: &Bars, mut finding: impl FnMut(MsixFinding)) -> Option<Self> {
        Self::build(image, bars, &mut |found| {
            if let Finding::Msix(found) = found {
                finding(found);
            }
        })
    }

    pub(crate) fn build(
        image: ConfigImage<'_>,
        bars: &Bars,
        finding: &mut dyn FnMut(Finding),
    ) -> Option<Self> {
        let capability =
            image.find(MSIX, &mut |second| finding(MsixFinding::SecondCapability(second).into()))?;
        let mut finding = |found: MsixFinding| finding(found.into());
        let Some(raw) = read(image, capability) else {
            finding(MsixFinding::CapabilityTruncated(capability.get()));
            return None;
        };
        let vectors = raw.vectors();
        let table = match place(bars, raw.table.get(), table_size(vectors)) {
            Ok(place) => place,
            Err(Misplaced::Bir(bir)) => {
                finding(MsixFinding::TableBir(bir));
                return None;
            }
            Err(Misplaced::PastEnd { bar, offset, size }) => {
                finding(MsixFinding::TablePastEnd { bar, offset, size });
                return None;
            }
        };
        let offset = raw.pba.get() & !msix::BIR;
        let wrong = match place(bars, raw.pba.get(), pba_size(vectors)) {
            Ok(pba) if pba.bar == table.bar && pba.span.overlaps(table.span) => {
                MsixFinding::PbaOverTable { bar: pba.bar, offset }
            }
            Ok(pba) => {
                let hardware_pba = Some((pba.bar, PhysBarOffset::new(u64::from(offset))));
                return Some(Self { capability, vectors, table, pba, hardware_pba });
            }
            Err(Misplaced::Bir(bir)) => MsixFinding::PbaBir(bir),
            Err(Misplaced::PastEnd { bar, offset, .. }) => MsixFinding::PbaPastEnd { bar, offset },
        };
        finding(wrong);
        let Some(pba) = beside(bars, table, pba_size(vectors)) else {
            finding(MsixFinding::NoRoomForPba(table.bar));
            return None;
        };
        Some(Self { capability, vectors, table, pba, hardware_pba: None })
    }

    /// The bytes of memory BARs that hardware's table and Pending Bit Array take, offered to the guest or not: it
    /// must not reach them.
    pub(crate) fn hardware_places(
        image: ConfigImage<'_>,
        bars: &Bars,
    ) -> [Option<(BarIndex, Span<PhysBarOffset>)>; 2] {
        let Some(raw) = image.find(MSIX, &mut |_| {}).and_then(|capability| read(image, capability)) else {
            return [None; 2];
        };
        let vectors = raw.vectors();
        let table = hardware_place(bars, raw.table.get(), table_size(vectors));
        [table, hardware_place(bars, raw.pba.get(), pba_size(vectors))]
    }

    /// The dword of the capability that says where the table is, as the guest reads it.
    pub(crate) fn table_register(&self) -> u32 {
        register(self.table)
    }

    /// The dword of the capability that says where the Pending Bit Array is, as the guest reads it.
    pub(crate) fn pba_register(&self) -> u32 {
        register(self.pba)
    }
}

/// The bytes of a BAR that a structure of `size` bytes takes where a register of offset and BIR puts it.
#[inline(never)]
fn hardware_place(bars: &Bars, register: u32, size: u64) -> Option<(BarIndex, Span<PhysBarOffset>)> {
    let [bir, ..] = (register & msix::BIR).to_le_bytes();
    let bar = BarIndex::new(bir)?;
    let whole = Span::from_size(PhysBarOffset::new(0), bars.get(bar)?.size)?;
    let first = PhysBarOffset::new(u64::from(register & !msix::BIR));
    Some((bar, Span::from_size(first, size)?.intersect(whole)?))
}

/// The capability at `offset`, if it fits into the 256-byte area.
#[inline(never)]
fn read(image: ConfigImage<'_>, offset: ConfigOffset) -> Option<MsixCapability> {
    if offset.get() > 0xf4 {
        return None;
    }
    MsixCapability::read_from_prefix(image.tail(offset)).ok().map(|(raw, _)| raw)
}

impl MsixCapability {
    /// The number of vectors, 1 to 2048.
    fn vectors(self) -> u16 {
        (self.message_control.get() & msix::TABLE_SIZE).saturating_add(1)
    }
}

/// The size in bytes of the table for so many vectors.
fn table_size(vectors: u16) -> u64 {
    u64::from(vectors).saturating_mul(msix::ENTRY_SIZE)
}

/// The size in bytes of the Pending Bit Array for so many vectors: a qword for each 64.
fn pba_size(vectors: u16) -> u64 {
    u64::from(vectors.div_ceil(64)).saturating_mul(8)
}

/// Offset and BIR in one dword.
fn register(place: TablePlace) -> u32 {
    let offset = u32::try_from(place.span.first().get()).unwrap_or(0);
    offset | u32::from(place.bar.get())
}

/// Why a structure is not where its register says.
enum Misplaced {
    /// The BIR names no memory BAR.
    Bir(u8),
    /// It runs past the end of the BAR.
    PastEnd { bar: BarIndex, offset: u32, size: u64 },
}

/// Where a register of offset and BIR puts a structure of `size` bytes.
fn place(bars: &Bars, register: u32, size: u64) -> Result<TablePlace, Misplaced> {
    let [bir, ..] = (register & msix::BIR).to_le_bytes();
    let offset = register & !msix::BIR;
    let bar = BarIndex::new(bir).ok_or(Misplaced::Bir(bir))?;
    let found = bars.get(bar).filter(|found| found.kind != BarKind::Io).ok_or(Misplaced::Bir(bir))?;
    Span::from_size(GuestBarOffset::new(u64::from(offset)), size)
        .filter(|span| span.last().get() < found.size)
        .map(|span| TablePlace { bar, span })
        .ok_or(Misplaced::PastEnd { bar, offset, size })
}

/// A place for the Pending Bit Array next to the table: behind it, or before it.
fn beside(bars: &Bars, table: TablePlace, size: u64) -> Option<TablePlace> {
    let bar_size = bars.get(table.bar)?.size;
    let behind = table
        .span
        .last()
        .checked_add(1)
        .and_then(|first| Span::from_size(first, size))
        .filter(|span| span.last().get() < bar_size);
    let before = || {
        let first = table.span.first().get().checked_sub(size)? & !7;
        Span::from_size(GuestBarOffset::new(first), size)
    };
    behind.or_else(before).map(|span| TablePlace { bar: table.bar, span })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAR0: BarIndex = BarIndex::BARS[0];

    /// A function with a 16 KiB BAR0 and this MSI-X capability.
    fn layout(control: u16, table: u32, pba: u32) -> (Option<MsixLayout>, Option<MsixFinding>) {
        layout_at(0x40, control, table, pba)
    }

    /// The same with the capability at `at`.
    fn layout_at(at: u8, control: u16, table: u32, pba: u32) -> (Option<MsixLayout>, Option<MsixFinding>) {
        let mut bytes = [0; 256];
        bytes[6] = 0x10;
        bytes[0x34] = at;
        let capability = &mut bytes[usize::from(at)..][..12];
        capability[0] = 0x11;
        capability[2..4].copy_from_slice(&control.to_le_bytes());
        capability[4..8].copy_from_slice(&table.to_le_bytes());
        capability[8..12].copy_from_slice(&pba.to_le_bytes());
        let image = ConfigImage::new(&bytes);
        let bars = Bars::new(image, &[0x4000, 0, 0, 0, 0, 0, 0]).unwrap();
        let mut found = None;
        (MsixLayout::new(image, &bars, |wrong| found = Some(wrong)), found)
    }

    fn place(first: u64, size: u64) -> TablePlace {
        TablePlace { bar: BAR0, span: Span::from_size(GuestBarOffset::new(first), size).unwrap() }
    }

    #[test]
    fn count_is_one_more_than_the_field() {
        let (layout, finding) = layout(0x40, 0x2000, 0x3000);
        assert_eq!((layout.map(|layout| layout.vectors), finding), (Some(65), None));
    }

    #[test]
    fn pba_of_65_vectors_has_two_qwords() {
        assert_eq!(layout(0x40, 0x2000, 0x3000).0.unwrap().pba, place(0x3000, 16));
    }

    #[test]
    fn capability_may_end_where_the_area_does() {
        let (layout, finding) = layout_at(0xf4, 0x40, 0x2000, 0x3000);
        assert_eq!((layout.map(|layout| layout.capability.get()), finding), (Some(0xf4), None));
    }

    #[test]
    fn bir_7_hides_msix() {
        assert_eq!(layout(0, 0x2007, 0x3000), (None, Some(MsixFinding::TableBir(7))));
    }

    #[test]
    fn bir_of_an_absent_bar_hides_msix() {
        assert_eq!(layout(0, 0x2003, 0x3000), (None, Some(MsixFinding::TableBir(3))));
    }

    #[test]
    fn table_past_the_end_hides_msix() {
        let (layout, finding) = layout(0, 0x4000, 0x3000);
        let wrong = MsixFinding::TablePastEnd { bar: BAR0, offset: 0x4000, size: 16 };
        assert_eq!((layout, finding), (None, Some(wrong)));
    }

    #[test]
    fn pba_past_the_end_is_put_behind_the_table() {
        let (layout, finding) = layout(0, 0x2000, 0x8000);
        assert_eq!(finding, Some(MsixFinding::PbaPastEnd { bar: BAR0, offset: 0x8000 }));
        assert_eq!(layout.unwrap().pba, place(0x2010, 8));
    }

    #[test]
    fn pba_over_the_table_is_put_behind_it() {
        let (layout, _) = layout(0, 0x2000, 0x2008);
        assert_eq!((layout.unwrap().pba, layout.unwrap().hardware_pba), (place(0x2010, 8), None));
    }

    #[test]
    fn pba_goes_before_a_table_at_the_end() {
        assert_eq!(layout(0, 0x3ff0, 0x3ff0).0.unwrap().pba, place(0x3fe8, 8));
    }
}
