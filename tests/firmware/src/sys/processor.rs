//! The processor: ports, exceptions, its local APIC, and the latches that its interrupt handlers set.

use super::Registers;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vfio_assign_core::Width;

/// One bit for each interrupt that has come: set by the handlers, taken by the host.
pub(super) static LATCHED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// The vectors that devices can have.
pub(crate) const DEVICE_VECTORS: core::ops::RangeInclusive<u8> = 0x30..=0xef;
/// The vector of the timer, which ends waits in which nothing else happens.
const TIMER: u8 = 0xf0;
/// A vector for what the local APIC takes back.
pub(super) const SPURIOUS: u8 = 0xff;
/// Ticks of the timer in a second: QEMU's local APIC counts nanoseconds.
pub(crate) const TICKS: u32 = 200;
const TICK: u64 = 1_000_000_000 / TICKS as u64;

/// The local APIC's registers: Intel SDM volume 3, 11.4.
const APIC: Option<Registers> = Registers::new(0xfee0_0000, 0x1000);
const APIC_ID: u64 = 0x20;
const APIC_SPURIOUS: u64 = 0xf0;
const APIC_COMMAND: u64 = 0x300;
const APIC_TIMER: u64 = 0x320;
const APIC_TIMER_COUNT: u64 = 0x380;
const APIC_TIMER_DIVIDE: u64 = 0x3e0;
const SOFTWARE_ENABLE: u64 = 0x100;
const PERIODIC: u64 = 0x2_0000;
const DIVIDE_BY_ONE: u64 = 0xb;
/// Interrupt command: fixed delivery to itself.
const SELF: u64 = 0x4_4000;

/// Descriptors: none, code, data, and two words for the task state segment.
static GDT: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
/// The task state segment, for nothing but the two stacks that exceptions and interrupts come on.
static TASK: [AtomicU32; 26] = [const { AtomicU32::new(0) }; 26];
static IDT: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
const STACK: usize = 8 << 10;
/// Memory that handlers write to by the processor's own means: never read or written by name.
#[repr(align(16))]
struct Stack([AtomicU64; STACK / 8]);
static EXCEPTION_STACK: Stack = Stack([const { AtomicU64::new(0) }; STACK / 8]);
static INTERRUPT_STACK: Stack = Stack([const { AtomicU64::new(0) }; STACK / 8]);

unsafe extern "C" {
    safe static exception_entries: [u8; 32 * 16];
    safe static interrupt_entries: [u8; 224 * 16];
}

/// Exceptions and interrupts go to their handlers from now on, and the local APIC takes messages.
pub(crate) fn set_up() {
    let address = |place: &'static [AtomicU64]| place.as_ptr() as u64;
    let task = TASK.as_ptr() as u64;
    let limit = size_of_val(&TASK) as u64 - 1;
    let descriptors = [
        0,
        0x0020_9b00_0000_0000,
        0x0000_9300_0000_0000,
        limit | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56,
        task >> 32,
    ];
    fill(&GDT, descriptors);
    // Interrupt Stack Table entries 1 and 2, at bytes 36 and 44.
    for (place, stack) in [(9, &EXCEPTION_STACK), (11, &INTERRUPT_STACK)] {
        let end = address(&stack.0) + STACK as u64;
        TASK[place].store(end as u32, Ordering::Relaxed);
        TASK[place + 1].store((end >> 32) as u32, Ordering::Relaxed);
    }
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
    // The two interrupt controllers of the PC: everything masked.
    out_byte(0x21, 0xff);
    out_byte(0xa1, 0xff);
    for (register, value) in [
        (APIC_SPURIOUS, SOFTWARE_ENABLE | u64::from(SPURIOUS)),
        (APIC_TIMER_DIVIDE, DIVIDE_BY_ONE),
        (APIC_TIMER, PERIODIC | u64::from(TIMER)),
        (APIC_TIMER_COUNT, TICK),
    ] {
        apic_write(register, value);
    }
    interrupts_on();
}

/// The message address by which a device interrupts this processor: Intel SDM volume 3, 11.11.1.
pub(crate) fn message_address() -> u64 {
    let id = APIC.map_or(0, |apic| apic.read(APIC_ID, Width::Dword) >> 24);
    0xfee0_0000 | id << 12
}

