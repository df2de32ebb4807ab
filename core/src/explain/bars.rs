//! What of each BAR the guest reaches directly, what leaves guest mode, and why.

use super::Explanation;
use crate::addr::{BarIndex, GuestBarOffset, PageSize, PhysBarOffset};
use crate::bars::BarKind;
use crate::function::AssignedFunction;
use crate::interrupts::Vector;
use crate::span::Span;
use crate::text::say;
use crate::windows::{Holes, Window};
use core::fmt;

/// How a part of a BAR is treated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Treatment {
    /// The guest reaches the device without leaving guest mode.
    Mapped,
    /// An access leaves guest mode and goes on to the device.
    Trapped,
    /// An access leaves guest mode and is answered here.
    Emulated,
}

impl Treatment {
    fn text(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Trapped => "trapped",
            Self::Emulated => "emulated",
        }
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Why a part of a BAR is treated as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The kernel offers it for mmap, in whole pages.
    Offered,
    /// It is the MSI-X table.
    MsixTable,
    /// It is the Pending Bit Array.
    PendingBitArray,
    /// It shares a page with the MSI-X table or the Pending Bit Array.
    MsixPage,
    /// The embedder has excluded it, or something on its page.
    Excluded,
    /// The BAR has grown for MSI-X: there is no device behind it.
    BeyondDevice,
    /// It is I/O ports.
    IoPorts,
    /// It is the Expansion ROM.
    ExpansionRom,
    /// The BAR is smaller than a page.
    BelowPageSize,
    /// The kernel does not offer it for mmap, or not in whole pages, or there was no storage for its window. Also
    /// what the embedder has excluded, where that is not known.
    NotOffered,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::Offered => "whole pages that the kernel offers",
            Self::MsixTable => "MSI-X table",
            Self::PendingBitArray => "Pending Bit Array",
            Self::MsixPage => "shares a page with MSI-X",
            Self::Excluded => "excluded by the embedder",
            Self::BeyondDevice => "beyond the device's BAR",
            Self::IoPorts => "I/O ports",
            Self::ExpansionRom => "Expansion ROM",
            Self::BelowPageSize => "BAR smaller than a page",
            Self::NotOffered => "not offered for mmap",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A part of a BAR, and how it is treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BarPiece {
    /// The bytes of the BAR.
    pub span: Span<GuestBarOffset>,
    /// What happens to an access.
    pub treatment: Treatment,
    /// Why.
    pub reason: Reason,
    /// The largest pages that a mapping of it can use.
    pub page_size: Option<PageSize>,
}

impl fmt::Display for BarPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { span, treatment, reason, page_size } = *self;
        say(f, ("%x..=%x ", [span.first().get(), span.last().get(), 0]))?;
        f.write_str(treatment.text())?;
        if let Some(page) = page_size {
            say(f, (" by %x", [page.get(), 0, 0]))?;
        }
        f.write_str(": ")?;
        f.write_str(reason.text())
    }
}

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// The pieces of `bar` in order, from its first byte to its last; none if the BAR is absent.
    ///
    /// With the [`Description`](crate::Description) at hand, [`Explanation::bar`] knows more reasons.
    pub fn explain_bar(&self, bar: BarIndex) -> impl Iterator<Item = BarPiece> {
        let holes = Holes { structures: [None; 4], excluded: &[] };
        self.pieces_of(bar, holes)
    }

    fn pieces_of(&self, bar: BarIndex, holes: Holes<'_>) -> impl Iterator<Item = BarPiece> {
        let mut next = Some(GuestBarOffset::new(0));
        core::iter::from_fn(move || {
            let piece = self.whole_piece_at(bar, next?, &holes)?;
            next = piece.span.last().checked_add(1);
            Some(piece)
        })
    }

    /// The piece of `bar` that starts at `first`, with what goes on behind the page where a stronger claim ends it.
    fn whole_piece_at(&self, bar: BarIndex, first: GuestBarOffset, holes: &Holes<'_>) -> Option<BarPiece> {
        let mut whole = self.piece_at(bar, first, holes)?;
        if whole.treatment == Treatment::Mapped {
            whole.page_size = Some(largest_page(whole.span, self.windows.page()));
            return Some(whole);
        }
        while let Some(next) = whole.span.last().checked_add(1)
            && let Some(piece) = self.piece_at(bar, next, holes)
            && (piece.treatment, piece.reason) == (whole.treatment, whole.reason)
        {
            whole.span = Span::new(first, piece.span.last())?;
        }
        Some(whole)
    }

    /// The piece of `bar` that starts at `first`.
    // One copy of it: the core is to be small.
    #[inline(never)]
    fn piece_at(&self, bar: BarIndex, first: GuestBarOffset, holes: &Holes<'_>) -> Option<BarPiece> {
        let found = self.bars.get(bar)?;
        let page = self.windows.page();
        let rest = Span::new(first, GuestBarOffset::new(found.size.checked_sub(1)?))?;
        let reason = match found.kind {
            BarKind::Io => Reason::IoPorts,
            BarKind::Rom => Reason::ExpansionRom,
            _ if found.size < page.get() => Reason::BelowPageSize,
            _ => Reason::NotOffered,
        };
        let mut piece = BarPiece { span: rest, treatment: Treatment::Trapped, reason, page_size: None };
        if matches!(found.kind, BarKind::Io | BarKind::Rom) {
            return Some(piece);
        }
        // From the weakest claim to the strongest: a later one that covers the byte replaces an earlier one.
        let emulated = self.decoder.emulated();
        for place in emulated.iter().take(2).flatten() {
            if place.bar == bar {
                piece.claim(place.span.align_out(page), Treatment::Trapped, Reason::MsixPage);
            }
        }
        let shown = |part: Span<PhysBarOffset>| part.moved_to(GuestBarOffset::new(part.first().get()));
        holes.of(bar, page, &mut |reason, part| {
            if let Some(span) = shown(part) {
                piece.claim(span, Treatment::Trapped, reason);
            }
        });
        for span in self.windows.planned(bar).filter_map(shown) {
            piece.claim(span, Treatment::Mapped, Reason::Offered);
        }
        let reasons = &[Reason::MsixTable, Reason::PendingBitArray, Reason::BeyondDevice];
        for (place, reason) in emulated.iter().zip(reasons).rev() {
            if let Some(place) = place
                && place.bar == bar
            {
                piece.claim(place.span, Treatment::Emulated, *reason);
            }
        }
        Some(piece)
    }
}

