//! Where the MSI-X table and Pending Bit Array are: the capability, checked against the BARs.

use crate::addr::{BarIndex, ConfigOffset, GuestBarOffset, PhysBarOffset};
use crate::bars::{BarKind, Bars};
use crate::caps::ConfigImage;
use crate::regs::msix::{self, MsixCapability};
use crate::span::Span;
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
    #[error("the MSI-X capability at {0:#04x} runs past the end of the capability area")]
    CapabilityTruncated(u16),
    /// A second capability; the first counts.
    #[error("a second MSI-X capability at {0:#04x} is ignored")]
    SecondCapability(u16),
    /// Table BIR names no memory BAR: MSI-X cannot be offered.
    #[error("the MSI-X table is in BAR{0}, which is no memory BAR")]
    TableBir(u8),
    /// The table does not fit into its BAR: MSI-X cannot be offered.
    #[error("the MSI-X table at {offset:#x} of {bar}, {size:#x} bytes, runs past the end of the BAR")]
    TablePastEnd {
        /// The table's BAR.
        bar: BarIndex,
        /// Where it starts in the BAR.
        offset: u32,
        /// Its size in bytes.
        size: u64,
    },
    /// PBA BIR names no memory BAR: the guest gets a Pending Bit Array elsewhere.
    #[error("the Pending Bit Array is in BAR{0}, which is no memory BAR")]
    PbaBir(u8),
    /// The Pending Bit Array does not fit into its BAR: the guest gets one elsewhere.
    #[error("the Pending Bit Array at {offset:#x} of {bar} runs past the end of the BAR")]
    PbaPastEnd {
        /// The array's BAR.
        bar: BarIndex,
        /// Where it starts in the BAR.
        offset: u32,
    },
    /// The Pending Bit Array lies over the table: the guest gets one elsewhere.
    #[error("the Pending Bit Array at {offset:#x} of {bar} lies over the table")]
    PbaOverTable {
        /// The array's BAR.
        bar: BarIndex,
        /// Where it starts in the BAR.
        offset: u32,
    },
    /// There is no room for a Pending Bit Array: MSI-X cannot be offered.
    #[error("no room in {0} for a Pending Bit Array beside the table")]
    NoRoomForPba(BarIndex),
    /// The caller gave storage for fewer vectors: MSI-X is not offered.
    #[error("the device has {device} MSI-X vectors and the storage given is for {storage}")]
    StorageTooSmall {
        /// The vectors of the device.
        device: u16,
        /// The vectors that the storage holds.
        storage: usize,
    },
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
        Self::build(image, bars, &mut finding)
    }

    pub(crate) fn build(
        image: ConfigImage<'_>,
        bars: &Bars,
        finding: &mut dyn FnMut(MsixFinding),
    ) -> Option<Self> {
        let mut all = capabilities(image);
        let capability = all.next()?;
        for second in all {
            finding(MsixFinding::SecondCapability(second.get()));
        }
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
        let Some(raw) = capabilities(image).next().and_then(|capability| read(image, capability)) else {
            return [None; 2];
        };
        let vectors = raw.vectors();
        [(raw.table.get(), table_size(vectors)), (raw.pba.get(), pba_size(vectors))].map(
            |(register, size)| {
                let [bir, ..] = (register & msix::BIR).to_le_bytes();
                let bar = BarIndex::new(bir)?;
                let whole = Span::from_size(PhysBarOffset::new(0), bars.get(bar)?.size)?;
                let first = PhysBarOffset::new(u64::from(register & !msix::BIR));
                Some((bar, Span::from_size(first, size)?.intersect(whole)?))
            },
        )
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

/// Where MSI-X capabilities are.
fn capabilities(image: ConfigImage<'_>) -> impl Iterator<Item = ConfigOffset> {
    let all = image.capabilities().flatten();
    all.filter(|found| found.id == crate::regs::capability::MSIX).map(|found| found.offset)
}

/// The capability at `offset`, if it fits into the 256-byte area.
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
        let mut bytes = [0; 256];
        bytes[6] = 0x10;
        bytes[0x34] = 0x40;
        bytes[0x40] = 0x11;
        bytes[0x42..0x44].copy_from_slice(&control.to_le_bytes());
        bytes[0x44..0x48].copy_from_slice(&table.to_le_bytes());
        bytes[0x48..0x4c].copy_from_slice(&pba.to_le_bytes());
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
