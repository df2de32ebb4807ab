//! The two capability lists of a function, walked over a copy of its configuration space.
//!
//! A device may link its capabilities into a circle, point outside, or not have the list that its Status
//! register promises. The walk visits each dword at most once, so it always ends, and says why it ended early.

use crate::addr::ConfigOffset;
use crate::regs::{capability, header};
use crate::text::say;
use core::fmt;

/// A copy of a function's configuration space: 64 to 4096 bytes, read once when the device is opened.
#[derive(Clone, Copy, Debug)]
pub struct ConfigImage<'a>(&'a [u8]);

impl<'a> ConfigImage<'a> {
    /// The image of `bytes`; what lies past 4095 is not looked at, what is missing reads as all-ones.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.get(..4096).unwrap_or(bytes))
    }

    /// The number of bytes, at most 4096.
    pub fn size(self) -> u16 {
        u16::try_from(self.0.len()).unwrap_or(u16::MAX)
    }

    /// The byte at `offset`.
    pub fn u8(self, offset: ConfigOffset) -> u8 {
        self.0.get(usize::from(offset.get())).copied().unwrap_or(0xff)
    }

    /// The dword that holds the byte at `offset`.
    // One copy of it: the core is to be small.
    #[inline(never)]
    pub fn dword(self, offset: ConfigOffset) -> u32 {
        let first = usize::from(offset.dword().get());
        match self.0.get(first..).and_then(|bytes| bytes.first_chunk::<4>()) {
            Some(bytes) => u32::from_le_bytes(*bytes),
            None => u32::MAX,
        }
    }

    /// The bytes from `offset` on.
    pub fn tail(self, offset: ConfigOffset) -> &'a [u8] {
        self.0.get(usize::from(offset.get())..).unwrap_or(&[])
    }

    /// The standard capabilities, in list order.
    ///
    /// Source: PCI Local Bus 3.0, 6.7 Capabilities List.
    #[inline(never)]
    pub fn capabilities(self) -> Capabilities<'a> {
        let status = self.dword(header::COMMAND).to_le_bytes();
        let has_list = u16::from_le_bytes([status[2], status[3]]) & header::STATUS_CAPABILITIES_LIST != 0;
        let next = if has_list { self.u8(header::CAPABILITIES_POINTER) } else { 0 };
        Capabilities { image: self, next, seen: 0 }
    }

    /// Where the first standard capability with this id is; `second` hears where there are others.
    // One copy of it: the core is to be small.
    #[inline(never)]
    pub(crate) fn find(self, id: u8, second: &mut dyn FnMut(u16)) -> Option<ConfigOffset> {
        let mut first = None;
        for found in self.capabilities().flatten().filter(|found| found.id == id) {
            match first {
                None => first = Some(found.offset),
                Some(_) => second(found.offset.get()),
            }
        }
        first
    }

    /// The extended capabilities, in list order; none if there are only 256 bytes.
    ///
    /// Source: PCI Express Base 5.0, 7.6.3 PCI Express Extended Capability Header.
    #[inline(never)]
    pub fn extended_capabilities(self) -> ExtendedCapabilities<'a> {
        let next = if self.size() > capability::EXTENDED_FIRST { capability::EXTENDED_FIRST } else { 0 };
        ExtendedCapabilities { image: self, next, seen: [0; 15] }
    }
}

/// One standard capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// Capability ID.
    pub id: u8,
    /// Where it starts.
    pub offset: ConfigOffset,
}

/// One extended capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtendedCapability {
    /// Extended Capability ID.
    pub id: u16,
    /// Where it starts.
    pub offset: ConfigOffset,
}

/// Why a capability list ended before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CapabilityFinding {
    /// A pointer leads back to a capability that the walk has seen.
    Cycle(u16),
    /// A pointer leads below where capabilities can be.
    BelowFirst(u16),
    /// A pointer leads past the end of configuration space.
    PastEnd(u16),
}

impl fmt::Display for CapabilityFinding {
    #[inline(never)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::Cycle(at) => ("the capability list leads back to %3", [u64::from(at), 0, 0]),
                Self::BelowFirst(at) => {
                    ("a capability pointer names %3, where no capability can be", [u64::from(at), 0, 0])
                }
                Self::PastEnd(at) => (
                    "a capability pointer names %3, past the end of configuration space",
                    [u64::from(at), 0, 0],
                ),
            },
        )
    }
}

