//! Devices that disappear, answer short or not at all, or have less than one expects.

use vfio_assign_core::fake::CallKind;
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::InterruptKind;
use vfio_assign_core::{
    AssignedFunction, ConfigMapError, Decoded, DescriptionError, Finding, GuestAddr, Vector, Window,
};
use vfio_assign_tests::{BASE, Rig, bar, vector};

fn refused(config: Vec<u8>) -> ConfigMapError {
    let mut shape = Shape::nvme(4);
    shape.config = config;
    let function =
        AssignedFunction::new(&shape.description(), [Vector::RESET; 4], [Window::default(); 8], |_| {});
    match function.map(drop) {
        Err(DescriptionError::Config(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn device_that_reads_all_ones_when_it_is_opened_is_gone() {
    assert_eq!(refused(vec![0xff; 4096]), ConfigMapError::Gone);
}

#[test]
fn configuration_space_that_was_read_short_is_refused() {
    assert_eq!(refused(vec![0; 63]), ConfigMapError::TooSmall(63));
    assert_eq!(refused(vec![]), ConfigMapError::TooSmall(0));
}

#[test]
fn device_that_is_pulled_out_reads_all_ones_everywhere() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(2);
    rig.host.unplug();
    assert_eq!((rig.config_read(0, 4), rig.read(BASE, 8)), (0xffff_ffff, u64::MAX));
    rig.write(BASE, 4, 1);
    rig.config_write(0x3c, 1, 1);
    rig.function.handle_gone();
    rig.settle();
    assert_eq!(
        (rig.windows(), rig.config_read(0x10, 4), rig.read(rig.entry(0, 0), 4)),
        (vec![], 0xffff_ffff, 0xffff_ffff)
    );
    rig.function.detach(&mut rig.host);
    assert_eq!((rig.host.held(), rig.function.is_quarantined()), ((0, 0, 0), false));
}

#[test]
fn device_that_is_gone_decodes_nothing() {
    let mut rig = Rig::nvme(4);
    rig.function.handle_gone();
    rig.settle();
    assert_eq!(rig.function.decoder().memory(GuestAddr::new(BASE), 4), Decoded::Miss);
}

#[test]
fn register_that_gives_eio_reads_all_ones_and_the_next_one_works() {
    let mut rig = Rig::nvme(4);
    rig.write(BASE + 8, 8, 0x1122_3344_5566_7788);
    rig.host.faults.fail_nth(CallKind::ReadBar, 0);
    assert_eq!(rig.read(BASE + 8, 8), u64::MAX);
    assert_eq!(rig.read(BASE + 8, 8), 0x1122_3344_5566_7788);
    assert_eq!((rig.function.counters().failed_reads, rig.function.is_gone()), (1, false));
}

#[test]
fn half_of_an_access_that_fails_is_all_ones_and_the_other_half_is_not() {
    let mut rig = Rig::nvme(4);
    rig.write(BASE + 8, 8, 0x1122_3344_5566_7788);
    rig.write(BASE + 16, 8, 0x1122_3344_5566_7788);
    rig.host.faults.fail_nth(CallKind::ReadBar, 1);
    assert_eq!(rig.read(BASE + 12, 8), 0xffff_ffff_1122_3344);
}

#[test]
fn device_without_any_interrupt_is_assigned_and_offers_none() {
    let mut shape = Shape::new().memory_bar(bar(0), 0x4000);
    shape.put(0x3c, &[0, 0]);
    let mut rig = Rig::started(&shape);
    assert_eq!((rig.findings.len(), rig.config_read(0x3c, 2), rig.config_read(6, 2) & 0x10), (0, 0, 0));
    rig.function.handle_interrupt(InterruptKind::Msix, vector(0));
    rig.settle();
    rig.write(BASE, 4, 3);
    assert_eq!((rig.read(BASE, 4), rig.delivered()), (3, vec![]));
    rig.function.reset(&mut rig.host);
    rig.function.detach(&mut rig.host);
    assert!(!rig.function.is_quarantined());
}

#[test]
fn device_with_nothing_at_all_is_assigned() {
    let mut rig = Rig::new(&Shape::new());
    rig.config_write(4, 2, 7);
    assert_eq!((rig.config_read(0, 4), rig.config_read(0x10, 8), rig.windows()), (0x0010_1b36, 0, vec![]));
    assert_eq!(rig.findings, Vec::<Finding>::new());
}
