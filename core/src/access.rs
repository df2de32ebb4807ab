//! How bytes enter and leave: the only place where a length or an alignment that a guest chose is looked at.
//!
//! Configuration accesses become dwords with byte lanes; memory and port accesses become naturally aligned
//! pieces of 1, 2, 4 or 8 bytes. Behind this module no machine sees an odd length.

use crate::addr::ConfigOffset;
use crate::text::hexadecimal;
use core::fmt;

/// The bytes of one access, 0 to 64 of them.
#[derive(Clone, Copy)]
pub struct Bytes {
    data: [u8; Self::LIMIT],
    len: u8,
}

impl Bytes {
    /// The longest access, in bytes: a cache line.
    pub const LIMIT: usize = 64;

    /// No bytes: what a write returns.
    pub const EMPTY: Self = Self { data: [0; Self::LIMIT], len: 0 };

    /// `len` bytes of all-ones, at most 64: what a read of nothing returns.
    pub fn all_ones(len: usize) -> Self {
        Self { data: [0xff; Self::LIMIT], len: clamp(len) }
    }

    /// The first 64 bytes of `data`.
    pub fn from_slice(data: &[u8]) -> Self {
        let mut bytes = Self { data: [0; Self::LIMIT], len: clamp(data.len()) };
        for (to, from) in bytes.data.iter_mut().zip(data) {
            *to = *from;
        }
        bytes
    }

    /// The first `len` little-endian bytes of `value`, at most 8.
    #[inline]
    pub(crate) fn from_value(value: u64, len: usize) -> Self {
        let mut data = [0; Self::LIMIT];
        if let Some(first) = data.first_chunk_mut() {
            *first = value.to_le_bytes();
        }
        Self { data, len: clamp(len.min(8)) }
    }

    /// How many bytes there are, 0 to 64.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.data.get(..self.len()).unwrap_or(&[])
    }

    /// Byte `at`; 0 past the end.
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.as_slice().get(at).copied().unwrap_or(0)
    }

    /// Sets byte `at`; nothing past the end.
    pub(crate) fn set(&mut self, at: usize, value: u8) {
        let len = self.len();
        if let Some(byte) = self.data.iter_mut().take(len).nth(at) {
            *byte = value;
        }
    }

    /// The little-endian value of `width` bytes from `at` on; bytes past the 64th are 0.
    #[inline]
    pub(crate) fn value(&self, at: usize, width: Width) -> u64 {
        let mut value = [0; 8];
        for (to, from) in value.iter_mut().zip(self.data.iter().skip(at)) {
            *to = *from;
        }
        u64::from_le_bytes(value) & width.all_ones()
    }

    /// Stores `width` little-endian bytes of `value` from `at` on; bytes past the end are lost.
    pub(crate) fn store(&mut self, at: usize, width: Width, value: u64) {
        for (index, byte) in value.to_le_bytes().iter().take(width.bytes()).enumerate() {
            self.set(at.saturating_add(index), *byte);
        }
    }
}

/// `len` as it is stored, at most 64.
#[inline]
fn clamp(len: usize) -> u8 {
    u8::try_from(len.min(Bytes::LIMIT)).unwrap_or(0)
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Bytes {}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (place, byte) in self.as_slice().iter().enumerate() {
            f.write_str(if place == 0 { "" } else { ", " })?;
            hexadecimal(f, u64::from(*byte), 2)?;
        }
        f.write_str("]")
    }
}

/// The width of one naturally aligned access.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Dword,
    /// Eight bytes.
    Qword,
}

impl Width {
    /// The number of bytes: 1, 2, 4 or 8.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
            Self::Qword => 8,
        }
    }

    /// A value with every bit of this width set.
    pub const fn all_ones(self) -> u64 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Dword => 0xffff_ffff,
            Self::Qword => u64::MAX,
        }
    }

    /// The widest access that starts at `offset`, is naturally aligned and has at most `room` bytes;
    /// a byte if there is no room at all.
    pub fn natural(offset: u64, room: u64) -> Self {
        let fits = |width: Self| {
            let mask = match width {
                Self::Byte => 0,
                Self::Word => 1,
                Self::Dword => 3,
                Self::Qword => 7,
            };
            offset & mask == 0 && room > mask
        };
        [Self::Qword, Self::Dword, Self::Word].into_iter().find(|width| fits(*width)).unwrap_or(Self::Byte)
    }
}

/// The bytes of one dword that an access has enabled: bit 0 is the lowest byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ByteLanes(u8);

