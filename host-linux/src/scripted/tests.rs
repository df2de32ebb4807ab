//! What the scripted kernel sees of what is not given back, and how its calls fail.

use super::*;
use crate::kernel::Kernel;
use crate::manager::Vm;
use crate::options::{Backend, VmOptions};
#[cfg(feature = "kvm")]
use crate::sys::EventFd;
use crate::sys::{GuestMemory, MemoryBacking};
use crate::sysfs::tests::FakeSysfs;
use crate::{
    Device, DeviceOptions, GroupError, GuestRegion, IrqVectors, MappedBars, OpenError, RegisterPath,
    Reservation,
};
use std::os::fd::AsFd;
use vfio_assign_core::{GuestAddr, Span, VectorIndex};

/// A device of a VM on this interface, with a page of memory.
fn open(kernel: &ScriptedKernel, sysfs: &FakeSysfs, backend: Backend) -> Arc<Device> {
    let options = VmOptions { sysfs: sysfs.sysfs(), backend: Some(backend), ..VmOptions::default() };
    let vm = Vm::new(kernel.host(), options);
    let guest = Span::from_size(GuestAddr::new(0), 0x1000).unwrap();
    let memory = GuestMemory::new(0x1000, MemoryBacking::Anonymous).unwrap();
    vm.add_memory(&[GuestRegion { guest, memory, offset: 0 }]).unwrap();
    Arc::new(vm.open("0000:00:04.0".parse().unwrap()).unwrap())
}

fn host() -> (ScriptedKernel, FakeSysfs) {
    let function = ScriptedFunction::new("0000:00:04.0".parse().unwrap(), 7);
    let sysfs = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7));
    let sysfs = sysfs.add_cdev("0000:00:04.0", function.cdev_name(), 0);
    (ScriptedKernel::new(&[function]), sysfs)
}

fn stands(kernel: &ScriptedKernel, what: &str) -> bool {
    kernel.standing().iter().any(|line| line.contains(what))
}

#[test]
fn all_that_an_open_device_has_stands_until_it_is_closed() {
    for (backend, own) in [(Backend::Group, "group 7"), (Backend::Cdev, "iommufd")] {
        let (kernel, sysfs) = host();
        let device = open(&kernel, &sysfs, backend);
        let expected = [own, "device 0", "DMA 0x0 0x1000", "Command 0x2"].map(|what| stands(&kernel, what));
        drop(device);
        assert_eq!((expected, kernel.standing()), ([true; 4], vec![]));
    }
}

#[test]
fn a_mapping_that_outlives_its_device_stands() {
    let (kernel, sysfs) = host();
    let bars = MappedBars::map(open(&kernel, &sysfs, Backend::Group), RegisterPath::Kernel, &[]);
    let part = Span::from_size(vfio_assign_core::PhysBarOffset::new(0), 0x1000).unwrap();
    let window = bars.window(vfio_assign_core::BarIndex::BARS[0], part).unwrap();
    drop(bars);
    assert_eq!(kernel.standing(), ["0000:00:04.0: BAR mapped"]);
    drop(window);
    assert_eq!(kernel.standing(), [""; 0]);
}

#[test]
fn a_wired_vector_stands_until_it_is_off() {
    let (kernel, sysfs) = host();
    let mut vectors = IrqVectors::new(open(&kernel, &sysfs, Backend::Group), IrqKind::Msix);
    let vector = VectorIndex::new(5).unwrap();
    vectors.wire(vector, vector, &|_| true).unwrap();
    let wired = stands(&kernel, "kind 2 vector 5 wired");
    vectors.disable().unwrap();
    assert_eq!((wired, stands(&kernel, "kind 2")), (true, false));
}

#[cfg(feature = "kvm")]
#[test]
fn an_irqfd_stands_until_it_is_taken_away() {
    let (kernel, _) = host();
    let vm = kernel.create_vm().unwrap();
    let event = EventFd::new().unwrap();
    kernel.kvm_assign_irqfd(vm.as_fd(), 24, event.as_fd(), None).unwrap();
    let armed = kernel.standing();
    kernel.kvm_deassign_irqfd(vm.as_fd(), 24, event.as_fd()).unwrap();
    assert_eq!((armed, kernel.standing()), (vec!["KVM: irqfd to line 24".to_owned()], vec![]));
}

#[test]
fn a_call_that_fails_does_nothing_and_one_that_fails_late_does_all() {
    let (kernel, _) = host();
    let iommufd = kernel.open_for_another(Path::new("/dev/iommu")).unwrap();
    kernel.fail(0, CallFault::Errno(Errno::ENOMEM));
    assert_eq!(kernel.ioas_alloc(iommufd.as_fd()), Err(Errno::ENOMEM));
    assert_eq!(kernel.standing(), ["iommufd: address spaces 0"]);
    kernel.fail(0, CallFault::Late(Errno::EFAULT));
    assert_eq!(kernel.ioas_alloc(iommufd.as_fd()), Err(Errno::EFAULT));
    assert_eq!(kernel.standing(), ["iommufd: address spaces 1"]);
}

