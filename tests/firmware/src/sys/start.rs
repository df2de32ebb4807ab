//! Where the boot code enters Rust, and where everything ends that should not have happened.

use super::{DEVICES, image, processor, windows};
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

/// The loader's structure, `hvm_start_info`: what its first dword holds, and as many bytes of it as are of interest. The
/// last 8 of them are the command line's address.
const MAGIC: u32 = 0x336e_c578;
const INFORMATION_SIZE: u64 = 32;
/// The most bytes of the command line, with the zero that ends it.
const LONGEST: u64 = 256;

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

/// What the loader was told to tell us.
fn command_line(information: u64) -> Result<&'static str, LoaderError> {
    let information = loaded(information, INFORMATION_SIZE)?;
    // SAFETY: `loaded` has seen that the bytes are memory or nothing, mapped, and no Rust object's; nobody writes them.
    let [magic, _, _, _, _, _, low, high] = unsafe { (information as *const [u32; 8]).read_unaligned() };
    if magic != MAGIC {
        return Err(LoaderError::Magic(magic));
    }
    let first = loaded(u64::from(high) << 32 | u64::from(low), LONGEST)?;
    // SAFETY: `loaded` has seen that the bytes are memory or nothing, mapped, and no Rust object's.
    let bytes: &'static [u8] = unsafe { core::slice::from_raw_parts(first as *const u8, LONGEST as usize) };
    let length = bytes.iter().position(|byte| *byte == 0).ok_or(LoaderError::Long)?;
    Ok(core::str::from_utf8(&bytes[..length])?)
}

/// Where bytes are that the loader has left: mapped, and outside of all that Rust owns.
fn loaded(first: u64, size: u64) -> Result<usize, LoaderError> {
    let end = first.checked_add(size).filter(|end| first != 0 && *end <= DEVICES);
    let image = image();
    let outside = end.is_some_and(|end| end <= image.start || first >= image.end);
    if outside { Ok(first as usize) } else { Err(LoaderError::Place(first)) }
}

fn fault_address() -> u64 {
    let address;
    // SAFETY: it reads a register.
    unsafe { core::arch::asm!("mov {}, cr2", out(reg) address, options(nomem, nostack)) };
    address
}
