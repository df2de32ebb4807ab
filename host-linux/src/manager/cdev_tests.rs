//! Devices that are opened by their own files, and the choice between that and their groups.

use super::tests::{at, bdf, region, starting};
use super::*;
use crate::cdev::CdevError;
use crate::error::{GroupError, OpenError};
use crate::ioas::IommufdError;
use crate::options::{Backend, DeviceOptions, VfioFile};
use crate::retry::RetryPolicy;
use crate::sysfs::tests::FakeSysfs;
use crate::testing::{TestFiles, TestKernel};

/// A host whose devices have files of their own, and what its VMs are made with.
struct TestHost {
    kernel: TestKernel,
    options: VmOptions,
    _sysfs: FakeSysfs,
}

impl TestHost {
    fn new() -> Self {
        Self::with(|sysfs| sysfs)
    }

    fn with(more: impl FnOnce(FakeSysfs) -> FakeSysfs) -> Self {
        let sysfs = FakeSysfs::new()
            .add("0000:00:04.0", Some("vfio-pci"), Some(7))
            .add_cdev("0000:00:04.0", "vfio0", 0)
            .add("0000:00:05.0", Some("vfio-pci"), Some(8))
            .add_cdev("0000:00:05.0", "vfio1", 1);
        let sysfs = more(sysfs);
        let kernel = TestKernel::default();
        let files = Some(Arc::new(TestFiles(kernel.clone())) as _);
        let retry = RetryPolicy::once();
        let options = VmOptions { sysfs: sysfs.sysfs(), retry, files, ..VmOptions::default() };
        Self { kernel, options, _sysfs: sysfs }
    }

    fn vm(&self) -> Vm {
        Vm::new(self.kernel.host(), self.options.clone())
    }

    fn vm_by(&self, backend: Backend) -> Vm {
        let options = VmOptions { backend: Some(backend), ..self.options.clone() };
        Vm::new(self.kernel.host(), options)
    }
}

#[test]
fn device_is_opened_and_closed_in_the_kernels_order() {
    let host = TestHost::new();
    let vm = host.vm();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    let device = vm.open(bdf()).unwrap();
    let calls = host.kernel.calls();
    let expected = [
        "open iommu",
        "ioas_alloc",
        "open vfio0",
        "add_file",
        "bind",
        "attach 1",
        "ioas_ranges 1 32",
        "ioas_map 1 0x0 0x2000",
        "device_info",
    ];
    assert_eq!(calls[..expected.len()], expected);
    assert_eq!((device.backend(), device.group(), device.iommufd_id()), (Backend::Cdev, 7, Some(1)));
    drop(device);
    // KVM finds the file by its descriptor, so it hears of the end before the device is closed.
    assert_eq!(host.kernel.calls(), ["detach", "remove_file, device open", "destroy 1"]);
}

#[test]
fn reservation_does_all_but_bind_the_device() {
    let host = TestHost::new();
    let vm = host.vm();
    let reservation = vm.reserve(bdf()).unwrap();
    assert_eq!(host.kernel.calls(), ["open iommu", "ioas_alloc", "open vfio0", "add_file"]);
    drop(reservation);
    assert_eq!(host.kernel.calls(), ["remove_file, device open", "destroy 1"]);
}

#[test]
fn devices_of_a_vm_share_an_address_space() {
    let host = TestHost::new();
    let vm = host.vm();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    let _first = vm.open(at("0000:00:04.0")).unwrap();
    let second = vm.open(at("0000:00:05.0")).unwrap();
    let calls = host.kernel.calls();
    assert_eq!(starting(&calls, "attach"), ["attach 1", "attach 1"]);
    assert_eq!(starting(&calls, "ioas_map"), ["ioas_map 1 0x0 0x2000"]);
    assert_eq!(vm.open_groups_and_spaces(), (0, 1));
    drop(second);
    assert_eq!(starting(&host.kernel.calls(), "destroy"), [""; 0]);
}

