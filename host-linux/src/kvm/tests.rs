//! KVM's part over a kernel that notes and fails; the limit it tells is 44, of slots and of routes.

use super::*;
use crate::guest::{GuestSide, LineEnd};
use crate::manager::Vm;
use crate::options::VmOptions;
use crate::retry::RetryPolicy;
use crate::sys::{EventFd, GuestMemory, MemoryBacking};
use crate::sysfs::tests::FakeSysfs;
use crate::testing::TestKernel;
use crate::{GroupAction, GroupError, GuestRegion, OpenError};
use vfio_assign_core::host::Message;
use vfio_assign_core::{GuestAddr, Span, VectorIndex};

fn kvm() -> (TestKernel, KvmVm) {
    let kernel = TestKernel::default();
    let vm = KvmVm::new(kernel.host(), kernel.create_vm().as_fd()).unwrap();
    (kernel, vm)
}

fn routes() -> (TestKernel, Arc<Routes>) {
    let (kernel, vm) = kvm();
    let routes = Arc::new(Routes::new(vm, IrqchipRoutes::X86Full).unwrap());
    kernel.calls();
    (kernel, routes)
}

fn guest() -> (TestKernel, KvmGuest) {
    let (kernel, vm) = kvm();
    let slots = MemorySlots::new(vm.clone(), Arc::new(SlotNumbers::new(&vm, 0).unwrap()));
    let routes = Arc::new(Routes::new(vm.clone(), IrqchipRoutes::X86Full).unwrap());
    kernel.calls();
    (kernel, KvmGuest::new(vm, slots, routes))
}

fn slots() -> (TestKernel, MemorySlots) {
    let (kernel, vm) = kvm();
    let slots = MemorySlots::new(vm.clone(), Arc::new(SlotNumbers::new(&vm, 42).unwrap()));
    kernel.calls();
    (kernel, slots)
}

fn message(data: u32) -> Message {
    Message { address: 0xfee0_1000, data }
}

fn v(index: u16) -> VectorIndex {
    VectorIndex::new(index).unwrap()
}

fn region(first: u64) -> GuestRegion {
    GuestRegion {
        guest: Span::from_size(GuestAddr::new(first), 0x2000).unwrap(),
        memory: GuestMemory::new(0x2000, MemoryBacking::Anonymous).unwrap(),
        offset: 0,
    }
}

#[test]
fn routes_keep_the_irqchips_entries_and_start_behind_its_pins() {
    let (kernel, routes) = routes();
    let gsi = routes.allocate().unwrap();
    routes.set(gsi, message(0x41));
    routes.commit().unwrap();
    assert_eq!(kernel.calls(), ["routing 41 24:0xfee01000:0x41"]);
}

#[test]
fn many_changes_are_one_commit() {
    let (kernel, routes) = routes();
    for data in 0..3 {
        routes.set(routes.allocate().unwrap(), message(data));
    }
    routes.commit().unwrap();
    assert_eq!(kernel.calls().len(), 1);
}

#[test]
fn commit_without_a_change_makes_no_call() {
    let (kernel, routes) = routes();
    let gsi = routes.allocate().unwrap();
    routes.set(gsi, message(1));
    routes.commit().unwrap();
    routes.set(gsi, message(1));
    kernel.calls();
    routes.commit().unwrap();
    assert_eq!(kernel.calls(), [""; 0]);
}

#[test]
fn refused_table_is_tried_again_at_the_next_commit() {
    let (kernel, routes) = routes();
    routes.set(routes.allocate().unwrap(), message(1));
    kernel.fail("routing", Errno::ENOMEM);
    assert_eq!(routes.commit(), Err(RouteError::Refused { entries: 41, errno: Errno::ENOMEM }));
    assert_eq!(routes.commit(), Ok(()));
    assert_eq!(kernel.calls().len(), 2);
}

#[test]
fn full_table_says_its_limit() {
    let (_kernel, routes) = routes();
    let given: Vec<_> = (0..4).map(|_| routes.allocate().unwrap()).collect();
    assert_eq!(routes.allocate(), Err(RouteError::Full { limit: 44 }));
    routes.free(given[2]);
    assert_eq!(routes.allocate(), Ok(given[2]));
}

#[test]
fn freed_route_is_gone_with_the_next_commit() {
    let (kernel, routes) = routes();
    let gsi = routes.allocate().unwrap();
    routes.set(gsi, message(1));
    routes.commit().unwrap();
    routes.free(gsi);
    kernel.calls();
    routes.commit().unwrap();
    assert_eq!(kernel.calls(), ["routing 40"]);
}

#[test]
fn message_that_reaches_no_apic_is_refused() {
    let (kernel, mut guest) = guest();
    let address = 0xfed0_1000;
    let refused = KvmError::Address { vector: v(3), address };
    assert_eq!(guest.route(v(3), Message { address, data: 0 }), Err(refused));
    assert_eq!((guest.usage(), kernel.calls().len()), ((0, 0), 0));
}

#[test]
fn message_above_4_gib_is_refused() {
    let (_kernel, mut guest) = guest();
    let address = 0x1_fee0_1000;
    let refused = KvmError::Address { vector: v(3), address };
    assert_eq!(guest.route(v(3), Message { address, data: 0 }), Err(refused));
}

#[test]
fn vector_is_armed_on_its_own_gsi() {
    let (kernel, mut guest) = guest();
    let event = EventFd::new().unwrap();
    guest.route(v(9), message(0x41)).unwrap();
    guest.route(v(2), message(0x42)).unwrap();
    guest.commit_routes().unwrap();
    guest.arm(v(2), &event).unwrap();
    guest.disarm(v(2), &event).unwrap();
    let expected =
        ["routing 42 24:0xfee01000:0x41 25:0xfee01000:0x42", "assign_irqfd 25", "deassign_irqfd 25"];
    assert_eq!(kernel.calls(), expected);
}

