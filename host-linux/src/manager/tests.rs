//! Sharing, refusing and undoing, over a kernel that fails what it is told to fail.

use super::*;
use crate::errno::Errno;
use crate::error::{ContainerError, GroupError, OpenError};
use crate::group::VfioFiles;
use crate::region::RegionIndex;
use crate::retry::RetryPolicy;
use crate::sys::{GuestMemory, MemoryBacking};
use crate::sysfs::tests::FakeSysfs;
use crate::testing::{TestFiles, TestKernel};

pub(super) fn bdf() -> Bdf {
    Bdf::new(0, 0, 4, 0).unwrap()
}

/// Opens the device on a host with this sysfs and without VFIO's device files.
fn open(sysfs: &FakeSysfs) -> OpenError {
    let options = VmOptions {
        sysfs: sysfs.sysfs(),
        dev_vfio: "/nowhere/vfio".into(),
        retry: RetryPolicy::once(),
        ..VmOptions::default()
    };
    Vm::new(Host::linux(), options).open(bdf()).unwrap_err()
}

#[test]
fn device_of_another_driver_is_refused() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("nvme"), Some(7));
    assert_eq!(open(&host), OpenError::NotVfio { bdf: bdf(), driver: Some("nvme".into()) });
}

#[test]
fn device_without_iommu_is_refused() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), None);
    assert_eq!(open(&host), OpenError::NoIommu { bdf: bdf() });
}

#[test]
fn host_without_vfio_is_named() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7));
    let error = ContainerError::Open { path: "/nowhere/vfio/vfio".into(), errno: Errno::ENOENT };
    assert_eq!(open(&host), OpenError::Container(error));
}

/// A VM over a test kernel, with two devices in groups of their own and one that shares the first's.
pub(super) fn test_vm() -> (TestKernel, Vm, FakeSysfs) {
    test_vm_with(|_| None)
}

/// The same, whose files somebody hears of.
fn vm_with_files() -> (TestKernel, Vm, FakeSysfs) {
    test_vm_with(|kernel| Some(Arc::new(TestFiles(kernel.clone()))))
}

fn test_vm_with(
    files: impl FnOnce(&TestKernel) -> Option<Arc<dyn VfioFiles>>,
) -> (TestKernel, Vm, FakeSysfs) {
    let sysfs = FakeSysfs::new()
        .add("0000:00:04.0", Some("vfio-pci"), Some(7))
        .add("0000:00:04.1", Some("vfio-pci"), Some(7))
        .add("0000:00:05.0", Some("vfio-pci"), Some(8));
    let kernel = TestKernel::default();
    let retry = RetryPolicy::once();
    let files = files(&kernel);
    let options = VmOptions { sysfs: sysfs.sysfs(), retry, files, ..VmOptions::default() };
    let vm = Vm::new(kernel.host(), options);
    (kernel, vm, sysfs)
}

pub(super) fn at(text: &str) -> Bdf {
    text.parse().unwrap()
}

pub(super) fn region(first: u64, size: u64) -> GuestRegion {
    GuestRegion {
        guest: Span::from_size(GuestAddr::new(first), size).unwrap(),
        memory: GuestMemory::new(size, MemoryBacking::Anonymous).unwrap(),
        offset: 0,
    }
}

pub(super) fn starting<'a>(calls: &'a [String], start: &str) -> Vec<&'a str> {
    calls.iter().map(String::as_str).filter(|call| call.starts_with(start)).collect()
}

#[test]
fn device_is_opened_in_the_kernels_order() {
    let (kernel, vm, _sysfs) = test_vm();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    let device = vm.open(bdf()).unwrap();
    let calls = kernel.calls();
    let expected = [
        "open vfio",
        "api_version",
        "check_extension 3",
        "open 7",
        "group_status",
        "set_container",
        "set_iommu 3",
        "iommu_info",
        "map_dma 0x0 0x2000",
        "device_fd 0000:00:04.0",
        "device_info",
    ];
    assert_eq!(calls[..expected.len()], expected);
    assert_eq!(device.region(RegionIndex::CONFIG).unwrap().size, 256);
}

#[test]
fn reservation_does_all_but_open_the_device() {
    let (kernel, vm, _sysfs) = vm_with_files();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    let reservation = vm.reserve(bdf()).unwrap();
    let calls = kernel.calls();
    assert_eq!(calls[calls.len() - 2..], ["map_dma 0x0 0x2000", "add_file"]);
    let device = reservation.open().unwrap();
    assert_eq!(kernel.calls()[..2], ["device_fd 0000:00:04.0", "device_info"]);
    assert_eq!(device.bdf(), bdf());
}

