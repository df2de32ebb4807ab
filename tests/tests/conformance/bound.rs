//! How many host calls one access of the guest's can cost at most: what the threat model promises.

use vfio_assign_core::fake::CallKind::{self, CommitRoutes, Signal, UnmaskIntx, Wire};
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::InterruptKind;
use vfio_assign_core::{Access, Bytes, Target};
use vfio_assign_tests::{BOUND, Rig, most_host_calls, vector};

/// Power management, MSI-X and the beginning of PCI Express of [`Shape::nvme`]: all that one access can reach at once.
const CAPABILITIES: u32 = 0x40;

/// A function with every vector programmed, unmasked and waiting, MSI-X off, and the 32 vectors of MSI reaching the guest.
fn waiting(shape: Shape) -> Rig {
    let mut rig = Rig::started(&shape.msi(5, true, true).pin());
    rig.program_msi(0x4100);
    rig.msi_control(true, 5);
    let count = rig.function.msix().map_or(0, |msix| msix.count());
    for index in 0..count {
        rig.program(index);
        rig.unmask(index);
        rig.function.handle_interrupt(InterruptKind::Msix, vector(index));
    }
    rig.steps();
    rig
}

/// The 64 bytes of the capabilities as they are, with MSI-X Enable set, and, if it is to be, Initiate Function Level
/// Reset behind it.
fn enable(rig: &mut Rig, reset: bool) -> Access {
    let target = Target::Config(CAPABILITIES);
    let mut data = [0; Bytes::LIMIT];
    data.copy_from_slice(rig.access(Access::Read { target, size: Bytes::LIMIT }).as_slice());
    data[(Rig::MSIX_CONTROL - CAPABILITIES) as usize + 1] |= 0x80;
    if reset {
        data[(Rig::DEVICE_CONTROL - CAPABILITIES) as usize + 1] |= 0x80;
    }
    rig.steps();
    Access::Write { target, data: Bytes::from_slice(&data) }
}

/// MSI off, MSI-X on, each vector wired by a call of its own after all larger runs have failed, routed, signalled, armed,
/// and then the reset: each of them disarmed.
#[test]
fn the_worst_access_is_bounded_in_host_calls() {
    let mut rig = waiting(Shape::nvme(2048));
    let windows = rig.function.mapped_windows();
    let access = enable(&mut rig, true);
    // Runs of 2,048 to 2 vectors.
    rig.host.faults.fail_next(Wire, 11);
    rig.access(access);
    let calls = rig.kinds();
    let each = [Wire, CallKind::Route, Signal, CallKind::Arm, CallKind::Disarm];
    let counts = each.map(|kind| calls.iter().filter(|call| **call == kind).count());
    // The pin is on after the reset.
    assert_eq!(counts, [2048 + 11 + 1, 2048, 2048, 2048 + 1, 2048 + 32]);
    assert!(calls.len() <= most_host_calls(2048, windows), "{} calls", calls.len());
    assert!(!rig.function.is_quarantined() && calls.len() > 5 * 2048);
}

#[test]
fn the_worst_access_of_a_host_where_all_fails_is_no_worse() {
    let shapes = || [Shape::nvme(2048), Shape::nvme(2048).noresize()];
    for kind in CallKind::ALL {
        for shape in shapes() {
            let mut rig = waiting(shape);
            let windows = rig.function.mapped_windows();
            let access = enable(&mut rig, true);
            rig.host.faults.fail_next(kind, u32::MAX);
            rig.access(access);
            let calls = rig.kinds().len();
            assert!(calls <= most_host_calls(2048, windows), "{calls} calls where {kind:?} fails");
        }
    }
}

/// What is worth another try is tried in the next operation, however many dwords this one has.
#[test]
fn a_step_that_fails_is_tried_once_in_an_operation() {
    for (kind, most) in
        [(Signal, 64), (CommitRoutes, 1), (UnmaskIntx, 1), (CallKind::Route, 64), (CallKind::Arm, 64)]
    {
        let mut rig = waiting(Shape::nvme(64));
        let access = enable(&mut rig, false);
        rig.host.faults.fail_next(kind, u32::MAX);
        rig.access(access);
        assert!(rig.host.count(kind) <= most, "{} times {kind:?}", rig.host.count(kind));
        assert!(!rig.function.is_quarantined());
    }
}

#[test]
fn the_documents_say_the_bound() {
    assert!(include_str!("../../../docs/THREAT_MODEL.md").contains(BOUND));
    assert!(include_str!("../../../core/src/lib.rs").contains(BOUND));
}
