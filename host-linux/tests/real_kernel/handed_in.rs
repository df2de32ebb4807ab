//! Files that somebody else has opened, and the choice of an interface where nobody makes it.

use crate::rig::{Rig, all_descriptors, region};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use vfio_assign_core::Bdf;
use vfio_assign_linux::{
    Backend, CdevError, DeviceOptions, GroupError, Host, OpenError, Sysfs, VfioFile, Vm, VmOptions,
};

const SIZE: u64 = 0x1_0000;

/// The file, opened as a launcher would.
fn file(path: impl AsRef<Path>) -> OwnedFd {
    let path = path.as_ref();
    let opened = File::options().read(true).write(true).open(path);
    opened.unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

/// A VM that opens nothing by itself: there is nothing in the folders that it knows.
fn confined(backend: Backend) -> Vm {
    let mut options =
        VmOptions { dev_vfio: "/nowhere".into(), dev_iommu: "/nowhere/iommu".into(), ..VmOptions::default() };
    match backend {
        Backend::Group => options.container = Some(Arc::new(file("/dev/vfio/vfio"))),
        Backend::Cdev => options.iommufd = Some(Arc::new(file("/dev/iommu"))),
    }
    Vm::new(Host::linux(), options)
}

/// The device's file on this interface.
fn device_file(backend: Backend, device: Bdf) -> DeviceOptions {
    let sysfs = Sysfs::default();
    let file = match backend {
        Backend::Group => {
            let group = sysfs.function(device).expect("it is there").group.expect("it is in a group");
            VfioFile::Group(file(format!("/dev/vfio/{group}")))
        }
        Backend::Cdev => {
            let found = sysfs.vfio_device(device).expect("sysfs can be read").expect("it is VFIO's");
            VfioFile::Cdev(file(format!("/dev/vfio/devices/{}", found.name)))
        }
    };
    DeviceOptions { file: Some(file), ..DeviceOptions::default() }
}

#[test]
fn c1_device_is_opened_by_files_that_were_handed_in_and_given_back() {
    let Some(rig) = Rig::get() else { return };
    let vm = confined(rig.backend);
    vm.add_memory(&[region(0, SIZE)]).expect("there is no device yet");
    for _ in 0..2 {
        let before = all_descriptors();
        let reserved = vm.reserve_with(rig.nvme, device_file(rig.backend, rig.nvme)).expect("reserves");
        let device = reserved.open().expect("opens");
        assert_eq!(device.backend(), rig.backend);
        assert!(vm.is_discard_inhibited());
        drop(device);
        assert_eq!((all_descriptors(), vm.open_groups_and_spaces()), (before, (0, 0)));
    }
}

#[test]
fn c1_file_of_another_device_is_refused() {
    let Some(rig) = Rig::get() else { return };
    let vm = confined(rig.backend);
    let refused =
        vm.reserve_with(rig.nvme, device_file(rig.backend, rig.edu)).and_then(|device| device.open());
    match (rig.backend, refused.map(drop)) {
        // The kernel finds no such device in the group.
        (Backend::Group, Err(OpenError::Device { .. })) => {}
        (Backend::Cdev, Err(OpenError::Cdev(CdevError::OtherDevice { .. }))) => {}
        (_, result) => panic!("{result:?}"),
    }
}

#[test]
fn device_that_is_open_elsewhere_is_refused_by_name() {
    let Some(rig) = Rig::get() else { return };
    let one = confined(rig.backend);
    let reserved = one.reserve_with(rig.edu, device_file(rig.backend, rig.edu)).expect("reserves");
    let device = reserved.open().expect("opens");
    // The other interface's way to the same device.
    let other = match rig.backend {
        Backend::Group => Backend::Cdev,
        Backend::Cdev => Backend::Group,
    };
    if other == Backend::Cdev && !Path::new("/dev/iommu").exists() {
        return;
    }
    let options = VmOptions { backend: Some(other), ..VmOptions::default() };
    let refused = Vm::new(Host::linux(), options).open(rig.edu).expect_err("it is in use");
    let group = device.group();
    assert_eq!(
        refused,
        OpenError::Group(GroupError::InUse { group, path: format!("/dev/vfio/{group}").into() })
    );
}

#[test]
fn interface_that_nobody_names_is_cdev_where_there_is_one() {
    let Some(rig) = Rig::get() else { return };
    let device = Vm::new(Host::linux(), VmOptions::default()).open(rig.nvme).expect("opens");
    let expected = if Path::new("/dev/iommu").exists() { Backend::Cdev } else { Backend::Group };
    assert_eq!(device.backend(), expected);
}