#[test]
fn the_call_that_is_to_fail_is_counted_to() {
    let (kernel, _) = host();
    kernel.fail(1, CallFault::Errno(Errno::EMFILE));
    let made = [(); 3].map(|()| kernel.new_event().is_ok());
    assert_eq!((made, kernel.is_fault_pending()), ([true, false, true], false));
}

#[test]
fn a_group_is_viable_while_no_driver_of_the_hosts_has_a_device_of_it() {
    for backend in [Backend::Group, Backend::Cdev] {
        let functions = [0, 1].map(|function| {
            let bdf = format!("0000:00:04.{function}");
            ScriptedFunction::new(bdf.parse().unwrap(), 7)
        });
        let sysfs = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7));
        let sysfs = sysfs.add_cdev("0000:00:04.0", functions[0].cdev_name(), 0);
        let sysfs = sysfs.add("0000:00:04.1", Some("nvme"), Some(7));
        let kernel = ScriptedKernel::new(&functions);
        kernel.set_host_driver(1, true);
        let options = VmOptions { sysfs: sysfs.sysfs(), backend: Some(backend), ..VmOptions::default() };
        let vm = Vm::new(kernel.host(), options);
        let first = || vm.open("0000:00:04.0".parse().unwrap());
        let refused = first().map(drop);
        assert!(
            matches!(refused, Err(OpenError::Group(GroupError::NotViable { group: 7, .. }))),
            "{backend}: {refused:?}"
        );
        assert_eq!(kernel.standing(), [""; 0]);
        kernel.set_host_driver(1, false);
        assert_eq!(first().map(|device| device.group()), Ok(7));
    }
}

#[test]
fn a_virtual_function_is_opened_with_its_token_only() {
    const TOKEN: &str = "00112233-4455-6677-8899-aabbccddeeff";
    let (_, sysfs) = host();
    let bdf = "0000:00:04.0".parse().unwrap();
    let kernel = ScriptedKernel::new(&[ScriptedFunction::new(bdf, 7).with_vf_token(TOKEN)]);
    let options = VmOptions { sysfs: sysfs.sysfs(), backend: Some(Backend::Group), ..VmOptions::default() };
    let vm = Vm::new(kernel.host(), options);
    let open = |token: Option<&str>| {
        let vf_token = token.map(|token| token.parse().unwrap());
        let reserved = vm.reserve_with(bdf, DeviceOptions { vf_token, ..DeviceOptions::default() });
        reserved.and_then(Reservation::open).map(drop)
    };
    let refused = Err(OpenError::Device { bdf, errno: Errno::EACCES });
    assert_eq!(open(None), refused);
    assert_eq!(open(Some("ffffffff-4455-6677-8899-aabbccddeeff")), refused);
    assert_eq!(open(Some(TOKEN)), Ok(()));
}

#[test]
fn a_token_is_no_business_of_another_function() {
    let (kernel, sysfs) = host();
    let bdf = "0000:00:04.0".parse().unwrap();
    let options = VmOptions { sysfs: sysfs.sysfs(), backend: Some(Backend::Group), ..VmOptions::default() };
    let vf_token = Some("00112233-4455-6677-8899-aabbccddeeff".parse().unwrap());
    let vm = Vm::new(kernel.host(), options);
    let reserved = vm.reserve_with(bdf, DeviceOptions { vf_token, ..DeviceOptions::default() });
    let refused = reserved.and_then(Reservation::open).map(drop);
    assert_eq!(refused, Err(OpenError::Device { bdf, errno: Errno::EINVAL }));
}

#[cfg(feature = "kvm")]
#[test]
fn each_virtual_machine_has_its_own_routes() {
    use crate::sys::kvm::{Route, RouteTarget};

    let (kernel, _) = host();
    let [one, other] = [(); 2].map(|()| kernel.create_vm().unwrap());
    let to = |data| Route { gsi: 24, target: RouteTarget::Msi { address: 0xfee0_0000, data } };
    kernel.kvm_set_gsi_routing(one.as_fd(), &[to(1)]).unwrap();
    kernel.kvm_set_gsi_routing(other.as_fd(), &[to(2)]).unwrap();
    let event = EventFd::new().unwrap();
    kernel.kvm_assign_irqfd(other.as_fd(), 24, event.as_fd(), None).unwrap();
    kernel.signal_event(&event).unwrap();
    assert_eq!(kernel.injections(), [Injection::Message { address: 0xfee0_0000, data: 2 }]);
    drop(other);
    assert_eq!(kernel.standing(), ["KVM: route 0xfee00000 0x1"]);
}