impl ByteLanes {
    /// No byte.
    pub const NONE: Self = Self(0);
    /// All four bytes.
    pub const ALL: Self = Self(0xf);

    /// The lanes whose bits are set; only the low four bits count.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0xf)
    }

    /// The lanes that have any bit of `mask`.
    // One copy of it: the core is to be small.
    #[inline(never)]
    pub fn touching(mask: u32) -> Self {
        let [a, b, c, d] = mask.to_le_bytes();
        let bit = |byte: u8, lane: u8| if byte == 0 { 0 } else { lane };
        Self(bit(a, 1) | bit(b, 2) | bit(c, 4) | bit(d, 8))
    }

    /// Whether no byte is enabled.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The bytes that both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The bytes that this has not.
    #[must_use]
    pub(crate) const fn not(self) -> Self {
        Self(!self.0 & 0xf)
    }

    /// Whether `len` bytes from `lane` on, at most four, are within the dword and among these.
    #[inline]
    pub(crate) fn holds(self, lane: u32, len: usize) -> bool {
        let run = [0u32, 0x1, 0x3, 0x7, 0xf].get(len).map(|run| run.wrapping_shl(lane));
        run.is_some_and(|run| run & !u32::from(self.0) == 0)
    }

    /// A dword with all bits set in the enabled bytes.
    pub fn mask(self) -> u32 {
        const MASKS: [u32; 16] = [
            0x0000_0000,
            0x0000_00ff,
            0x0000_ff00,
            0x0000_ffff,
            0x00ff_0000,
            0x00ff_00ff,
            0x00ff_ff00,
            0x00ff_ffff,
            0xff00_0000,
            0xff00_00ff,
            0xff00_ff00,
            0xff00_ffff,
            0xffff_0000,
            0xffff_00ff,
            0xffff_ff00,
            0xffff_ffff,
        ];
        MASKS.get(usize::from(self.0)).copied().unwrap_or(0)
    }

    /// Takes the lowest naturally aligned run of bytes out: its place in the dword and its width.
    ///
    /// Hardware must see each enabled byte once and no other byte at all, since a read can have side effects
    /// and a write of zero to a neighbour can clear what it holds.
    pub(crate) fn take_run(&mut self) -> Option<(u8, Width)> {
        self.take_first(&[DWORD, LOW_WORD, BYTE_0, BYTE_1, HIGH_WORD, BYTE_2, BYTE_3])
    }

    /// The same with the highest run.
    pub(crate) fn take_last_run(&mut self) -> Option<(u8, Width)> {
        self.take_first(&[DWORD, HIGH_WORD, BYTE_3, BYTE_2, LOW_WORD, BYTE_1, BYTE_0])
    }

    // One copy of it: the core is to be small.
    #[inline(never)]
    fn take_first(&mut self, runs: &[Run; 7]) -> Option<(u8, Width)> {
        let (bits, at, width) = *runs.iter().find(|(bits, ..)| self.0 & bits == *bits)?;
        self.0 &= !bits;
        Some((at, width))
    }
}

/// A naturally aligned run of bytes in a dword: its lanes, its place and its width.
type Run = (u8, u8, Width);
const DWORD: Run = (0xf, 0, Width::Dword);
const LOW_WORD: Run = (0x3, 0, Width::Word);
const HIGH_WORD: Run = (0xc, 2, Width::Word);
const BYTE_0: Run = (0x1, 0, Width::Byte);
const BYTE_1: Run = (0x2, 1, Width::Byte);
const BYTE_2: Run = (0x4, 2, Width::Byte);
const BYTE_3: Run = (0x8, 3, Width::Byte);

/// One dword of configuration space with the bytes of it that are meant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DwordAccess {
    /// The dword's offset, a multiple of four.
    pub dword: ConfigOffset,
    /// The bytes of it that are accessed.
    pub lanes: ByteLanes,
}

