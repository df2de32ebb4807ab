//! The configuration space header of a Type 0 function.
//!
//! PCI Local Bus 3.0, 6.1 Configuration Space Organization and 6.2 Configuration Space Functions.

use crate::addr::ConfigOffset;
use bitflags::bitflags;

/// Vendor ID and Device ID.
pub const ID: ConfigOffset = ConfigOffset::low(0x00);
/// Command and Status.
pub const COMMAND: ConfigOffset = ConfigOffset::low(0x04);
/// Status, the upper half of the dword at [`COMMAND`].
pub const STATUS: ConfigOffset = ConfigOffset::low(0x06);
/// Revision ID and Class Code.
pub const REVISION_AND_CLASS: ConfigOffset = ConfigOffset::low(0x08);
/// Cache Line Size, Latency Timer, Header Type and BIST.
pub const HEADER_TYPE_DWORD: ConfigOffset = ConfigOffset::low(0x0c);
/// The first Base Address Register.
pub const BAR0: ConfigOffset = ConfigOffset::low(0x10);
/// Subsystem Vendor ID and Subsystem ID.
pub const SUBSYSTEM: ConfigOffset = ConfigOffset::low(0x2c);
/// Expansion ROM Base Address.
pub const ROM: ConfigOffset = ConfigOffset::low(0x30);
/// Capabilities Pointer.
pub const CAPABILITIES_POINTER: ConfigOffset = ConfigOffset::low(0x34);
/// Interrupt Line, Interrupt Pin, Min_Gnt and Max_Lat.
pub const INTERRUPT_LINE: ConfigOffset = ConfigOffset::low(0x3c);

/// The multi-function bit of Header Type, as a bit of its dword.
pub const MULTI_FUNCTION: u32 = 0x0080_0000;
/// Interrupt Pin, as bits of its dword.
pub const INTERRUPT_PIN: u32 = 0x0000_ff00;
/// Interrupt Status of the Status register, as a bit of the dword at [`COMMAND`].
pub const INTERRUPT_STATUS: u32 = 0x0008_0000;
/// Capabilities List of the Status register.
pub const STATUS_CAPABILITIES_LIST: u16 = 0x0010;

bitflags! {
    /// The Command register, 6.2.2 Device Control.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Command: u16 {
        /// I/O Space: the function answers I/O accesses.
        const IO_SPACE = 1 << 0;
        /// Memory Space: the function answers memory accesses.
        const MEMORY_SPACE = 1 << 1;
        /// Bus Master: the function may issue accesses, MSI-X messages among them.
        const BUS_MASTER = 1 << 2;
        /// Interrupt Disable: the function may not assert INTx.
        const INTERRUPT_DISABLE = 1 << 10;

        const _ = !0;
    }
}

impl Command {
    /// The bits that a guest reads as it wrote them, whatever hardware says.
    pub const TRACKED: Self =
        Self::IO_SPACE.union(Self::MEMORY_SPACE).union(Self::BUS_MASTER).union(Self::INTERRUPT_DISABLE);
}

/// The type bits of a memory BAR: bit 0 says I/O, bits 2:1 the width, bit 3 prefetchable.
pub mod bar {
    /// Bit 0: an I/O BAR.
    pub const IO: u32 = 0x1;
    /// Bits 2:1 of a memory BAR.
    pub const TYPE: u32 = 0x6;
    /// A BAR of 32 bits.
    pub const TYPE_32: u32 = 0x0;
    /// A BAR of 64 bits: it takes the next register too.
    pub const TYPE_64: u32 = 0x4;
    /// Bit 3 of a memory BAR: reads have no side effects.
    pub const PREFETCHABLE: u32 = 0x8;
    /// Bit 0 of the Expansion ROM Base Address: the ROM answers.
    pub const ROM_ENABLE: u32 = 0x1;
    /// The address bits of the Expansion ROM Base Address.
    pub const ROM_ADDRESS: u32 = 0xffff_f800;
}
