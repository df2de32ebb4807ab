//! What the host has to say of a device.

use crate::rig::{Rig, become_readable, open};
use std::thread;
use vfio_assign_core::Bdf;
use vfio_assign_linux::{DeviceEvent, DeviceEvents, Sysfs};

/// Which of the events a device has: error, release request, gone.
fn there(events: &DeviceEvents) -> [bool; 3] {
    assert_eq!(events.refused(), []);
    DeviceEvent::ALL.map(|event| events.fd(event).is_some())
}

/// An uncorrectable error that is not fatal: PCI Express Base 5.0, 7.8.4.2, Completion Timeout.
const COMPLETION_TIMEOUT: u32 = 1 << 14;

/// The kernel is made to believe that the device has reported an error: `aer_error_inj` in
/// `drivers/pci/pcie/aer_inject.c` of Linux.
fn inject(device: Bdf, uncorrectable: u32) {
    let mut error = [0; 32];
    error[..3].copy_from_slice(&[device.bus(), device.device(), device.function()]);
    error[4..8].copy_from_slice(&uncorrectable.to_ne_bytes());
    error[28..].copy_from_slice(&u32::from(device.segment()).to_ne_bytes());
    std::fs::write("/dev/aer_inject", error).expect("the kernel injects errors");
}

#[test]
fn i4_an_error_of_the_device_is_told() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.erring);
    let events = DeviceEvents::new(&device);
    assert_eq!(events.take(DeviceEvent::Error), Ok(false));
    inject(rig.erring, COMPLETION_TIMEOUT);
    become_readable(events.fd(DeviceEvent::Error).expect("a PCI Express device has it"));
    assert_eq!(events.take(DeviceEvent::Error), Ok(true));
    assert_eq!(events.take(DeviceEvent::ReleaseRequest), Ok(false));
}

#[test]
fn i4_only_a_pci_express_device_has_the_error_event() {
    let Some(rig) = Rig::get() else { return };
    assert_eq!(there(&DeviceEvents::new(&open(rig.nvme))), [true; 3]);
    assert_eq!(there(&DeviceEvents::new(&open(rig.edu))), [false, true, true]);
}

#[test]
fn i4_events_that_were_given_back_can_be_had_again() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    drop(DeviceEvents::new(&device));
    assert_eq!(there(&DeviceEvents::new(&device)), [true; 3]);
}

#[test]
fn i4_whoever_unbinds_the_driver_asks_for_the_device_and_waits_for_it() {
    let Some(rig) = Rig::get() else { return };
    let (device, sysfs) = (open(rig.edu), Sysfs::default());
    let events = DeviceEvents::new(&device);
    let request = DeviceEvent::ReleaseRequest;
    assert_eq!(events.take(request), Ok(false));
    let (seen, unbound) = thread::scope(|scope| {
        let unbinding = scope.spawn(|| sysfs.unbind(rig.edu));
        become_readable(events.fd(request).expect("every device has it"));
        let seen = (events.take(request), unbinding.is_finished());
        // Before anything can fail: the other thread waits for it.
        drop((events, device));
        (seen, unbinding.join())
    });
    sysfs.set_driver_override(rig.edu, Some("vfio-pci")).expect("it may be given to VFIO");
    sysfs.probe(rig.edu).expect("the driver takes it");
    assert_eq!((seen, unbound.expect("it does not panic")), ((Ok(true), false), Ok(())));
    assert_eq!(there(&DeviceEvents::new(&open(rig.edu))), [false, true, true]);
}
