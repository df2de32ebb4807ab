//! I3: exactly one kind of interrupt is on. I5: what the host cannot carry is hidden and reported.

use vfio_assign_core::fake::CallKind::{
    Arm, CommitRoutes, DisableInterrupts, Disarm, EnableInterrupts, ReleaseVectors, Route, TakePending, Wire,
};
use vfio_assign_core::fake::{CallKind, Shape};
use vfio_assign_core::host::InterruptKind::{self, Intx, Msi, Msix};
use vfio_assign_core::host::Step;
use vfio_assign_core::{
    AssignedFunction, CapabilityChoice, CapabilityId, Description, Finding, Vector, Window,
};
use vfio_assign_tests::{Rig, vector};

/// A device with all three kinds.
fn shape() -> Shape {
    Shape::nvme(4).msi(1, true, true).pin()
}

fn rig() -> Rig {
    let mut rig = Rig::started(&shape());
    rig.program_msi(0x4140);
    rig.program(0);
    rig.unmask(0);
    rig.steps();
    rig
}

fn kind(step: &Step) -> Option<InterruptKind> {
    match *step {
        Step::EnableInterrupts { kind } | Step::DisableInterrupts { kind } | Step::Wire { kind, .. } => {
            Some(kind)
        }
        _ => None,
    }
}

/// The kinds that were turned on or off, in order.
fn switched(rig: &mut Rig) -> Vec<(CallKind, InterruptKind)> {
    rig.steps().iter().filter_map(|step| Some((CallKind::of(*step), kind(step)?))).collect()
}

fn is_one(rig: &Rig, kind: Option<InterruptKind>) {
    assert_eq!((rig.function.interrupt_mode(), rig.host.interrupt_mode()), (kind, kind));
    assert!(rig.host.calls().iter().all(|call| call.failed.is_none()), "{:?}", rig.host.calls());
}

#[test]
fn i3_msix_goes_before_msi_and_msi_before_the_pin() {
    let mut rig = rig();
    is_one(&rig, Some(Intx));
    rig.msi_control(true, 0);
    is_one(&rig, Some(Msi));
    rig.msix_control(true, false);
    is_one(&rig, Some(Msix));
    rig.msix_control(false, false);
    is_one(&rig, Some(Msi));
    rig.msi_control(false, 0);
    is_one(&rig, Some(Intx));
}

#[test]
fn i3_msi_enabled_under_msix_waits() {
    let mut rig = rig();
    rig.msix_control(true, false);
    rig.steps();
    rig.msi_control(true, 1);
    assert_eq!((rig.kinds(), rig.msi_bits()), (vec![], (true, 1)));
    is_one(&rig, Some(Msix));
    rig.msix_control(false, false);
    assert_eq!(rig.host.armed().len(), 2);
}

#[test]
fn i3_the_old_kind_is_off_before_the_new_one_is_on() {
    let mut rig = rig();
    rig.msi_control(true, 0);
    assert_eq!(rig.kinds(), [Disarm, DisableInterrupts, ReleaseVectors, Wire, Route, CommitRoutes, Arm]);
    rig.msix_control(true, false);
    assert_eq!(
        rig.kinds(),
        [Disarm, DisableInterrupts, TakePending, ReleaseVectors, Wire, Route, CommitRoutes, Arm]
    );
    rig.msix_control(false, false);
    assert_eq!(switched(&mut rig), [(DisableInterrupts, Msix), (Wire, Msi)]);
    rig.msi_control(false, 0);
    assert_eq!(switched(&mut rig), [(DisableInterrupts, Msi), (Wire, Intx)]);
}

#[test]
fn i3_clearing_msix_arms_the_pin_again() {
    let mut rig = rig();
    rig.msix_control(true, false);
    rig.host.assert_pin(true);
    assert_eq!(rig.host.line(), (false, 0));
    rig.msix_control(false, false);
    assert_eq!(rig.host.line(), (true, 1));
}

#[test]
fn i3_msix_that_cannot_be_turned_on_leaves_the_pin_on() {
    let mut rig = Rig::started(&shape());
    rig.host.faults.fail_nth(EnableInterrupts, 0);
    rig.msix_control(true, false);
    assert_eq!((rig.msix_bits(), rig.function.interrupt_mode()), ((false, false), Some(Intx)));
    rig.host.assert_pin(true);
    assert_eq!((rig.host.line().0, rig.host.interrupt_mode()), (true, Some(Intx)));
}

#[test]
fn i3_msix_that_cannot_be_turned_on_makes_way_for_msi() {
    let mut rig = Rig::started(&shape());
    rig.program_msi(0x4140);
    rig.msi_control(true, 1);
    rig.host.faults.fail_nth(EnableInterrupts, 0);
    rig.msix_control(true, false);
    assert_eq!((rig.host.interrupt_mode(), rig.host.armed().len()), (Some(Msi), 2));
}

