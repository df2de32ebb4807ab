//! The plan as data: what of each BAR the guest reaches directly, what leaves guest mode, and why.

use crate::addr::{BarIndex, GuestBarOffset};
use crate::bars::BarKind;
use crate::function::AssignedFunction;
use crate::interrupts::Vector;
use crate::span::Span;
use crate::windows::Window;
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

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mapped => "mapped",
            Self::Trapped => "trapped",
            Self::Emulated => "emulated",
        })
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
    /// It is I/O ports.
    IoPorts,
    /// It is the Expansion ROM.
    ExpansionRom,
    /// The BAR is smaller than a page.
    BelowPageSize,
    /// The kernel does not offer it for mmap, or not in whole pages, or there was no storage for its window.
    NotOffered,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offered => "whole pages that the kernel offers",
            Self::MsixTable => "MSI-X table",
            Self::PendingBitArray => "Pending Bit Array",
            Self::MsixPage => "shares a page with MSI-X",
            Self::IoPorts => "I/O ports",
            Self::ExpansionRom => "Expansion ROM",
            Self::BelowPageSize => "BAR smaller than a page",
            Self::NotOffered => "not offered for mmap",
        })
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
}

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// The pieces of `bar` in order, from its first byte to its last; none if the BAR is absent.
    pub fn explain_bar(&self, bar: BarIndex) -> impl Iterator<Item = BarPiece> {
        let mut next = self.bars.get(bar).map(|_| GuestBarOffset::new(0));
        core::iter::from_fn(move || {
            let piece = self.piece_at(bar, next?)?;
            next = piece.span.last().checked_add(1);
            Some(piece)
        })
    }

    /// The piece of `bar` that starts at `first`.
    fn piece_at(&self, bar: BarIndex, first: GuestBarOffset) -> Option<BarPiece> {
        let found = self.bars.get(bar)?;
        let rest = Span::new(first, GuestBarOffset::new(found.size.checked_sub(1)?))?;
        let trapped = |reason| Some(BarPiece { span: rest, treatment: Treatment::Trapped, reason });
        match found.kind {
            BarKind::Io => return trapped(Reason::IoPorts),
            BarKind::Rom => return trapped(Reason::ExpansionRom),
            BarKind::Memory32 { .. } | BarKind::Memory64 { .. } => {}
        }
        let mut piece = BarPiece { span: rest, treatment: Treatment::Trapped, reason: Reason::NotOffered };
        if found.size < self.windows.page().get() {
            piece.reason = Reason::BelowPageSize;
        }
        let (table, pba) = match self.emulated() {
            Some((table, pba)) => (Some(table), Some(pba)),
            None => (None, None),
        };
        let place = |place: Option<crate::interrupts::TablePlace>| {
            place.filter(|place| place.bar == bar).map(|place| place.span)
        };
        let pages =
            [place(table), place(pba)].map(|span| span.map(|span| span.align_out(self.windows.page())));
        // From the weakest claim to the strongest: a later one that covers the byte replaces an earlier one.
        for span in pages.into_iter().flatten() {
            piece.claim(span, Treatment::Trapped, Reason::MsixPage);
        }
        for window in self.windows.planned(bar) {
            if let Some(span) = window.moved_to(GuestBarOffset::new(window.first().get())) {
                piece.claim(span, Treatment::Mapped, Reason::Offered);
            }
        }
        if let Some(span) = place(pba) {
            piece.claim(span, Treatment::Emulated, Reason::PendingBitArray);
        }
        if let Some(span) = place(table) {
            piece.claim(span, Treatment::Emulated, Reason::MsixTable);
        }
        Some(piece)
    }
}

impl BarPiece {
    /// `span` is treated so: the piece becomes that if it starts within, and else ends before it.
    fn claim(&mut self, span: Span<GuestBarOffset>, treatment: Treatment, reason: Reason) {
        if span.contains(self.span.first()) {
            if let Some(both) = self.span.intersect(span) {
                *self = Self { span: both, treatment, reason };
            }
        } else if let (Some(before), _) = self.span.subtract(span) {
            self.span = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PageSize;
    use crate::function::{Description, Region};
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
