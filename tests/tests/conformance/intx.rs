//! I2: the interrupt pin. A level, two ways to end it, Interrupt Disable, and what may fail.

use vfio_assign_core::fake::CallKind::{Arm, Disarm, UnmaskIntx, Wire};
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::{InterruptKind, Step};
use vfio_assign_core::{BusMastering, Finding, InterruptPin, IntxFinding};
use vfio_assign_tests::{Rig, vector};

/// A device with a pin, attached; the guest has turned its memory on.
fn rig() -> Rig {
    Rig::started(&Shape::nvme(4).pin())
}

/// The same on a host that resamples.
fn resampled() -> Rig {
    let mut shape = Shape::nvme(4).pin();
    shape.resample = true;
    Rig::started(&shape)
}

fn disable(rig: &mut Rig, disabled: bool) {
    rig.config_write(4, 2, if disabled { 0x406 } else { 6 });
}

fn intx(rig: &Rig) -> (bool, bool) {
    rig.function.intx().unwrap().live()
}

#[test]
fn i2_the_pin_is_wired_and_armed_when_the_function_is_attached() {
    let mut rig = Rig::unattached(&Shape::nvme(4).pin());
    rig.function.attach(&mut rig.host);
    let kinds: Vec<_> = rig.kinds().into_iter().skip_while(|kind| *kind != Wire).collect();
    assert_eq!((kinds, intx(&rig)), (vec![Wire, Arm], (true, true)));
    assert_eq!(rig.function.interrupt_mode(), Some(InterruptKind::Intx));
}

#[test]
fn i2_the_guest_reads_hardware_s_pin() {
    let mut shape = Shape::nvme(4);
    shape.put(0x3d, &[3]);
    let mut rig = Rig::started(&shape);
    assert_eq!(
        (rig.config_read(0x3d, 1), rig.function.intx().map(|intx| intx.pin())),
        (3, Some(InterruptPin::C))
    );
}

#[test]
fn i2_no_pin_is_no_intx() {
    let rig = Rig::nvme(4);
    assert_eq!((rig.function.intx(), rig.function.interrupt_mode(), rig.findings), (None, None, vec![]));
}

#[test]
fn i2_a_pin_that_there_is_not_is_hidden() {
    let mut shape = Shape::nvme(4);
    shape.put(0x3d, &[5]);
    let mut rig = Rig::started(&shape);
    assert_eq!((rig.config_read(0x3d, 1), rig.findings), (0, vec![Finding::Intx(IntxFinding::NoSuchPin(5))]));
}

/// What the guest reads of Status while the device has a reason to assert its pin.
fn status_of(shape: &Shape) -> u64 {
    let mut rig = Rig::started(shape);
    rig.host.assert_pin(true);
    rig.config_read(6, 2)
}

#[test]
fn i2_interrupt_status_is_the_device_s() {
    assert_eq!(status_of(&Shape::nvme(4).pin()), 0x0018);
}

#[test]
fn i5_a_pin_that_is_hidden_shows_no_interrupt_status() {
    let mut shape = Shape::nvme(4).pin();
    shape.carried[0] = false;
    assert_eq!((status_of(&shape), status_of(&Shape::nvme(4))), (0x0010, 0x0010));
}

#[test]
fn i2_an_asserted_pin_asserts_the_guest_s_line_until_the_guest_ends_it() {
    let mut rig = rig();
    rig.host.assert_pin(true);
    let asserted = rig.host.line();
    rig.host.assert_pin(false);
    rig.steps();
    rig.end_interrupt();
    assert_eq!((asserted, rig.host.line(), rig.kinds()), ((true, 1), (false, 1), vec![UnmaskIntx]));
}

#[test]
fn i2_a_pin_that_is_still_asserted_comes_again() {
    let mut rig = rig();
    rig.host.assert_pin(true);
    for times in 2..5 {
        rig.end_interrupt();
        assert_eq!(rig.host.line(), (true, times));
    }
}

