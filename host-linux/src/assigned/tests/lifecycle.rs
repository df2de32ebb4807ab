//! Stopping, saving, explaining; MSI; what the host says of the device.

use super::*;
use crate::{DeviceEvent, IrqKind};
use vfio_assign_core::{BusMastering, RestoreError, SaveError};

const MSI_CONTROL: u32 = 0x52;
const MSI_ADDRESS: u32 = 0x54;
const MSI_DATA: u32 = 0x5c;

/// The test device with MSI beside MSI-X, assigned.
fn with_msi() -> (TestKernel, Assigned<TestGuest>) {
    let TestDevice { kernel, device, .. } = TestDevice::open_with(|kernel| kernel.offer(IrqKind::Msi, 8));
    let device = Arc::into_inner(device).unwrap();
    let assigned = Assigned::new(device, TestGuest(kernel.clone(), None), &AssignOptions::default()).unwrap();
    kernel.calls();
    (kernel, assigned)
}

/// The guest turns MSI on with four vectors.
fn enable_msi(assigned: &Assigned<TestGuest>) {
    assigned.config_write(MSI_ADDRESS, &0xfee0_1000u64.to_le_bytes());
    assigned.config_write(MSI_DATA, &[0x40, 0]);
    assigned.config_write(MSI_CONTROL, &[0x21, 0]);
}

#[test]
fn stop_cuts_off_and_unwires_and_start_brings_back() {
    let (kernel, assigned) = interrupting();
    kernel.calls();
    assigned.stop(BusMastering::Kept);
    assert_eq!(kernel.calls(), ["disarm 1", "set_irqs 2 1 fds -"]);
    assigned.start();
    assert_eq!(kernel.calls(), ["set_irqs 2 1 fds 1", "arm 1"]);
}

#[test]
fn stop_without_bus_mastering_takes_it_from_hardware_alone() {
    let (kernel, assigned) = decoding();
    kernel.calls();
    assigned.stop(BusMastering::Off);
    let mut command = [0; 2];
    assert_eq!(kernel.calls(), ["pwrite 0x10004 [02, 00]"]);
    assigned.config_read(COMMAND, &mut command);
    assert_eq!(command, [6, 0]);
}

#[test]
fn state_of_a_running_function_is_not_saved() {
    let (_kernel, assigned) = interrupting();
    assert_eq!(assigned.save(), Err(SaveError::Running));
}

#[test]
fn restored_function_has_its_interrupt_wired_and_its_window_mapped() {
    let (_kernel, assigned) = interrupting();
    assigned.stop(BusMastering::Kept);
    let state = assigned.save().unwrap();
    let (kernel, new) = super::assigned();
    new.restore(&state).unwrap();
    let calls = kernel.calls();
    let made = |start: &str| calls.iter().any(|call| call.starts_with(start));
    assert!(["pwrite 0x10004 [06, 00]", "map 0", "route 1", "arm 1"].into_iter().all(made), "{calls:?}");
    new.stop(BusMastering::Kept);
    assert_eq!(new.save().unwrap(), state);
}

#[test]
fn function_in_use_is_not_restored_and_goes_on() {
    let (kernel, assigned) = interrupting();
    assigned.stop(BusMastering::Kept);
    let state = assigned.save().unwrap();
    assigned.start();
    kernel.calls();
    assert_eq!(assigned.restore(&state), Err(RestoreError::InUse));
    assert_eq!(kernel.calls(), [""; 0]);
}

#[test]
fn function_that_was_reset_is_restored() {
    let (_kernel, assigned) = interrupting();
    assigned.stop(BusMastering::Kept);
    let state = assigned.save().unwrap();
    assert_eq!(assigned.reset(), ResetOutcome::Reset);
    assert_eq!(assigned.restore(&state), Ok(()));
}

#[test]
fn plan_is_explained_as_text() {
    let (_kernel, assigned) = assigned();
    let text = assigned.explain(&AssignOptions::default(), |plan| plan.to_string());
    assert!(text.contains("MSI-X") && text.contains("BAR0"), "{text}");
}

#[test]
fn accesses_are_counted() {
    let (_kernel, assigned) = decoding();
    let before = assigned.counters().config_accesses;
    assigned.config_read(0, &mut [0; 4]);
    assert_eq!(assigned.counters().config_accesses, before + 1);
}

#[test]
fn events_of_the_host_reach_the_embedder() {
    let TestDevice { kernel, device, .. } = TestDevice::open_with(|kernel| kernel.offer(IrqKind::Req, 1));
    let device = Arc::into_inner(device).unwrap();
    let guest = TestGuest(kernel.clone(), None);
    let assigned = Assigned::new(device, guest, &AssignOptions::default()).unwrap();
    let there = DeviceEvent::ALL.map(|event| assigned.events().fd(event).is_some());
    assert_eq!(
        (there, assigned.events().take(DeviceEvent::ReleaseRequest)),
        ([false, true, true], Ok(false))
    );
}

