//! Where the boot code enters Rust, and where everything ends that should not have happened.

use super::memory::{image, overflowed};
use super::registers::DEVICES;
use super::{Page, apic, memory, processor, windows};
use crate::console::{Ending, end, line};
use core::sync::atomic::{AtomicBool, Ordering};

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

/// The loader's structure, `hvm_start_info`: what its first dword holds, and where it has the command line's address.
const MAGIC: u32 = 0x336e_c578;
const COMMAND_LINE: usize = 24;
/// The most bytes of the command line, with the zero that ends it.
const LONGEST: usize = 256;

/// The exception of a page that is not there.
const PAGE_FAULT: u64 = 14;
/// An exception has been told of.
static FAILING: AtomicBool = AtomicBool::new(false);

/// Why there is no command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum LoaderError {
    /// What the loader has left is in the image, or where no memory is.
    #[error("the loader has left something at {0:#x}, which is not outside the image in the first 2 GiB")]
    Place(u64),
    /// The loader is not one of PVH.
    #[error("the loader's structure begins with {0:#x}, not {MAGIC:#x}")]
    Magic(u32),
    /// It does not end.
    #[error("the command line has {LONGEST} bytes or more")]
    Long,
    /// It is no text.
    #[error("the command line is no text: {0}")]
    NotText(#[from] core::str::Utf8Error),
}

/// The first Rust that runs, with the address of the loader's structure.
pub(super) extern "C" fn start(information: u64) -> ! {
    processor::set_up();
    memory::protect();
    windows::set_up();
    apic::set_up();
    let mut text = [0; LONGEST];
    let ending = crate::run(command_line(information, &mut text));
    end(ending)
}

/// An exception that nobody has provoked on purpose.
pub(super) extern "C" fn exception(frame: &Frame) -> ! {
    // One that comes of telling about another is not told of.
    if FAILING.swap(true, Ordering::Relaxed) {
        end(Ending::Failed);
    }
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
    if let Some(whose) = overflowed(fault_address()).filter(|_| frame.vector == PAGE_FAULT) {
        line(format_args!("check the stack of {whose} is large enough: FAILED: it has overflowed"));
    }
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

/// What the loader was told to tell us, copied.
fn command_line(information: u64, text: &mut [u8; LONGEST]) -> Result<&str, LoaderError> {
    let information = copy::<{ COMMAND_LINE + 8 }>(information)?;
    let magic = u32::from_le_bytes([information[0], information[1], information[2], information[3]]);
    if magic != MAGIC {
        return Err(LoaderError::Magic(magic));
    }
    let place = information[COMMAND_LINE..].iter().rev().fold(0, |place, byte| place << 8 | u64::from(*byte));
    *text = copy(place)?;
    let length = text.iter().position(|byte| *byte == 0).ok_or(LoaderError::Long)?;
    Ok(core::str::from_utf8(&text[..length])?)
}

/// Bytes that the loader has left: mapped, and outside of all that Rust owns.
fn copy<const SIZE: usize>(first: u64) -> Result<[u8; SIZE], LoaderError> {
    let end = first.checked_add(SIZE as u64).filter(|end| first >= Page::SIZE && *end <= DEVICES);
    let image = image();
    if !end.is_some_and(|end| end <= image.start || first >= image.end) {
        return Err(LoaderError::Place(first));
    }
    // SAFETY: the bytes are memory or nothing, mapped to be read, and no Rust object's; any bits are bytes.
    Ok(unsafe { (first as *const [u8; SIZE]).read_volatile() })
}

fn fault_address() -> u64 {
    let address;
    // SAFETY: it reads a register.
    unsafe { core::arch::asm!("mov {}, cr2", out(reg) address, options(nomem, nostack)) };
    address
}
