//! Base Address Registers as the guest sees them: masks from region sizes, 64-bit pairs, decoding.
//!
//! Nothing here touches hardware: a size comes from the host's region information, the type bits from the
//! register, and the guest's writes change registers that exist only here.

use crate::access::ByteLanes;
use crate::addr::{Address, BarIndex, GuestAddr, GuestPort};
use crate::caps::ConfigImage;
use crate::options::Pin;
use crate::regs::header::{self, bar};
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
    /// The address bits the guest last wrote, and for the ROM its enable bit.
    value: u64,
    /// What stands there after reset.
    pinned: u64,
}

impl Bar {
    /// The bits that a guest can write.
    fn writable(self) -> u64 {
        let address = !self.size.wrapping_sub(1);
        match self.kind {
            BarKind::Memory64 { .. } => address,
            BarKind::Rom => (address & u64::from(bar::ROM_ADDRESS)) | u64::from(bar::ROM_ENABLE),
            BarKind::Memory32 { .. } | BarKind::Io => address & u64::from(u32::MAX),
        }
    }

    /// The bits that are hard-wired.
    fn flags(self) -> u64 {
        let prefetch = |on: bool| if on { bar::PREFETCHABLE } else { 0 };
        u64::from(match self.kind {
            BarKind::Io => bar::IO,
            BarKind::Memory32 { prefetchable } => bar::TYPE_32 | prefetch(prefetchable),
            BarKind::Memory64 { prefetchable } => bar::TYPE_64 | prefetch(prefetchable),
            BarKind::Rom => 0,
        })
    }

    /// The base address, unless the register holds what is none: zero, or a half that a guest has written
    /// all-ones to for sizing.
    fn base(self) -> Option<u64> {
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
    fn pin(&mut self, address: u64) -> Result<(), PinFault> {
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
    fn span<A: Address>(self) -> Option<Span<A>> {
        Span::from_size(A::new(self.base()?), self.size)
    }
}

/// What a register of the header is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Slot {
    /// Nothing: reads zero.
    #[default]
    Absent,
    /// A BAR, or the lower half of one.
    Bar(Bar),
    /// The upper half of the BAR before it.
    UpperHalf,
}

/// The six Base Address Registers and the Expansion ROM Base Address of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bars {
    slots: [Slot; 7],
}

impl Bars {
    /// The BARs of a function with this configuration space and these regions.
    ///
    /// `sizes` are in bytes, by [`BarIndex`]; 0 is an absent region. The addresses that hardware holds are not
    /// taken over: the guest finds type bits only.
    ///
    /// # Errors
    ///
    /// A register and its region contradict each other, or name something no guest can place.
    ///
    /// Source: PCI Local Bus 3.0, 6.2.5.1 Address Maps.
    pub fn new(image: ConfigImage<'_>, sizes: &[u64; 7]) -> Result<Self, BarError> {
        let mut slots = [Slot::Absent; 7];
        let mut upper = false;
        for (slot, (bar, size)) in slots.iter_mut().zip(BarIndex::ALL.iter().zip(sizes)) {
            let (bar, size) = (*bar, *size);
            if upper {
                upper = false;
                if size != 0 {
                    return Err(BarError::UpperHalfHasRegion { bar, size });
                }
                *slot = Slot::UpperHalf;
                continue;
            }
            if size == 0 {
                continue;
            }
            if !size.is_power_of_two() {
                return Err(BarError::SizeNotPowerOfTwo { bar, size });
            }
            let kind = Self::kind(image, bar)?;
            upper = matches!(kind, BarKind::Memory64 { .. });
            let least = match kind {
                BarKind::Io => 4,
                BarKind::Memory32 { .. } | BarKind::Memory64 { .. } => 16,
                BarKind::Rom => 2048,
            };
            if size < least {
                return Err(BarError::SizeTooSmall { bar, size });
            }
            if !upper && size > 1 << 31 {
                return Err(BarError::SizeTooLarge { bar, size });
            }
            *slot = Slot::Bar(Bar { kind, size, value: 0, pinned: 0 });
        }
        Ok(Self { slots })
    }