/// Whether the interrupt has come since it was last taken.
pub(crate) fn is_latched(vector: u8) -> bool {
    let (word, bit) = place(vector);
    word.load(Ordering::Acquire) & bit != 0
}

/// Takes the interrupt, if it has come.
pub(crate) fn take_latched(vector: u8) -> bool {
    let (word, bit) = place(vector);
    word.fetch_and(!bit, Ordering::AcqRel) & bit != 0
}

/// Sets the latch, as the handler does.
pub(crate) fn latch(vector: u8) {
    let (word, bit) = place(vector);
    word.fetch_or(bit, Ordering::AcqRel);
}

/// Has the interrupt come, as if a device had sent its message.
pub(crate) fn interrupt_self(vector: u8) {
    apic_write(APIC_COMMAND, SELF | u64::from(vector));
}

/// Sleeps until an interrupt comes, a tick of the timer at the latest, but not if what is waited for is there.
/// Returns whether the timer has ticked.
pub(crate) fn sleep_unless(there: impl FnOnce() -> bool) -> bool {
    interrupts_off();
    if there() {
        interrupts_on()
    } else {
        halt()
    }
    take_latched(TIMER)
}

/// Waits for this many ticks of the timer at least.
pub(crate) fn pause(ticks: u32) {
    let mut left = ticks + 1;
    while left > 0 {
        left -= u32::from(sleep_unless(|| false));
    }
}

fn place(vector: u8) -> (&'static AtomicU64, u64) {
    (&LATCHED[usize::from(vector / 64)], 1 << (vector % 64))
}

fn apic_write(register: u64, value: u64) {
    if let Some(apic) = APIC {
        apic.write(register, Width::Dword, value);
    }
}

fn fill(table: &[AtomicU64], values: [u64; 5]) {
    for (place, value) in table.iter().zip(values) {
        place.store(value, Ordering::Relaxed);
    }
}

/// A table as `lgdt` and `lidt` take it: its limit, and its address.
fn table(entries: &'static [AtomicU64]) -> [u16; 5] {
    let address = entries.as_ptr() as u64;
    let part = |shift: u32| (address >> shift) as u16;
    [(size_of_val(entries) - 1) as u16, part(0), part(16), part(32), part(48)]
}

fn load_tables(gdt: [u16; 5], idt: [u16; 5]) {
    // SAFETY: both tables are filled, statics, and written no more but by `ltr`, which marks the task as busy; code and
    // data segments are the boot code's, so that what is loaded of them stays right; all handlers keep every register
    // and come on stacks of their own, so that no red zone is overwritten.
    unsafe {
        core::arch::asm!("lgdt [{}]", "lidt [{}]", "ltr {:x}", in(reg) &gdt, in(reg) &idt, in(reg) 24u16);
    }
}

fn interrupts_on() {
    // SAFETY: handlers set bits of LATCHED, which is atomic, and touch no other memory but their own stack.
    unsafe { core::arch::asm!("sti") };
}

fn interrupts_off() {
    // SAFETY: nothing is lost by it: what comes stays in the local APIC.
    unsafe { core::arch::asm!("cli") };
}

/// Waits with interrupts on, which are off before: none comes between the two instructions, so that the one waited
/// for is not missed.
fn halt() {
    // SAFETY: as for `interrupts_on`; the timer always ends it.
    unsafe { core::arch::asm!("sti", "hlt") };
}

/// Writes a byte to a port.
pub(crate) fn out_byte(port: u16, value: u8) {
    // SAFETY: ports are no memory; the image writes to none by which a device would do DMA.
    unsafe { core::arch::asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Reads a byte from a port.
pub(crate) fn in_byte(port: u16) -> u8 {
    let value;
    // SAFETY: as for `out_byte`.
    unsafe { core::arch::asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

/// Writes a dword to a port.
pub(crate) fn out_dword(port: u16, value: u32) {
    // SAFETY: as for `out_byte`.
    unsafe { core::arch::asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}

/// Reads a dword from a port.
pub(crate) fn in_dword(port: u16) -> u32 {
    let value;
    // SAFETY: as for `out_byte`.
    unsafe { core::arch::asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) };
    value
}
