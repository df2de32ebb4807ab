//! Addresses and indexes, one type for each space.
//!
//! A physical BAR offset and a guest BAR offset are both numbers below the BAR's size, and are not the
//! same thing: one names a byte of the device, the other a byte of what the guest was shown. The
//! compiler keeps them apart.

use crate::text::{hexadecimal, say};
use core::fmt;
use core::iter::Rev;
use core::str::{Bytes, FromStr};

/// A 64-bit address or offset in one particular space.
pub trait Address: Copy + Ord + fmt::Debug {
    /// The address with this value.
    fn new(value: u64) -> Self;
    /// The value, in bytes from the start of the space.
    fn get(self) -> u64;
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The address with this value, in bytes.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The value, in bytes from the start of the space.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, if the space reaches that far.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }
        }

        impl Address for $name {
            fn new(value: u64) -> Self {
                Self(value)
            }

            fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                say(f, (concat!(stringify!($name), "(%x)"), [self.0, 0, 0]))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                say(f, ("%x", [self.0, 0, 0]))
            }
        }

        /// As the number: `#` is heeded, and a width with `0` before it.
        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                lower_hex(self.0, f)
            }
        }
    };
}

fn lower_hex(number: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let width = if f.sign_aware_zero_pad() { f.width().unwrap_or(0) } else { 0 };
    let mut digits = u8::try_from(width).unwrap_or(u8::MAX);
    if f.alternate() {
        f.write_str("0x")?;
        digits = digits.saturating_sub(2);
    }
    hexadecimal(f, number, digits)
}

address! {
    /// A guest-physical address: what the guest's BARs decode.
    GuestAddr
}
address! {
    /// An I/O port number as the guest decodes it, 0 to 0xffff in use on x86.
    GuestPort
}
address! {
    /// An address as the device issues it, before the IOMMU.
    Iova
}
address! {
    /// A byte of a BAR of the physical device, from the start of that BAR.
    PhysBarOffset
}
address! {
    /// A byte of a BAR as the guest was shown it, from the start of that BAR.
    GuestBarOffset
}

/// Segment, bus, device and function of a PCI function.
///
/// Written `0000:00:04.0`; the segment may be left out when it is 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bdf {
    segment: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl Bdf {
    /// The function at this place; `device` is 0 to 31, `function` 0 to 7.
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self { segment, bus, device, function })
    }

    /// The PCI segment, also called domain.
    pub const fn segment(self) -> u16 {
        self.segment
    }

    /// The bus number.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device number, 0 to 31.
    pub const fn device(self) -> u8 {
        self.device
    }

    /// The function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hexadecimal(f, u64::from(self.segment), 4)?;
        f.write_str(":")?;
        hexadecimal(f, u64::from(self.bus), 2)?;
        f.write_str(":")?;
        hexadecimal(f, u64::from(self.device), 2)?;
        f.write_str(".")?;
        hexadecimal(f, u64::from(self.function), 1)
    }
}

/// Why a text is no PCI address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BdfError {
    /// The text has another shape.
    Shape,
    /// The device number is above 31.
    Device(u8),
    /// The function number is above 7.
    Function(u8),
}

impl fmt::Display for BdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::Shape => (
                    "not of the form [SEGMENT:]BUS:DEVICE.FUNCTION in hexadecimal, such as 0000:00:04.0",
                    [0; 3],
                ),
                Self::Device(device) => ("device number %x is above 0x1f", [u64::from(device), 0, 0]),
                Self::Function(function) => ("function number %x is above 7", [u64::from(function), 0, 0]),
            },
        )
    }
}

impl FromStr for Bdf {
    type Err = BdfError;

    fn from_str(text: &str) -> Result<Self, BdfError> {
        let mut digits = text.bytes().rev();
        let (function, dot) = number_before(&mut digits, 1);
        let (device, colon) = number_before(&mut digits, 2);
        let (bus, mark) = number_before(&mut digits, 2);
        let (segment, end) = if mark == COLON { number_before(&mut digits, 4) } else { (0, mark) };
        if (dot, colon, end) != (DOT, COLON, START) {
            return Err(BdfError::Shape);
        }
        let [device, function, bus] = [device, function, bus].map(|n| u8::try_from(n).unwrap_or(u8::MAX));
        if device > 31 {
            return Err(BdfError::Device(device));
        }
        if function > 7 {
            return Err(BdfError::Function(function));
        }
        Ok(Self { segment, bus, device, function })
    }
}

/// What stands before a number: one of these, or another byte.
const DOT: u16 = 0x2e;
const COLON: u16 = 0x3a;
/// The text begins with the number.
const START: u16 = 0x100;
/// There is no number, or it has too many digits.
const WRONG: u16 = 0x101;

