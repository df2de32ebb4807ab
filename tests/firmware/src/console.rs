//! The serial console, and the end of the machine: how the image tells the lab what it has found.
//!
//! A line is `check NAME: ok`, `check NAME: FAILED: WHY`, `figure NAME NUMBER`, or something for a person.

use crate::sys::processor::{in_byte, out_byte};
use core::fmt::{self, Display, Write};

/// The first serial port: its data and Line Status.
const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;
const TRANSMITTER_EMPTY: u8 = 0x20;
/// QEMU's `isa-debug-exit`, which ends the machine with status 2 × value + 1.
const EXIT: u16 = 0xf4;

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Everything held: QEMU's status is 33.
    Passed,
    /// Something did not: QEMU's status is 35.
    Failed,
}

/// Prints a line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    // The port takes every byte: nothing can fail.
    let _printed = writeln!(Port, "{text}");
}

/// Says whether something held, and returns it.
pub(crate) fn check<T, E: Display>(name: fmt::Arguments<'_>, result: Result<T, E>) -> Option<T> {
    match result {
        Ok(value) => {
            line(format_args!("check {name}: ok"));
            Some(value)
        }
        Err(error) => {
            line(format_args!("check {name}: FAILED: {error}"));
            None
        }
    }
}

/// Prints a number worth knowing.
pub(crate) fn figure(name: &str, value: u64) {
    line(format_args!("figure {name} {value}"));
}

/// Ends the machine.
pub(crate) fn end(ending: Ending) -> ! {
    out_byte(EXIT, if ending == Ending::Passed { 0x10 } else { 0x11 });
    // A machine without that device is left to whoever looks at its console.
    loop {
        core::hint::spin_loop();
    }
}

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while in_byte(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
                core::hint::spin_loop();
            }
            out_byte(DATA, byte);
        }
        Ok(())
    }
}