#[test]
fn msi_is_wired_as_a_whole_routed_and_armed() {
    let (kernel, assigned) = with_msi();
    enable_msi(&assigned);
    let routes: Vec<_> = (0..4).map(|n| format!("route {n} 0xfee01000 {:#x}", 0x40 + n)).collect();
    let arms = (0..4).map(|n| format!("arm {n}"));
    let events = vec!["new_event".to_owned(); 4].into_iter();
    let rest =
        ["set_irqs 1 0 fds 1111".to_owned()].into_iter().chain(routes).chain(["commit_routes".to_owned()]);
    assert_eq!(kernel.calls(), events.chain(rest).chain(arms).collect::<Vec<_>>());
}

#[test]
fn msi_of_a_host_with_fewer_vectors_takes_those() {
    let (kernel, assigned) = with_msi();
    kernel.answer("set_irqs 1", 2);
    enable_msi(&assigned);
    let calls = kernel.calls();
    let sets: Vec<_> = calls.iter().filter(|call| call.starts_with("set_irqs")).collect();
    assert_eq!(sets, ["set_irqs 1 0 fds 1111", "set_irqs 1 0 fds 11"]);
}

#[test]
fn msi_is_off_before_msix_is_on() {
    let (kernel, assigned) = with_msi();
    enable_msi(&assigned);
    kernel.calls();
    assigned.config_write(MESSAGE_CONTROL, &[0, 0x80]);
    let calls = kernel.calls();
    let place = |start: &str| calls.iter().position(|call| call.starts_with(start)).unwrap();
    let order = ["disarm 0", "disarm 3", "set_irqs 1 0 none 0", "release_routes", "set_irqs 2 0 fds -"];
    assert!(order.map(place).is_sorted(), "{calls:?}");
}

#[test]
fn register_of_a_device_that_is_gone_reads_all_ones_through_its_mapping() {
    let TestDevice { kernel, device, .. } = TestDevice::open();
    let device = Arc::into_inner(device).unwrap();
    let registers = RegisterPath::Mapping(crate::FaultHandler::install().unwrap());
    let options = AssignOptions { registers, ..AssignOptions::default() };
    let assigned = Assigned::new(device, TestGuest(kernel.clone(), None), &options).unwrap();
    assigned.config_write(0x10, &(BAR_AT as u32).to_le_bytes());
    assigned.config_write(COMMAND, &[6, 0]);
    kernel.unplug();
    assert_eq!((read(&assigned, BAR_AT), assigned.access_failures().reads), ([0xff; 4], 1));
}

/// The test device, its pin in use, on its way to another process.
fn handed_on() -> (TestDevice, crate::HandedDevice, Vec<u8>) {
    let test = TestDevice::open();
    let device = test.vm.open("0000:00:05.0".parse().unwrap()).unwrap();
    let guest = TestGuest(test.kernel.clone(), Some(LineEnd::Resampled));
    let first = Assigned::new(device, guest, &AssignOptions::default()).unwrap();
    first.stop(BusMastering::Kept);
    let (handed, state) = (first.device().hand_on().unwrap(), first.save().unwrap());
    // As when a process ends: nothing is given back.
    std::mem::forget(first);
    (test, handed, state)
}

fn take_over(
    test: &TestDevice,
    handed: crate::HandedDevice,
    state: &[u8],
) -> Result<Assigned<TestGuest>, AssignError> {
    let device = Vm::new(test.kernel.host(), crate::VmOptions::default()).take_over(handed).unwrap();
    test.kernel.calls();
    let guest = TestGuest(test.kernel.clone(), Some(LineEnd::Resampled));
    Assigned::take_over(device, guest, &AssignOptions::default(), state)
}

#[test]
fn pin_of_a_device_that_is_taken_over_is_switched_off_and_wired_anew() {
    let (test, handed, state) = handed_on();
    let _second = take_over(&test, handed, &state).unwrap();
    let calls = test.kernel.calls();
    let sets: Vec<_> = calls.iter().filter(|call| call.starts_with("set_irqs")).collect();
    assert_eq!(sets, ["set_irqs 0 0 none 0", "set_irqs 0 0 fds 1", "set_irqs 0 0 unmask_on"]);
}

#[test]
fn pin_that_cannot_be_switched_off_is_told() {
    let (test, handed, state) = handed_on();
    test.kernel.fail("set_irqs 0 0 none 0", Errno::EIO);
    let refused = take_over(&test, handed, &state).map(drop);
    assert!(matches!(refused, Err(AssignError::Pin { .. })), "{refused:?}");
}

#[test]
fn device_is_not_taken_over_with_a_state_of_another() {
    let (test, handed, _) = handed_on();
    let refused = take_over(&test, handed, &[0; 64]).map(drop);
    assert!(matches!(refused, Err(AssignError::State { .. })), "{refused:?}");
}