/// The number of 1 to `most` hexadecimal digits, of which `digits` gives the last first, and what stands before it.
fn number_before(digits: &mut Rev<Bytes<'_>>, most: u32) -> (u16, u16) {
    let (mut number, mut count) = (0u16, 0u32);
    let mark = loop {
        let Some(byte) = digits.next() else {
            break START;
        };
        let Some(digit) = char::from(byte).to_digit(16) else {
            break u16::from(byte);
        };
        let digit = u16::try_from(digit).unwrap_or(0);
        number |= digit.wrapping_shl(count.wrapping_mul(4));
        count = count.saturating_add(1);
    };
    (number, if count == 0 || count > most { WRONG } else { mark })
}

/// A Base Address Register, 0 to 5, or the Expansion ROM Base Address.
///
/// PCI Local Bus 3.0, 6.2.5 Base Addresses. A 64-bit BAR goes by the index of its lower half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BarIndex(u8);

impl BarIndex {
    /// The Expansion ROM Base Address register.
    pub const ROM: Self = Self(6);

    /// BARs 0 to 5 in order, without the ROM.
    pub const BARS: [Self; 6] = [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5)];

    /// BARs 0 to 5 in order, then the ROM.
    pub const ALL: [Self; 7] = [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5), Self::ROM];

    /// BAR `index`, 0 to 5.
    pub const fn new(index: u8) -> Option<Self> {
        if index > 5 {
            return None;
        }
        Some(Self(index))
    }

    /// 0 to 5 for a BAR, 6 for the ROM.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The index as it goes into a text.
    pub(crate) fn number(self) -> u64 {
        u64::from(self.0)
    }

    /// The index as a position in a table of seven.
    pub fn position(self) -> usize {
        usize::from(self.0)
    }

    /// The register after this one, if it is one of BARs 1 to 5.
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0.wrapping_add(1))
    }
}

impl fmt::Display for BarIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(f, ("%b", [self.number(), 0, 0]))
    }
}

/// An offset into configuration space, 0 to 4095.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConfigOffset(u16);

impl ConfigOffset {
    /// The offset, if PCI Express extended configuration space reaches that far.
    pub const fn new(offset: u16) -> Option<Self> {
        if offset > 4095 {
            return None;
        }
        Some(Self(offset))
    }

    /// The offset of byte `offset` of the 256-byte header and capability area.
    pub const fn low(offset: u8) -> Self {
        Self(u16::from_le_bytes([offset, 0]))
    }

    /// The offset in bytes.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The offset of the dword that holds this byte.
    pub const fn dword(self) -> Self {
        Self(self.0 & !3)
    }

    /// The offset `bytes` further on, if there is one.
    pub const fn checked_add(self, bytes: u16) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(offset) => Self::new(offset),
            None => None,
        }
    }
}

impl fmt::Debug for ConfigOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(f, ("ConfigOffset(%3)", [u64::from(self.0), 0, 0]))
    }
}

impl fmt::Display for ConfigOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(f, ("%3", [u64::from(self.0), 0, 0]))
    }
}

/// An interrupt vector of the function, 0 to 2047.
///
/// PCI Local Bus 3.0, 6.8.2 MSI-X Capability and Table Structure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VectorIndex(u16);

impl VectorIndex {
    /// The most vectors that one function can have.
    pub const LIMIT: u16 = 2048;

    /// Vector `index`, 0 to 2047.
    pub const fn new(index: u16) -> Option<Self> {
        if index >= Self::LIMIT {
            return None;
        }
        Some(Self(index))
    }

    /// The vector's number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The vector's place in a table.
    pub fn position(self) -> usize {
        usize::from(self.0)
    }

    /// The first of the 64 vectors that share a Pending Bit Array qword with this one.
    pub const fn pba_qword(self) -> Self {
        Self(self.0 & !63)
    }
}

impl fmt::Display for VectorIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(f, ("%d", [u64::from(self.0), 0, 0]))
    }
}

/// A page size in bytes: a power of two, at least 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageSize(u64);

impl PageSize {
    /// 4 KiB, the x86 page.
    pub const SIZE_4K: Self = Self(0x1000);
    /// 16 KiB.
    pub const SIZE_16K: Self = Self(0x4000);
    /// 64 KiB.
    pub const SIZE_64K: Self = Self(0x1_0000);

    /// The page size of `bytes` bytes.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes < 0x1000 || !bytes.is_power_of_two() {
            return None;
        }
        Some(Self(bytes))
    }

    /// The size in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The bits of an address that lie within one page.
    pub const fn mask(self) -> u64 {
        self.0.wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests;
