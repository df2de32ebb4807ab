//! Where things are in the guest: physical addresses, ports and interrupt lines.
//!
//! Every number that two parts of the machine must agree on stands here, and the split of guest RAM around
//! the window of 32-bit devices.

use std::ops::RangeInclusive;

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;
/// One gibibyte.
pub(crate) const GIB: u64 = 1 << 30;

/// Boot data below 1 MiB: the descriptor table that the entry point asks for.
pub(crate) const GDT: u64 = 0x500;
/// Boot data: the kernel's zero page (`struct boot_params`).
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Boot data: top of a small stack.
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
/// Boot data: page tables, one page for the top level and those below after it.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// Boot data: the kernel's command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// What may be used of the first megabyte ends here; the rest is the legacy video and ROM area.
pub(crate) const LOW_MEMORY_END: u64 = 0x9_fc00;
/// ACPI tables start here, in the area where firmware's read-only memory is looked for.
pub(crate) const ACPI_TABLES: u64 = 0xe_0000;
/// First byte after the ACPI tables' area.
pub(crate) const ACPI_TABLES_END: u64 = 0x10_0000;
/// Memory from here on is the guest's without exceptions, up to the 32-bit device window.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// RAM below 4 GiB ends here at the latest; devices start here.
pub(crate) const LOW_RAM_LIMIT: u64 = 3 * GIB;
/// Addresses for 32-bit BARs.
pub(crate) const WINDOW_32: RangeInclusive<u64> = LOW_RAM_LIMIT..=ECAM - 1;
/// Memory-mapped configuration space (ECAM), one megabyte for each bus.
pub(crate) const ECAM: u64 = 0xfc00_0000;
/// Buses that can be: bus 0, and those behind its ports.
pub(crate) const BUSES: u16 = 32;
/// Size of the memory-mapped configuration space.
pub(crate) const ECAM_SIZE: u64 = BUSES as u64 * MIB;
/// The I/O interrupt controller, inside KVM.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// The local interrupt controllers, inside KVM.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// One page that Intel hosts need for a real-mode identity map, outside everything else.
pub(crate) const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that Intel hosts need for a task state segment.
pub(crate) const TASK_STATE: usize = 0xfffb_d000;
/// RAM beyond the first part goes on here.
pub(crate) const HIGH_RAM: u64 = 4 * GIB;
/// AMD hosts route 0xFD_0000_0000 and up to HyperTransport: neither RAM nor devices belong there.
const ADDRESS_LIMIT: u64 = 0xfd_0000_0000;

/// Ports for I/O BARs.
pub(crate) const PORT_WINDOW: RangeInclusive<u16> = 0x1000..=0xffff;
/// First serial port.
pub(crate) const SERIAL_PORTS: RangeInclusive<u16> = 0x3f8..=0x3ff;
/// The serial port's interrupt line.
pub(crate) const SERIAL_GSI: u32 = 4;
/// ACPI PM1 event block, four bytes.
pub(crate) const PM1_EVENT: u16 = 0x600;
/// ACPI PM1 control block, two bytes.
pub(crate) const PM1_CONTROL: u16 = 0x604;
/// The reset control register.
pub(crate) const RESET_PORT: u16 = 0xcf9;
/// The ACPI interrupt. Nothing raises it, but the table must name one.
pub(crate) const SCI_GSI: u16 = 9;

/// First interrupt line of the INTx pins: the I/O interrupt controller's pins 16 to 23.
const INTX_GSI: u32 = 16;
/// How many lines the INTx pins are spread over.
const INTX_LINES: u32 = 8;

/// The interrupt line of an INTx pin (0 is INTA) of the function in `slot`. Where there are more pins than lines,
/// some share one.
pub(crate) fn intx_gsi(slot: u8, pin: u8) -> u32 {
    INTX_GSI + (u32::from(slot) + u32::from(pin)) % INTX_LINES
}

