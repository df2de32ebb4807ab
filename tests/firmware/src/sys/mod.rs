//! The machine: all of the image's unsafe code, behind functions that safe code cannot misuse.
//!
//! The image lies at 1 MiB and all that Rust owns is in it, below 2 GiB as `image.ld` asserts. Addresses from
//! [`DEVICES`] on belong to devices; what is read and written there is no Rust object. The guest's address space is a
//! part of the virtual one in which nothing but devices is ever shown; devices reach nothing but pages made of atomics.
#![expect(
    unsafe_code,
    reason = "instructions, registers at addresses, names of the assembler's and the linker's"
)]

pub(crate) mod iommu;
pub(crate) mod processor;
pub(crate) mod start;
pub(crate) mod windows;

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use vfio_assign_core::Width;

core::arch::global_asm!(
    include_str!("boot.s"),
    root = sym windows::ROOT,
    start = sym start::start,
    exception = sym start::exception,
    latched = sym processor::LATCHED,
    spurious = const processor::SPURIOUS,
    stack_size = const 256 << 10,
);

/// The linker's script: named here so that cargo links anew when it changes.
const _: &str = include_str!("../../image.ld");

/// Where the machine has devices and no memory: the upper 2 GiB of the first 4. The image runs in a machine with less
/// than 2 GiB of memory.
pub(crate) const DEVICES: u64 = 0x8000_0000;
/// The first address that is nobody's.
pub(crate) const DEVICES_END: u64 = 0x1_0000_0000;

unsafe extern "C" {
    static image_start: [u8; 0];
    static image_end: [u8; 0];
}

/// The memory that the image takes, with everything that is static.
pub(crate) fn image() -> Range<u64> {
    let (first, end) = (&raw const image_start, &raw const image_end);
    first.addr() as u64..end.addr() as u64
}

/// A page of memory that others read and write, too: page tables, and what a guest shares with its devices.
#[repr(align(4096))]
pub(crate) struct Page(pub(crate) [AtomicU64; 512]);

impl Page {
    /// A page of zeroes.
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// Its physical address.
    fn address(&'static self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// Whether it is all zeroes.
    fn is_empty(&self) -> bool {
        self.0.iter().all(|entry| entry.load(Ordering::Relaxed) == 0)
    }
}

/// Registers of devices, at their physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Registers {
    first: u64,
    size: u64,
}

impl Registers {
    /// The registers in `size` bytes from `first` on; none if that is not where devices are.
    pub(crate) const fn new(first: u64, size: u64) -> Option<Self> {
        match first.checked_add(size) {
            Some(end) if first >= DEVICES && end <= DEVICES_END => Some(Self { first, size }),
            _ => None,
        }
    }

    /// The physical address of the first.
    pub(crate) const fn first(self) -> u64 {
        self.first
    }

    /// Bytes.
    pub(crate) const fn size(self) -> u64 {
        self.size
    }

    /// Reads one register; all-ones outside.
    pub(crate) fn read(self, offset: u64, width: Width) -> u64 {
        let Some(at) = self.at(offset, width) else { return width.all_ones() };
        match width {
            Width::Byte => u64::from(load(at as *const u8)),
            Width::Word => u64::from(load(at as *const u16)),
            Width::Dword => u64::from(load(at as *const u32)),
            Width::Qword => load(at as *const u64),
        }
    }

    /// Writes one register; nothing outside.
    pub(crate) fn write(self, offset: u64, width: Width, value: u64) {
        let Some(at) = self.at(offset, width) else { return };
        match width {
            Width::Byte => store(at as *mut u8, value as u8),
            Width::Word => store(at as *mut u16, value as u16),
            Width::Dword => store(at as *mut u32, value as u32),
            Width::Qword => store(at as *mut u64, value),
        }
    }

    /// The address of a register that lies within, naturally aligned.
    fn at(self, offset: u64, width: Width) -> Option<u64> {
        let bytes = width.bytes() as u64;
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.size);
        (fits && (self.first + offset).is_multiple_of(bytes)).then_some(self.first + offset)
    }
}

/// Reads a register; `Registers::at` has made the address.
fn load<T>(at: *const T) -> T {
    // SAFETY: the address is aligned and from DEVICES on, where the boot code maps all of the first 4 GiB and no Rust
    // object is; any bits are a value of the integers that this is called with.
    unsafe { at.read_volatile() }
}

/// Writes a register; `Registers::at` has made the address.
fn store<T>(at: *mut T, value: T) {
    // SAFETY: as for `load`; what the device makes of it is its own matter, for the IOMMU lets it reach no
    // memory but pages that others may write to at any time.
    unsafe { at.write_volatile(value) }
}