#[test]
fn two_vms_have_an_address_space_each() {
    let host = TestHost::new();
    let (one, other) = (host.vm(), host.vm());
    one.add_memory(&[region(0, 0x2000)]).unwrap();
    let _first = one.open(at("0000:00:04.0")).unwrap();
    let _second = other.open(at("0000:00:05.0")).unwrap();
    let calls = host.kernel.calls();
    assert_eq!(starting(&calls, "open iommu").len(), 2);
    assert_eq!(starting(&calls, "attach"), ["attach 1", "attach 2"]);
    // Nobody but its own devices reaches the first VM's memory.
    assert_eq!(starting(&calls, "ioas_map"), ["ioas_map 1 0x0 0x2000"]);
}

#[test]
fn iommufd_that_two_vms_were_lent_has_an_address_space_for_each() {
    let mut host = TestHost::new();
    host.options.iommufd = Some(Arc::new(host.kernel.lend("/dev/iommu")));
    let (one, other) = (host.vm(), host.vm());
    let _first = one.open(at("0000:00:04.0")).unwrap();
    let _second = other.open(at("0000:00:05.0")).unwrap();
    let calls = host.kernel.calls();
    assert_eq!(starting(&calls, "open iommu"), [""; 0]);
    assert_eq!(starting(&calls, "attach"), ["attach 1", "attach 2"]);
}

#[test]
fn device_in_use_by_its_group_is_named_with_the_group() {
    let host = TestHost::new();
    host.kernel.fail("bind", Errno::EBUSY);
    let in_use = GroupError::InUse { group: 7, path: "/dev/vfio/7".into() };
    assert_eq!(host.vm().open(bdf()).unwrap_err(), OpenError::Group(in_use));
}

#[test]
fn device_whose_group_another_vm_uses_is_named_with_the_group() {
    let host = TestHost::new();
    host.kernel.fail("bind", Errno::EPERM);
    let error = host.vm().open(bdf()).unwrap_err();
    let bind = CdevError::Bind { bdf: bdf(), group: 7, errno: Errno::EPERM };
    assert_eq!(error, OpenError::Cdev(bind));
    assert!(error.to_string().contains("IOMMU group 7"), "{error}");
}

#[test]
fn device_whose_group_the_host_uses_has_the_group_listed() {
    let host = TestHost::with(|sysfs| sysfs.add("0000:00:04.1", Some("nvme"), Some(7)));
    host.kernel.fail("bind", Errno::EPERM);
    let error = host.vm().open(bdf()).unwrap_err();
    assert!(matches!(error, OpenError::Group(GroupError::NotViable { group: 7, .. })), "{error}");
}

#[test]
fn device_whose_reset_is_held_up_is_tried_again() {
    let mut host = TestHost::new();
    let clock = Arc::new(host.kernel.clone());
    host.options.retry = RetryPolicy { tries: 2, clock, ..RetryPolicy::default() };
    host.kernel.fail("bind", Errno::EAGAIN);
    let _device = host.vm().open(bdf()).unwrap();
    let calls = host.kernel.calls();
    assert_eq!(calls[4..8], ["bind", "wait", "bind", "attach 1"]);
}

#[test]
fn device_that_finds_memory_in_its_reserved_range_says_so() {
    let host = TestHost::new();
    host.kernel.fail("attach", Errno::EADDRINUSE);
    let error = host.vm().open(bdf()).unwrap_err();
    assert_eq!(error, OpenError::Cdev(CdevError::Attach { bdf: bdf(), errno: Errno::EADDRINUSE }));
    assert!(error.to_string().contains("guest memory lies where"), "{error}");
}

#[test]
fn kernel_without_files_of_their_own_has_devices_opened_by_group() {
    let sysfs = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7));
    let mut host = TestHost::new();
    host.options.sysfs = sysfs.sysfs();
    assert_eq!(host.vm().open(bdf()).unwrap().backend(), Backend::Group);
    let missing = OpenError::Cdev(CdevError::Missing { bdf: bdf() });
    assert_eq!(host.vm_by(Backend::Cdev).open(bdf()).unwrap_err(), missing);
}

