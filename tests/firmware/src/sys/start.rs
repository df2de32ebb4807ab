//! Where the boot code enters Rust, and where everything ends that should not have happened.

use super::{processor, windows};
use crate::console::{Ending, end, line};

/// What a processor and our entry leave on the stack.
#[repr(C)]
pub(super) struct Frame {
    vector: u64,
    error: u64,
    address: u64,
    segment: u64,
    flags: u64,
    stack: u64,
}

/// The loader's structure, as far as it is of interest: version 1 of `hvm_start_info`.
const COMMAND_LINE: usize = 24;

/// The first Rust that runs, with the address of the loader's structure.
pub(super) extern "C" fn start(information: u64) -> ! {
    processor::set_up();
    windows::set_up();
    let ending = crate::run(command_line(information));
    end(ending)
}

/// An exception that nobody has provoked on purpose.
pub(super) extern "C" fn exception(frame: &Frame) -> ! {
    line(format_args!(
        "exception {} at {:#x}:{:#x}, error {:#x}, flags {:#x}, stack {:#x}, page {:#x}",
        frame.vector,
        frame.segment,
        frame.address,
        frame.error,
        frame.flags,
        frame.stack,
        fault_address()
    ));
    end(Ending::Failed)
}

#[cfg(panic = "abort")]
#[panic_handler]
fn panic(information: &core::panic::PanicInfo<'_>) -> ! {
    line(format_args!("{information}"));
    end(Ending::Failed)
}

/// The precompiled `core` refers to it.
#[cfg(panic = "abort")]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// What the loader was told to tell us; what is no text, or too long, is none.
fn command_line(information: u64) -> &'static str {
    const LONGEST: usize = 256;
    // SAFETY: PVH promises the structure, which is in memory below 4 GiB that the boot code has mapped, and aligned; its
    // memory is written by nobody any more.
    let text = unsafe { *((information as usize + COMMAND_LINE) as *const u64) };
    if text == 0 {
        return "";
    }
    // SAFETY: PVH promises a string there that ends with a zero; the bytes looked at are memory in any case, and belong
    // to no Rust object, for the loader places them outside the image.
    let bytes: &'static [u8] = unsafe { core::slice::from_raw_parts(text as *const u8, LONGEST) };
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
    core::str::from_utf8(&bytes[..length]).unwrap_or("")
}

fn fault_address() -> u64 {
    let address;
    // SAFETY: it reads a register.
    unsafe { core::arch::asm!("mov {}, cr2", out(reg) address, options(nomem, nostack)) };
    address
}
