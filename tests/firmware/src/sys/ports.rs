//! Ports: the few that the image uses, each for what it uses it for. A port for any value would do DMA past the IOMMU.

/// The first serial port: its data and Line Status.
const SERIAL_DATA: u16 = 0x3f8;
const SERIAL_STATUS: u16 = 0x3fd;
const TRANSMITTER_EMPTY: u8 = 0x20;
/// QEMU's `isa-debug-exit`, which ends the machine with status 2 × value + 1.
const EXIT: u16 = 0xf4;
/// Configuration mechanism 1, and the register of Q35's host bridge that says where ECAM is.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const PCIEXBAR: u32 = 0x8000_0060;
/// The masks of the PC's two interrupt controllers.
const INTERRUPT_MASKS: [u16; 2] = [0x21, 0xa1];
/// The interval timer: channel 2, what it is told, and the port with its gate in bit 0 and its output in bit 5.
const INTERVAL: u16 = 0x42;
const INTERVAL_MODE: u16 = 0x43;
const INTERVAL_GATE: u16 = 0x61;
const GATE: u8 = 0x01;
const SPEAKER: u8 = 0x02;
const OUTPUT: u8 = 0x20;
/// Channel 2, both bytes of a count, once.
const ONCE: u8 = 0xb0;
/// What it counts in a second.
const INTERVAL_RATE: u32 = 1_193_182;
/// How often a port is looked at that must change soon.
const LOOKS: u32 = 1_000_000;

/// Sends a byte to the first serial port. One that does not take it in a second is passed by: nobody could be told.
pub(crate) fn transmit(byte: u8) {
    let _ready = (0..LOOKS).any(|_| in_byte(SERIAL_STATUS) & TRANSMITTER_EMPTY != 0);
    out_byte(SERIAL_DATA, byte);
}

/// Ends the machine with status 2 × value + 1, if it has a device for that.
pub(crate) fn exit(value: u8) {
    out_byte(EXIT, value);
}

/// What the host bridge says of ECAM.
pub(super) fn pciexbar() -> u32 {
    out_dword(CONFIG_ADDRESS, PCIEXBAR);
    in_dword(CONFIG_DATA)
}

/// Masks all of the PC's own interrupts.
pub(super) fn mask_interrupts() {
    INTERRUPT_MASKS.into_iter().for_each(|port| out_byte(port, 0xff));
}

/// The interval timer begins to count a part of a second.
pub(super) fn start_interval(part: u32) {
    let count = INTERVAL_RATE.div_ceil(part).min(u32::from(u16::MAX)).to_le_bytes();
    let gate = in_byte(INTERVAL_GATE) & !SPEAKER;
    out_byte(INTERVAL_GATE, gate | GATE);
    out_byte(INTERVAL_MODE, ONCE);
    out_byte(INTERVAL, count[0]);
    out_byte(INTERVAL, count[1]);
}

/// Waits until it has counted; whether it has.
pub(super) fn interval_ends() -> bool {
    (0..LOOKS).any(|_| in_byte(INTERVAL_GATE) & OUTPUT != 0)
}

fn out_byte(port: u16, value: u8) {
    // SAFETY: a port is no memory, and none of those above has a device reach any.
    unsafe { core::arch::asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

fn in_byte(port: u16) -> u8 {
    let value;
    // SAFETY: as for `out_byte`.
    unsafe { core::arch::asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

fn out_dword(port: u16, value: u32) {
    // SAFETY: it selects a register, and is called for no other purpose.
    unsafe { core::arch::asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}

fn in_dword(port: u16) -> u32 {
    let value;
    // SAFETY: it reads the register that was selected.
    unsafe { core::arch::asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) };
    value
}
