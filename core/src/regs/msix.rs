//! The MSI-X capability and its tables.
//!
//! PCI Local Bus 3.0, 6.8.2 MSI-X Capability and Table Structure.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The capability as it stands in configuration space.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct MsixCapability {
    /// Capability ID, 0x11.
    pub id: u8,
    /// Next Pointer.
    pub next: u8,
    /// Message Control, 6.8.2.3.
    pub message_control: U16,
    /// Table Offset and Table BIR, 6.8.2.4.
    pub table: U32,
    /// PBA Offset and PBA BIR, 6.8.2.5.
    pub pba: U32,
}

const _: () = assert!(size_of::<MsixCapability>() == 12);

/// Message Control: Table Size, encoded as one less than the number of vectors.
pub const TABLE_SIZE: u16 = 0x07ff;
/// Message Control: Function Mask.
pub const FUNCTION_MASK: u16 = 0x4000;
/// Message Control: MSI-X Enable.
pub const ENABLE: u16 = 0x8000;
/// Table BIR and PBA BIR.
pub const BIR: u32 = 0x7;

/// The size of a table entry in bytes.
pub const ENTRY_SIZE: u64 = 16;
/// Vector Control: Mask Bit. The other bits are reserved and read zero.
pub const CONTROL_MASK_BIT: u32 = 0x1;
/// Message Address, 6.8.2.7: these bits are zero, the message is a dword.
pub const ADDRESS_ZERO_BITS: u64 = 0x3;
