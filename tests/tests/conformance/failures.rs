//! What a failed step means: the table of the architecture, row by row.

use vfio_assign_core::fake::CallKind::{
    self, Arm, CommitRoutes, DisableInterrupts, Disarm, Map, ReleaseVectors, Route, Signal, TakePending,
    Trap, Unmap, Untrap, Wire, WriteConfig,
};
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::InterruptKind;
use vfio_assign_core::{Decoded, ResetOutcome};
use vfio_assign_tests::{BASE, Rig, bar, vector};

fn busy() -> Rig {
    let mut rig = Rig::nvme(8);
    rig.start_interrupts(4);
    rig
}

fn fail(rig: &mut Rig, kind: CallKind) {
    rig.host.faults.fail_nth(kind, 0);
}

/// The function is quarantined, answers nothing, and is whole again after a teardown and a new start.
fn is_quarantined_until_torn_down(rig: &mut Rig) {
    assert!(rig.function.is_quarantined());
    rig.steps();
    assert_eq!((rig.config_read(0, 4), rig.read(BASE, 4)), (0xffff_ffff, 0xffff_ffff));
    rig.config_write(4, 2, 6);
    rig.settle();
    rig.function.attach(&mut rig.host);
    assert_eq!(rig.function.reset(&mut rig.host), ResetOutcome::NotReset);
    assert_eq!(rig.kinds(), []);
    rig.function.detach(&mut rig.host);
    assert!(!rig.function.is_quarantined());
    works_from_the_start(rig);
}

/// Nothing stands in the host, and a new assignment works.
fn works_from_the_start(rig: &mut Rig) {
    assert_eq!((rig.windows(), rig.host.held(), rig.host.interrupts_on()), (vec![], (0, 0, 0), false));
    assert_eq!((rig.host.trapped(bar(0)), rig.host.armed()), (None, vec![]));
    rig.function.attach(&mut rig.host);
    rig.map_bar0();
    rig.start_interrupts(2);
    rig.delivered();
    rig.host.raise(vector(1));
    assert_eq!((rig.windows(), rig.delivered()), (vec![(0, BASE, BASE + 0x1fff)], vec![1]));
}

#[test]
fn map_leaves_that_piece_trapped() {
    let mut rig = Rig::nvme(4);
    fail(&mut rig, Map);
    rig.config_write(0x10, 4, BASE + 0x10_0000);
    assert_eq!((rig.windows(), rig.function.is_quarantined()), (vec![], false));
    rig.write(BASE + 0x10_0020, 4, 9);
    assert_eq!(rig.read(BASE + 0x10_0020, 4), 9);
}

#[test]
fn trap_leaves_that_piece_undecoded_until_the_next_change_of_decode() {
    let mut rig = Rig::nvme(4);
    fail(&mut rig, Trap);
    rig.config_write(0x10, 4, BASE + 0x10_0000);
    assert_eq!(
        (rig.decode(BASE + 0x10_0000, 4), rig.read(BASE + 0x10_0000, 4)),
        (Decoded::Miss, 0xffff_ffff)
    );
    rig.config_write(4, 2, 4);
    rig.config_write(4, 2, 6);
    assert_eq!(rig.decoded(bar(0)), Some((BASE + 0x10_0000, BASE + 0x10_3fff)));
}

#[test]
fn unmap_quarantines() {
    let mut rig = busy();
    fail(&mut rig, Unmap);
    rig.config_write(4, 2, 0);
    assert_eq!(rig.windows().len(), 1);
    is_quarantined_until_torn_down(&mut rig);
}

#[test]
fn unmap_that_fails_keeps_the_write_from_hardware() {
    let mut rig = busy();
    fail(&mut rig, Unmap);
    rig.config_write(4, 2, 0);
    assert!(rig.host.decodes_memory());
}

#[test]
fn untrap_quarantines() {
    let mut rig = busy();
    fail(&mut rig, Untrap);
    rig.config_write(4, 2, 0);
    assert!(rig.host.trapped(bar(0)).is_some());
    is_quarantined_until_torn_down(&mut rig);
}

#[test]
fn disarm_quarantines() {
    let mut rig = busy();
    fail(&mut rig, Disarm);
    rig.mask(2);
    assert_eq!(rig.host.armed().len(), 4);
    is_quarantined_until_torn_down(&mut rig);
}

