//! KVM as the hypervisor: device memory as memory slots, interrupts as irqfds.
//!
//! Memory slots, the interrupt routing table and the KVM-VFIO device belong to the VM, not to a device. A
//! monitor that has its own implements [`SlotAllocator`] and [`RouteTable`]; else ours will do.

mod irqfd;
mod routes;
mod slots;
mod vfio;
#[cfg(target_arch = "x86_64")]
mod xsave;

pub use irqfd::{KvmError, KvmGuest};
pub use routes::{Gsi, IrqchipRoutes, RouteError, RouteTable, Routes};
pub use slots::{MemorySlot, MemorySlots, SlotAllocator, SlotError, SlotNumbers};
pub use vfio::KvmVfio;
#[cfg(target_arch = "x86_64")]
pub use xsave::Xsave;

pub use crate::sys::RunPage;

use crate::errno::Errno;
use crate::kernel::Host;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A KVM virtual machine. Clones are the same one.
#[derive(Clone, Debug)]
pub struct KvmVm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Host,
    fd: OwnedFd,
}

impl KvmVm {
    /// The VM behind a file descriptor that `KVM_CREATE_VM` gave, which is duplicated.
    ///
    /// # Errors
    ///
    /// `EMFILE` where RLIMIT_NOFILE is reached.
    pub fn new(host: Host, vm: BorrowedFd<'_>) -> Result<Self, Errno> {
        let fd = vm.try_clone_to_owned().map_err(|error| Errno::of(&error).unwrap_or(Errno::EBADF))?;
        Ok(Self(Arc::new(Inner { host, fd })))
    }

    fn host(&self) -> &Host {
        &self.0.host
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// `KVM_CHECK_EXTENSION`.
    fn limit(&self, capability: u32) -> Result<u32, Errno> {
        self.host().kvm_check_extension(self.fd(), capability)
    }
}

#[cfg(test)]
mod tests;
