//! Devices of tests: those of a scripted kernel, behind which there is nothing.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use vfio_assign_core::Bdf;
use vfio_assign_linux::kvm::{IrqchipRoutes, KvmGuest, KvmVm, MemorySlots, Routes, SlotNumbers};
use vfio_assign_linux::scripted::{ScriptedFunction, ScriptedKernel};
use vfio_assign_linux::{AssignOptions, Assigned, Backend, Host, StepObserver, Sysfs, Vm, VmOptions};

use super::device::AssignedDevice;
use super::tap::TappedGuest;
use crate::machine::vm::ForDevices;

/// A host with one function, bound to VFIO.
pub(super) struct TestHost {
    pub(super) kernel: ScriptedKernel,
    sysfs: tempfile::TempDir,
    vm: OwnedFd,
}

/// The function's address.
pub(super) fn bdf() -> Bdf {
    Bdf::new(0, 0, 4, 0).unwrap()
}

impl TestHost {
    pub(super) fn new() -> Self {
        let sysfs = tempfile::tempdir().unwrap();
        show(sysfs.path());
        let kernel = ScriptedKernel::new(&[ScriptedFunction::new(bdf(), 7)]);
        let vm = kernel.create_vm().unwrap();
        Self { kernel, sysfs, vm }
    }

    /// A machine on it, without RAM.
    pub(super) fn machine(&self) -> ForDevices {
        let host: Host = self.kernel.host();
        let kvm = KvmVm::new(host.clone(), self.vm.as_fd()).unwrap();
        let slots = MemorySlots::new(kvm.clone(), Arc::new(SlotNumbers::new(&kvm, 0).unwrap()));
        ForDevices { host, kvm, slots, ram: Vec::new() }
    }

    pub(super) fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.sysfs.path())
    }

    /// The function, assigned, with whoever hears of its steps.
    pub(super) fn device(&self, steps: Option<Arc<dyn StepObserver>>) -> AssignedDevice {
        let ForDevices { host, kvm, slots, .. } = self.machine();
        let options =
            VmOptions { sysfs: self.sysfs(), backend: Some(Backend::Group), ..VmOptions::default() };
        let device = Vm::new(host.clone(), options).open(bdf()).unwrap();
        let routes = Arc::new(Routes::new(kvm.clone(), IrqchipRoutes::X86Full).unwrap());
        let guest = TappedGuest::new(KvmGuest::new(kvm, slots, routes), None).unwrap();
        let options = AssignOptions { steps, ..AssignOptions::default() };
        AssignedDevice::new(Assigned::new(device, guest, &options).unwrap(), host, None)
    }
}

/// The function as the kernel would link it.
fn show(root: &Path) {
    let (driver, group) = (root.join("bus/pci/drivers/vfio-pci"), root.join("kernel/iommu_groups/7"));
    let device = root.join("bus/pci/devices").join(bdf().to_string());
    for folder in [&driver, &group.join("devices"), &device] {
        fs::create_dir_all(folder).unwrap();
    }
    symlink(&driver, device.join("driver")).unwrap();
    symlink(&group, device.join("iommu_group")).unwrap();
    symlink(&device, group.join("devices").join(bdf().to_string())).unwrap();
}
