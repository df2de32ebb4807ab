//! Base Address Registers as the guest sees them: masks from region sizes, 64-bit pairs, decoding.
//!
//! Nothing here touches hardware: a size comes from the host's region information, the type bits from the
//! register, and the guest's writes change registers that exist only here.

mod register;

pub use register::{Bar, BarError, BarKind, PinFault};

use crate::access::ByteLanes;
use crate::addr::{BarIndex, GuestAddr, GuestPort};
use crate::caps::ConfigImage;
use crate::options::Pin;
use crate::regs::header::{self, bar};
use crate::span::Span;

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
        let mut fault = None;
        let mut made = Ok(Self { slots: Self::slots(image, sizes, &mut fault) });
        if let Some(error) = fault {
            made = Err(error);
        }
        made
    }

    /// What the registers are, up to the one at which there is a fault.
    // A function of its own that always returns them, and lends them to none: so they are made where the caller of
    // `new` wants them, and not copied there.
    #[inline(never)]
    #[expect(clippy::indexing_slicing, reason = "all have seven places; an iterator would be lent the slots")]
    fn slots(image: ConfigImage<'_>, sizes: &[u64; 7], fault: &mut Option<BarError>) -> [Slot; 7] {
        let mut slots = [Slot::Absent; 7];
        let (registers, _) = image.tail(header::BAR0).as_chunks();
        let mut upper = false;
        let error = 'fault: {
            for at in 0..7 {
                let (bar, size) = (BarIndex::ALL[at], sizes[at]);
                if upper {
                    upper = false;
                    if size != 0 {
                        break 'fault BarError::UpperHalfHasRegion { bar, size };
                    }
                    slots[at] = Slot::UpperHalf;
                    continue;
                }
                if size == 0 {
                    continue;
                }
                if !size.is_power_of_two() {
                    break 'fault BarError::SizeNotPowerOfTwo { bar, size };
                }
                let value = registers.get(at).map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes));
                let prefetchable = value & bar::PREFETCHABLE != 0;
                let flags = value & (bar::TYPE | bar::PREFETCHABLE);
                // The last has the bits of the sizes that are possible.
                let (kind, flags, possible) = if bar == BarIndex::ROM {
                    (BarKind::Rom, 0, 0xffff_f800)
                } else if value & bar::IO != 0 {
                    (BarKind::Io, bar::IO, 0xffff_fffc)
                } else {
                    match value & bar::TYPE {
                        bar::TYPE_32 => (BarKind::Memory32 { prefetchable }, flags, 0xffff_fff0),
                        bar::TYPE_64 if bar.next().is_none() => {
                            break 'fault BarError::NoUpperHalf { bar, value };
                        }
                        bar::TYPE_64 => (BarKind::Memory64 { prefetchable }, flags, !0xf),
                        _ => break 'fault BarError::ReservedType { bar, value },
                    }
                };
                if size & possible == 0 {
                    break 'fault if size > 1 << 31 {
                        BarError::SizeTooLarge { bar, size }
                    } else {
                        BarError::SizeTooSmall { bar, size }
                    };
                }
                upper = matches!(kind, BarKind::Memory64 { .. });
                slots[at] = Slot::Bar(Bar { kind, flags, size, value: 0, pinned: 0 });
            }
            return slots;
        };
        *fault = Some(error);
        slots
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
    #[inline]
    pub fn read(&self, index: BarIndex) -> u32 {
        let (place, shift) = self.owner(index);
        let Some(Slot::Bar(bar)) = self.slots.get(place) else {
            return 0;
        };
        let value = (bar.value | u64::from(bar.flags)).wrapping_shr(shift);
        u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
    }

    /// A guest writes the enabled bytes of register `index`.
    ///
    /// Returns whether the register has changed.
    pub fn write(&mut self, index: BarIndex, value: u32, lanes: ByteLanes) -> bool {
        let (place, shift) = self.owner(index);
        let Some(Slot::Bar(bar)) = self.slots.get_mut(place) else {
            return false;
        };
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
                let kind = if bar.kind == BarKind::Rom { 2 } else { bar.flags | 0x10 };
                (u64::from(kind), bar.size, bar.value)
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

    /// The place of the BAR that register `index` belongs to, if there is one, and at which bit of it the register is.
    #[inline]
    fn owner(&self, index: BarIndex) -> (usize, u32) {
        match self.slots.get(index.position()) {
            Some(Slot::UpperHalf) => (index.position().wrapping_sub(1), 32),
            _ => (index.position(), 0),
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