/// The walk over the standard list; an error is its last item.
#[derive(Clone, Debug)]
pub struct Capabilities<'a> {
    image: ConfigImage<'a>,
    next: u8,
    /// Bit n stands for the dword at 0x40 + 4n.
    seen: u64,
}

impl Iterator for Capabilities<'_> {
    type Item = Result<Capability, CapabilityFinding>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.next & capability::POINTER;
        self.next = 0;
        if at == 0 {
            return None;
        }
        let offset = ConfigOffset::low(at);
        if offset < capability::FIRST {
            return Some(Err(CapabilityFinding::BelowFirst(offset.get())));
        }
        // The link and the id are what a walker reads: a capability needs at least its first dword.
        let Some([id, next, ..]) = self.image.tail(offset).first_chunk::<4>() else {
            return Some(Err(CapabilityFinding::PastEnd(offset.get())));
        };
        let bit = 1u64.wrapping_shl(u32::from(at.wrapping_sub(0x40)) / 4);
        if self.seen & bit != 0 {
            return Some(Err(CapabilityFinding::Cycle(offset.get())));
        }
        self.seen |= bit;
        self.next = *next;
        Some(Ok(Capability { id: *id, offset }))
    }
}

/// The walk over the extended list; an error is its last item.
#[derive(Clone, Debug)]
pub struct ExtendedCapabilities<'a> {
    image: ConfigImage<'a>,
    next: u16,
    /// Bit n of word w stands for the dword at 0x100 + 4 (64 w + n).
    seen: [u64; 15],
}

