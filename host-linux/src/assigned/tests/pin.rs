//! The device's pin, on lines whose end is told in different ways.

use super::*;

/// The test device assigned, its pin leading to such a line.
fn with_line(line: Option<LineEnd>) -> (TestKernel, Assigned<TestGuest>) {
    let TestDevice { kernel, device, .. } = TestDevice::open();
    let device = Arc::into_inner(device).unwrap();
    let assigned = Assigned::new(device, TestGuest(kernel.clone(), line), &AssignOptions::default()).unwrap();
    (kernel, assigned)
}

/// What was asked for from the call on that starts so.
fn from(calls: Vec<String>, start: &str) -> Vec<String> {
    let place = calls.iter().position(|call| call.starts_with(start)).unwrap();
    calls[place..].to_vec()
}

#[test]
fn pin_with_a_resampled_line_is_armed_when_the_device_is_assigned() {
    let (kernel, _assigned) = with_line(Some(LineEnd::Resampled));
    let expected = ["set_irqs 0 0 fds 1", "new_event", "set_irqs 0 0 unmask_on", "arm_line resample"];
    assert_eq!(from(kernel.calls(), "set_irqs"), expected);
}

#[test]
fn pin_whose_end_the_monitor_tells_is_unmasked_then() {
    let (kernel, assigned) = with_line(Some(LineEnd::Told));
    assert_eq!(from(kernel.calls(), "set_irqs"), ["set_irqs 0 0 fds 1", "arm_line"]);
    assigned.handle_intx_eoi();
    assert_eq!(kernel.calls(), ["set_irqs 0 0 unmask"]);
}

#[test]
fn pin_is_off_before_msix_is_on() {
    let (kernel, assigned) = with_line(Some(LineEnd::Resampled));
    kernel.calls();
    assigned.config_write(MESSAGE_CONTROL, &[0, 0x80]);
    assert_eq!(kernel.calls(), ["disarm_line", "set_irqs 0 0 none 0", "set_irqs 2 0 fds -"]);
    assigned.config_write(MESSAGE_CONTROL, &[0, 0]);
    let expected = ["set_irqs 2 0 none 0", "new_event", "set_irqs 0 0 fds 1", "new_event"];
    assert_eq!(kernel.calls()[..4], expected);
}

#[test]
fn pin_that_leads_nowhere_is_hidden_and_reported() {
    let (_kernel, assigned) = with_line(None);
    let mut pin = [0xff];
    assigned.config_read(0x3d, &mut pin);
    assert_eq!((pin, assigned.findings()), ([0], &[Finding::NotCarried(InterruptKind::Intx)][..]));
}