#[test]
fn memory_added_after_the_reservation_is_mapped() {
    let (kernel, vm, _sysfs) = test_vm();
    let _reservation = vm.reserve(bdf()).unwrap();
    kernel.calls();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    assert_eq!(starting(&kernel.calls(), "map_dma"), ["map_dma 0x0 0x2000"]);
}

#[test]
fn reserved_device_is_not_given_twice() {
    let (_kernel, vm, _sysfs) = test_vm();
    let _reservation = vm.reserve(bdf()).unwrap();
    assert_eq!(vm.open(bdf()).unwrap_err(), OpenError::Twice { bdf: bdf() });
}

#[test]
fn reservation_that_is_dropped_gives_everything_back() {
    let (_kernel, vm, _sysfs) = test_vm();
    drop(vm.reserve(bdf()).unwrap());
    assert_eq!(vm.open_groups_and_spaces(), (0, 0));
    assert_eq!(vm.open(bdf()).map(drop), Ok(()));
}

#[test]
fn device_is_closed_before_its_group() {
    let (kernel, vm, _sysfs) = vm_with_files();
    drop(vm.open(bdf()).unwrap());
    assert_eq!(kernel.calls().last().unwrap(), "remove_file, device closed");
}

#[test]
fn device_that_is_refused_is_closed_before_its_group() {
    let (kernel, vm, _sysfs) = vm_with_files();
    kernel.fail("region_info 0", Errno::EIO);
    vm.open(bdf()).unwrap_err();
    assert_eq!(kernel.calls().last().unwrap(), "remove_file, device closed");
}

#[test]
fn devices_of_a_group_share_it() {
    let (kernel, vm, _sysfs) = test_vm();
    let _first = vm.open(at("0000:00:04.0")).unwrap();
    let _second = vm.open(at("0000:00:04.1")).unwrap();
    assert_eq!(starting(&kernel.calls(), "open"), ["open vfio", "open 7"]);
}

#[test]
fn groups_of_a_vm_share_an_address_space() {
    let (_kernel, vm, _sysfs) = test_vm();
    let _first = vm.open(at("0000:00:04.0")).unwrap();
    let _second = vm.open(at("0000:00:05.0")).unwrap();
    assert_eq!(vm.open_groups_and_spaces(), (2, 1));
}

#[test]
fn group_that_does_not_fit_gets_a_new_address_space_with_all_memory() {
    let (kernel, vm, _sysfs) = test_vm();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    let _first = vm.open(at("0000:00:04.0")).unwrap();
    kernel.calls();
    kernel.fail("set_container", Errno::EINVAL);
    let _second = vm.open(at("0000:00:05.0")).unwrap();
    assert_eq!(vm.open_groups_and_spaces(), (2, 2));
    assert_eq!(starting(&kernel.calls(), "map_dma"), ["map_dma 0x0 0x2000"]);
}

#[test]
fn last_device_out_closes_everything() {
    let (_kernel, vm, _sysfs) = test_vm();
    let first = vm.open(at("0000:00:04.0")).unwrap();
    let second = vm.open(at("0000:00:04.1")).unwrap();
    drop(first);
    assert_eq!(vm.open_groups_and_spaces(), (1, 1));
    drop(second);
    assert_eq!(vm.open_groups_and_spaces(), (0, 0));
}

#[test]
fn group_that_is_not_viable_is_explained() {
    let (kernel, vm, _sysfs) = test_vm();
    kernel.answer("group_status", 0);
    let Err(OpenError::Group(GroupError::NotViable { group: 7, members })) = vm.open(bdf()) else {
        panic!("the group is not viable");
    };
    assert_eq!(members.len(), 2);
}

#[test]
fn group_in_use_is_named() {
    let (kernel, vm, _sysfs) = test_vm();
    kernel.fail("open 7", Errno::EBUSY);
    let in_use = GroupError::InUse { group: 7, path: "/dev/vfio/7".into() };
    assert_eq!(vm.open(bdf()).unwrap_err(), OpenError::Group(in_use));
}

#[test]
fn group_that_another_vm_uses_is_named() {
    let (kernel, vm, sysfs) = test_vm();
    let retry = RetryPolicy::once();
    let other = Vm::new(kernel.host(), VmOptions { sysfs: sysfs.sysfs(), retry, ..VmOptions::default() });
    let device = vm.open(at("0000:00:04.0")).unwrap();
    let in_use = GroupError::InUse { group: 7, path: "/dev/vfio/7".into() };
    assert_eq!(other.open(at("0000:00:04.1")).unwrap_err(), OpenError::Group(in_use));
    assert_eq!(other.open_groups_and_spaces(), (0, 0));
    drop(device);
    assert_eq!(other.open(at("0000:00:04.1")).map(drop), Ok(()));
}

