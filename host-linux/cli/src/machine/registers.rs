//! 64-bit mode as the boot protocol asks for it: an identity map of the first 4 GiB, flat segments.
//!
//! Intel SDM vol. 3, 3.4.5 (segment descriptors), 4.5 (4-level paging).

use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};

use super::layout::{GDT, PAGE_TABLES};

const PAGE: usize = 4096;
/// Entries of one table.
const ENTRIES: usize = 512;
/// Gibibytes that are mapped.
const DIRECTORIES: usize = 4;
const PRESENT_AND_WRITABLE: u64 = 0b11;
/// A directory entry that maps 2 MiB itself.
const LARGE_PAGE: u64 = 1 << 7;
const LARGE_PAGE_SHIFT: u32 = 21;

const CR0_PROTECTION: u64 = 1;
const CR0_PAGING: u64 = 1 << 31;
const CR4_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;

/// Selectors that the boot protocol fixes: `__BOOT_CS` and `__BOOT_DS`.
const BOOT_CODE: u16 = 0x10;
const BOOT_DATA: u16 = 0x18;

/// Everything for the entry in 64-bit mode.
pub(crate) struct LongMode {
    /// To be written to [`PAGE_TABLES`].
    pub(crate) page_tables: Vec<u8>,
    /// To be written to [`GDT`].
    pub(crate) descriptors: Vec<u8>,
    /// The segments that the descriptors describe.
    pub(crate) segments: CodeAndData,
}

/// The two segments of the boot protocol.
#[derive(Clone, Copy)]
pub(crate) struct CodeAndData {
    /// 64-bit code.
    pub(crate) code: kvm_segment,
    /// Flat data.
    pub(crate) data: kvm_segment,
}

/// Page tables, descriptors and segments.
pub(crate) fn long_mode() -> LongMode {
    let segments = CodeAndData { code: flat(BOOT_CODE, 0xb, true), data: flat(BOOT_DATA, 0x3, false) };
    let descriptors = [0, 0, descriptor(&segments.code), descriptor(&segments.data)];
    LongMode {
        page_tables: page_tables().iter().flat_map(|entry| entry.to_le_bytes()).collect(),
        descriptors: descriptors.iter().flat_map(|entry| entry.to_le_bytes()).collect(),
        segments,
    }
}

impl CodeAndData {
    /// Turns 64-bit mode on, with the tables of [`long_mode`].
    pub(crate) fn enter_long_mode(&self, sregs: &mut kvm_sregs) {
        sregs.gdt = kvm_dtable { base: GDT, limit: 4 * 8 - 1, padding: [0; 3] };
        sregs.idt = kvm_dtable::default();
        sregs.cr3 = PAGE_TABLES;
        sregs.cr4 |= CR4_ADDRESS_EXTENSION;
        sregs.cr0 |= CR0_PROTECTION | CR0_PAGING;
        sregs.efer |= EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE;
    }
}

/// One top-level entry, one entry for each gibibyte, and directories of 2 MiB pages.
fn page_tables() -> Vec<u64> {
    let table = |index: usize| PAGE_TABLES + (index * PAGE) as u64;
    let mut entries = vec![0; ENTRIES * (2 + DIRECTORIES)];
    let (top, rest) = entries.split_at_mut(ENTRIES);
    let (pointers, directories) = rest.split_at_mut(ENTRIES);
    top[0] = table(1) | PRESENT_AND_WRITABLE;
    for (index, entry) in pointers.iter_mut().take(DIRECTORIES).enumerate() {
        *entry = table(2 + index) | PRESENT_AND_WRITABLE;
    }
    for (index, entry) in (0_u64..).zip(directories) {
        *entry = index << LARGE_PAGE_SHIFT | LARGE_PAGE | PRESENT_AND_WRITABLE;
    }
    entries
}

/// A segment from 0 to 4 GiB of a type (execute and read, read and write; accessed).
fn flat(selector: u16, type_: u8, code_64: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!code_64),
        s: 1,
        l: u8::from(code_64),
        g: 1,
        ..kvm_segment::default()
    }
}

/// The descriptor of a flat segment.
fn descriptor(segment: &kvm_segment) -> u64 {
    let access = u64::from(segment.type_ | segment.s << 4 | segment.dpl << 5 | segment.present << 7);
    let flags = u64::from(segment.l << 1 | segment.db << 2 | segment.g << 3);
    // A limit of 0xfffff pages; base 0.
    0xffff | access << 40 | 0xf << 48 | flags << 52
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tables map `address` to, walking them as a processor does.
    fn translate(address: u64) -> Option<u64> {
        let entries = page_tables();
        let next = |table: u64, shift: u32| {
            let index = (address >> shift) as usize % ENTRIES;
            let entry = entries[(table - PAGE_TABLES) as usize / 8 + index];
            (entry & PRESENT_AND_WRITABLE == PRESENT_AND_WRITABLE).then_some(entry & !0xfff)
        };
        let page = next(next(next(PAGE_TABLES, 39)?, 30)?, LARGE_PAGE_SHIFT)?;
        Some(page | address & ((1 << LARGE_PAGE_SHIFT) - 1))
    }

    #[test]
    fn the_map_is_the_identity() {
        assert_eq!(translate(0x1234_5678), Some(0x1234_5678));
    }

    #[test]
    fn the_map_reaches_the_end_of_four_gib() {
        assert_eq!(translate(0xffff_ffff), Some(0xffff_ffff));
    }

    #[test]
    fn nothing_is_mapped_above() {
        assert_eq!(translate(1 << 32), None);
    }

    #[test]
    fn the_code_descriptor_is_64_bit_code() {
        assert_eq!(descriptor(&long_mode().segments.code), 0x00af_9b00_0000_ffff);
    }

    #[test]
    fn the_data_descriptor_is_flat_data() {
        assert_eq!(descriptor(&long_mode().segments.data), 0x00cf_9300_0000_ffff);
    }
}