impl<V, W> Explanation<'_, V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// The pieces of `bar` in order, from its first byte to its last; none if the BAR is absent.
    pub fn bar(&self, bar: BarIndex) -> impl Iterator<Item = BarPiece> {
        let layout = self.function.msix().map(|msix| msix.layout());
        self.function.pieces_of(bar, self.description.holes(&self.function.bars, layout))
    }
}

impl BarPiece {
    /// `span` is treated so: the piece becomes that if it starts within, and else ends before it.
    #[inline(never)]
    fn claim(&mut self, span: Span<GuestBarOffset>, treatment: Treatment, reason: Reason) {
        let (first, last) = (self.span.first(), self.span.last());
        let end = if span.last() < first {
            return;
        } else if span.first() <= first {
            (self.treatment, self.reason, self.page_size) = (treatment, reason, None);
            span.last()
        } else {
            GuestBarOffset::new(span.first().get().saturating_sub(1))
        };
        self.span = Span::new(first, end.min(last)).unwrap_or(self.span);
    }
}

/// The largest pages that `span` has one of. BARs are aligned to their size, so that what is aligned in the BAR is
/// aligned in memory.
///
/// A page table of any level fills a page with entries of 8 bytes: a page of the next level is as large as all of
/// them together. Beyond 1 GiB nothing is gained.
fn largest_page(span: Span<GuestBarOffset>, page: PageSize) -> PageSize {
    let mut largest = page;
    while let Some(next) = PageSize::new(largest.get().saturating_mul(page.get() / 8)) {
        if next.get() > 1 << 30 || span.align_in(next).is_none() {
            break;
        }
        largest = next;
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PageSize;
    use crate::description::{Description, Region};
    use crate::windows::MmapArea;
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    const BAR0: BarIndex = BarIndex::BARS[0];

    /// A function with one BAR of `size` bytes at index 0, offered whole, and 65 vectors in it.
    fn explained(size: u64, table: u32, pba: u32) -> Vec<String> {
        let mut config = [0; 256];
        config[0] = 0x36;
        config[6] = 0x10;
        config[0x34] = 0x40;
        config[0x40..0x44].copy_from_slice(&[0x11, 0, 64, 0]);
        config[0x44..0x48].copy_from_slice(&table.to_le_bytes());
        config[0x48..0x4c].copy_from_slice(&pba.to_le_bytes());
        let mut regions = [Region::default(); 7];
        let areas = [MmapArea { offset: 0, size }];
        regions[0] = Region { size, areas: &areas, ..Region::default() };
        let description =
            Description { config: &config, regions, page_size: PageSize::SIZE_4K, ..Description::default() };
        let (vectors, windows) = ([Vector::RESET; 65], [Window::default(); 4]);
        let function = AssignedFunction::new(&description, vectors, windows, |_| {}).unwrap();
        function.explain_bar(BAR0).map(|piece| format!("{} {}", piece.span, piece.treatment)).collect()
    }

    #[test]
    fn nvme_has_a_window_and_two_emulated_parts() {
        let expected = [
            "0x0..=0x1fff mapped",
            "0x2000..=0x240f emulated",
            "0x2410..=0x2fff trapped",
            "0x3000..=0x300f emulated",
            "0x3010..=0x3fff trapped",
        ];
        assert_eq!(explained(0x4000, 0x2000, 0x3000), expected);
    }

    fn largest(first: u64, size: u64, page: PageSize) -> u64 {
        largest_page(Span::from_size(GuestBarOffset::new(first), size).unwrap(), page).get()
    }

    #[test]
    fn a_page_of_2_mib_needs_all_of_one() {
        assert_eq!(
            [(0, 0x20_0000), (0x1000, 0x3f_e000), (0x1000, 0x3f_f000)].map(|(first, size)| largest(
                first,
                size,
                PageSize::SIZE_4K
            )),
            [0x20_0000, 0x1000, 0x20_0000]
        );
    }

    #[test]
    fn pages_grow_to_1_gib_at_most() {
        let pages = [PageSize::SIZE_4K, PageSize::SIZE_16K, PageSize::SIZE_64K];
        assert_eq!(pages.map(|page| largest(0, 1 << 40, page)), [0x4000_0000, 0x200_0000, 0x2000_0000]);
    }

    #[test]
    fn structures_in_the_middle_split_the_windows() {
        let expected = [
            "0x0..=0xfff mapped",
            "0x1000..=0x17ff trapped",
            "0x1800..=0x1c0f emulated",
            "0x1c10..=0x1fff trapped",
            "0x2000..=0x2fff mapped",
            "0x3000..=0x300f emulated",
            "0x3010..=0x3fff trapped",
        ];
        assert_eq!(explained(0x4000, 0x1800, 0x3000), expected);
    }
}
