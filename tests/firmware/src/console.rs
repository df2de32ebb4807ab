//! The serial console, and the end of the machine: how the image tells the lab what it has found.
//!
//! A line is `check NAME: ok`, `check NAME: FAILED: WHY`, `figure NAME NUMBER`, or something for a person.

use crate::sys::{apic, ports};
use core::fmt::{self, Display, Write};

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
pub(crate) fn figure(name: fmt::Arguments<'_>, value: u64) {
    line(format_args!("figure {name} {value}"));
}

/// Ends the machine.
pub(crate) fn end(ending: Ending) -> ! {
    // QEMU's status is twice this, and 1.
    ports::exit(if ending == Ending::Passed { 0x10 } else { 0x11 });
    // A machine without that device is left to whoever looks at its console.
    apic::stop()
}

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(ports::transmit);
        Ok(())
    }
}
