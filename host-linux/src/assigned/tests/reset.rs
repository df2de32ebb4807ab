//! Resets, of devices with one of their own and without.

use super::*;
use crate::device::ResetError;
use vfio_bindings::bindings::vfio::{VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET};

const ONE: &str = "0000:00:04.0";
const OTHER: &str = "0000:00:05.0";

/// The first test device, which has no function reset, and the second, each assigned; on one bus.
fn two(other_resets: bool) -> (TestKernel, [Assigned<TestGuest>; 2]) {
    let test = TestDevice::open_with(|kernel| {
        kernel.answer("device_info", VFIO_DEVICE_FLAGS_PCI);
        kernel.hot_reset_with(0, &[(7, ONE), (8, OTHER)]);
    });
    let reset = if other_resets { VFIO_DEVICE_FLAGS_RESET } else { 0 };
    test.kernel.answer("device_info", VFIO_DEVICE_FLAGS_PCI | reset);
    let other = test.vm.open(OTHER.parse().unwrap()).unwrap();
    let TestDevice { kernel, device, .. } = test;
    let assigned = [Arc::into_inner(device).unwrap(), other].map(|device| {
        let guest = TestGuest(kernel.clone(), None);
        let assigned = Assigned::new(device, guest, &AssignOptions::default()).unwrap();
        assigned.config_write(0x10, &(BAR_AT as u32).to_le_bytes());
        assigned.config_write(COMMAND, &[6, 0]);
        assigned
    });
    kernel.calls();
    (kernel, assigned)
}

fn together([one, other]: &[Assigned<TestGuest>; 2]) -> Vec<ResetOutcome> {
    Assigned::reset_all(&[other, one])
}

/// How many of the calls start so.
fn count(calls: &[String], start: &str) -> usize {
    calls.iter().filter(|call| call.starts_with(start)).count()
}

#[test]
fn device_that_is_alone_is_hot_reset_once_it_is_quiet() {
    let (kernel, [one, other]) = two(true);
    drop(other);
    kernel.hot_reset_with(0, &[(7, ONE)]);
    kernel.calls();
    assert_eq!((one.reset(), one.reset_error()), (ResetOutcome::Reset, None));
    let calls = kernel.calls();
    let place = |start: &str| calls.iter().position(|call| call.starts_with(start)).unwrap();
    assert!(["unmap 0", "pwrite 0x10004 [00, 00]", "hot_reset 1"].map(place).is_sorted(), "{calls:?}");
    assert_eq!(count(&calls, "reset"), 0);
}

#[test]
fn device_whose_neighbour_is_in_use_is_not_reset() {
    let (kernel, [one, other]) = two(true);
    let (bdf, others) = (one.bdf(), vec![other.bdf()]);
    let error = ResetError::Together { bdf, others };
    assert_eq!((one.reset(), one.reset_error()), (ResetOutcome::NotReset, Some(error)));
    let calls = kernel.calls();
    // Its guest is gone all the same.
    assert_eq!((count(&calls, "hot_reset "), count(&calls, "unmap 0")), (0, 1));
    assert!(calls.contains(&"pwrite 0x10004 [00, 00]".into()));
}

#[test]
fn neighbours_are_quiet_before_both_are_reset_once() {
    let (kernel, both) = two(true);
    assert_eq!(together(&both), [ResetOutcome::Reset, ResetOutcome::Reset]);
    let calls = kernel.calls();
    let reset = calls.iter().position(|call| call == "hot_reset 2").unwrap();
    assert_eq!(count(&calls[..reset], "unmap 0"), 2, "{calls:?}");
    assert_eq!((count(&calls, "hot_reset "), count(&calls, "reset")), (1, 0), "{calls:?}");
}

#[test]
fn hot_reset_that_fails_is_made_once_and_leaves_functions_their_own() {
    let (kernel, both) = two(true);
    kernel.fail("hot_reset ", Errno::EIO);
    assert_eq!(together(&both), [ResetOutcome::Reset, ResetOutcome::NotReset]);
    let failed = ResetError::Failed { bdf: both[0].bdf(), errno: Errno::EIO };
    assert_eq!((both[0].reset_error(), both[1].reset_error()), (Some(failed), None));
}