impl Iterator for ExtendedCapabilities<'_> {
    type Item = Result<ExtendedCapability, CapabilityFinding>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.next & 0xffc;
        self.next = 0;
        if at == 0 {
            return None;
        }
        if at < capability::EXTENDED_FIRST {
            return Some(Err(CapabilityFinding::BelowFirst(at)));
        }
        let offset = match ConfigOffset::new(at) {
            Some(offset) if at.saturating_add(3) < self.image.size() => offset,
            _ => return Some(Err(CapabilityFinding::PastEnd(at))),
        };
        let index = at.wrapping_sub(capability::EXTENDED_FIRST) / 4;
        let bit = 1u64.wrapping_shl(u32::from(index & 63));
        let word = self.seen.get_mut(usize::from(index / 64))?;
        if *word & bit != 0 {
            return Some(Err(CapabilityFinding::Cycle(at)));
        }
        *word |= bit;
        let value = self.image.dword(offset);
        // All zero is an empty list, all-ones is no device.
        if value == 0 || value == u32::MAX {
            return None;
        }
        let [id_low, id_high, next_low, next_high] = value.to_le_bytes();
        self.next = u16::from_le_bytes([next_low, next_high]) / 16;
        Some(Ok(ExtendedCapability { id: u16::from_le_bytes([id_low, id_high]), offset }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 256 bytes with the capability bit set and the first pointer at `first`.
    fn image(first: u8, links: &[(u8, u8, u8)]) -> [u8; 256] {
        let mut bytes = [0; 256];
        bytes[6] = 0x10;
        bytes[0x34] = first;
        for (at, id, next) in links {
            bytes[usize::from(*at)] = *id;
            bytes[usize::from(*at) + 1] = *next;
        }
        bytes
    }

    fn last(bytes: &[u8]) -> Result<Capability, CapabilityFinding> {
        ConfigImage::new(bytes).capabilities().last().unwrap()
    }

    #[test]
    fn list_is_walked_in_order() {
        let bytes = image(0x40, &[(0x40, 1, 0x60), (0x60, 0x11, 0)]);
        let ids: heapless::Vec<u8, 4> =
            ConfigImage::new(&bytes).capabilities().map(|found| found.unwrap().id).collect();
        assert_eq!(ids.as_slice(), &[1, 0x11]);
    }

    #[test]
    fn status_bit_clear_means_no_list() {
        let mut bytes = image(0x40, &[(0x40, 1, 0)]);
        bytes[6] = 0;
        assert_eq!(ConfigImage::new(&bytes).capabilities().count(), 0);
    }

    #[test]
    fn capability_that_points_to_itself_ends_the_walk() {
        assert_eq!(last(&image(0x40, &[(0x40, 1, 0x40)])), Err(CapabilityFinding::Cycle(0x40)));
    }

    #[test]
    fn cycle_of_two_ends_the_walk() {
        let bytes = image(0x40, &[(0x40, 1, 0x60), (0x60, 5, 0x40)]);
        assert_eq!(last(&bytes), Err(CapabilityFinding::Cycle(0x40)));
    }

    #[test]
    fn pointer_below_0x40_ends_the_walk() {
        assert_eq!(last(&image(0x3c, &[])), Err(CapabilityFinding::BelowFirst(0x3c)));
    }

    #[test]
    fn low_two_bits_of_a_pointer_do_not_count() {
        let bytes = image(0x43, &[(0x40, 9, 0)]);
        assert_eq!(last(&bytes).unwrap().offset, ConfigOffset::low(0x40));
    }

    #[test]
    fn capability_without_its_whole_first_dword_is_past_the_end() {
        let bytes = image(0x40, &[(0x40, 9, 0)]);
        assert_eq!(last(&bytes[..0x43]), Err(CapabilityFinding::PastEnd(0x40)));
    }

    #[test]
    fn pointer_of_low_bits_only_is_the_end() {
        assert_eq!(ConfigImage::new(&image(0x03, &[])).capabilities().count(), 0);
    }

    #[test]
    fn every_dword_linked_ends_after_48() {
        let mut bytes = image(0x40, &[]);
        for at in (0x40..0xfc).step_by(4) {
            bytes[at + 1] = u8::try_from(at + 4).unwrap();
        }
        assert_eq!(ConfigImage::new(&bytes).capabilities().count(), 48);
    }

    #[test]
    fn extended_list_needs_more_than_256_bytes() {
        assert_eq!(ConfigImage::new(&[0xaa; 256]).extended_capabilities().count(), 0);
    }

    #[test]
    fn extended_cycle_ends_the_walk() {
        let mut bytes = [0; 4096];
        bytes[0x100..0x104].copy_from_slice(&0x1001_0001u32.to_le_bytes());
        let last = ConfigImage::new(&bytes).extended_capabilities().last().unwrap();
        assert_eq!(last, Err(CapabilityFinding::Cycle(0x100)));
    }

    /// 4,096 bytes with these extended capabilities: where, and where the next is said to be. Each has its place for an id.
    fn extended(links: &[(u16, u16)]) -> [u8; 4096] {
        let mut bytes = [0; 4096];
        for (at, next) in links {
            let header = u32::from(*next) << 20 | 1 << 16 | u32::from(*at);
            bytes[usize::from(*at)..][..4].copy_from_slice(&header.to_le_bytes());
        }
        bytes
    }

    fn walked(bytes: &[u8]) -> heapless::Vec<Result<(u16, u16), CapabilityFinding>, 8> {
        let found = ConfigImage::new(bytes).extended_capabilities();
        found.map(|found| found.map(|found| (found.offset.get(), found.id))).collect()
    }

    #[test]
    fn extended_list_is_walked_through_all_of_its_space() {
        // Dwords 64 and 128 behind the first one: no cycle.
        let bytes = extended(&[(0x100, 0x200), (0x200, 0x300), (0x300, 0xffc), (0xffc, 0)]);
        assert_eq!(walked(&bytes)[..], [0x100, 0x200, 0x300, 0xffc].map(|at| Ok((at, at))));
    }

    #[test]
    fn low_two_bits_of_an_extended_link_do_not_count() {
        assert_eq!(walked(&extended(&[(0x100, 0x143), (0x140, 0)]))[1], Ok((0x140, 0x140)));
    }

    #[test]
    fn extended_link_below_0x100_ends_the_walk() {
        assert_eq!(walked(&extended(&[(0x100, 0xfc)]))[1], Err(CapabilityFinding::BelowFirst(0xfc)));
    }

    #[test]
    fn extended_capability_without_its_whole_first_dword_is_past_the_end() {
        let bytes = extended(&[(0x100, 0x200), (0x200, 0)]);
        assert_eq!(walked(&bytes[..0x204])[1], Ok((0x200, 0x200)));
        assert_eq!(walked(&bytes[..0x203])[1..], [Err(CapabilityFinding::PastEnd(0x200))]);
    }

    #[test]
    fn extended_header_of_zero_is_an_empty_list() {
        assert_eq!(walked(&[0; 4096]).len(), 0);
    }

    #[test]
    fn capability_in_the_last_dword_is_found() {
        assert_eq!(last(&image(0xfc, &[(0xfc, 9, 0)])).unwrap().offset, ConfigOffset::low(0xfc));
    }

    #[test]
    fn extended_header_of_all_ones_is_no_capability() {
        assert_eq!(ConfigImage::new(&[0xff; 4096]).extended_capabilities().count(), 0);
    }
}
