//! The zero page: what the boot loader tells the kernel.
//!
//! Linux `Documentation/arch/x86/boot.rst` and `zero-page.rst`.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};

use crate::machine::layout::{
    ACPI_TABLES, ACPI_TABLES_END, COMMAND_LINE, ECAM, ECAM_SIZE, HIGH_MEMORY, HIGH_RAM, LOW_MEMORY_END,
    MemoryLayout,
};

/// Types of memory in the map that the kernel gets.
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// `loadflags`: the command line and the heap end are given.
const CAN_USE_HEAP: u8 = 0x80;
/// `type_of_loader` without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;

/// The zero page: the image's own setup header with the loader's fields filled, and the memory map.
pub(super) fn boot_parameters(
    mut header: setup_header,
    layout: &MemoryLayout,
    initrd: Option<(u64, u64)>,
) -> boot_params {
    header.type_of_loader = LOADER_UNDEFINED;
    header.loadflags |= CAN_USE_HEAP;
    header.heap_end_ptr = 0xfe00;
    header.cmd_line_ptr = COMMAND_LINE as u32;
    if let Some((start, size)) = initrd {
        header.ramdisk_image = start as u32;
        header.ramdisk_size = size as u32;
    }
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: ACPI_TABLES, ..boot_params::default() };
    let map = memory_map(layout);
    for (entry, (addr, size, type_)) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: *addr, size: *size, r#type: *type_ };
    }
    params.e820_entries = map.len() as u8;
    params
}

/// The memory map as (address, size, type).
fn memory_map(layout: &MemoryLayout) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, LOW_MEMORY_END, E820_RAM),
        (LOW_MEMORY_END, 0xa_0000 - LOW_MEMORY_END, E820_RESERVED),
        (ACPI_TABLES, ACPI_TABLES_END - ACPI_TABLES, E820_RESERVED),
        (HIGH_MEMORY, layout.low.saturating_sub(HIGH_MEMORY), E820_RAM),
        (ECAM, ECAM_SIZE, E820_RESERVED),
    ];
    if layout.high != 0 {
        map.push((HIGH_RAM, layout.high, E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::layout::MIB;

    #[test]
    fn ram_above_four_gib_is_in_the_map() {
        let layout = MemoryLayout::new(4 * 1024 * MIB, 40).unwrap();
        assert!(memory_map(&layout).contains(&(HIGH_RAM, 1024 * MIB, E820_RAM)));
    }
}