#[test]
fn i2_a_host_that_resamples_needs_no_call() {
    let mut rig = resampled();
    rig.host.assert_pin(true);
    rig.steps();
    rig.end_interrupt();
    assert_eq!((rig.host.line(), rig.kinds()), ((true, 2), vec![]));
}

#[test]
fn i2_a_host_that_resamples_may_be_told_all_the_same() {
    let mut rig = resampled();
    rig.function.handle_intx_eoi();
    rig.settle();
    assert_eq!(rig.kinds(), [UnmaskIntx]);
}

#[test]
fn i2_an_end_told_while_the_unmasking_is_under_way_is_not_lost() {
    let mut rig = rig();
    rig.host.assert_pin(true);
    assert!(rig.host.end_interrupt());
    rig.function.handle_intx_eoi();
    let _ = rig.function.begin_settle();
    let (token, step) = rig.function.next_step().unwrap();
    let outcome = rig.function.perform(step, &mut rig.host).unwrap();
    // It has come again, and the guest has ended that one too, before the host says that it is done.
    assert!(rig.host.line().0 && rig.host.end_interrupt());
    rig.function.handle_intx_eoi();
    let _ = rig.function.complete(token, outcome);
    rig.settle();
    assert_eq!((step, rig.host.line()), (Step::UnmaskIntx, (true, 3)));
}

#[test]
fn i2_interrupt_disable_lets_the_line_go_and_the_status_bit_stay() {
    let mut rig = rig();
    rig.host.assert_pin(true);
    disable(&mut rig, true);
    assert_eq!((rig.host.line().0, rig.config_read(6, 2) & 8, rig.config_read(4, 2)), (false, 8, 0x406));
    assert!(rig.host.hardware_command().bits() & 0x400 != 0);
}

#[test]
fn i2_a_line_masked_before_interrupt_disable_is_unmasked_after_it() {
    for mut rig in [rig(), resampled()] {
        rig.host.assert_pin(true);
        disable(&mut rig, true);
        rig.steps();
        disable(&mut rig, false);
        let kinds = rig.kinds();
        assert_eq!((kinds[kinds.len() - 2..].to_vec(), rig.host.line()), (vec![Arm, UnmaskIntx], (true, 2)));
    }
}

#[test]
fn i2_nothing_is_asserted_while_interrupts_are_disabled() {
    let mut rig = rig();
    disable(&mut rig, true);
    rig.host.assert_pin(true);
    rig.function.handle_intx_eoi();
    rig.settle();
    assert_eq!(rig.host.line(), (false, 0));
    disable(&mut rig, false);
    assert_eq!(rig.host.line(), (true, 1));
}

#[test]
fn i2_an_interrupt_that_the_embedder_took_comes_again() {
    let mut rig = rig();
    rig.host.assert_pin(true);
    assert!(rig.host.end_interrupt());
    rig.function.handle_interrupt(InterruptKind::Intx, vector(0));
    rig.settle();
    assert_eq!(rig.host.line(), (true, 2));
}

#[test]
fn i2_an_unmasking_that_fails_is_tried_at_the_next_settling() {
    let mut rig = rig();
    rig.host.assert_pin(true);
    rig.host.faults.fail_nth(UnmaskIntx, 0);
    rig.end_interrupt();
    let silent = rig.host.line();
    rig.settle();
    assert_eq!((silent, rig.host.line()), ((false, 1), (true, 2)));
    assert_eq!((rig.host.count(UnmaskIntx), rig.function.counters().failed_establishes), (2, 1));
}

#[test]
fn i2_a_line_that_the_host_refuses_is_tried_when_interrupts_are_enabled_again() {
    let mut rig = Rig::unattached(&Shape::nvme(4).pin());
    rig.host.faults.fail_nth(Wire, 0);
    rig.function.attach(&mut rig.host);
    rig.map_bar0();
    rig.settle();
    assert_eq!(
        (intx(&rig), rig.host.count(Wire), rig.function.counters().failed_establishes),
        ((false, false), 1, 1)
    );
    disable(&mut rig, true);
    disable(&mut rig, false);
    assert_eq!(intx(&rig), (true, true));
}