#[test]
fn two_vms_have_an_address_space_each() {
    let (kernel, vm, sysfs) = test_vm();
    let other = Vm::new(kernel.host(), VmOptions { sysfs: sysfs.sysfs(), ..VmOptions::default() });
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    let _first = vm.open(at("0000:00:04.0")).unwrap();
    let _second = other.open(at("0000:00:05.0")).unwrap();
    assert_eq!((vm.open_groups_and_spaces(), other.open_groups_and_spaces()), ((1, 1), (1, 1)));
    let calls = kernel.calls();
    assert_eq!((starting(&calls, "open vfio").len(), starting(&calls, "set_iommu").len()), (2, 2));
    assert_eq!(starting(&calls, "map_dma").len(), 1);
}

#[test]
fn device_without_iommu_protection_is_refused() {
    let (_kernel, vm, sysfs) = test_vm();
    sysfs.set_group_name(7, "vfio-noiommu");
    assert_eq!(vm.open(bdf()).unwrap_err(), OpenError::NoIommuMode { bdf: bdf() });
}

#[test]
fn region_that_cannot_be_asked_for_is_not_absent() {
    let (kernel, vm, _sysfs) = test_vm();
    kernel.fail("region_info 2", Errno::EIO);
    let region = RegionIndex::bar(vfio_assign_core::BarIndex::BARS[2]);
    let error = crate::InfoError::Kernel(Errno::EIO);
    assert_eq!(vm.open(bdf()).unwrap_err(), OpenError::Region { bdf: bdf(), region, error });
}

#[test]
fn device_that_is_no_pci_device_is_refused() {
    let (kernel, vm, _sysfs) = test_vm();
    kernel.answer("device_info", 4);
    let error = OpenError::NotPci { bdf: bdf(), flags: 4, regions: 9 };
    assert_eq!(vm.open(bdf()).unwrap_err(), error);
}

/// Opens with a call failing: the open fails, nothing is left, and the next open succeeds.
#[track_caller]
fn leaves_nothing_behind(call: &'static str, errno: Errno) {
    let (kernel, vm, _sysfs) = vm_with_files();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    kernel.fail(call, errno);
    let error = vm.open(bdf()).unwrap_err();
    assert_eq!(vm.open_groups_and_spaces(), (0, 0), "after {error}");
    assert_eq!(vm.open(bdf()).map(drop), Ok(()), "after {error}");
}

#[test]
fn c6_every_step_of_opening_undoes_what_was_done() {
    leaves_nothing_behind("open vfio", Errno::EACCES);
    leaves_nothing_behind("api_version", Errno::ENOTTY);
    leaves_nothing_behind("check_extension", Errno::ENOTTY);
    leaves_nothing_behind("open 7", Errno::EBUSY);
    leaves_nothing_behind("group_status", Errno::ENODEV);
    leaves_nothing_behind("set_container", Errno::EPERM);
    leaves_nothing_behind("set_iommu", Errno::ENODEV);
    leaves_nothing_behind("iommu_info", Errno::ENODEV);
    leaves_nothing_behind("map_dma", Errno::ENOMEM);
    leaves_nothing_behind("add_file", Errno::EINVAL);
    leaves_nothing_behind("device_fd", Errno::EAGAIN);
    leaves_nothing_behind("device_info", Errno::ENODEV);
    leaves_nothing_behind("region_info 0", Errno::ENODEV);
    leaves_nothing_behind("irq_info 2", Errno::ENODEV);
}

#[test]
fn device_that_vanishes_at_any_call_of_opening_leaves_nothing_behind() {
    let (kernel, vm, _sysfs) = test_vm();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    drop(vm.open(bdf()).unwrap());
    let calls = kernel.calls().len() as u32;
    for before in 0..calls {
        let (kernel, vm, _sysfs) = test_vm();
        vm.add_memory(&[region(0, 0x2000)]).unwrap();
        kernel.fail_after(before, "", Errno::ENODEV);
        // Some calls may fail without the device being lost, as those of closing it.
        let error = vm.open(bdf()).map(drop).err();
        assert_eq!(vm.open_groups_and_spaces(), (0, 0), "call {before}, {error:?}");
        assert_eq!(vm.open(bdf()).map(drop), Ok(()), "call {before}, {error:?}");
    }
}

#[test]
fn claim_is_given_back() {
    let vm = Vm::new(Host::linux(), VmOptions::default());
    drop(Claim::new(&vm.0, bdf()).unwrap());
    assert!(Claim::new(&vm.0, bdf()).is_ok());
}

#[test]
fn second_claim_is_refused() {
    let vm = Vm::new(Host::linux(), VmOptions::default());
    let _first = Claim::new(&vm.0, bdf()).unwrap();
    assert_eq!(Claim::new(&vm.0, bdf()).unwrap_err(), OpenError::Twice { bdf: bdf() });
}