#[test]
fn iommufd_that_does_not_open_leaves_the_group() {
    let host = TestHost::new();
    host.kernel.fail("open iommu", Errno::EACCES);
    assert_eq!(host.vm().open(bdf()).unwrap().backend(), Backend::Group);
}

#[test]
fn device_file_that_does_not_open_leaves_the_group_and_nothing_else() {
    let host = TestHost::new();
    host.kernel.fail("open vfio0", Errno::EACCES);
    let vm = host.vm();
    assert_eq!(vm.open(bdf()).unwrap().backend(), Backend::Group);
    let calls = host.kernel.calls();
    assert_eq!(calls[..4], ["open iommu", "ioas_alloc", "open vfio0", "destroy 1"]);
}

#[test]
fn interface_that_was_named_is_not_left() {
    let host = TestHost::new();
    host.kernel.fail("open iommu", Errno::EACCES);
    let refused = IommufdError::Open { path: "/dev/iommu".into(), errno: Errno::EACCES };
    assert_eq!(host.vm_by(Backend::Cdev).open(bdf()).unwrap_err(), OpenError::Iommufd(refused));
    assert_eq!(host.vm_by(Backend::Group).open(bdf()).unwrap().backend(), Backend::Group);
}

#[test]
fn vm_with_a_device_in_a_container_stays_with_groups() {
    let host = TestHost::new();
    let vm = host.vm();
    host.kernel.fail("open vfio0", Errno::EACCES);
    let _first = vm.open(at("0000:00:04.0")).unwrap();
    let second = vm.open(at("0000:00:05.0")).unwrap();
    assert_eq!((second.backend(), vm.open_groups_and_spaces()), (Backend::Group, (2, 1)));
}

#[test]
fn token_needs_the_group_interface() {
    const TOKEN: &str = "00112233-4455-6677-8899-aabbccddeeff";
    let host = TestHost::new();
    host.kernel.want_token(TOKEN);
    let token = || DeviceOptions { vf_token: Some(TOKEN.parse().unwrap()), file: None };
    let device = host.vm().reserve_with(bdf(), token()).unwrap().open().unwrap();
    let name = "device_fd 0000:00:04.0 vf_token=00112233-4455-6677-8899-aabbccddeeff";
    assert_eq!(starting(&host.kernel.calls(), "device_fd"), [name]);
    drop(device);
    let refused = host.vm_by(Backend::Cdev).reserve_with(bdf(), token()).unwrap_err();
    assert_eq!(refused, OpenError::Cdev(CdevError::Token { bdf: bdf() }));
}

#[test]
fn c1_files_that_were_handed_in_are_not_opened_again() {
    let mut host = TestHost::new();
    host.options.iommufd = Some(Arc::new(host.kernel.lend("/dev/iommu")));
    let vm = host.vm();
    let cdev = host.kernel.lend("/dev/vfio/devices/vfio0");
    let options = DeviceOptions { file: Some(VfioFile::Cdev(cdev)), ..DeviceOptions::default() };
    let _reservation = vm.reserve_with(bdf(), options).unwrap();
    assert_eq!(host.kernel.calls(), ["ioas_alloc", "device_number", "add_file"]);
}

#[test]
fn c1_file_of_another_device_is_refused() {
    let host = TestHost::new();
    host.kernel.set_number((511, 9));
    let cdev = host.kernel.lend("/dev/vfio/devices/vfio0");
    let options = DeviceOptions { file: Some(VfioFile::Cdev(cdev)), ..DeviceOptions::default() };
    let error = host.vm().reserve_with(bdf(), options).unwrap_err();
    let text = "the file that was handed in for 0000:00:04.0 has the device number 511:9, not 511:0; \
        hand in /dev/vfio/devices/vfio0";
    assert_eq!(error.to_string(), text);
}

#[test]
fn group_and_container_that_were_handed_in_are_not_opened_again() {
    let mut host = TestHost::new();
    host.options.container = Some(Arc::new(host.kernel.lend("/dev/vfio/vfio")));
    let vm = host.vm();
    let group = host.kernel.lend("/dev/vfio/7");
    let options = DeviceOptions { file: Some(VfioFile::Group(group)), ..DeviceOptions::default() };
    let device = vm.reserve_with(bdf(), options).unwrap().open().unwrap();
    assert_eq!(starting(&host.kernel.calls(), "open"), [""; 0]);
    assert_eq!(device.backend(), Backend::Group);
}

