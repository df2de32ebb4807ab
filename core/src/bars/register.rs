//! One Base Address Register: what it decodes, which of its bits can be written, where it stands.

use crate::addr::{Address, BarIndex};
use crate::regs::header::bar;
use crate::span::Span;
use crate::text::say;
use core::fmt;

/// What kind of addresses a BAR decodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; the register after this one is the upper half.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// The Expansion ROM.
    Rom,
}

/// Why a device's BARs cannot be given to a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarError {
    /// A region's size is no power of two.
    SizeNotPowerOfTwo {
        /// The BAR.
        bar: BarIndex,
        /// Its region's size in bytes.
        size: u64,
    },
    /// A region is smaller than its kind of BAR can be.
    SizeTooSmall {
        /// The BAR.
        bar: BarIndex,
        /// Its region's size in bytes.
        size: u64,
    },
    /// A 32-bit BAR, an I/O BAR or the ROM has more than 2 GiB.
    SizeTooLarge {
        /// The BAR.
        bar: BarIndex,
        /// Its region's size in bytes.
        size: u64,
    },
    /// The type bits of a memory BAR have a reserved value.
    ReservedType {
        /// The BAR.
        bar: BarIndex,
        /// The register's value.
        value: u32,
    },
    /// BAR 5 says that it is 64-bit, and has no register after it.
    NoUpperHalf {
        /// The BAR.
        bar: BarIndex,
        /// The register's value.
        value: u32,
    },
    /// The upper half of a 64-bit BAR has a region of its own.
    UpperHalfHasRegion {
        /// The register.
        bar: BarIndex,
        /// Its region's size in bytes.
        size: u64,
    },
    /// A BAR cannot be at the address that the embedder gave.
    Pin {
        /// The BAR.
        bar: BarIndex,
        /// The address.
        address: u64,
        /// Why not.
        fault: PinFault,
    },
}

impl fmt::Display for BarError {
    #[inline(never)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::SizeNotPowerOfTwo { bar, size } => {
                    ("%b has %x bytes, which is no power of two", [bar.number(), size, 0])
                }
                Self::SizeTooSmall { bar, size } => {
                    ("%b has %x bytes, fewer than its type bits allow", [bar.number(), size, 0])
                }
                Self::SizeTooLarge { bar, size } => {
                    ("%b has %x bytes, more than a 32-bit register can place", [bar.number(), size, 0])
                }
                Self::ReservedType { bar, value } => {
                    ("%b reads %8, whose type bits are reserved", [bar.number(), u64::from(value), 0])
                }
                Self::NoUpperHalf { bar, value } => {
                    ("%b reads %8, a 64-bit BAR without an upper half", [bar.number(), u64::from(value), 0])
                }
                Self::UpperHalfHasRegion { bar, size } => (
                    "%b is the upper half of a 64-bit BAR and has a region of %x bytes of its own",
                    [bar.number(), size, 0],
                ),
                Self::Pin { bar, address, fault } => {
                    say(f, ("%b cannot be pinned to %x: ", [bar.number(), address, 0]))?;
                    return fmt::Display::fmt(&fault, f);
                }
            },
        )
    }
}

/// What is wrong with the address of a pinned BAR.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum PinFault {
    /// The BAR is absent, or an upper half, which has no address of its own.
    NoBar,
    /// The address is no multiple of the BAR's size.
    Unaligned,
    /// The address does not fit into the register.
    TooWide,
    /// It is zero, or all-ones in a half of the register: such a BAR is not decoded.
    NotDecoded,
}

impl fmt::Display for PinFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBar => "there is no BAR, or it is an upper half",
            Self::Unaligned => "no multiple of its size",
            Self::TooWide => "too high for its register",
            Self::NotDecoded => "an address that is not decoded",
        })
    }
}

/// One BAR, or the ROM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Its size in bytes as the guest finds it, a power of two.
    pub size: u64,
    /// The bits that are hard-wired.
    pub(super) flags: u32,
    /// The address bits the guest last wrote, and for the ROM its enable bit.
    pub(super) value: u64,
    /// What stands there after reset.
    pub(super) pinned: u64,
}

impl Bar {
    /// The bits that a guest can write.
    pub(super) fn writable(self) -> u64 {
        let address = !self.size.wrapping_sub(1);
        match self.kind {
            BarKind::Memory64 { .. } => address,
            BarKind::Rom => (address & u64::from(bar::ROM_ADDRESS)) | u64::from(bar::ROM_ENABLE),
            BarKind::Memory32 { .. } | BarKind::Io => address & u64::from(u32::MAX),
        }
    }

    /// The base address, unless the register holds what is none: zero, or a half that a guest has written
    /// all-ones to for sizing.
    pub(super) fn base(self) -> Option<u64> {
        let address = !self.size.wrapping_sub(1);
        let base = self.value & address;
        let low_bits = address & u64::from(u32::MAX);
        let high_bits = match self.kind {
            BarKind::Memory64 { .. } => address & !u64::from(u32::MAX),
            BarKind::Memory32 { .. } | BarKind::Io | BarKind::Rom => 0,
        };
        let sizing = |bits: u64| bits != 0 && base & bits == bits;
        if base == 0 || sizing(low_bits) || sizing(high_bits) {
            return None;
        }
        Some(base)
    }

    /// It stands at `address` after reset.
    pub(super) fn pin(&mut self, address: u64) -> Result<(), PinFault> {
        if address & self.size.wrapping_sub(1) != 0 {
            return Err(PinFault::Unaligned);
        }
        if address & !self.writable() != 0 {
            return Err(PinFault::TooWide);
        }
        (self.value, self.pinned) = (address, address);
        if self.base().is_none() { Err(PinFault::NotDecoded) } else { Ok(()) }
    }

    /// What the BAR would decode if decoding is on.
    pub(super) fn span<A: Address>(self) -> Option<Span<A>> {
        Span::from_size(A::new(self.base()?), self.size)
    }
}