#[test]
fn pin_is_armed_on_its_line_and_resampled() {
    let (kernel, guest) = guest();
    let mut guest = guest.with_line(Gsi(17), LineEnd::Resampled);
    let (event, resample) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    guest.arm_line(&event, Some(&resample)).unwrap();
    guest.disarm_line(&event).unwrap();
    assert_eq!(kernel.calls(), ["assign_irqfd 17 resample", "deassign_irqfd 17"]);
}

#[test]
fn pin_of_the_monitors_own_ioapic_is_armed_without_resampling() {
    let (kernel, guest) = guest();
    let mut guest = guest.with_line(Gsi(17), LineEnd::Told);
    guest.arm_line(&EventFd::new().unwrap(), None).unwrap();
    assert_eq!((guest.line(), kernel.calls()), (Some(LineEnd::Told), vec!["assign_irqfd 17".into()]));
}

#[test]
fn pin_of_the_monitors_own_ioapic_is_never_given_out() {
    let (_kernel, vm) = kvm();
    let routes = Routes::new(vm, IrqchipRoutes::X86Split).unwrap();
    routes.set(Gsi(17), message(1));
    routes.free(Gsi(17));
    assert_eq!(routes.allocate(), Ok(Gsi(24)));
}

#[test]
fn pin_without_a_line_is_not_armed() {
    let (_kernel, mut guest) = guest();
    let event = EventFd::new().unwrap();
    assert_eq!((guest.line(), guest.arm_line(&event, None)), (None, Err(KvmError::NoLine)));
}

#[test]
fn vector_without_a_route_is_not_armed() {
    let (_kernel, mut guest) = guest();
    let event = EventFd::new().unwrap();
    assert_eq!(guest.arm(v(2), &event), Err(KvmError::NoRoute { vector: v(2) }));
}

#[test]
fn dropped_function_leaves_no_route() {
    let (kernel, mut guest) = guest();
    guest.route(v(0), message(1)).unwrap();
    guest.commit_routes().unwrap();
    kernel.calls();
    drop(guest);
    assert_eq!(kernel.calls(), ["routing 40"]);
}

#[test]
fn slot_is_made_and_removed_with_its_value() {
    let (kernel, slots) = slots();
    drop(slots.show_memory(&region(0x1000)).unwrap());
    assert_eq!(kernel.calls(), ["slot 42 0x1000 0x2000 rw", "slot 42 0x1000 0x0 rw"]);
}

#[test]
fn refused_slot_gives_its_number_back() {
    let (kernel, slots) = slots();
    kernel.fail("slot", Errno::EEXIST);
    let guest = region(0x1000).guest;
    let refused = SlotError::NotMapped { guest, errno: Errno::EEXIST };
    assert_eq!(slots.show_memory(&region(0x1000)).map(drop), Err(refused));
    assert_eq!(slots.show_memory(&region(0x1000)).unwrap().number(), 42);
}

#[test]
fn no_slot_left_is_named() {
    let (_kernel, slots) = slots();
    let _taken = [slots.show_memory(&region(0)).unwrap(), slots.show_memory(&region(0x4000)).unwrap()];
    let guest = region(0x8000).guest;
    assert_eq!(slots.show_memory(&region(0x8000)).map(drop), Err(SlotError::NoneLeft { guest }));
}

#[test]
fn slot_that_is_not_removed_can_be_removed_again() {
    let (kernel, slots) = slots();
    let mut slot = slots.show_memory(&region(0)).unwrap();
    kernel.fail("slot 42 0x0 0x0", Errno::ENOMEM);
    let error = SlotError::NotUnmapped { guest: slot.guest(), errno: Errno::ENOMEM };
    assert_eq!(slot.remove(), Err(error));
    assert_eq!(slot.remove(), Ok(()));
}

/// A VM over a test kernel with one device, whose KVM is told of its groups.
fn told() -> (TestKernel, Vm, FakeSysfs) {
    let (kernel, vm) = kvm();
    let sysfs = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7));
    let files: Option<Arc<dyn crate::VfioFiles>> = Some(Arc::new(KvmVfio::new(vm)));
    let options =
        VmOptions { sysfs: sysfs.sysfs(), retry: RetryPolicy::once(), files, ..VmOptions::default() };
    let vm = Vm::new(kernel.host(), options);
    (kernel, vm, sysfs)
}

#[test]
fn kvm_is_told_before_the_device_is_opened_and_after_it_is_closed() {
    let (kernel, vm, _sysfs) = told();
    drop(vm.open("0000:00:04.0".parse().unwrap()).unwrap());
    let calls = kernel.calls();
    let place = |start: &str| calls.iter().position(|call| call.starts_with(start)).unwrap();
    let order = ["set_iommu", "create_vfio_device", "add_vfio_file", "device_fd", "remove_vfio_file"];
    assert!(order.map(place).is_sorted(), "{calls:?}");
}

#[test]
fn group_that_kvm_refuses_is_closed() {
    let (kernel, vm, _sysfs) = told();
    kernel.fail("add_vfio_file", Errno::EINVAL);
    let refused = GroupError::Refused { group: 7, action: GroupAction::TellKvm, errno: Errno::EINVAL };
    let error = vm.open("0000:00:04.0".parse().unwrap()).unwrap_err();
    assert_eq!((error, vm.open_groups_and_spaces()), (OpenError::Group(refused), (0, 0)));
    assert_eq!(kernel.calls().last().unwrap(), "add_vfio_file");
}