    /// The kind that the type bits of `bar` name.
    fn kind(image: ConfigImage<'_>, bar: BarIndex) -> Result<BarKind, BarError> {
        if bar == BarIndex::ROM {
            return Ok(BarKind::Rom);
        }
        let value = image.dword(register_offset(bar));
        if value & bar::IO != 0 {
            return Ok(BarKind::Io);
        }
        let prefetchable = value & bar::PREFETCHABLE != 0;
        match value & bar::TYPE {
            bar::TYPE_32 => Ok(BarKind::Memory32 { prefetchable }),
            bar::TYPE_64 if bar.next().is_none() => Err(BarError::NoUpperHalf { bar, value }),
            bar::TYPE_64 => Ok(BarKind::Memory64 { prefetchable }),
            _ => Err(BarError::ReservedType { bar, value }),
        }
    }

    /// The BAR with this index; `None` if it is absent or an upper half.
    pub fn get(&self, bar: BarIndex) -> Option<&Bar> {
        match self.slots.get(bar.position()) {
            Some(Slot::Bar(bar)) => Some(bar),
            _ => None,
        }
    }

    /// The BARs there are, with their indexes.
    pub fn iter(&self) -> impl Iterator<Item = (BarIndex, &Bar)> {
        BarIndex::ALL.iter().filter_map(|index| self.get(*index).map(|bar| (*index, bar)))
    }

    /// The size in bytes of a memory BAR, which the ROM is not.
    pub(crate) fn memory_size(&self, bar: BarIndex) -> Option<u64> {
        let memory = |bar: &&Bar| matches!(bar.kind, BarKind::Memory32 { .. } | BarKind::Memory64 { .. });
        self.get(bar).filter(memory).map(|bar| bar.size)
    }

    /// The guest finds `bar` larger than the device has it: it has a byte `last`. `false` if it cannot be so large.
    pub(crate) fn grow(&mut self, bar: BarIndex, last: u64) -> bool {
        let Some(Slot::Bar(found)) = self.slots.get_mut(bar.position()) else {
            return false;
        };
        let most = if matches!(found.kind, BarKind::Memory64 { .. }) { 1 << 62 } else { 1 << 31 };
        let size = last.saturating_add(1).max(found.size).checked_next_power_of_two();
        let Some(size) = size.filter(|size| *size <= most) else {
            return false;
        };
        found.size = size;
        true
    }

    /// What a guest reads from register `index`.
    pub fn read(&self, index: BarIndex) -> u32 {
        let (bar, upper) = match self.owner(index) {
            Some(found) => found,
            None => return 0,
        };
        let [a, b, c, d, e, f, g, h] = (bar.value | bar.flags()).to_le_bytes();
        u32::from_le_bytes(if upper { [e, f, g, h] } else { [a, b, c, d] })
    }

    /// A guest writes the enabled bytes of register `index`.
    ///
    /// Returns whether the register has changed.
    pub fn write(&mut self, index: BarIndex, value: u32, lanes: ByteLanes) -> bool {
        let place = match self.owner(index) {
            Some((_, true)) => index.position().checked_sub(1),
            Some((_, false)) => Some(index.position()),
            None => None,
        };
        let upper = place != Some(index.position());
        let Some(Slot::Bar(bar)) = place.and_then(|place| self.slots.get_mut(place)) else {
            return false;
        };
        let shift = if upper { 32 } else { 0 };
        let mask = u64::from(lanes.mask()).wrapping_shl(shift) & bar.writable();
        let new = (bar.value & !mask) | (u64::from(value).wrapping_shl(shift) & mask);
        let changed = new != bar.value;
        bar.value = new;
        changed
    }

    /// The memory that `bar` decodes, if memory decoding is on for it.
    pub fn memory(&self, bar: BarIndex) -> Option<Span<GuestAddr>> {
        let found = self.get(bar)?;
        let on = match found.kind {
            BarKind::Io => false,
            BarKind::Rom => found.value & u64::from(bar::ROM_ENABLE) != 0,
            BarKind::Memory32 { .. } | BarKind::Memory64 { .. } => true,
        };
        if on { found.span() } else { None }
    }

