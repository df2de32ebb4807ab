//! Whose functions a hot reset would reset, and what the kernel is shown for it.

use super::*;
use crate::testing::{TestDevice, TestKernel};

const BY_ID: u32 = v::VFIO_PCI_HOT_RESET_FLAG_DEV_ID;
const OURS: &str = "0000:00:04.0";

/// A device that is reset with these functions.
fn device(flags: u32, functions: &[(u32, &str)]) -> (TestKernel, TestDevice) {
    let test = TestDevice::open();
    test.kernel.hot_reset_with(flags, functions);
    test.kernel.calls();
    (test.kernel.clone(), test)
}

fn function(bdf: &str, owner: AffectedOwner) -> AffectedFunction {
    AffectedFunction { bdf: bdf.parse().unwrap(), owner }
}

#[test]
fn set_is_asked_for_again_with_the_room_it_needs() {
    let (kernel, test) = device(0, &[(7, OURS), (7, "0001:ab:1f.7")]);
    let group = AffectedOwner::Group(7);
    let expected = vec![function(OURS, group), function("0001:ab:1f.7", group)];
    assert_eq!(test.device.hot_reset_set(), Ok(expected));
    assert_eq!(kernel.calls(), ["hot_reset_info", "hot_reset_info"]);
}

#[test]
fn set_of_millions_is_refused() {
    let answer = query(|info| {
        info[8..12].copy_from_slice(&0x10_0000u32.to_ne_bytes());
        Err(Errno::ENOSPC)
    });
    assert_eq!(answer, Err(InfoError::Endless(0x80_0000)));
}

#[test]
fn set_that_always_grows_is_refused() {
    let answer = query(|info| {
        let more = (info.len() - HEADER) / ENTRY + 1;
        info[8..12].copy_from_slice(&(more as u32).to_ne_bytes());
        Err(Errno::ENOSPC)
    });
    assert_eq!(answer, Err(InfoError::Endless(52)));
}

#[test]
fn lack_of_room_that_is_none_is_an_error() {
    assert_eq!(query(|_| Err(Errno::ENOSPC)), Err(InfoError::Kernel(Errno::ENOSPC)));
}

#[test]
fn functions_that_are_counted_and_not_there_are_left_out() {
    let mut info = [0; 20];
    info[8..12].copy_from_slice(&9u32.to_ne_bytes());
    assert_eq!(parse(&info), [function("0000:00:00.0", AffectedOwner::Group(0))]);
}

#[test]
fn owners_are_known_by_id() {
    let (_kernel, test) = device(BY_ID, &[(1, OURS), (0, "0000:00:05.0"), (u32::MAX, "0000:00:06.0")]);
    let owners: Vec<_> = test.device.hot_reset_set().unwrap().iter().map(|function| function.owner).collect();
    assert_eq!(owners, [AffectedOwner::Ours, AffectedOwner::Ours, AffectedOwner::Stranger]);
}

#[test]
fn device_without_one_says_so() {
    let test = TestDevice::open();
    assert_eq!(test.device.hot_reset(), Err(ResetError::NoHotReset { bdf: test.device.bdf() }));
}

#[test]
fn each_group_is_shown_once() {
    let (kernel, test) = device(0, &[(7, OURS), (7, "0000:00:04.1"), (8, "0000:00:05.0")]);
    let _other = test.vm.open("0000:00:05.0".parse().unwrap()).unwrap();
    assert_eq!(test.device.hot_reset(), Ok(()));
    assert_eq!(kernel.calls().last().unwrap(), "hot_reset 2");
}

#[test]
fn device_of_an_iommufd_shows_no_group() {
    let (kernel, test) = device(BY_ID, &[(1, OURS)]);
    assert_eq!(test.device.hot_reset(), Ok(()));
    assert_eq!(kernel.calls().last().unwrap(), "hot_reset 0");
}

#[test]
fn functions_of_a_group_that_is_not_ours_are_named() {
    let (kernel, test) = device(0, &[(7, OURS), (8, "0000:00:05.0")]);
    let error = test.device.hot_reset().unwrap_err();
    let text = "0000:00:04.0 can be reset only together with functions that are not this VM's: \
        0000:00:05.0 of IOMMU group 8; assign one of each group to this VM, too";
    assert_eq!(error.to_string(), text);
    assert!(!kernel.calls().iter().any(|call| call.starts_with("hot_reset ")));
}

#[test]
fn functions_of_another_iommufd_are_named() {
    let (_kernel, test) = device(BY_ID, &[(1, OURS), (u32::MAX, "0000:00:05.0")]);
    let others = vec![function("0000:00:05.0", AffectedOwner::Stranger)];
    let bdf = test.device.bdf();
    assert_eq!(test.device.hot_reset(), Err(ResetError::NotOurs { bdf, others }));
}

#[test]
fn one_under_contention_is_tried_again() {
    let (kernel, test) = device(0, &[(7, OURS)]);
    kernel.fail("hot_reset ", Errno::EAGAIN);
    assert_eq!(test.device.hot_reset(), Ok(()));
    assert_eq!(kernel.calls()[1..], ["hot_reset 1", "wait", "hot_reset 1"]);
}