#[test]
fn disable_quarantines() {
    let mut rig = busy();
    fail(&mut rig, DisableInterrupts);
    rig.msix_control(false, false);
    assert!(rig.host.interrupts_on());
    is_quarantined_until_torn_down(&mut rig);
}

#[test]
fn disable_for_growth_quarantines() {
    let mut rig = Rig::started(&Shape::nvme(8).noresize());
    rig.start_interrupts(1);
    rig.program(1);
    fail(&mut rig, DisableInterrupts);
    rig.unmask(1);
    is_quarantined_until_torn_down(&mut rig);
}

#[test]
fn a_teardown_that_fails_can_be_begun_again() {
    for kind in [Unmap, Untrap, Disarm, DisableInterrupts] {
        let mut rig = busy();
        rig.host.faults.fail_next(kind, 2);
        rig.function.reset(&mut rig.host);
        rig.function.detach(&mut rig.host);
        assert!(rig.function.is_quarantined(), "{kind:?}");
        rig.function.detach(&mut rig.host);
        assert!(!rig.function.is_quarantined(), "{kind:?}");
        works_from_the_start(&mut rig);
    }
}

#[test]
fn a_teardown_goes_on_after_a_failure() {
    let mut rig = busy();
    fail(&mut rig, Disarm);
    rig.function.detach(&mut rig.host);
    assert_eq!((rig.windows(), rig.host.interrupts_on(), rig.host.held()), (vec![], false, (0, 0, 0)));
}

#[test]
fn a_release_that_fails_is_tried_again_by_the_teardown() {
    let mut rig = busy();
    fail(&mut rig, ReleaseVectors);
    rig.msix_control(false, false);
    assert_eq!((rig.function.is_quarantined(), rig.function.counters().failed_revokes), (false, 1));
    rig.function.detach(&mut rig.host);
    works_from_the_start(&mut rig);
}

#[test]
fn taking_what_events_hold_may_fail_and_is_counted() {
    let mut rig = busy();
    rig.mask(0);
    rig.host.raise(vector(0));
    fail(&mut rig, TakePending);
    rig.msix_control(false, false);
    assert_eq!((rig.function.is_quarantined(), rig.function.counters().failed_revokes), (false, 1));
}

#[test]
fn ranged_wire_is_halved_and_all_vectors_get_there() {
    let mut rig = Rig::nvme(8);
    rig.msix_control(true, false);
    fail(&mut rig, Wire);
    rig.start_interrupts(8);
    assert_eq!((rig.host.armed().len(), rig.msix_bits()), (8, (true, false)));
}

#[test]
fn single_wire_leaves_that_vector_alone_and_is_tried_at_its_next_unmask() {
    let mut rig = busy();
    rig.program(5);
    fail(&mut rig, Wire);
    rig.unmask(5);
    assert_eq!((rig.host.armed().len(), rig.msix_bits()), (4, (true, false)));
    rig.steps();
    rig.program(6);
    rig.config_read(0, 4);
    assert_eq!(rig.host.count(Wire), 0);
    rig.mask(5);
    rig.unmask(5);
    assert_eq!(rig.host.armed().len(), 5);
}

#[test]
fn first_enable_reads_back_as_off() {
    let mut rig = Rig::started(&Shape::nvme(8).noresize());
    rig.program(0);
    rig.unmask(0);
    fail(&mut rig, Wire);
    rig.msix_control(true, false);
    assert_eq!((rig.msix_bits(), rig.host.held()), ((false, false), (0, 0, 0)));
    rig.msix_control(true, false);
    assert_eq!(rig.host.armed(), [vector(0)]);
}

#[test]
fn commit_keeps_the_old_routes_and_the_vector_unarmed_until_the_next_drive() {
    let mut rig = busy();
    fail(&mut rig, CommitRoutes);
    rig.write(rig.entry(1, 8), 4, 0x7777);
    assert_eq!(rig.host.armed(), [vector(0), vector(2), vector(3)]);
    rig.host.raise(vector(1));
    assert!(rig.delivered().is_empty());
    rig.config_read(0x10, 4);
    assert_eq!(rig.host.delivered()[0].1.data, 0x7777);
}