/// Where RAM and the 64-bit device window are for a given size of RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLayout {
    /// Bytes of RAM from address 0 on.
    pub(crate) low: u64,
    /// Bytes of RAM from 4 GiB on; zero if all of it fits below the device window.
    pub(crate) high: u64,
    /// Addresses for 64-bit BARs.
    pub(crate) window_64: RangeInclusive<u64>,
}

/// Why RAM of this size cannot be laid out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LayoutError {
    /// RAM would reach the addresses that are needed for devices.
    #[error(
        "{} MiB of guest memory do not fit: this processor's guest addresses leave room for {} MiB",
        bytes / MIB,
        limit / MIB
    )]
    TooLarge {
        /// The size that was asked for.
        bytes: u64,
        /// The largest size that fits.
        limit: u64,
    },
}

impl MemoryLayout {
    /// Splits `bytes` of RAM around the 32-bit device window, on a processor with `address_bits` bits of
    /// guest-physical address.
    pub(crate) fn new(bytes: u64, address_bits: u8) -> Result<Self, LayoutError> {
        let end = ADDRESS_LIMIT.min(1_u64.checked_shl(u32::from(address_bits)).unwrap_or(u64::MAX));
        let low = bytes.min(LOW_RAM_LIMIT);
        let high = bytes - low;
        // At least half of the addresses above 4 GiB stay for devices, and whole gibibytes.
        let limit = LOW_RAM_LIMIT + end.saturating_sub(HIGH_RAM) / 2;
        if bytes > limit {
            return Err(LayoutError::TooLarge { bytes, limit });
        }
        let start = (HIGH_RAM + high).next_multiple_of(GIB);
        Ok(Self { low, high, window_64: start..=end - 1 })
    }

    /// Parts of RAM as (guest address, size).
    pub(crate) fn ram(&self) -> Vec<(u64, u64)> {
        let parts = [(0, self.low), (HIGH_RAM, self.high)];
        parts.into_iter().filter(|&(_, size)| size != 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ram_is_one_part() {
        let layout = MemoryLayout::new(512 * MIB, 40).unwrap();
        assert_eq!(layout.ram(), [(0, 512 * MIB)]);
    }

    #[test]
    fn ram_up_to_the_window_is_one_part() {
        let layout = MemoryLayout::new(3 * GIB, 40).unwrap();
        assert_eq!(layout.ram(), [(0, 3 * GIB)]);
    }

    #[test]
    fn ram_beyond_the_window_goes_on_at_four_gib() {
        let layout = MemoryLayout::new(4 * GIB, 40).unwrap();
        assert_eq!(layout.ram(), [(0, 3 * GIB), (4 * GIB, GIB)]);
    }

    #[test]
    fn the_64_bit_window_starts_after_ram_on_a_whole_gibibyte() {
        let layout = MemoryLayout::new(3 * GIB + MIB, 39).unwrap();
        assert_eq!(layout.window_64, 5 * GIB..=(1 << 39) - 1);
    }

    #[test]
    fn the_64_bit_window_ends_below_hypertransport() {
        let layout = MemoryLayout::new(GIB, 48).unwrap();
        assert_eq!(layout.window_64, 4 * GIB..=0xfc_ffff_ffff);
    }

    #[test]
    fn ram_that_leaves_no_room_for_devices_is_refused() {
        let error = MemoryLayout::new(64 * GIB, 36).unwrap_err();
        assert_eq!(error, LayoutError::TooLarge { bytes: 64 * GIB, limit: 33 * GIB });
    }

    #[test]
    fn neighbouring_functions_have_different_lines() {
        assert_ne!(intx_gsi(1, 0), intx_gsi(2, 0));
    }

    #[test]
    fn intx_lines_stay_within_the_interrupt_controller() {
        assert_eq!((0..32).flat_map(|slot| (0..4).map(move |pin| intx_gsi(slot, pin))).max(), Some(23));
    }
}
