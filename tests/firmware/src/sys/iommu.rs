//! The IOMMU: what devices reach is the guest's memory, where the guest has it, and nothing else.
//!
//! Intel VT-d 3.4 in legacy mode: a root table, the context table of bus 0, and one set of page tables for the only
//! guest that there is at a time. Interrupts are not remapped, so a device may write messages of its own making.

use super::{Page, Registers};
use core::sync::atomic::{AtomicU64, Ordering};
use vfio_assign_core::Width;

/// Where Q35 has its only remapping hardware.
const REGISTERS: Option<Registers> = Registers::new(0xfed9_0000, 0x1000);
const CAPABILITY: u64 = 0x08;
const EXTENDED_CAPABILITY: u64 = 0x10;
const GLOBAL_COMMAND: u64 = 0x18;
const GLOBAL_STATUS: u64 = 0x1c;
const ROOT_TABLE_ADDRESS: u64 = 0x20;
const CONTEXT_COMMAND: u64 = 0x28;
const FAULT_STATUS: u64 = 0x34;
/// Global Command and Global Status: translation, and the root table.
const TRANSLATION: u64 = 1 << 31;
const SET_ROOT: u64 = 1 << 30;
/// Context Command, and IOTLB Invalidate: everything.
const INVALIDATE_CONTEXTS: u64 = 1 << 63 | 1 << 61;
const INVALIDATE_IOTLB: u64 = 1 << 63 | 1 << 60;
const INVALIDATING: u64 = 1 << 63;
/// Capability: page tables of three levels, 39 bits; a buffer of writes that would have to be flushed.
const THREE_LEVELS: u64 = 1 << 9;
const WRITE_BUFFER: u64 = 1 << 4;
/// The same, in a context entry.
const WIDTH_39: u64 = 1;
const FAULT_PENDING: u64 = 2;
const FAULT_OVERFLOW: u64 = 1;
/// The last dword of a fault record: it is in use, and is cleared by writing this.
const FAULT: u64 = 1 << 31;
/// Present; readable and writable.
const PRESENT: u64 = 1;
const ACCESSIBLE: u64 = 3;
/// How often a bit is looked at that must change soon.
const LOOKS: u32 = 1_000_000;

static ROOT: Page = Page::new();
static CONTEXTS: Page = Page::new();
static UPPER: Page = Page::new();
static MIDDLE: Page = Page::new();
static LAST: Page = Page::new();

/// Devices are confined: whoever has one of these has seen [`set_up`] succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Confined(());

/// Why devices cannot be confined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum IommuError {
    /// There is none, or it has no page tables of three levels, or it buffers writes.
    #[error(
        "no IOMMU with 39 bits of address and no write buffer at 0xfed90000: its capabilities read {0:#x}"
    )]
    None(u64),
    /// There is more memory than the guest's page table has room for.
    #[error("{pages} pages from {first:#x} on are more than one page table shows")]
    Memory {
        /// How many pages.
        pages: usize,
        /// The guest's address of the first.
        first: u64,
    },
    /// It does not do what it is told.
    #[error("the IOMMU does not take {register:#x}: {value:#x}")]
    Stuck {
        /// The register.
        register: u64,
        /// What it reads.
        value: u64,
    },
}

