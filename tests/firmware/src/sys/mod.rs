//! The machine: all of the image's unsafe code, behind functions that safe code cannot misuse.
//!
//! What holds as long as the image runs, whatever the safe code outside of this module does:
//!
//! * **All that Rust owns is in the image**, below 2 MiB as `image.ld` asserts, and the processor reaches it at no other
//!   address: page tables are private to this module, and point at the image in one place ([`memory`]), at registers of
//!   devices everywhere else. What code outside holds of a [`Page`] is atomics.
//! * **Nothing else writes to it.** Devices reach pages of atomics and no more, for the IOMMU has them confined before
//!   any register of theirs is handed out: whoever has [`Registers`] has shown an [`iommu::Confined`].
//! * **Nobody undoes that.** The registers that could (the IOMMU's, the local APIC's, the chipset's, bridges') are in no
//!   `Registers` that leave this module, and neither is any port: see [`registers`] and [`ports`].
//! * **An interrupt may come with any vector at any time**, for messages of devices are not remapped. Its handler sets
//!   latches, which are atomics, or ends the machine; it keeps all registers and has a stack of its own.
#![expect(
    unsafe_code,
    reason = "instructions, registers at addresses, names of the assembler's and the linker's"
)]

pub(crate) mod apic;
pub(crate) mod iommu;
pub(crate) mod memory;
pub(crate) mod ports;
mod processor;
mod registers;
mod room;
pub(crate) mod start;
pub(crate) mod windows;

pub(crate) use registers::{NoEcam, Registers, endpoint};
pub(crate) use room::{Room, words};

use core::sync::atomic::{AtomicU64, Ordering};

core::arch::global_asm!(
    include_str!("boot.s"),
    root = sym windows::ROOT,
    level3 = sym memory::LEVEL3,
    level2 = sym memory::LEVEL2,
    stack = sym memory::STACK,
    stack_size = const size_of_val(&memory::STACK),
    start = sym start::start,
    exception = sym start::exception,
    latched = sym apic::LATCHED,
    ticks = sym apic::TICKED,
    timer = const apic::TIMER,
    spurious = const apic::SPURIOUS,
);

/// The linker's script: named here so that cargo links anew when it changes.
const _: &str = include_str!("../../image.ld");

/// A page of memory that others read and write, too: page tables, and what a guest shares with its devices.
#[repr(align(4096))]
pub(crate) struct Page(pub(crate) [AtomicU64; 512]);

impl Page {
    /// Bytes of a page.
    pub(crate) const SIZE: u64 = size_of::<Self>() as u64;

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
