//! The only unsafe code of this package: what KVM and the memory calls ask the caller to promise.
//!
//! Everything above it is safe: guest RAM is put into KVM with the mapping kept alive, a vCPU that can be
//! kicked out of the guest from outside, and port exits with the width of their items.
#![expect(unsafe_code, reason = "KVM's memory slots, its shared run page and madvise have no safe interface")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use rustix::mm::Advice;
use vfio_assign_core::{GuestAddr, Span};
use vfio_assign_linux::{GuestMemory, GuestRegion};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};
use vmm_sys_util::errno::Error as Errno;

/// A virtual machine together with the RAM that it runs in, so that the RAM cannot go first.
#[derive(Clone)]
pub(crate) struct VmWithRam {
    vm: Arc<VmFd>,
    ram: GuestMemoryMmap,
}

impl VmWithRam {
    /// Puts each region of `ram` into the machine, in memory slots from 0 on.
    pub(crate) fn new(vm: Arc<VmFd>, ram: GuestMemoryMmap) -> Result<Self, Errno> {
        for (slot, region) in (0..).zip(ram.iter()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr().addr() as u64,
            };
            // SAFETY: address and size are those of a mapping that `ram` owns; `ram` is kept beside the machine
            // in `Self`, whose fields are never handed out by value, so that KVM never outlives it by more than
            // a refused vCPU run. Regions of one `GuestMemoryMmap` do not overlap.
            unsafe { vm.set_user_memory_region(slot) }?;
        }
        Ok(Self { vm, ram })
    }

    /// The machine.
    pub(crate) fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// Its RAM, to be mapped for devices.
    pub(crate) fn regions(&self) -> Result<Vec<GuestRegion>, vfio_assign_linux::Errno> {
        let region = |region: &GuestRegionMmap| {
            let address = ptr::NonNull::new(region.as_ptr()).ok_or(vfio_assign_linux::Errno::EINVAL)?;
            // SAFETY: the mapping is kept by the machine, which outlives its devices.
            let memory = unsafe { GuestMemory::from_raw(address, region.size()) }?;
            let guest = Span::from_size(GuestAddr::new(region.start_addr().raw_value()), region.len());
            Ok(GuestRegion { guest: guest.ok_or(vfio_assign_linux::Errno::EINVAL)?, memory, offset: 0 })
        };
        self.ram.iter().map(region).collect()
    }

    /// Its RAM.
    pub(crate) fn ram(&self) -> &GuestMemoryMmap {
        &self.ram
    }
}

/// Gives the kernel an advice about a region of guest RAM that changes nothing a reader could see.
pub(crate) fn advise(region: &GuestRegionMmap, advice: RamAdvice) -> rustix::io::Result<()> {
    let advice = match advice {
        RamAdvice::HugePages => Advice::LinuxHugepage,
        RamAdvice::NotInChildren => Advice::LinuxDontFork,
    };
    // SAFETY: the range is a mapping that `region` owns, and neither advice changes its contents or
    // accessibility in this process.
    unsafe { rustix::mm::madvise(region.as_ptr().cast::<c_void>(), region.size(), advice) }
}

/// What may be said about guest RAM.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RamAdvice {
    /// Back it by huge pages where the kernel can.
    HugePages,
    /// A child process does not get a copy: pages that a device writes to must stay where they are.
    NotInChildren,
}

/// Why the guest was left.
pub(crate) enum Exit<'a> {
    /// The guest writes items of `width` bytes to a port.
    PortWrite { port: u16, width: usize, data: &'a [u8] },
    /// The guest reads items of `width` bytes from a port.
    PortRead { port: u16, width: usize, data: &'a mut [u8] },
    /// Anything else, as KVM says it; never a port exit.
    Other(VcpuExit<'a>),
}

thread_local! {
    /// `immediate_exit` of the vCPU that runs on this thread, null if none does.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// Handler of the kick signal: the vCPU of this thread leaves the guest, or does not enter it.
pub(crate) extern "C" fn kick<I>(_signal: c_int, _info: *mut I, _context: *mut c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `Vcpu::on_this_thread` sets the pointer while the run page is mapped and clears it before
        // the vCPU can go; the handler runs on that same thread, so between the two.
        let flag = unsafe { &*flag };
        flag.store(1, Ordering::Relaxed);
    }
}

/// A vCPU.
pub(crate) struct Vcpu {
    fd: VcpuFd,
}

impl Vcpu {
    /// Takes a vCPU.
    pub(crate) fn new(fd: VcpuFd) -> Self {
        Self { fd }
    }

    /// For the calls that get and set its state.
    pub(crate) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Makes the kick signal reach this vCPU while `body` runs on this thread.
    pub(crate) fn on_this_thread<R>(mut self, body: impl FnOnce(&mut RunningVcpu<'_>) -> R) -> (Self, R) {
        let page = ptr::from_mut(self.fd.get_kvm_run());
        // SAFETY: `page` points to the mapped run page.
        let flag = unsafe { &raw mut (*page).immediate_exit };
        IMMEDIATE_EXIT.set(flag.cast::<AtomicU8>());
        let clear = ClearOnDrop;
        let result = body(&mut RunningVcpu { fd: &mut self.fd, _thread: PhantomData });
        drop(clear);
        (self, result)
    }
}

/// Takes the vCPU away from the kick signal, on a panic too.
struct ClearOnDrop;

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

/// A vCPU bound to the current thread; it cannot be taken out of the hands of [`Vcpu::on_this_thread`].
pub(crate) struct RunningVcpu<'a> {
    fd: &'a mut VcpuFd,
    /// Not `Send`: the kick signal goes to the thread it was bound to.
    _thread: PhantomData<*const ()>,
}

impl RunningVcpu<'_> {
    /// For the calls that get its state.
    pub(crate) fn fd(&self) -> &VcpuFd {
        self.fd
    }

    /// Lets the next [`Self::run`] enter the guest, unless a kick comes after this.
    pub(crate) fn forget_kick(&mut self) {
        self.fd.set_kvm_immediate_exit(0);
    }

    /// Enters the guest until it needs something, or a kick comes.
    pub(crate) fn run(&mut self) -> Result<Exit<'_>, Errno> {
        let page = ptr::from_ref(self.fd.get_kvm_run());
        let width = || {
            // SAFETY: `page` is mapped and aligned as long as the vCPU is open, and nobody writes the exit's
            // description before the next run; the data of the exit lies on another page.
            let exit = unsafe { &(*page).__bindgen_anon_1 };
            // SAFETY: called only after a port exit, for which the kernel filled this member.
            let port = unsafe { &exit.io };
            usize::from(port.size.max(1))
        };
        match self.fd.run()? {
            VcpuExit::IoOut(port, data) => Ok(Exit::PortWrite { port, width: width(), data }),
            VcpuExit::IoIn(port, data) => Ok(Exit::PortRead { port, width: width(), data }),
            other => Ok(Exit::Other(other)),
        }
    }

    /// Lets KVM complete an access that the guest was left for: registers set before that would be overwritten.
    pub(crate) fn finish_access(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        // An access over two pages is completed in two steps; after that the flag makes the call fail.
        while self.fd.run().is_ok() {}
    }
}