#[test]
fn nothing_is_added_to_msi_that_is_on() {
    let (kernel, sysfs) = host();
    let mut vectors = IrqVectors::new(open(&kernel, &sysfs, Backend::Group), IrqKind::Msi);
    let mut wire = |first, last| {
        let [first, last] = [first, last].map(|index| VectorIndex::new(index).unwrap());
        vectors.wire(first, last, &|_| true)
    };
    let refused = |result| matches!(result, Err(crate::IrqError::Refused { errno: Errno::EINVAL, .. }));
    let made = [wire(0, 1).is_ok(), refused(wire(2, 3)), wire(0, 1).is_ok()];
    assert_eq!(made, [true; 3]);
}

#[test]
fn an_event_that_unmasks_the_pin_is_not_replaced() {
    let (kernel, sysfs) = host();
    let device = open(&kernel, &sysfs, Backend::Group);
    let mut vectors = IrqVectors::new(device.clone(), IrqKind::Intx);
    vectors.wire(VectorIndex::default(), VectorIndex::default(), &|_| true).unwrap();
    let event = crate::sys::EventFd::new().unwrap();
    let set = || device.irqs(IrqKind::Intx).unmask_on(&event);
    let refused = |result| matches!(result, Err(crate::IrqError::Refused { errno: Errno::EBUSY, .. }));
    let made = [set().is_ok(), refused(set())];
    vectors.disable().unwrap();
    vectors.wire(VectorIndex::default(), VectorIndex::default(), &|_| true).unwrap();
    assert_eq!((made, set()), ([true; 2], Ok(())));
}

/// Two functions of one group, the second a driver's of the host's or not.
fn group_of_two(second_has_driver: bool) -> ScriptedKernel {
    let functions =
        ["0000:00:04.0", "0000:00:04.1"].map(|bdf| ScriptedFunction::new(bdf.parse().unwrap(), 7));
    let kernel = ScriptedKernel::new(&functions);
    kernel.set_host_driver(1, second_has_driver);
    kernel
}

#[test]
fn a_group_that_a_driver_uses_joins_no_container_and_no_iommufd() {
    let kernel = group_of_two(true);
    let file = |name: &str| kernel.open_for_another(Path::new(name)).unwrap();
    let (group, container) = (file("/dev/vfio/7"), file("/dev/vfio/vfio"));
    assert_eq!(kernel.set_container(group.as_fd(), container.as_fd()), Err(Errno::EPERM));
    drop((group, container));
    let (device, iommufd) = (file("/dev/vfio/devices/vfio40"), file("/dev/iommu"));
    assert_eq!(kernel.bind_iommufd(device.as_fd(), iommufd.as_fd()), Err(Errno::EPERM));
}

#[test]
fn a_group_is_in_one_iommufd_and_one_address_space() {
    let kernel = group_of_two(false);
    let file = |name: &str| kernel.open_for_another(Path::new(name)).unwrap();
    let [first, second] = ["vfio40", "vfio41"].map(|name| file(&format!("/dev/vfio/devices/{name}")));
    let [one, other] = [(); 2].map(|()| file("/dev/iommu"));
    kernel.bind_iommufd(first.as_fd(), one.as_fd()).unwrap();
    assert_eq!(kernel.bind_iommufd(second.as_fd(), other.as_fd()), Err(Errno::EPERM));
    kernel.bind_iommufd(second.as_fd(), one.as_fd()).unwrap();
    let spaces = [(); 2].map(|()| kernel.ioas_alloc(one.as_fd()).unwrap());
    kernel.attach_ioas(first.as_fd(), spaces[0]).unwrap();
    assert_eq!(kernel.attach_ioas(second.as_fd(), spaces[1]), Err(Errno::EINVAL));
    assert_eq!(kernel.attach_ioas(second.as_fd(), spaces[0]), Ok(()));
}

#[test]
fn a_container_is_given_what_its_group_has() {
    use vfio_bindings::bindings::vfio as v;

    for guarded in [true, false] {
        let function = ScriptedFunction::new("0000:00:04.0".parse().unwrap(), 7);
        let kernel = ScriptedKernel::new(&[if guarded { function } else { function.without_iommu() }]);
        let file = |name: &str| kernel.open_for_another(Path::new(name)).unwrap();
        let (group, container) =
            (file(if guarded { "/dev/vfio/7" } else { "/dev/vfio/noiommu-7" }), file("/dev/vfio/vfio"));
        let container = container.as_fd();
        let has_mode = kernel.check_extension(container, v::VFIO_NOIOMMU_IOMMU);
        assert_eq!(has_mode, Ok(u32::from(!guarded)));
        let [fits, other] = match guarded {
            true => [v::VFIO_TYPE1v2_IOMMU, v::VFIO_NOIOMMU_IOMMU],
            false => [v::VFIO_NOIOMMU_IOMMU, v::VFIO_TYPE1v2_IOMMU],
        };
        assert_eq!(kernel.set_iommu(container, fits), Err(Errno::EINVAL));
        kernel.set_container(group.as_fd(), container).unwrap();
        assert_eq!(kernel.set_iommu(container, other), Err(Errno::ENODEV));
        assert_eq!([(); 2].map(|()| kernel.set_iommu(container, fits)), [Ok(()), Err(Errno::EINVAL)]);
    }
}