#[test]
fn a_message_that_cannot_be_routed_leaves_the_vector_unarmed_and_its_interrupt_pending() {
    let mut rig = busy();
    rig.write(rig.entry(1, 0), 4, 0x1234_5000);
    assert_eq!(rig.host.armed(), [vector(0), vector(2), vector(3)]);
    rig.host.raise(vector(1));
    assert!(rig.is_pending(1));
    rig.program(1);
    assert_eq!(rig.delivered(), [1]);
}

#[test]
fn route_that_fails_is_tried_at_the_next_unmask() {
    let mut rig = busy();
    rig.program(5);
    fail(&mut rig, Route);
    rig.unmask(5);
    assert_eq!((rig.host.armed().len(), rig.host.wired().len()), (4, 5));
    rig.mask(5);
    rig.unmask(5);
    assert_eq!(rig.host.armed().len(), 5);
}

#[test]
fn arm_that_fails_keeps_the_interrupt_pending_until_the_next_unmask() {
    let mut rig = busy();
    rig.mask(1);
    fail(&mut rig, Arm);
    rig.unmask(1);
    rig.host.raise(vector(1));
    assert!(rig.is_pending(1));
    rig.mask(1);
    rig.unmask(1);
    assert_eq!(rig.delivered(), [1]);
}

#[test]
fn signal_that_fails_is_tried_at_the_next_drive() {
    let mut rig = busy();
    fail(&mut rig, Signal);
    rig.function.handle_interrupt(InterruptKind::Msix, vector(1));
    rig.settle();
    assert_eq!(rig.delivered(), []);
    rig.settle();
    assert_eq!(rig.delivered(), [1]);
}

#[test]
fn command_that_hardware_did_not_take_maps_nothing() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(0x10, 4, BASE);
    fail(&mut rig, WriteConfig);
    rig.config_write(4, 2, 6);
    assert_eq!(rig.windows(), []);
    rig.config_write(5, 1, 4);
    assert_eq!(rig.windows(), []);
    rig.config_write(4, 1, 6);
    assert_eq!(rig.windows().len(), 1);
}

#[test]
fn command_that_hardware_did_not_take_takes_windows_away() {
    let mut rig = Rig::nvme(4);
    fail(&mut rig, WriteConfig);
    rig.config_write(4, 2, 2);
    assert_eq!(rig.windows(), []);
}

#[test]
fn waking_that_hardware_did_not_take_maps_nothing() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR, 1, 1);
    fail(&mut rig, WriteConfig);
    rig.config_write(Rig::PMCSR, 1, 0);
    assert_eq!(rig.windows(), []);
    rig.config_write(Rig::PMCSR, 1, 0);
    assert_eq!(rig.windows().len(), 1);
}

/// A life from attach to detach, with a part of everything in it.
fn life(rig: &mut Rig) {
    rig.function.attach(&mut rig.host);
    rig.map_bar0();
    rig.start_interrupts(3);
    rig.mask(1);
    rig.host.raise(vector(1));
    rig.is_pending(1);
    rig.unmask(1);
    rig.program(6);
    rig.unmask(6);
    rig.read(BASE + 0x14, 8);
    rig.write(BASE + 0x14, 4, 1);
    rig.config_write(0x10, 4, BASE + 0x10_0000);
    rig.config_write(0x10, 4, BASE);
    rig.msix_control(false, false);
    rig.start_interrupts(2);
    rig.config_write(Rig::PMCSR, 1, 3);
    rig.config_write(Rig::PMCSR, 1, 0);
    rig.map_bar0();
    rig.config_write(Rig::DEVICE_CONTROL, 2, 0x8000);
    rig.map_bar0();
    rig.start_interrupts(2);
    rig.function.reset(&mut rig.host);
    rig.map_bar0();
    rig.start_interrupts(2);
    rig.function.detach(&mut rig.host);
}

#[test]
fn every_call_failing_once_leaves_a_function_that_works_again() {
    for shape in [Shape::nvme(8), Shape::nvme(8).noresize()] {
        let mut rig = Rig::unattached(&shape);
        life(&mut rig);
        let calls = rig.host.calls_made();
        assert!(calls > 100);
        for n in 0..calls {
            let mut rig = Rig::unattached(&shape);
            rig.host.faults.fail_call(n);
            life(&mut rig);
            rig.host.faults.clear();
            rig.function.detach(&mut rig.host);
            assert!(!rig.function.is_quarantined(), "call {n}");
            works_from_the_start(&mut rig);
        }
    }
}
