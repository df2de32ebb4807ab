//! The KVM-VFIO device, one per VM, through which KVM knows what VFIO files the VM uses.

use super::KvmVm;
use crate::errno::Errno;
use crate::group::VfioFiles;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// A VM's KVM-VFIO device, made when the first file is added.
///
/// KVM allows one per VM. It is closed with this value, which every open device keeps.
#[derive(Debug)]
pub struct KvmVfio {
    vm: KvmVm,
    device: Mutex<Option<OwnedFd>>,
}

impl KvmVfio {
    /// The KVM-VFIO device of a VM that has none.
    pub fn new(vm: KvmVm) -> Self {
        Self { vm, device: Mutex::new(None) }
    }

    /// The KVM-VFIO device that a monitor has made already.
    pub fn with_device(vm: KvmVm, device: OwnedFd) -> Self {
        Self { vm, device: Mutex::new(Some(device)) }
    }

    fn with<T>(&self, use_it: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let device = match &mut *device {
            Some(device) => device,
            none => none.insert(self.vm.host().kvm_create_vfio_device(self.vm.fd())?),
        };
        use_it(device.as_fd())
    }
}

impl VfioFiles for KvmVfio {
    fn add(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.with(|device| self.vm.host().kvm_add_vfio_file(device, file))
    }

    fn remove(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.with(|device| self.vm.host().kvm_remove_vfio_file(device, file))
    }
}
