//! The records that a saved state is made of, byte by byte.

use super::{RestoreError, SavedSection};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const MAGIC: [u8; 8] = *b"vfio-asg";
pub(super) const VERSION: u16 = 1;

/// The first bytes of a saved state.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: [u8; 8],
    pub(super) version: U16,
    pub(super) reserved: U16,
    /// Of all, in bytes.
    pub(super) length: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct SectionHeader {
    pub(super) kind: U16,
    pub(super) reserved: U16,
    /// Of the body, in bytes.
    pub(super) length: U32,
}

/// One register of the six and the ROM's; an upper half has nothing of its own.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, PartialEq)]
#[repr(C)]
pub(super) struct BarRecord {
    pub(super) kind: U64,
    pub(super) size: U64,
    /// What the guest has written.
    pub(super) value: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct FunctionRecord {
    /// What the guest knows the device by: `ConfigMap::identity`.
    pub(super) identity: [U32; 3],
    pub(super) config_size: U16,
    pub(super) command: U16,
    /// PowerState, as in a PMCSR.
    pub(super) power: U32,
    pub(super) bars: [BarRecord; 7],
}

/// What MSI-X is, before its table.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, PartialEq)]
#[repr(C)]
pub(super) struct MsixRecord {
    /// Message Control.
    pub(super) control: U16,
    /// Where the capability is.
    pub(super) capability: U16,
    /// Table Offset and Table BIR.
    pub(super) table: U32,
    /// PBA Offset and PBA BIR.
    pub(super) pba: U32,
    pub(super) reserved: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct VectorRecord {
    pub(super) address: U64,
    pub(super) data: U32,
    /// Bit 0: the Mask Bit. Bit 1: an interrupt waits. Bit 8: the vector is in use, masked now or not.
    pub(super) state: U16,
    pub(super) reserved: U16,
}

/// What MSI is.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct MsiRecord {
    /// Where the capability is.
    pub(super) capability: U16,
    /// Message Control.
    pub(super) control: U16,
    /// Message Data.
    pub(super) data: U16,
    pub(super) reserved: U16,
    /// Message Address.
    pub(super) address: U64,
    /// Mask Bits.
    pub(super) masked: U32,
    /// The vectors of which an interrupt waits.
    pub(super) waits: U32,
}

const _: () = {
    assert!(size_of::<MsiRecord>() == 24);
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<SectionHeader>() == 8);
    assert!(size_of::<BarRecord>() == 24);
    assert!(size_of::<FunctionRecord>() == 188);
    assert!(size_of::<MsixRecord>() == 16);
    assert!(size_of::<VectorRecord>() == 16);
};

pub(super) const CHECKSUM_SIZE: usize = 8;

/// FNV-1a: each step maps sums one to one, so that a single changed byte always changes the result.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Puts records one behind the other; what has no room is left out.
pub(super) struct Writer<'a>(pub(super) &'a mut [u8]);

impl Writer<'_> {
    // One copy of it: the core is to be small.
    #[inline(never)]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let buffer = core::mem::take(&mut self.0);
        if let Some((to, rest)) = buffer.split_at_mut_checked(bytes.len()) {
            for (to, from) in to.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.0 = rest;
        }
    }

    #[inline(never)]
    pub(super) fn section(&mut self, section: SavedSection, length: usize) {
        let length = U32::new(u32::try_from(length).unwrap_or(u32::MAX));
        self.put(SectionHeader { kind: section.number().into(), reserved: U16::ZERO, length }.as_bytes());
    }
}

/// The body of the next section, which must be this one.
#[inline(never)]
pub(super) fn take_section<'a>(rest: &mut &'a [u8], section: SavedSection) -> Result<&'a [u8], RestoreError> {
    let wrong = RestoreError::Section(section);
    let (header, behind) = SectionHeader::ref_from_prefix(rest).map_err(|_| wrong)?;
    if header.kind.get() != section.number() || header.reserved != U16::ZERO {
        return Err(wrong);
    }
    let length = usize::try_from(header.length.get()).unwrap_or(usize::MAX);
    let (body, behind) = behind.split_at_checked(length).ok_or(wrong)?;
    *rest = behind;
    Ok(body)
}

/// The sections, if version, length and checksum are right.
pub(super) fn contents(bytes: &[u8]) -> Result<&[u8], RestoreError> {
    let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| RestoreError::NotSavedState)?;
    if header.magic != MAGIC || header.reserved != U16::ZERO {
        return Err(RestoreError::NotSavedState);
    }
    if header.version.get() != VERSION {
        return Err(RestoreError::Version(header.version.get()));
    }
    let (needed, given) = (usize::try_from(header.length.get()).unwrap_or(usize::MAX), bytes.len());
    if needed != given {
        return Err(RestoreError::Length { needed, given });
    }
    let (summed, sum) = bytes.split_last_chunk::<CHECKSUM_SIZE>().ok_or(RestoreError::NotSavedState)?;
    if checksum(summed) != u64::from_le_bytes(*sum) {
        return Err(RestoreError::Checksum);
    }
    Ok(summed.get(size_of::<Header>()..).unwrap_or(&[]))
}
