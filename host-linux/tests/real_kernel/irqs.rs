//! The orders in which the kernel lets interrupts be changed.

use crate::rig::{Rig, descriptors, host_interrupts, open};
use std::sync::Arc;
use vfio_assign_core::VectorIndex;
use vfio_assign_linux::{Device, Errno, IrqError, IrqKind, IrqVectors};

/// Two processors have about 400 interrupts to give.
const TOO_MANY: u16 = 600;

fn vector(index: u16) -> VectorIndex {
    VectorIndex::new(index).expect("a vector of MSI-X")
}

fn msix(device: &Arc<Device>) -> IrqVectors {
    IrqVectors::new(device.clone(), IrqKind::Msix)
}

fn wire(vectors: &mut IrqVectors, first: u16, last: u16) -> Result<(), IrqError> {
    vectors.wire(vector(first), vector(last), &|_| true)
}

/// What the kernel said, if it refused.
fn errno<T: std::fmt::Debug>(result: Result<T, IrqError>) -> Option<Errno> {
    match result {
        Err(IrqError::Refused { errno, .. }) => Some(errno),
        _ => None,
    }
}

#[test]
fn enabling_with_no_event_takes_no_interrupt_of_the_hosts() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    let mut vectors = msix(&device);
    vectors.enable().expect("MSI-X goes on");
    assert_eq!((vectors.is_on(), host_interrupts(rig.nvme)), (true, 0));
}

#[test]
fn a_range_is_wired_as_a_whole() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    let mut vectors = msix(&device);
    wire(&mut vectors, 0, 4).expect("five vectors");
    assert_eq!((vectors.events(), host_interrupts(rig.nvme)), (5, 5));
}

#[test]
fn vectors_are_added_while_on_unless_the_kernel_says_noresize() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    let mut vectors = msix(&device);
    vectors.enable().expect("MSI-X goes on");
    let added = wire(&mut vectors, 5, 7);
    if device.irq(IrqKind::Msix).expect("MSI-X").noresize {
        assert_eq!(errno(added), Some(Errno::EINVAL));
        assert_eq!(host_interrupts(rig.nvme), 0);
    } else {
        assert_eq!((added, host_interrupts(rig.nvme)), (Ok(()), 3));
    }
}

#[test]
fn vectors_within_those_enabled_are_taken_off_and_put_back() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    let mut vectors = msix(&device);
    wire(&mut vectors, 0, 3).expect("four vectors");
    vectors.wire(vector(1), vector(2), &|_| false).expect("two are taken off");
    assert_eq!(host_interrupts(rig.nvme), 2);
    wire(&mut vectors, 2, 2).expect("one is put back");
    assert_eq!(host_interrupts(rig.nvme), 3);
}

/// x86 kernels only reserve interrupts here, and allocate one as it gets its event: no shortage shows yet.
#[test]
fn all_vectors_of_the_device_can_be_enabled_while_none_has_an_event() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    let mut vectors = msix(&device);
    vectors.wire(vector(0), vector(2047), &|_| false).expect("2,048 without events");
    assert_eq!((vectors.is_on(), vectors.events(), host_interrupts(rig.nvme)), (true, 0, 0));
    wire(&mut vectors, 2047, 2047).expect("any of them can have an event");
    assert_eq!(host_interrupts(rig.nvme), 1);
}

#[test]
fn enabling_more_than_the_host_has_enables_none() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    let mut vectors = msix(&device);
    assert_eq!(errno(wire(&mut vectors, 0, TOO_MANY - 1)), Some(Errno::ENOSPC));
    assert_eq!((vectors.is_on(), vectors.events(), host_interrupts(rig.nvme)), (false, 0, 0));
    wire(&mut vectors, 0, 3).expect("four vectors can be had");
}

#[test]
fn a_range_that_the_host_cannot_wire_whole_is_not_wired_at_all() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    let mut vectors = msix(&device);
    wire(&mut vectors, 0, 0).expect("one vector");
    let kind = device.irq(IrqKind::Msix).expect("MSI-X");
    let expected = if kind.noresize { Errno::EINVAL } else { Errno::ENOSPC };
    assert_eq!(errno(wire(&mut vectors, 1, TOO_MANY)), Some(expected));
    assert_eq!((vectors.events(), host_interrupts(rig.nvme)), (1, 1));
}

#[test]
fn switching_off_gives_every_interrupt_back() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    let mut vectors = msix(&device);
    let before = descriptors("anon_inode:[eventfd]");
    wire(&mut vectors, 0, 9).expect("ten vectors");
    vectors.disable().expect("MSI-X goes off");
    assert_eq!(host_interrupts(rig.nvme), 0);
    vectors.release();
    assert_eq!(descriptors("anon_inode:[eventfd]"), before);
}

#[test]
fn closing_the_device_switches_its_interrupts_off() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    let mut vectors = msix(&device);
    wire(&mut vectors, 0, 9).expect("ten vectors");
    drop((vectors, device));
    assert_eq!(host_interrupts(rig.nvme), 0);
}

#[test]
fn one_kind_at_a_time() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.edu);
    let mut intx = IrqVectors::new(device.clone(), IrqKind::Intx);
    let mut msi = IrqVectors::new(device.clone(), IrqKind::Msi);
    wire(&mut intx, 0, 0).expect("INTx goes on");
    assert_eq!(errno(wire(&mut msi, 0, 0)), Some(Errno::EINVAL));
    intx.disable().expect("INTx goes off");
    wire(&mut msi, 0, 0).expect("MSI goes on");
    assert_eq!(errno(wire(&mut intx, 0, 0)), Some(Errno::EINVAL));
}