/// The next dword of the configuration access of `len` bytes at `offset`, of which `done` bytes are done:
/// the dword, its lane of byte `done`, and the number of bytes of the access in it.
///
/// `None` in place of the dword means those bytes lie past byte 4095.
pub(crate) fn next_dword(offset: u32, len: usize, done: usize) -> Option<DwordPiece> {
    let left = len.checked_sub(done)?;
    let position = u64::from(offset).saturating_add(u64::try_from(done).ok()?);
    let lane = usize::try_from(position & 3).ok()?;
    let bytes = left.min(4usize.saturating_sub(lane));
    if bytes == 0 {
        return None;
    }
    let run = match bytes {
        1 => 0x1u8,
        2 => 0x3,
        3 => 0x7,
        _ => 0xf,
    };
    let lanes = match lane {
        0 => run,
        1 => run.wrapping_mul(2),
        2 => run.wrapping_mul(4),
        _ => run.wrapping_mul(8),
    };
    let dword = u16::try_from(position & !3).ok().and_then(ConfigOffset::new);
    let access = dword.map(|dword| DwordAccess { dword, lanes: ByteLanes::from_bits(lanes) });
    Some(DwordPiece { access, lane, bytes })
}

/// A part of a configuration access that lies within one dword.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DwordPiece {
    /// The dword and its lanes; `None` past the end of configuration space.
    pub(crate) access: Option<DwordAccess>,
    /// The lane of the piece's first byte, 0 to 3.
    pub(crate) lane: usize,
    /// The number of bytes, 1 to 4.
    pub(crate) bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(offset: u32, len: usize, done: usize) -> Option<(u16, u8, usize)> {
        next_dword(offset, len, done).map(|piece| {
            let access = piece.access.unwrap();
            (access.dword.get(), access.lanes.0, piece.bytes)
        })
    }

    #[test]
    fn byte_three_is_the_top_lane() {
        assert_eq!(lanes(0x3, 1, 0), Some((0, 0x8, 1)));
    }

    #[test]
    fn unaligned_dword_takes_two_pieces() {
        assert_eq!((lanes(0x6, 4, 0), lanes(0x6, 4, 2)), (Some((4, 0xc, 2)), Some((8, 0x3, 2))));
    }

    #[test]
    fn nothing_left_is_no_piece() {
        assert_eq!(next_dword(0x6, 4, 4), None);
    }

    #[test]
    fn offset_near_the_end_of_u32_is_past_the_end() {
        assert_eq!(next_dword(u32::MAX, 8, 4).unwrap().access, None);
    }

    #[test]
    fn three_lanes_are_a_word_and_a_byte() {
        let mut lanes = ByteLanes::from_bits(0x7);
        assert_eq!(
            (lanes.take_run(), lanes.take_run(), lanes.take_run()),
            (Some((0, Width::Word)), Some((2, Width::Byte)), None)
        );
    }

    #[test]
    fn middle_lanes_are_two_bytes() {
        let mut lanes = ByteLanes::from_bits(0x6);
        assert_eq!(
            (lanes.take_run(), lanes.take_run(), lanes.take_run()),
            (Some((1, Width::Byte)), Some((2, Width::Byte)), None)
        );
    }

    #[test]
    fn the_lowest_run_comes_first() {
        let mut lanes = ByteLanes::from_bits(0xe);
        assert_eq!((lanes.take_run(), lanes.take_run()), (Some((1, Width::Byte)), Some((2, Width::Word))));
    }

    #[test]
    fn natural_width_needs_alignment_and_room() {
        assert_eq!(
            [(8, 8), (8, 7), (4, 8), (2, 8), (1, 8), (0, 1)].map(|(at, room)| Width::natural(at, room)),
            [Width::Qword, Width::Dword, Width::Dword, Width::Word, Width::Byte, Width::Byte]
        );
    }

    #[test]
    fn three_bytes_from_an_aligned_offset_are_three_lanes() {
        assert_eq!(lanes(0x8, 3, 0), Some((8, 0x7, 3)));
    }

    #[test]
    fn only_no_bytes_are_empty() {
        assert_eq!((Bytes::EMPTY.is_empty(), Bytes::all_ones(1).is_empty()), (true, false));
    }

    #[test]
    fn bytes_differ_by_value_and_by_number() {
        assert_ne!(Bytes::from_slice(&[1]), Bytes::from_slice(&[2]));
        assert_ne!(Bytes::from_slice(&[0]), Bytes::from_slice(&[0, 0]));
    }

    #[test]
    fn bytes_are_written_in_hexadecimal() {
        assert_eq!(std::format!("{:?}", Bytes::from_slice(&[0x01, 0xab])), "[01, ab]");
    }

    #[test]
    fn bytes_past_the_end_do_not_count() {
        assert_eq!(Bytes::all_ones(1), Bytes::from_slice(&[0xff]));
    }

    #[test]
    fn bytes_keep_at_most_64() {
        assert_eq!(Bytes::from_slice(&[7; 65]).as_slice(), &[7; 64]);
    }
}
