//! S2: what a restored function is, once it is settled.

use crate::saved::{restored, saved, stop, stopped};
use vfio_assign_core::fake::CallKind::{self, Arm, CommitRoutes, Map, Wire, WriteConfig};
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::InterruptKind;
use vfio_assign_core::regs::power::PowerState;
use vfio_assign_tests::{BASE, Rig, message, vector};

#[test]
fn s2_restoring_calls_nothing_and_settling_creates_everything() {
    let shape = Shape::nvme(4);
    let bytes = saved(&stopped(&shape));
    let mut rig = restored(&shape, &bytes);
    assert_eq!((rig.kinds(), rig.function.mapped_windows()), (vec![], 0));
    rig.settle();
    assert_eq!(rig.windows(), [(0, BASE, BASE + 0x1fff)]);
    assert_eq!((rig.host.armed(), rig.host.hardware_command().bits()), (vec![vector(0)], 6));
    rig.host.raise(vector(0));
    assert_eq!(rig.host.delivered(), [(vector(0), message(0))]);
}

#[test]
fn s2_what_was_pending_is_delivered_once() {
    let shape = Shape::nvme(4);
    let bytes = saved(&stopped(&shape));
    let mut rig = restored(&shape, &bytes);
    rig.settle();
    assert_eq!((rig.is_pending(1), rig.delivered()), (true, vec![]));
    rig.unmask(1);
    rig.settle();
    assert_eq!((rig.is_pending(1), rig.delivered()), (false, vec![1]));
}

#[test]
fn s2_what_was_held_of_a_live_vector_is_delivered_by_settling() {
    let shape = Shape::nvme(4);
    let mut rig = stopped(&shape);
    rig.function.handle_interrupt(InterruptKind::Msix, vector(0));
    let mut rig = restored(&shape, &saved(&rig));
    rig.settle();
    assert_eq!(rig.delivered(), [0]);
}

#[test]
fn s2_a_restore_of_any_number_of_vectors_is_one_wire_and_one_commit() {
    for vectors in [1, 64, 2048] {
        for shape in [Shape::nvme(vectors), Shape::nvme(vectors).noresize()] {
            let mut rig = Rig::started(&shape);
            rig.start_interrupts(vectors);
            stop(&mut rig);
            let mut rig = restored(&shape, &saved(&rig));
            rig.settle();
            let counts = [Wire, CommitRoutes, Arm].map(|kind: CallKind| rig.host.count(kind));
            assert_eq!(counts, [1, 1, usize::from(vectors)]);
        }
    }
}

#[test]
fn s2_windows_wait_until_hardware_has_taken_command() {
    let shape = Shape::nvme(4);
    let mut rig = restored(&shape, &saved(&stopped(&shape)));
    rig.host.faults.fail_next(WriteConfig, 1);
    rig.settle();
    let failed = rig.host.count(Map);
    rig.settle();
    assert_eq!((failed, rig.host.count(Map), rig.windows().len()), (0, 1, 1));
}

#[test]
fn s2_a_device_that_slept_sleeps_again() {
    let shape = Shape::nvme(4);
    let mut rig = Rig::started(&shape);
    rig.config_write(Rig::PMCSR, 1, 3);
    stop(&mut rig);
    let mut rig = restored(&shape, &saved(&rig));
    rig.settle();
    assert_eq!((rig.function.power(), rig.config_read(Rig::PMCSR, 1)), (PowerState::D3Hot, 3));
    assert_eq!((rig.windows(), rig.host.decodes_memory()), (vec![], false));
    rig.config_write(Rig::PMCSR, 1, 0);
    // Waking is a reset on this device.
    assert_eq!((rig.function.power(), rig.config_read(4, 2)), (PowerState::D0, 0));
}

#[test]
fn s2_command_bits_that_hardware_answers_for_come_back() {
    let shape = Shape::nvme(4);
    let mut rig = Rig::started(&shape);
    rig.config_write(4, 2, 0x0546);
    let before = rig.config_read(4, 2);
    stop(&mut rig);
    let mut rig = restored(&shape, &saved(&rig));
    rig.settle();
    assert_eq!((before, rig.config_read(4, 2)), (0x0546, 0x0546));
}

#[test]
fn s2_a_byte_of_command_from_the_guest_does_not_stand_for_all_of_it() {
    let shape = Shape::nvme(4);
    let mut rig = Rig::started(&shape);
    rig.config_write(4, 2, 0x0506);
    stop(&mut rig);
    let mut rig = restored(&shape, &saved(&rig));
    rig.host.faults.fail_next(WriteConfig, 1);
    rig.settle();
    rig.config_write(4, 1, 6);
    rig.settle();
    assert_eq!(rig.host.hardware_command().bits(), 0x0506);
}

#[test]
fn s2_a_sleep_that_hardware_did_not_take_is_tried_at_the_next_settling() {
    let shape = Shape::nvme(4);
    let mut rig = Rig::started(&shape);
    rig.config_write(Rig::PMCSR, 1, 3);
    stop(&mut rig);
    let mut rig = restored(&shape, &saved(&rig));
    // The second write, behind Command's.
    rig.host.faults.fail_nth(WriteConfig, 1);
    rig.settle();
    let failed = rig.config_read(Rig::PMCSR, 1);
    rig.settle();
    assert_eq!((failed, rig.config_read(Rig::PMCSR, 1)), (0, 3));
}
