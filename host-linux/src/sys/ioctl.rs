//! One `ioctl`, its return value kept.
//!
//! VFIO and KVM both give meaning to positive return values (fewer interrupts available, a new file
//! descriptor), so nothing here throws one away.

use crate::errno::Errno;
use rustix::io::Errno as RawErrno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use std::ffi::c_void;
use std::os::fd::BorrowedFd;

/// A request and its argument, either a number or the address of what the kernel reads and writes.
struct Request {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: `as_ptr` and `opcode` give what the caller of `with_value` and `with_struct` vouched for, and
// the output does not depend on the argument's memory.
unsafe impl Ioctl for Request {
    type Output = u32;

    // Most of these requests write into their argument; said of all, it only forbids assumptions.
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        // rustix has already made an error of -1; no request here has another negative result.
        u32::try_from(output).map_err(|_| RawErrno::INVAL)
    }
}

/// Issues `opcode` with a number, or with nothing, as its argument.
///
/// # Safety
///
/// The request must not take its argument for an address.
pub(super) unsafe fn with_value(fd: BorrowedFd<'_>, opcode: Opcode, value: usize) -> Result<u32, Errno> {
    let request = Request { opcode, argument: std::ptr::without_provenance_mut(value) };
    // SAFETY: the caller vouches that the argument is a number.
    let output = unsafe { rustix::ioctl::ioctl(fd, request) };
    Ok(output?)
}

/// Issues `opcode` with the address of `argument`.
///
/// # Safety
///
/// The request must read and write nothing beyond `argument` and the memory that `argument` names by
/// address, that memory must be fit for it, and what it writes must be a valid `T`.
pub(super) unsafe fn with_struct<T: ?Sized>(
    fd: BorrowedFd<'_>,
    opcode: Opcode,
    argument: &mut T,
) -> Result<u32, Errno> {
    let request = Request { opcode, argument: std::ptr::from_mut(argument).cast() };
    // SAFETY: the argument is alive and exclusively borrowed; the caller vouches for the request.
    let output = unsafe { rustix::ioctl::ioctl(fd, request) };
    Ok(output?)
}
