//! The MSI capability.
//!
//! PCI Local Bus 3.0, 6.8.1 MSI Capability Structure.

/// Message Control: MSI Enable, 6.8.1.3.
pub const ENABLE: u16 = 0x0001;
/// Message Control: where Multiple Message Capable starts.
pub const CAPABLE_SHIFT: u32 = 1;
/// Message Control: where Multiple Message Enable starts.
pub const ENABLED_SHIFT: u32 = 4;
/// Message Control: Multiple Message Enable.
pub const ENABLED: u16 = 0x0070;
/// Message Control: 64 bit address capable.
pub const WIDE: u16 = 0x0080;
/// Message Control: per-vector masking capable.
pub const MASKABLE: u16 = 0x0100;
/// The greatest logarithm of a number of vectors that is not reserved: 32 vectors.
pub const MOST: u16 = 5;
/// Message Address: bits 1:0 are zero, the message is a dword.
pub const ADDRESS_LOW_BITS: u32 = 0xffff_fffc;

/// Message Control, of the capability's first dword.
pub(crate) const fn control(dword: u32) -> u16 {
    let [_, _, low, high] = dword.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Bits of Message Control, as bits of the capability's first dword.
pub(crate) const fn in_first_dword(control: u16) -> u32 {
    let [low, high] = control.to_le_bytes();
    u32::from_le_bytes([0, 0, low, high])
}

/// Multiple Message Capable: the logarithm of the number of vectors that the device has.
pub(crate) const fn multiple_message_capable(control: u16) -> u16 {
    control.wrapping_shr(CAPABLE_SHIFT) & 7
}

/// Multiple Message Enable: the logarithm of the number of vectors that are enabled.
pub(crate) const fn multiple_message_enable(control: u16) -> u16 {
    control.wrapping_shr(ENABLED_SHIFT) & 7
}

/// The size of the capability in bytes: an address of 64 bits adds a dword, Mask Bits and Pending Bits add two.
pub(crate) const fn size(control: u16) -> u16 {
    match (control & WIDE != 0, control & MASKABLE != 0) {
        (false, false) => 12,
        (true, false) => 16,
        (false, true) => 20,
        (true, true) => 24,
    }
}