    /// The ports that `bar` decodes, if I/O decoding is on for it.
    pub fn ports(&self, bar: BarIndex) -> Option<Span<GuestPort>> {
        let found = self.get(bar)?;
        if found.kind == BarKind::Io { found.span() } else { None }
    }

    /// BARs with an address that the guest finds in them, now and after each reset.
    ///
    /// # Errors
    ///
    /// A BAR cannot be there.
    pub fn pin(&mut self, image: ConfigImage<'_>, pins: &[Option<Pin>; 7]) -> Result<(), BarError> {
        for (bar, pin) in BarIndex::ALL.iter().zip(pins) {
            let (bar, Some(pin)) = (*bar, *pin) else {
                continue;
            };
            let upper = bar.next().map_or(0, |next| image.dword(register_offset(next)));
            let host = u64::from(image.dword(register_offset(bar))) | u64::from(upper).wrapping_shl(32);
            let (address, fault) = match (pin, self.slots.get_mut(bar.position())) {
                (Pin::At(address), Some(Slot::Bar(found))) => (address, found.pin(address)),
                (Pin::Host, Some(Slot::Bar(found))) => {
                    let address = host & found.writable() & !found.size.wrapping_sub(1);
                    (address, found.pin(address))
                }
                (Pin::At(address), _) => (address, Err(PinFault::NoBar)),
                (Pin::Host, _) => (host, Err(PinFault::NoBar)),
            };
            if let Err(fault) = fault {
                return Err(BarError::Pin { bar, address, fault });
            }
        }
        Ok(())
    }

    /// Back to type bits only, and to the addresses of pinned BARs.
    pub fn reset(&mut self) {
        for slot in &mut self.slots {
            if let Slot::Bar(bar) = slot {
                bar.value = bar.pinned;
            }
        }
    }

    /// Each register as it is saved: a number for what it is, its size in bytes, what the guest has written.
    pub(crate) fn saved(&self) -> [(u64, u64, u64); 7] {
        self.slots.map(|slot| match slot {
            Slot::Absent => (0, 0, 0),
            Slot::UpperHalf => (1, 0, 0),
            Slot::Bar(bar) => {
                // The type bits of a ROM are those of a 32-bit BAR.
                let kind = if bar.kind == BarKind::Rom { 2 } else { bar.flags() | 0x10 };
                (kind, bar.size, bar.value)
            }
        })
    }

    /// Whether the guest can have written `value` to register `index`.
    pub(crate) fn can_hold(&self, index: BarIndex, value: u64) -> bool {
        value & !self.get(index).map_or(0, |bar| bar.writable()) == 0
    }

    /// The guest has written these values to the registers.
    pub(crate) fn restore(&mut self, values: impl Iterator<Item = u64>) {
        for (slot, value) in self.slots.iter_mut().zip(values) {
            if let Slot::Bar(bar) = slot {
                bar.value = value;
            }
        }
    }

    /// The BAR that register `index` belongs to, and whether it is that BAR's upper half.
    fn owner(&self, index: BarIndex) -> Option<(&Bar, bool)> {
        match self.slots.get(index.position())? {
            Slot::Absent => None,
            Slot::Bar(bar) => Some((bar, false)),
            Slot::UpperHalf => match self.slots.get(index.position().checked_sub(1)?)? {
                Slot::Bar(bar) => Some((bar, true)),
                Slot::Absent | Slot::UpperHalf => None,
            },
        }
    }
}

/// Where the register of `bar` is.
fn register_offset(bar: BarIndex) -> crate::addr::ConfigOffset {
    if bar == BarIndex::ROM {
        return header::ROM;
    }
    let offset = u16::from(bar.get()).wrapping_mul(4);
    header::BAR0.checked_add(offset).unwrap_or(header::BAR0)
}

#[cfg(test)]
mod tests;