#[test]
fn hot_reset_that_fails_is_not_made_again_for_its_neighbour() {
    let (kernel, both) = two(false);
    kernel.fail("hot_reset ", Errno::EIO);
    assert_eq!(together(&both), [ResetOutcome::NotReset, ResetOutcome::NotReset]);
    assert_eq!(count(&kernel.calls(), "hot_reset "), 1);
}

#[test]
fn function_named_twice_is_reset_once() {
    let (kernel, assigned) = assigned();
    assert_eq!(Assigned::reset_all(&[&assigned, &assigned]), [ResetOutcome::Reset, ResetOutcome::Reset]);
    assert_eq!(count(&kernel.calls(), "reset"), 1);
}

#[test]
fn neighbour_that_stays_quarantined_keeps_the_bus_from_being_reset() {
    let (kernel, both) = two(true);
    kernel.fail("unmap 0", Errno::EINVAL);
    both[1].config_write(COMMAND, &[0, 0]);
    // The first is made quiet before.
    kernel.fail_after(1, "unmap 0", Errno::EINVAL);
    assert_eq!(together(&both), [ResetOutcome::NotReset, ResetOutcome::NotReset]);
    assert_eq!(count(&kernel.calls(), "hot_reset "), 0);
}

#[test]
fn reset_goes_to_the_device() {
    let (kernel, assigned) = interrupting();
    kernel.calls();
    assert_eq!(assigned.reset(), ResetOutcome::Reset);
    let calls = kernel.calls();
    let place = |start: &str| calls.iter().position(|call| call.starts_with(start)).unwrap();
    assert!(place("set_irqs 2 0 none 0") < place("reset"), "{calls:?}");
}

#[test]
fn reset_of_a_quarantined_function_tears_it_down_first() {
    let (kernel, assigned) = decoding();
    kernel.fail("unmap 0", Errno::EINVAL);
    assigned.config_write(COMMAND, &[0, 0]);
    kernel.calls();
    assert_eq!((assigned.reset(), assigned.is_quarantined()), (ResetOutcome::Reset, false));
    let calls = kernel.calls();
    let place = |start: &str| calls.iter().position(|call| call.starts_with(start)).unwrap();
    let order = ["unmap 0", "pwrite 0x10004 [00, 00]", "reset"].map(place);
    assert!(order.is_sorted(), "{calls:?}");
}

#[test]
fn reset_of_a_function_that_stays_quarantined_ends_its_bus_mastering() {
    let (kernel, assigned) = decoding();
    kernel.fail("unmap 0", Errno::EINVAL);
    kernel.fail("unmap 0", Errno::EINVAL);
    assigned.config_write(COMMAND, &[0, 0]);
    kernel.calls();
    assert_eq!((assigned.reset(), assigned.is_quarantined()), (ResetOutcome::NotReset, true));
    assert!(kernel.calls().contains(&"pwrite 0x10004 [00, 00]".into()));
}

#[test]
fn reset_that_fails_says_why_until_one_succeeds() {
    let (kernel, assigned) = decoding();
    kernel.fail("reset", Errno::ENOTTY);
    let failed = ResetError::Failed { bdf: assigned.bdf(), errno: Errno::ENOTTY };
    assert_eq!((assigned.reset(), assigned.reset_error()), (ResetOutcome::NotReset, Some(failed)));
    assert_eq!((assigned.reset(), assigned.reset_error()), (ResetOutcome::Reset, None));
}

#[test]
fn reset_waits_for_no_mapping() {
    let (_kernel, assigned, vm, mapping, held) = assigned_beside_a_mapping();
    thread::scope(|scope| {
        let reset = scope.spawn(|| assigned.reset());
        while vm.waiting_for_memory() == 0 && !reset.is_finished() {
            thread::yield_now();
        }
        assert_eq!(vm.waiting_for_memory(), 0);
        assert_eq!(reset.join().unwrap(), ResetOutcome::Reset);
        held.release(Ok(()));
    });
    assert_eq!(mapping.wait(), Ok(()));
}
