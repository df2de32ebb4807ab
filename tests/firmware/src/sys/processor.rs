//! The processor's own tables: where exceptions and interrupts go, and on which stack.

use super::memory::{EXCEPTION_STACK, INTERRUPT_STACK};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Descriptors: none, code, data, and two words for the task state segment.
static GDT: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
/// The task state segment, for nothing but the two stacks that exceptions and interrupts come on.
static TASK: [AtomicU32; 26] = [const { AtomicU32::new(0) }; 26];
static IDT: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];

unsafe extern "C" {
    safe static exception_entries: [u8; 32 * 16];
    safe static interrupt_entries: [u8; 224 * 16];
}

/// Exceptions and interrupts go to their handlers from now on.
pub(super) fn set_up() {
    let task = TASK.as_ptr() as u64;
    let limit = size_of_val(&TASK) as u64 - 1;
    let descriptors = [
        0,
        0x0020_9b00_0000_0000,
        0x0000_9300_0000_0000,
        limit | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56,
        task >> 32,
    ];
    for (place, value) in GDT.iter().zip(descriptors) {
        place.store(value, Ordering::Relaxed);
    }
    // Interrupt Stack Table entries 1 and 2, at bytes 36 and 44; and no map of ports.
    for (place, top) in [(9, EXCEPTION_STACK.top()), (11, INTERRUPT_STACK.top())] {
        TASK[place].store(top as u32, Ordering::Relaxed);
        TASK[place + 1].store((top >> 32) as u32, Ordering::Relaxed);
    }
    TASK[25].store((limit as u32 + 1) << 16, Ordering::Relaxed);
    for vector in 0..256usize {
        let (entry, stack) = match vector.checked_sub(32) {
            None => (exception_entries.as_ptr() as u64 + 16 * vector as u64, 1),
            Some(place) => (interrupt_entries.as_ptr() as u64 + 16 * place as u64, 2),
        };
        // A present interrupt gate of the code segment.
        let gate = entry & 0xffff | 8 << 16 | stack << 32 | 0x8e << 40 | (entry >> 16 & 0xffff) << 48;
        IDT[2 * vector].store(gate, Ordering::Relaxed);
        IDT[2 * vector + 1].store(entry >> 32, Ordering::Relaxed);
    }
    load_tables(table(&GDT), table(&IDT));
}

/// A table as `lgdt` and `lidt` take it: its limit, and its address.
fn table(entries: &'static [AtomicU64]) -> [u16; 5] {
    let address = entries.as_ptr() as u64;
    let part = |shift: u32| (address >> shift) as u16;
    [(size_of_val(entries) - 1) as u16, part(0), part(16), part(32), part(48)]
}

fn load_tables(gdt: [u16; 5], idt: [u16; 5]) {
    // SAFETY: the table is filled, a static, and written no more but by `ltr`; code and data segments are the boot
    // code's, so that what is loaded of them stays right.
    unsafe { core::arch::asm!("lgdt [{}]", in(reg) &gdt, options(nostack)) };
    // SAFETY: the task state segment is a static that nothing but the processor uses from now on; its stacks are, too.
    unsafe { core::arch::asm!("ltr {:x}", in(reg) 24u16, options(nostack)) };
    // SAFETY: the table is filled, a static, and written no more; all handlers keep every register and come on stacks of
    // their own, so that no red zone is overwritten, or end the machine.
    unsafe { core::arch::asm!("lidt [{}]", in(reg) &idt, options(nostack)) };
}