#[test]
fn group_that_was_handed_in_with_a_container_is_refused() {
    let host = TestHost::new();
    host.kernel.answer("group_status", 3);
    let group = host.kernel.lend("/dev/vfio/7");
    let options = DeviceOptions { file: Some(VfioFile::Group(group)), ..DeviceOptions::default() };
    let error = host.vm().reserve_with(bdf(), options).unwrap_err();
    assert_eq!(error, OpenError::Group(GroupError::HasContainer { group: 7 }));
}

#[test]
fn address_space_that_is_not_given_back_ends_nothing() {
    let host = TestHost::new();
    let vm = host.vm();
    let device = vm.open(bdf()).unwrap();
    for call in ["detach", "remove_file", "destroy"] {
        host.kernel.fail(call, Errno::EBUSY);
    }
    drop(device);
    let again = vm.open(bdf()).unwrap();
    assert_eq!(starting(&host.kernel.calls(), "attach"), ["attach 1", "attach 2"]);
    drop(again);
}

#[test]
fn second_device_that_fails_at_any_call_leaves_the_first_as_it_was() {
    let open_both = |before: Option<u32>| {
        let host = TestHost::new();
        let vm = host.vm_by(Backend::Cdev);
        vm.add_memory(&[region(0, 0x2000)]).unwrap();
        let first = vm.open(at("0000:00:04.0")).unwrap();
        host.kernel.calls();
        if let Some(before) = before {
            host.kernel.fail_after(before, "", Errno::ENODEV);
        }
        let second = vm.open(at("0000:00:05.0")).map(drop);
        let calls = host.kernel.calls();
        assert_eq!(vm.open_groups_and_spaces(), (0, 1), "{second:?}, {calls:?}");
        for taken in ["ioas_unmap", "destroy"] {
            assert_eq!(starting(&calls, taken), [""; 0], "{second:?}, {calls:?}");
        }
        drop(first);
        let closed = host.kernel.calls();
        let closed: Vec<_> = closed.iter().map(|call| call.split(',').next().unwrap()).collect();
        assert_eq!(closed, ["detach", "remove_file", "destroy 1"], "{second:?}, {calls:?}");
        calls.len() as u32
    };
    (0..open_both(None)).for_each(|before| {
        open_both(Some(before));
    });
}

#[test]
fn failure_at_any_call_leaves_nothing_behind() {
    let count = {
        let host = TestHost::new();
        let vm = host.vm_by(Backend::Cdev);
        vm.add_memory(&[region(0, 0x2000)]).unwrap();
        let _device = vm.open(bdf()).unwrap();
        host.kernel.calls().len() as u32
    };
    for before in 0..count {
        for errno in [Errno::ENODEV, Errno::EMFILE, Errno::ENOMEM, Errno::EINVAL] {
            let host = TestHost::new();
            let vm = host.vm_by(Backend::Cdev);
            vm.add_memory(&[region(0, 0x2000)]).unwrap();
            host.kernel.fail_after(before, "", errno);
            // Some calls may fail without the device being lost, as where a kind of interrupt is absent.
            let error = vm.open(bdf()).map(drop).err();
            let calls = host.kernel.calls();
            let case = format!("call {before}, {errno:?}: {error:?}, {calls:?}");
            let count = |start| starting(&calls, start).len();
            assert_eq!(vm.open_groups_and_spaces(), (0, 0), "{case}");
            // The call that failed is the last of those that were to be undone.
            let done = |start| count(start) - usize::from(calls[before as usize].starts_with(start));
            assert_eq!(count("destroy"), done("ioas_alloc"), "{case}");
            assert_eq!(count("detach"), done("attach"), "{case}");
            assert_eq!(count("remove_file"), done("add_file"), "{case}");
            assert_eq!(vm.open(bdf()).map(drop), Ok(()), "{case}");
        }
    }
}

mod memory;
