//! Devices whose capability lists lead in circles, outside, or to things that are none.

use vfio_assign_core::fake::{MsixPlan, Shape};
use vfio_assign_core::{CapabilityFinding, Finding, MsixFinding};
use vfio_assign_tests::{BASE, Rig, bar};

/// The device has nothing odd but these; MSI-X of [`Shape::nvme`] works or not.
fn finds(shape: &Shape, findings: &[CapabilityFinding], msix: bool) -> Rig {
    let mut rig = Rig::new(shape);
    let findings: Vec<_> = findings.iter().copied().map(Finding::Capability).collect();
    assert_eq!((&rig.findings, rig.function.msix().is_some()), (&findings, msix));
    rig.map_bar0();
    rig.write(BASE + 0x20, 4, 9);
    assert_eq!(rig.read(BASE + 0x20, 4), 9);
    rig
}

/// A device with Power Management at 0x40, MSI-X at 0x48 and PCI Express at 0x54, and these bytes changed.
fn bent(at: u16, bytes: &[u8]) -> Shape {
    let mut shape = Shape::nvme(4);
    shape.put(at, bytes);
    shape
}

#[test]
fn capability_that_points_to_itself_is_found_and_kept() {
    finds(&bent(0x49, &[0x48]), &[CapabilityFinding::Cycle(0x48)], true);
}

#[test]
fn two_capabilities_that_point_to_each_other_are_found_and_kept() {
    finds(&bent(0x49, &[0x40]), &[CapabilityFinding::Cycle(0x40)], true);
}

#[test]
fn pointer_of_0xff_does_not_overflow() {
    // Its dword is 0xfc, all-ones as of a device that answers nothing there: a capability that links to itself.
    let mut shape = bent(0x49, &[0xff]);
    shape.put(0xfc, &[0xff; 4]);
    let mut rig = finds(&shape, &[CapabilityFinding::Cycle(0xfc)], true);
    assert_eq!(rig.config_read(0xfc, 4), 0xffff_ffff);
}

#[test]
fn pointer_below_0x40_ends_the_list() {
    finds(&bent(0x41, &[0x10]), &[CapabilityFinding::BelowFirst(0x10)], false);
}

#[test]
fn low_two_bits_of_every_pointer_are_ignored() {
    let mut shape = bent(0x34, &[0x43]);
    shape.put(0x41, &[0x4a]);
    finds(&shape, &[], true);
}

#[test]
fn capability_with_id_0_does_not_end_the_list() {
    finds(&bent(0x40, &[0]), &[], true);
}

#[test]
fn capability_with_id_0xff_does_not_end_the_list() {
    finds(&bent(0x40, &[0xff]), &[], true);
}

#[test]
fn second_msix_is_hidden_and_changes_nothing() {
    let plan = MsixPlan { vectors: 9, table: (bar(0), 0), pba: (bar(0), 0x800) };
    let mut rig = Rig::started(&Shape::nvme(4).msix(plan));
    assert_eq!(rig.findings, [Finding::Msix(MsixFinding::SecondCapability(0x90))]);
    assert_eq!((rig.config_read(0x90, 4), rig.config_read(0x94, 8)), (0, 0));
    rig.config_write(0x92, 2, 0x8000);
    assert_eq!((rig.msix_bits(), rig.host.interrupts_on()), ((false, false), false));
    rig.start_interrupts(4);
    assert_eq!(rig.host.armed().len(), 4);
    // Its "table" is the device's registers.
    rig.write(BASE, 4, 7);
    assert_eq!(rig.read(BASE, 4), 7);
}

#[test]
fn msix_that_runs_past_0xff_is_hidden() {
    // The list ends with an MSI-X capability at 0xf8, whose PBA register would be at 0x100.
    let mut shape = Shape::new().memory_bar(bar(0), 0x4000);
    shape.put(6, &[0x10]);
    shape.put(0x34, &[0xf8]);
    shape.put(0xf8, &[0x11, 0, 3, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0]);
    let mut rig = Rig::new(&shape);
    assert_eq!(rig.findings, [Finding::Msix(MsixFinding::CapabilityTruncated(0xf8))]);
    assert_eq!((rig.config_read(0xf8, 8), rig.function.msix().is_none()), (0, true));
    rig.config_write(0xf8, 8, u64::MAX);
    assert_eq!((rig.config_read(0xf8, 8), rig.config_read(0x100, 4)), (0, 0x3000));
}

/// A device with an extended capability at 0x100, whose next pointer is `next`, and these bytes changed.
fn extended(next: u16, at: u16, bytes: &[u8]) -> Shape {
    let mut shape = Shape::nvme(4).extended_capability(0x03, &[1, 2, 3, 4, 5, 6, 7, 8]);
    shape.put(0x102, &(next << 4 | 1).to_le_bytes());
    shape.put(at, bytes);
    shape
}

#[test]
fn extended_pointer_below_0x100_ends_the_list() {
    finds(&extended(0x48, 0, &[]), &[CapabilityFinding::BelowFirst(0x48)], true);
}

#[test]
fn low_two_bits_of_an_extended_pointer_are_ignored() {
    // SR-IOV at 0x200 is found, and hidden.
    let mut rig = finds(&extended(0x203, 0x200, &[0x10, 0, 1, 0, 0xee]), &[], true);
    assert_eq!((rig.config_read(0x200, 4), rig.config_read(0x204, 1)), (0, 0));
}

#[test]
fn extended_cycle_is_found_and_ends_the_list() {
    let back = (0x100u16 << 4 | 1).to_le_bytes();
    let shape = extended(0x200, 0x200, &[0x0b, 0, back[0], back[1]]);
    finds(&shape, &[CapabilityFinding::Cycle(0x100)], true);
}

#[test]
fn extended_header_of_zero_is_an_empty_list() {
    let mut rig = finds(&extended(0, 0x100, &[0; 4]), &[], true);
    assert_eq!(rig.config_read(0x100, 4), 0);
}

#[test]
fn extended_header_of_all_ones_ends_the_list() {
    let mut rig = finds(&extended(0, 0x100, &[0xff; 4]), &[], true);
    assert_eq!(rig.config_read(0x100, 4), 0xffff_ffff);
}

#[test]
fn extended_header_of_version_0_is_hidden_like_any_other() {
    let mut shape = Shape::nvme(4).extended_capability(0x10, &[0xee; 60]);
    shape.put(0x102, &[0, 0]);
    let mut rig = finds(&shape, &[], true);
    assert_eq!((rig.config_read(0x100, 4), rig.config_read(0x104, 4)), (0, 0));
}

#[test]
fn configuration_space_of_256_bytes_has_no_extended_list_and_no_finding() {
    let mut shape = Shape::nvme(4).extended_capability(0x10, &[0xee; 60]);
    shape.config.truncate(256);
    let mut rig = finds(&shape, &[], true);
    rig.steps();
    assert_eq!((rig.config_read(0x100, 4), rig.kinds()), (0xffff_ffff, vec![]));
    assert_eq!(rig.function.counters().failed_reads, 0);
}

#[test]
fn configuration_space_of_4096_bytes_is_read_to_its_last_byte() {
    let mut shape = Shape::nvme(4);
    shape.put(0xffc, &[1, 2, 3, 4]);
    let mut rig = finds(&shape, &[], true);
    assert_eq!((rig.config_read(0xffc, 4), rig.config_read(0xffd, 4)), (0x0403_0201, 0xff04_0302));
}

#[test]
fn without_the_status_bit_there_is_no_list() {
    let mut rig = finds(&bent(6, &[0]), &[], false);
    assert_eq!(rig.config_read(0x48, 1), 0x11);
}
