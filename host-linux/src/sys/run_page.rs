//! The page that KVM shares with whoever runs a vCPU: `struct kvm_run`.
//!
//! Linux `Documentation/virt/kvm/api.rst`, section 5, The kvm_run structure.

use crate::errno::Errno;
use kvm_bindings::kvm_run;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::mem::offset_of;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

/// `immediate_exit`.
const IMMEDIATE_EXIT: usize = 1;
/// `io.size`: the union of exits starts at 32, and `direction` comes before `size`.
const PORT_ITEM_SIZE: usize = 33;

const _: () = assert!(offset_of!(kvm_run, immediate_exit) == IMMEDIATE_EXIT);
const _: () = assert!(offset_of!(kvm_run, __bindgen_anon_1) == PORT_ITEM_SIZE - 1);

/// A vCPU's run page, mapped a second time, so that other threads than the one that runs the vCPU have it.
///
/// What it gives is all that a monitor needs and a wrapper of KVM may not have: a way to keep a vCPU out of the
/// guest from outside, and the width of a port access of several items.
#[derive(Debug)]
pub struct RunPage {
    page: NonNull<u8>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and goes away only on drop.
unsafe impl Send for RunPage {}
// SAFETY: the page is accessed by atomics only, through this mapping.
unsafe impl Sync for RunPage {}

impl RunPage {
    const SIZE: usize = 4096;

    /// The run page of the vCPU behind a file descriptor that `KVM_CREATE_VCPU` gave.
    ///
    /// # Errors
    ///
    /// The descriptor is none of a vCPU, or the process has no room for the mapping.
    pub fn map(vcpu: BorrowedFd<'_>) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let none = std::ptr::null_mut();
        // SAFETY: no address is asked for, so nothing that exists is touched.
        let page = unsafe { mmap(none, Self::SIZE, access, MapFlags::SHARED, vcpu, 0) }?;
        Ok(Self { page: NonNull::new(page.cast()).ok_or(Errno::ENOMEM)? })
    }

    /// Whether `KVM_RUN` is to come back at once instead of entering the guest.
    ///
    /// Together with a signal to the vCPU's thread, sent afterwards, this stops a vCPU wherever it is.
    pub fn set_immediate_exit(&self, on: bool) {
        self.byte(IMMEDIATE_EXIT).store(u8::from(on), Ordering::SeqCst);
    }

    /// After `KVM_EXIT_IO`: the width of each item of the access in bytes, 1, 2 or 4.
    pub fn port_item_width(&self) -> usize {
        match self.byte(PORT_ITEM_SIZE).load(Ordering::Relaxed) {
            4 => 4,
            2 => 2,
            _ => 1,
        }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        debug_assert!(offset < Self::SIZE);
        // SAFETY: both offsets that are used lie in the page.
        let byte = unsafe { self.page.add(offset) };
        // SAFETY: mapped while `self` lives, and an atomic of one byte needs no alignment; the kernel is the only
        // other writer of the page through this mapping.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, with this size; every reference into it has ended with `self`'s borrows.
        let unmapped = unsafe { munmap(self.page.as_ptr().cast(), Self::SIZE) };
        if let Err(errno) = unmapped {
            log::error!("the run page of a vCPU is not unmapped: {errno}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::io::{pread, pwrite};
    use std::os::fd::AsFd;

    /// A file in place of a vCPU.
    fn vcpu() -> std::os::fd::OwnedFd {
        let file = memfd_create("vcpu", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        file
    }

    #[test]
    fn immediate_exit_is_the_second_byte() {
        let file = vcpu();
        RunPage::map(file.as_fd()).unwrap().set_immediate_exit(true);
        let mut data = [0; 3];
        pread(&file, &mut data, 0).unwrap();
        assert_eq!(data, [0, 1, 0]);
    }

    #[test]
    fn width_of_a_port_item_is_read() {
        let file = vcpu();
        pwrite(&file, &[2], 33).unwrap();
        assert_eq!(RunPage::map(file.as_fd()).unwrap().port_item_width(), 2);
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let (read, _write) = std::io::pipe().unwrap();
        assert!(RunPage::map(read.as_fd()).is_err());
    }
}
