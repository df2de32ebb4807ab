//! What the devices of one VM share, and what those of two never do.

use crate::rig::{Rig, all_descriptors, descriptors, vm};
use vfio_assign_linux::{Backend, OpenError};

/// What the process has open: address spaces, groups, devices. There are no groups by devices' own files.
fn open(rig: &Rig) -> (usize, usize, usize) {
    match rig.backend {
        Backend::Group => {
            let containers = descriptors("/dev/vfio/vfio");
            let groups = descriptors("/dev/vfio/") - containers;
            (containers, groups, descriptors("anon_inode:[vfio-device]"))
        }
        Backend::Cdev => (descriptors("/dev/iommu"), 0, descriptors("/dev/vfio/devices/")),
    }
}

/// So many groups, where there are any.
fn groups(rig: &Rig, count: usize) -> usize {
    if rig.backend == Backend::Group { count } else { 0 }
}

#[test]
fn two_devices_of_one_vm_share_an_address_space() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let _nvme = vm.open(rig.nvme).expect("opens");
    let _edu = vm.open(rig.edu).expect("opens");
    assert_eq!(open(rig), (1, groups(rig, 2), 2));
    assert_eq!(vm.open_groups_and_spaces(), (groups(rig, 2), 1));
}

#[test]
fn two_devices_of_one_group_share_it() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let [first, second] = rig.group.map(|bdf| vm.open(bdf).expect("opens"));
    assert_eq!(first.group(), second.group());
    assert_eq!(open(rig), (1, groups(rig, 1), 2));
}

#[test]
fn devices_of_two_vms_have_an_address_space_each() {
    let Some(rig) = Rig::get() else { return };
    let (one, other) = (vm(), vm());
    let _nvme = one.open(rig.nvme).expect("opens");
    let _edu = other.open(rig.edu).expect("opens");
    assert_eq!(open(rig), (2, groups(rig, 2), 2));
}

#[test]
fn a_group_that_another_vm_uses_is_refused_by_name() {
    let Some(rig) = Rig::get() else { return };
    let (one, other) = (vm(), vm());
    let [first, second] = rig.group;
    let device = one.open(first).expect("opens");
    let before = all_descriptors();
    let refused = other.open(second).expect_err("the group is in use");
    let group = format!("group {}", device.group());
    assert!(refused.to_string().contains(&group), "{refused}");
    assert_eq!(all_descriptors(), before);
}

#[test]
fn the_last_device_closes_the_group_and_the_address_space() {
    let Some(rig) = Rig::get() else { return };
    let before = all_descriptors();
    let vm = vm();
    let [first, second] = rig.group.map(|bdf| vm.open(bdf).expect("opens"));
    drop(first);
    assert_eq!(open(rig), (1, groups(rig, 1), 1));
    drop(second);
    assert_eq!((open(rig), all_descriptors()), ((0, 0, 0), before));
}

#[test]
fn a_device_is_opened_once() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let _device = vm.open(rig.edu).expect("opens");
    assert_eq!(vm.open(rig.edu).map(drop), Err(OpenError::Twice { bdf: rig.edu }));
}
