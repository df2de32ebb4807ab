//! P3: stop and start.

use vfio_assign_core::BusMastering;
use vfio_assign_core::fake::CallKind::{Arm, Disarm, Signal, TakePending, Wire, WriteConfig};
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::InterruptKind;
use vfio_assign_core::regs::header::Command;
use vfio_assign_tests::{Rig, vector};

/// Interrupts of vectors 0 and 1 on, both used once; vector 1 masked.
fn running() -> Rig {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(2);
    rig.mask(1);
    rig.steps();
    rig
}

fn stop(rig: &mut Rig) {
    rig.function.stop(BusMastering::Kept, &mut rig.host);
}

fn start(rig: &mut Rig) {
    rig.function.start(&mut rig.host);
}

#[test]
fn p3_stop_cuts_events_off_unwires_them_in_one_call_and_takes_what_they_hold() {
    let mut rig = running();
    stop(&mut rig);
    assert_eq!(rig.kinds(), [Disarm, Wire, TakePending]);
    assert_eq!((rig.host.armed(), rig.host.wired(), rig.host.interrupts_on()), (vec![], vec![], true));
    assert!(rig.function.is_stopped());
}

#[test]
fn p3_stop_keeps_windows_and_bus_mastering() {
    let mut rig = running();
    stop(&mut rig);
    assert_eq!((rig.windows().len(), rig.host.hardware_command().contains(Command::BUS_MASTER)), (1, true));
}

#[test]
fn p3_bus_mastering_goes_off_if_asked_and_comes_back() {
    let mut rig = running();
    rig.function.stop(BusMastering::Off, &mut rig.host);
    let off = (rig.config_read(4, 2), rig.host.hardware_command());
    start(&mut rig);
    assert_eq!((off, rig.host.hardware_command().bits()), ((6, Command::MEMORY_SPACE), 6));
}

#[test]
fn p3_a_guest_that_writes_command_while_stopped_is_no_bus_master_before_the_start() {
    let mut rig = running();
    rig.function.stop(BusMastering::Off, &mut rig.host);
    rig.config_write(4, 2, 0x406);
    let stopped = (rig.config_read(4, 2), rig.host.hardware_command().bits());
    start(&mut rig);
    assert_eq!((stopped, rig.host.hardware_command().bits()), ((0x406, 0x402), 0x406));
}

#[test]
fn p3_start_after_a_plain_stop_writes_no_register() {
    let mut rig = running();
    stop(&mut rig);
    start(&mut rig);
    assert_eq!(rig.host.count(WriteConfig), 0);
}

#[test]
fn p3_start_wires_in_one_call_and_keeps_routes() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(3);
    stop(&mut rig);
    rig.steps();
    start(&mut rig);
    assert_eq!(rig.kinds(), [Wire, Arm, Arm, Arm]);
}

#[test]
fn p3_start_wires_what_the_guest_has_masked_too_so_that_unmasking_stays_cheap() {
    let mut rig = running();
    stop(&mut rig);
    start(&mut rig);
    rig.steps();
    rig.unmask(1);
    assert_eq!((rig.kinds(), rig.host.held()), (vec![Arm], (2, 2, 2)));
}

#[test]
fn p3_vectors_that_the_guest_gave_up_while_stopped_are_not_wired_again() {
    let mut rig = running();
    stop(&mut rig);
    rig.msix_control(false, false);
    rig.msix_control(true, false);
    start(&mut rig);
    assert_eq!(rig.host.wired(), [vector(0)]);
}

#[test]
fn p3_what_came_before_the_stop_is_delivered_once_after_it() {
    let mut rig = running();
    rig.host.raise(vector(1));
    stop(&mut rig);
    assert!(rig.is_pending(1));
    start(&mut rig);
    assert_eq!((rig.delivered(), rig.is_pending(1)), (vec![], true));
    rig.unmask(1);
    assert_eq!((rig.delivered(), rig.is_pending(1)), (vec![1], false));
}