#[test]
fn i3_when_no_message_can_be_sent_the_pin_is_on_at_once() {
    let mut shape = shape();
    shape.host_vectors = 0;
    let mut rig = Rig::started(&shape);
    rig.msi_control(true, 1);
    rig.msix_control(true, false);
    assert_eq!((rig.msi_bits().0, rig.msix_bits().0, rig.host.interrupt_mode()), (false, false, Some(Intx)));
    assert!(rig.host.armed() == [vector(0)]);
}

#[test]
fn i3_what_one_kind_held_is_not_lost_to_another() {
    let mut rig = rig();
    rig.msi_control(true, 1);
    rig.config_write(Rig::MSI + 16, 4, 3);
    rig.host.raise(vector(1));
    rig.msix_control(true, false);
    rig.mask(0);
    rig.host.raise(vector(0));
    rig.msix_control(false, false);
    assert_eq!(
        (rig.config_read(Rig::MSI + 20, 4), rig.is_pending(0), rig.host.lost_interrupts()),
        (2, true, 0)
    );
    rig.config_write(Rig::MSI + 16, 4, 0);
    assert_eq!(rig.delivered(), [1]);
    rig.msix_control(true, false);
    rig.unmask(0);
    assert_eq!(rig.delivered(), [0]);
}

#[test]
fn i3_each_step_of_a_change_may_fail_and_detach_gives_everything_back() {
    for n in 0..20 {
        let mut rig = rig();
        rig.host.faults.fail_call(n);
        rig.msi_control(true, 1);
        rig.msix_control(true, false);
        rig.msix_control(false, false);
        rig.msi_control(false, 0);
        rig.host.faults.clear();
        rig.function.detach(&mut rig.host);
        rig.function.detach(&mut rig.host);
        assert!(!rig.function.is_quarantined(), "call {n}");
        assert_eq!((rig.host.held(), rig.host.interrupt_mode(), rig.host.armed()), ((0, 0, 0), None, vec![]));
    }
}

#[test]
fn i3_reset_leaves_the_pin_on_and_the_messages_off() {
    let mut rig = rig();
    rig.msi_control(true, 1);
    rig.msix_control(true, false);
    rig.function.reset(&mut rig.host);
    assert_eq!(
        (rig.msi_bits(), rig.msix_bits(), rig.host.interrupt_mode()),
        ((false, 0), (false, false), Some(Intx))
    );
}

#[test]
fn i5_a_kind_that_the_host_cannot_carry_is_hidden_and_reported() {
    let hidden = |kind: InterruptKind| {
        let mut shape = shape();
        shape.carried[InterruptKind::ALL.iter().position(|found| *found == kind).unwrap()] = false;
        Rig::started(&shape)
    };
    for kind in InterruptKind::ALL {
        let mut rig = hidden(kind);
        assert_eq!(rig.findings, [Finding::NotCarried(kind)]);
        let shown =
            [(0x3d, 1), (Rig::MSI, 5), (Rig::MSIX, 0x11)].map(|(at, id)| rig.config_read(at, 1) == id);
        assert_eq!(shown, [kind != Intx, kind != Msi, kind != Msix], "{kind}");
    }
}

#[test]
fn i5_a_hidden_kind_takes_no_write_and_is_never_on() {
    let mut shape = shape();
    shape.carried = [false; 3];
    let mut rig = Rig::started(&shape);
    rig.msi_control(true, 1);
    rig.msix_control(true, false);
    assert_eq!((rig.kinds(), rig.host.interrupt_mode()), (vec![], None));
    assert_eq!((rig.config_read(Rig::MSI + 2, 2), rig.config_read(Rig::MSIX_CONTROL, 2)), (0, 0));
}

/// The function of a device with all three kinds, its description changed; what was odd about it.
fn described(
    change: impl FnOnce(&mut Description<'_>),
) -> (AssignedFunction<Vec<Vector>, Vec<Window>>, Vec<Finding>) {
    let shape = Shape::nvme(4).msi(3, true, true).pin();
    let mut description = shape.description();
    change(&mut description);
    let (vectors, windows) = (vec![Vector::RESET; 4], vec![Window::default(); 8]);
    let mut findings = Vec::new();
    let function = AssignedFunction::new(&description, vectors, windows, |found| findings.push(found));
    (function.unwrap(), findings)
}

#[test]
fn i5_a_host_with_fewer_msi_vectors_than_the_device_shows_as_many_as_it_has() {
    for (host, offered) in [(1, 1), (3, 2), (8, 8), (32, 8)] {
        let (function, findings) = described(|description| description.interrupts.msi = host);
        assert_eq!((function.msi().map(|msi| msi.count()), findings), (Some(offered), vec![]));
    }
}

#[test]
fn i5_what_the_user_hides_is_not_reported() {
    const HIDDEN_MSI: [CapabilityChoice; 1] =
        [CapabilityChoice { id: CapabilityId::Standard(0x05), hidden: true }];
    let (function, findings) = described(|description| {
        description.options.capabilities = &HIDDEN_MSI;
        description.interrupts.msi = 0;
    });
    assert_eq!((function.msi(), findings), (None, vec![]));
}
