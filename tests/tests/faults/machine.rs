//! The host that scenarios run on: a scripted kernel, a sysfs that shows its functions, and a KVM virtual machine.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use vfio_assign_core::{Bdf, GuestAddr, Span};
use vfio_assign_linux::kvm::{KvmVfio, KvmVm};
use vfio_assign_linux::scripted::{ScriptedFunction, ScriptedKernel};
use vfio_assign_linux::{
    Backend, Errno, GuestMemory, GuestRegion, Host, MemoryBacking, RetryPolicy, Sysfs, Vm, VmOptions,
};

pub(crate) struct Machine {
    pub(crate) kernel: ScriptedKernel,
    pub(crate) host: Host,
    pub(crate) sysfs: Arc<tempfile::TempDir>,
    vm: OwnedFd,
}

/// The address of a function in the scripted slot.
pub(crate) fn bdf(function: u8) -> Bdf {
    Bdf::new(0, 0, 4, function).unwrap()
}

/// A sysfs that shows these functions, bound to VFIO.
pub(crate) fn sysfs(functions: &[ScriptedFunction]) -> Arc<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let driver = folder.path().join("bus/pci/drivers/vfio-pci");
    fs::create_dir_all(&driver).unwrap();
    for (place, function) in functions.iter().enumerate() {
        let bdf = function.bdf();
        let device = folder.path().join("bus/pci/devices").join(bdf.to_string());
        let own = device.join("vfio-dev").join(function.cdev_name());
        fs::create_dir_all(&own).unwrap();
        symlink(&driver, device.join("driver")).unwrap();
        let group = folder.path().join("kernel/iommu_groups").join(function.group().to_string());
        fs::create_dir_all(group.join("devices")).unwrap();
        if function.has_iommu() {
            fs::write(own.join("dev"), format!("511:{place}\n")).unwrap();
        } else {
            fs::write(group.join("name"), "vfio-noiommu\n").unwrap();
        }
        symlink(&device, group.join("devices").join(bdf.to_string())).unwrap();
        symlink(&group, device.join("iommu_group")).unwrap();
    }
    Arc::new(folder)
}

impl Machine {
    pub(crate) fn new(functions: &[ScriptedFunction], sysfs: &Arc<tempfile::TempDir>) -> Self {
        Self::over(ScriptedKernel::new(functions), sysfs.clone())
    }

    /// This kernel, with a KVM virtual machine.
    pub(crate) fn over(kernel: ScriptedKernel, sysfs: Arc<tempfile::TempDir>) -> Self {
        let vm = kernel.create_vm().unwrap();
        Self { host: kernel.host(), kernel, sysfs, vm }
    }

    fn root(&self) -> &Path {
        self.sysfs.path()
    }

    pub(crate) fn kvm(&self) -> Result<KvmVm, Errno> {
        KvmVm::new(self.host.clone(), self.vm.as_fd())
    }

    /// What is opened on this interface, without KVM.
    pub(crate) fn options(&self, backend: Backend) -> VmOptions {
        let interval = Duration::from_secs(1);
        VmOptions {
            sysfs: Sysfs::at(self.root()),
            backend: Some(backend),
            retry: RetryPolicy { interval, tries: 2, clock: Arc::new(self.kernel.clone()) },
            ..VmOptions::default()
        }
    }

    /// A VM with two regions of memory, on this interface.
    pub(crate) fn vm(&self, backend: Backend, kvm: &KvmVm) -> Vm {
        let files = Some(Arc::new(KvmVfio::new(kvm.clone())) as Arc<_>);
        let options = VmOptions { files, ..self.options(backend) };
        let vm = Vm::new(self.host.clone(), options);
        vm.add_memory(&[region(0, 2), region(0x10_0000, 1)]).unwrap();
        vm
    }
}

/// Guest memory of so many pages; from an address of 1 MiB on it is a file.
pub(crate) fn region(first: u64, pages: u64) -> GuestRegion {
    let size = pages * 0x1000;
    let backing = if first < 0x10_0000 { MemoryBacking::Anonymous } else { MemoryBacking::Memfd };
    GuestRegion {
        guest: Span::from_size(GuestAddr::new(first), size).unwrap(),
        memory: GuestMemory::new(size, backing).unwrap(),
        offset: 0,
    }
}
