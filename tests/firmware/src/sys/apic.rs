//! The local APIC: what handlers of interrupts leave behind, and waiting for it.

use super::{Registers, ports};
use core::sync::atomic::{AtomicU64, Ordering};
use vfio_assign_core::Width;

/// One bit for each interrupt that has come: set by the handlers, taken by the host.
pub(super) static LATCHED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// How often the timer has ticked: counted by its handler.
pub(super) static TICKED: AtomicU64 = AtomicU64::new(0);

/// The vectors that devices can have.
pub(crate) const DEVICE_VECTORS: core::ops::RangeInclusive<u8> = 0x30..=0xef;
/// The vector of the timer, which ends waits in which nothing else happens.
pub(super) const TIMER: u8 = 0xf0;
/// A vector for what the local APIC takes back.
pub(super) const SPURIOUS: u8 = 0xff;
/// Ticks of the timer in a second.
const TICKS: u64 = 200;

/// Its registers: Intel SDM volume 3, 11.4.
const APIC: Option<Registers> = Registers::new(0xfee0_0000, 0x1000);
const ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const SPURIOUS_VECTOR: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const TIMER_VECTOR: u64 = 0x320;
/// Its two pins.
const PINS: [u64; 2] = [0x350, 0x360];
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;
const SOFTWARE_ENABLE: u64 = 0x100;
const MASKED: u64 = 0x1_0000;
const PERIODIC: u64 = 0x2_0000;
const DIVIDE_BY_ONE: u64 = 0xb;
/// Interrupt command: fixed delivery to itself.
const SELF: u64 = 0x4_4000;

/// The timer is measured against the PC's interval timer, this part of a second at a time, and this often.
const PART: u32 = 100;
const TRIES: u32 = 3;

/// It takes messages from now on.
pub(super) fn set_up() {
    ports::mask_interrupts();
    PINS.into_iter().for_each(|pin| write(pin, MASKED));
    write(TIMER_VECTOR, MASKED);
    write(TASK_PRIORITY, 0);
    write(SPURIOUS_VECTOR, SOFTWARE_ENABLE | u64::from(SPURIOUS));
    interrupts_on();
}

/// Why nothing can be waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum TimerError {
    /// There is nothing to measure it against.
    #[error("the interval timer does not count")]
    NoInterval,
    /// It is too slow, or does not count at all.
    #[error("the local APIC's timer has counted {0} in a hundredth of a second")]
    Slow(u64),
}

/// Has the timer tick; returns what it counts in a second. Whatever delays the measurement makes ticks longer, so that
/// waits are never too short; the least of a few tries counts.
pub(crate) fn start_timer() -> Result<u64, TimerError> {
    let mut least = u64::from(u32::MAX);
    write(DIVIDE, DIVIDE_BY_ONE);
    for _ in 0..TRIES {
        write(INITIAL_COUNT, u64::from(u32::MAX));
        ports::start_interval(PART);
        if !ports::interval_ends() {
            return Err(TimerError::NoInterval);
        }
        least = least.min(u64::from(u32::MAX) - read(CURRENT_COUNT));
    }
    let second = least * u64::from(PART);
    if second < 1000 * TICKS {
        return Err(TimerError::Slow(least));
    }
    write(TIMER_VECTOR, PERIODIC | u64::from(TIMER));
    write(INITIAL_COUNT, second / TICKS);
    Ok(second)
}

/// The message address by which a device interrupts this processor: Intel SDM volume 3, 11.11.1.
pub(crate) fn message_address() -> u64 {
    0xfee0_0000 | read(ID) >> 24 << 12
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

/// Has an interrupt of a device's come, as if the device had sent its message; none if no device has that vector.
pub(crate) fn interrupt_self(vector: u8) {
    if DEVICE_VECTORS.contains(&vector) {
        write(COMMAND, SELF | u64::from(vector));
    }
}

/// Some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// The tick at which it is over.
    end: u64,
}

impl Wait {
    /// This many milliseconds, at least: the first tick may be one that is late, and the second is on time.
    pub(crate) fn new(milliseconds: u32) -> Self {
        let ticks = (u64::from(milliseconds) * TICKS).div_ceil(1000);
        let begun = if milliseconds == 0 { 0 } else { 2 };
        Self { end: TICKED.load(Ordering::Relaxed) + ticks + begun }
    }

    /// Whether they have passed.
    pub(crate) fn is_over(self) -> bool {
        TICKED.load(Ordering::Relaxed) >= self.end
    }
}

/// Sleeps until an interrupt comes, that of the timer at the latest, but not if what is waited for is there.
pub(crate) fn sleep_unless(there: impl FnOnce() -> bool) {
    interrupts_off();
    if there() { interrupts_on() } else { halt() }
}

/// Waits for this many milliseconds at least.
pub(crate) fn pause(milliseconds: u32) {
    let wait = Wait::new(milliseconds);
    while !wait.is_over() {
        sleep_unless(|| wait.is_over());
    }
}

/// Nothing happens any more.
pub(crate) fn stop() -> ! {
    loop {
        interrupts_off();
        // SAFETY: with interrupts off nothing ends it but what ends the machine.
        unsafe { core::arch::asm!("hlt", options(nomem, nostack)) };
    }
}

fn place(vector: u8) -> (&'static AtomicU64, u64) {
    (&LATCHED[usize::from(vector / 64)], 1 << (vector % 64))
}

fn read(register: u64) -> u64 {
    APIC.map_or(0, |apic| apic.read(register, Width::Dword))
}

fn write(register: u64, value: u64) {
    if let Some(apic) = APIC {
        apic.write(register, Width::Dword, value);
    }
}

fn interrupts_on() {
    // SAFETY: handlers change LATCHED and TICKED, which are atomic, and touch no other memory but their own stack.
    unsafe { core::arch::asm!("sti") };
}

fn interrupts_off() {
    // SAFETY: nothing is lost by it: what comes stays in the local APIC.
    unsafe { core::arch::asm!("cli") };
}

/// Waits with interrupts on, which are off before: none comes between the two instructions, so that the one waited
/// for is not missed.
fn halt() {
    // SAFETY: as for `interrupts_on`.
    unsafe { core::arch::asm!("sti", "hlt") };
}