#[test]
fn p3_what_comes_while_stopped_is_delivered_at_the_start() {
    let mut rig = running();
    stop(&mut rig);
    rig.host.raise(vector(0));
    rig.host.raise(vector(1));
    assert_eq!((rig.is_pending(0), rig.is_pending(1), rig.delivered()), (true, true, vec![]));
    start(&mut rig);
    assert_eq!((rig.delivered(), rig.is_pending(1)), (vec![0], true));
}

#[test]
fn p3_what_the_embedder_sees_while_stopped_is_delivered_at_the_start() {
    let mut rig = running();
    stop(&mut rig);
    rig.function.handle_interrupt(InterruptKind::Msix, vector(0));
    rig.settle();
    assert_eq!(rig.delivered(), []);
    start(&mut rig);
    assert_eq!(rig.delivered(), [0]);
}

#[test]
fn p3_a_guest_that_writes_while_stopped_gets_nothing_wired() {
    let mut rig = running();
    stop(&mut rig);
    rig.steps();
    rig.unmask(1);
    rig.program(2);
    rig.unmask(2);
    rig.msix_control(true, true);
    rig.msix_control(true, false);
    assert_eq!((rig.host.wired(), rig.kinds()), (vec![], vec![]));
    start(&mut rig);
    assert_eq!(rig.host.armed(), [vector(0), vector(1), vector(2)]);
}

#[test]
fn p3_stop_on_a_kernel_that_cannot_add_vectors_allocates_nothing_anew() {
    let mut rig = Rig::started(&Shape::nvme(8).noresize());
    rig.start_interrupts(3);
    stop(&mut rig);
    rig.steps();
    start(&mut rig);
    assert_eq!((rig.kinds(), rig.host.held().0), (vec![Wire, Arm, Arm, Arm], 3));
}

#[test]
fn p3_an_unwiring_that_fails_leaves_nothing_armed_and_loses_nothing() {
    let mut rig = running();
    rig.host.raise(vector(1));
    rig.host.faults.fail_next(Wire, 1);
    stop(&mut rig);
    assert!(rig.is_pending(1));
    start(&mut rig);
    rig.unmask(1);
    assert_eq!((rig.delivered(), rig.host.lost_interrupts()), (vec![1], 0));
}

#[test]
fn p3_stop_twice_is_stop_once() {
    let mut rig = running();
    stop(&mut rig);
    rig.steps();
    stop(&mut rig);
    assert_eq!(rig.kinds(), []);
}

#[test]
fn p3_reset_while_stopped_stays_stopped() {
    let mut rig = running();
    stop(&mut rig);
    rig.function.reset(&mut rig.host);
    rig.map_bar0();
    rig.start_interrupts(1);
    assert_eq!((rig.function.is_stopped(), rig.host.wired()), (true, vec![]));
    start(&mut rig);
    assert_eq!(rig.host.armed(), [vector(0)]);
}

#[test]
fn p3_a_message_that_could_not_be_routed_before_the_stop_can_be_mended_after_it() {
    let mut rig = Rig::started(&Shape::nvme(4).msi(2, true, true));
    rig.msi_control(true, 2);
    stop(&mut rig);
    start(&mut rig);
    rig.program_msi(0x4140);
    rig.host.raise(vector(1));
    assert_eq!(rig.delivered(), [1]);
}

#[test]
fn p3_a_new_assignment_is_not_stopped() {
    let mut rig = running();
    rig.function.stop(BusMastering::Off, &mut rig.host);
    rig.function.detach(&mut rig.host);
    rig.function.attach(&mut rig.host);
    rig.map_bar0();
    rig.start_interrupts(1);
    assert_eq!((rig.host.armed(), rig.host.hardware_command().bits()), (vec![vector(0)], 6));
}

#[test]
fn p3_interrupts_latched_are_signalled_before_their_events_reach_the_guest() {
    let mut rig = running();
    rig.host.raise(vector(1));
    rig.unmask(0);
    stop(&mut rig);
    rig.unmask(1);
    rig.steps();
    start(&mut rig);
    assert_eq!(rig.kinds(), [Wire, Signal, Arm, Arm]);
    assert_eq!(rig.delivered(), [1]);
}