#[test]
fn i2_arming_that_fails_is_tried_when_interrupts_are_enabled_again() {
    let mut rig = Rig::unattached(&Shape::nvme(4).pin());
    rig.host.faults.fail_nth(Arm, 0);
    rig.function.attach(&mut rig.host);
    rig.host.assert_pin(true);
    rig.map_bar0();
    assert_eq!((intx(&rig), rig.host.line()), ((true, false), (false, 0)));
    disable(&mut rig, true);
    disable(&mut rig, false);
    assert_eq!((intx(&rig), rig.host.line().0), ((true, true), true));
}

#[test]
fn i2_a_line_that_cannot_be_cut_off_quarantines_until_detach() {
    let mut rig = rig();
    rig.host.faults.fail_nth(Disarm, 0);
    disable(&mut rig, true);
    assert!(rig.function.is_quarantined());
    rig.function.detach(&mut rig.host);
    assert_eq!(
        (rig.function.is_quarantined(), rig.host.held(), rig.host.armed()),
        (false, (0, 0, 0), vec![])
    );
}

#[test]
fn i2_a_reset_asserts_nothing_and_the_line_works_after_it() {
    let mut rig = rig();
    rig.host.assert_pin(true);
    rig.function.reset(&mut rig.host);
    assert_eq!((rig.host.line().0, intx(&rig)), (false, (true, true)));
    rig.host.assert_pin(true);
    assert!(rig.host.line().0);
}

#[test]
fn i2_flr_asserts_nothing_and_the_line_works_after_it() {
    let mut rig = rig();
    disable(&mut rig, true);
    rig.config_write(Rig::DEVICE_CONTROL, 2, 0x8000);
    assert_eq!((rig.host.line().0, intx(&rig), rig.config_read(4, 2)), (false, (true, true), 0));
    rig.host.assert_pin(true);
    assert!(rig.host.line().0);
}

#[test]
fn i2_detach_gives_the_line_back() {
    let mut rig = rig();
    rig.host.assert_pin(true);
    rig.function.detach(&mut rig.host);
    assert_eq!((rig.host.line().0, rig.host.interrupt_mode(), rig.host.held()), (false, None, (0, 0, 0)));
    rig.function.attach(&mut rig.host);
    assert_eq!((rig.host.line().0, intx(&rig)), (true, (true, true)));
}

#[test]
fn p3_a_stopped_function_asserts_nothing_and_loses_nothing() {
    let mut rig = rig();
    rig.function.stop(BusMastering::Kept, &mut rig.host);
    rig.host.assert_pin(true);
    let stopped = rig.host.line();
    rig.function.start(&mut rig.host);
    assert_eq!((stopped, rig.host.line().0), ((false, 0), true));
}

#[test]
fn s2_a_restored_pin_is_on_and_disabled_as_it_was() {
    for disabled in [false, true] {
        let mut rig = rig();
        disable(&mut rig, disabled);
        rig.function.stop(BusMastering::Kept, &mut rig.host);
        let mut bytes = vec![0; rig.function.saved_size()];
        rig.function.save(&mut bytes).unwrap();
        let mut restored = Rig::new(&Shape::nvme(4).pin());
        assert_eq!(restored.function.restore(&bytes), Ok(()));
        restored.settle();
        restored.host.assert_pin(true);
        assert_eq!((intx(&restored), restored.host.line().0), ((true, !disabled), !disabled));
    }
}

#[test]
fn m9_intx_on_and_off_in_a_loop_leaks_nothing() {
    let mut rig = rig();
    for _ in 0..50 {
        assert_eq!(rig.host.held(), (1, 1, 0));
        rig.msix_control(true, false);
        rig.msix_control(false, false);
    }
}