/// Turns translation on. Devices that are [admitted](admit) will see `memory` from guest-physical address `first` on,
/// all of it below 2 MiB; the others see nothing.
pub(crate) fn set_up(memory: &'static [Page], first: u64) -> Result<Confined, IommuError> {
    let registers = REGISTERS.ok_or(IommuError::None(0))?;
    let capabilities = registers.read(CAPABILITY, Width::Qword);
    if capabilities & (THREE_LEVELS | WRITE_BUFFER) != THREE_LEVELS || capabilities == u64::MAX {
        return Err(IommuError::None(capabilities));
    }
    if !first.is_multiple_of(Page::SIZE) || first / Page::SIZE + memory.len() as u64 > LAST.0.len() as u64 {
        return Err(IommuError::Memory { pages: memory.len(), first });
    }
    ROOT.set(0, CONTEXTS.address() | PRESENT);
    UPPER.set(0, MIDDLE.address() | ACCESSIBLE);
    MIDDLE.set(0, LAST.address() | ACCESSIBLE);
    for (place, page) in memory.iter().enumerate() {
        LAST.set((first / Page::SIZE) as usize + place, page.address() | ACCESSIBLE);
    }
    registers.write(ROOT_TABLE_ADDRESS, Width::Qword, ROOT.address());
    for command in [SET_ROOT, TRANSLATION] {
        registers.write(GLOBAL_COMMAND, Width::Dword, command);
        wait(registers, GLOBAL_STATUS, Width::Dword, |value| value & command != 0)?;
        invalidate(registers)?;
    }
    Ok(Confined(()))
}

/// Lets function 0 of a device on bus 0 reach the guest's memory.
pub(crate) fn admit(device: u8) -> Result<(), IommuError> {
    let domain = u64::from(device) << 8;
    set_context(device, UPPER.address() | PRESENT, domain | WIDTH_39)
}

/// Lets it reach nothing.
pub(crate) fn expel(device: u8) -> Result<(), IommuError> {
    set_context(device, 0, 0)
}

/// Whether a device has been stopped since this was last asked.
pub(crate) fn take_fault() -> bool {
    let Some(registers) = REGISTERS else { return false };
    if registers.read(FAULT_STATUS, Width::Dword) & FAULT_PENDING == 0 {
        return false;
    }
    let capabilities = registers.read(CAPABILITY, Width::Qword);
    let (first, count) = ((capabilities >> 24 & 0x3ff) * 16, (capabilities >> 40 & 0xff) + 1);
    (0..count).for_each(|record| registers.write(first + 16 * record + 12, Width::Dword, FAULT));
    registers.write(FAULT_STATUS, Width::Dword, FAULT_OVERFLOW);
    true
}

fn set_context(device: u8, low: u64, high: u64) -> Result<(), IommuError> {
    let registers = REGISTERS.ok_or(IommuError::None(0))?;
    let entry = 2 * (usize::from(device) << 3);
    // Never present while half written.
    CONTEXTS.set(entry, 0);
    CONTEXTS.set(entry + 1, high);
    CONTEXTS.set(entry, low);
    invalidate(registers)
}

/// Nothing that the IOMMU remembers of its tables is used any more.
fn invalidate(registers: Registers) -> Result<(), IommuError> {
    let iotlb = (registers.read(EXTENDED_CAPABILITY, Width::Qword) >> 8 & 0x3ff) * 16 + 8;
    for (register, command) in [(CONTEXT_COMMAND, INVALIDATE_CONTEXTS), (iotlb, INVALIDATE_IOTLB)] {
        registers.write(register, Width::Qword, command);
        wait(registers, register, Width::Qword, |value| value & INVALIDATING == 0)?;
    }
    Ok(())
}

fn wait(
    registers: Registers,
    register: u64,
    width: Width,
    done: impl Fn(u64) -> bool,
) -> Result<(), IommuError> {
    if (0..LOOKS).any(|_| done(registers.read(register, width))) {
        return Ok(());
    }
    Err(IommuError::Stuck { register, value: registers.read(register, width) })
}

impl Page {
    /// Sets an entry of a table that the IOMMU reads: from memory, for not every IOMMU looks into the processor's caches.
    fn set(&'static self, place: usize, value: u64) {
        let entry = &self.0[place % self.0.len()];
        entry.store(value, Ordering::Release);
        flush(entry);
    }
}

fn flush(entry: &'static AtomicU64) {
    // SAFETY: it changes nothing that code can see.
    unsafe { core::arch::asm!("clflush [{}]", in(reg) entry.as_ptr(), options(nostack)) };
}
