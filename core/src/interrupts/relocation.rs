//! Another place for the MSI-X table and Pending Bit Array than where the device has them.
//!
//! Only what is emulated moves. Every other byte of the guest's BAR stands where the device has it; what a BAR has
//! grown by has no device behind it.

use super::layout::{MsixLayout, TablePlace};
use crate::addr::{BarIndex, GuestBarOffset};
use crate::bars::Bars;
use crate::options::Relocation;
use crate::span::Span;
use crate::text::say;
use core::fmt;

/// Why the MSI-X table cannot be where the embedder wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelocationError {
    /// There is no such memory BAR.
    NoBar(BarIndex),
    /// The BAR cannot be as large as it would have to be.
    TooLarge {
        /// The BAR.
        bar: BarIndex,
        /// Its size in bytes.
        size: u64,
    },
    /// The table and the Pending Bit Array do not fit between the offset and the end of the BAR, or the offset is
    /// no multiple of 8.
    NoRoom {
        /// The BAR.
        bar: BarIndex,
        /// The offset.
        offset: GuestBarOffset,
        /// Bytes of the table and the Pending Bit Array.
        needed: u64,
    },
}

impl fmt::Display for RelocationError {
    #[inline(never)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::NoBar(bar) => {
                    ("the MSI-X table cannot be in %b, which is no memory BAR", [bar.number(), 0, 0])
                }
                Self::TooLarge { bar, size } => {
                    ("%b cannot grow from %x bytes to make room for the MSI-X table", [bar.number(), size, 0])
                }
                Self::NoRoom { bar, offset, needed } => (
                    "no room for the MSI-X table, %x bytes, at %x of %b",
                    [needed, offset.get(), bar.number()],
                ),
            },
        )
    }
}

impl MsixLayout {
    /// Moves the table, and the Pending Bit Array behind it.
    ///
    /// Returns what of a BAR has no device behind it, if that BAR had to grow.
    ///
    /// # Errors
    ///
    /// They cannot be there; nothing has changed.
    pub(crate) fn relocate(
        &mut self,
        bars: &mut Bars,
        to: Relocation,
    ) -> Result<Option<TablePlace>, RelocationError> {
        let (Relocation::Behind(bar) | Relocation::At { bar, .. }) = to;
        let (table, pba) = (self.table.span.size(), self.pba.span.size());
        let needed = table.saturating_add(pba);
        let size = bars.memory_size(bar).ok_or(RelocationError::NoBar(bar))?;
        let offset = match to {
            Relocation::Behind(_) => GuestBarOffset::new(size),
            Relocation::At { offset, .. } => offset,
        };
        let place =
            |first: GuestBarOffset, size| Span::from_size(first, size).map(|span| TablePlace { bar, span });
        let places = place(offset, table)
            .and_then(|table| Some((table, place(table.span.last().checked_add(1)?, pba)?)))
            .filter(|(_, pba)| offset.get() & 7 == 0 && u32::try_from(pba.span.last().get()).is_ok());
        let Some((table, pba)) = places else {
            return Err(RelocationError::NoRoom { bar, offset, needed });
        };
        let end = pba.span.last().get();
        let grown = if end < size {
            None
        } else if matches!(to, Relocation::Behind(_)) && bars.grow(bar, end) {
            let new = bars.memory_size(bar).unwrap_or(size);
            place(offset, new.saturating_sub(size))
        } else if matches!(to, Relocation::Behind(_)) {
            return Err(RelocationError::TooLarge { bar, size });
        } else {
            return Err(RelocationError::NoRoom { bar, offset, needed });
        };
        (self.table, self.pba) = (table, pba);
        Ok(grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::ConfigImage;

    const BAR0: BarIndex = BarIndex::BARS[0];
    const BAR1: BarIndex = BarIndex::BARS[1];

    /// BAR 0 has 4 KiB with 256 vectors in them, BAR 1 is ports, BAR 2 has 2 GiB.
    fn relocated(to: Relocation) -> Result<(u64, u64, Option<Span<GuestBarOffset>>), RelocationError> {
        let mut bytes = [0; 256];
        bytes[6] = 0x10;
        bytes[0x14] = 1;
        bytes[0x34] = 0x40;
        bytes[0x40..0x44].copy_from_slice(&[0x11, 0, 0x7f, 0]);
        bytes[0x49] = 0x0f;
        let image = ConfigImage::new(&bytes);
        let mut bars = Bars::new(image, &[0x1000, 0x20, 1 << 31, 0, 0, 0, 0]).unwrap();
        let mut layout = MsixLayout::new(image, &bars, |_| {}).unwrap();
        let grown = layout.relocate(&mut bars, to)?;
        let first = layout.table.span.first().get();
        Ok((first, bars.memory_size(layout.table.bar).unwrap(), grown.map(|grown| grown.span)))
    }

    fn at(bar: BarIndex, offset: u64) -> Relocation {
        Relocation::At { bar, offset: GuestBarOffset::new(offset) }
    }

    #[test]
    fn behind_the_last_byte_the_bar_doubles() {
        let grown = Span::from_size(GuestBarOffset::new(0x1000), 0x1000);
        assert_eq!(relocated(Relocation::Behind(BAR0)), Ok((0x1000, 0x2000, grown)));
    }

    #[test]
    fn in_the_bar_nothing_grows() {
        assert_eq!(relocated(at(BAR0, 0x400)), Ok((0x400, 0x1000, None)));
    }

    #[test]
    fn past_the_end_is_no_room() {
        let offset = GuestBarOffset::new(0x800);
        let error = RelocationError::NoRoom { bar: BAR0, offset, needed: 0x810 };
        assert_eq!(relocated(at(BAR0, 0x800)), Err(error));
    }

    #[test]
    fn unaligned_place_is_no_room() {
        let error = RelocationError::NoRoom { bar: BAR0, offset: GuestBarOffset::new(4), needed: 0x810 };
        assert_eq!(relocated(at(BAR0, 4)), Err(error));
    }

    #[test]
    fn place_at_the_end_of_everything_is_no_room() {
        let offset = GuestBarOffset::new(u64::MAX - 7);
        let error = RelocationError::NoRoom { bar: BAR0, offset, needed: 0x810 };
        assert_eq!(relocated(at(BAR0, u64::MAX - 7)), Err(error));
    }

    #[test]
    fn ports_are_no_place() {
        assert_eq!(relocated(Relocation::Behind(BAR1)), Err(RelocationError::NoBar(BAR1)));
    }

    #[test]
    fn bar_of_2_gib_cannot_grow() {
        let bar = BarIndex::BARS[2];
        assert_eq!(relocated(Relocation::Behind(bar)), Err(RelocationError::TooLarge { bar, size: 1 << 31 }));
    }
}
