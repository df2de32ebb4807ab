//! The operation protocol: one operation at a time, its steps in order, and what may come in between.

use crate::cases::{MSI_PENDING, at_every_step, run, undisturbed};
use vfio_assign_core::fake::Raised;
use vfio_assign_core::host::{InterruptKind, Outcome, Step};
use vfio_assign_core::{Access, Begin, BusMastering, Bytes, Completion, ResetOutcome, Target};
use vfio_assign_tests::{BASE, Rig, vector};

/// All that a guest can see, and what stands in the host.
fn view(rig: &Rig) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut rig = rig.clone();
    let config: Vec<_> = (0..64).map(|at| rig.config_read(at * 4, 4)).collect();
    let delivered = rig.host.take_delivered();
    let host =
        (rig.host.wired(), rig.host.armed(), rig.host.held(), rig.windows(), rig.host.interrupt_mode());
    let memory: Vec<_> = (0x1ff0..0x2100).step_by(4).map(|at| rig.read(BASE + at, 4)).collect();
    (config, memory, rig.is_pending(2), delivered, host, rig.host.line())
}

/// Whether an interrupt of this vector waits, once the function runs, is awake and decodes.
fn waits(rig: &mut Rig, index: u16) -> bool {
    rig.config_write(Rig::PMCSR, 1, 0);
    rig.map_bar0();
    let msi = rig.function.msi().is_some() && rig.config_read(MSI_PENDING, 4) >> index & 1 != 0;
    msi || rig.is_pending(index)
}

#[test]
fn a_stale_token_changes_nothing_at_every_step() {
    at_every_step(|case, rig, stop| {
        let (token, step) = rig.function.next_step().unwrap();
        let outcome = rig.function.perform(step, &mut rig.host).unwrap();
        let _ = rig.function.complete(token, outcome);
        for stale in [Outcome::Failed, Outcome::Value(u64::MAX)] {
            assert_eq!(rig.function.complete(token, stale), Completion::Stale, "{} at {stop}", case.name);
        }
        assert_eq!(rig.function.counters().stale_tokens, 2);
        run(rig, usize::MAX);
        assert_eq!(view(rig), view(&undisturbed(case)), "{} at {stop}", case.name);
    });
}

#[test]
fn a_second_begin_is_busy_and_changes_nothing_at_every_step() {
    at_every_step(|case, rig, stop| {
        let step = rig.function.next_step();
        let read = Access::Read { target: Target::Config(0), size: 4 };
        let answers = [
            rig.function.begin(read),
            rig.function.begin_settle(),
            rig.function.begin_attach(),
            rig.function.begin_reset(),
            rig.function.begin_detach(),
        ];
        assert_eq!(answers, [Begin::Busy; 5], "{} at {stop}", case.name);
        assert_eq!(rig.access(read), Bytes::all_ones(4));
        assert_eq!((rig.function.next_step(), rig.function.counters().busy), (step, 6));
        run(rig, usize::MAX);
        assert_eq!(view(rig), view(&undisturbed(case)), "{} at {stop}", case.name);
    });
}

#[test]
fn a_step_stays_the_same_until_it_is_completed() {
    at_every_step(|_, rig, _| assert_eq!(rig.function.next_step(), rig.function.next_step()));
}

#[test]
fn an_interrupt_in_the_middle_is_not_lost_at_every_step() {
    for index in 0..4 {
        at_every_step(|case, rig, stop| {
            rig.host.take_delivered();
            rig.function.handle_interrupt(case.kind, vector(index));
            run(rig, usize::MAX);
            rig.function.start(&mut rig.host);
            let delivered = rig.delivered().contains(&index);
            // A level comes again as long as it is asserted.
            let level = case.kind == InterruptKind::Intx;
            assert!(
                delivered || level || case.resets || waits(rig, index),
                "vector {index}, {} at {stop}",
                case.name
            );
        });
    }
}

#[test]
fn an_interrupt_of_the_device_in_the_middle_is_not_lost_at_every_step() {
    for index in 0..3 {
        at_every_step(|case, rig, stop| {
            rig.host.take_delivered();
            // A device sends no message of MSI past those that it was given.
            let given = u16::try_from(rig.host.held().0).unwrap_or(u16::MAX).max(1);
            let msi = rig.host.interrupt_mode() == Some(InterruptKind::Msi);
            let index = if msi { index % given } else { index };
            // While no kind is on, or for a vector that was never wired, the device itself has it, or has lost it.
            let held = matches!(rig.host.raise(vector(index)), Raised::Delivered | Raised::Held);
            run(rig, usize::MAX);
            rig.function.start(&mut rig.host);
            let delivered = rig.delivered().contains(&index);
            assert!(
                delivered || !held || case.resets || waits(rig, index),
                "vector {index}, {} at {stop}",
                case.name
            );
        });
    }
}

#[test]
fn a_level_in_the_middle_reaches_the_guest_at_every_step() {
    let mut reached = 0;
    at_every_step(|case, rig, stop| {
        rig.host.assert_pin(true);
        run(rig, usize::MAX);
        rig.settle();
        let on = rig.host.interrupt_mode() == Some(InterruptKind::Intx) && rig.host.is_pin_asserted();
        let expected = on && !rig.function.is_stopped();
        assert!(rig.host.line().0 || !expected, "{} at {stop}", case.name);
        reached += usize::from(expected);
    });
    assert!(reached > 0);
}

#[test]
fn an_end_of_interrupt_in_the_middle_changes_nothing_at_every_step() {
    at_every_step(|case, rig, stop| {
        rig.function.handle_intx_eoi();
        run(rig, usize::MAX);
        assert_eq!(view(rig), view(&undisturbed(case)), "{} at {stop}", case.name);
    });
}

#[test]
fn a_device_that_goes_in_the_middle_leaves_no_window_at_every_step() {
    at_every_step(|case, rig, stop| {
        rig.host.unplug();
        rig.function.handle_gone();
        run(rig, usize::MAX);
        rig.settle();
        assert_eq!(rig.windows(), [], "{} at {stop}", case.name);
        assert_eq!(rig.config_read(0x10, 8), u64::MAX);
        rig.function.detach(&mut rig.host);
        assert_eq!(
            (rig.host.held(), rig.function.is_quarantined()),
            ((0, 0, 0), false),
            "{} at {stop}",
            case.name
        );
    });
}

#[test]
fn steps_of_an_operation_are_revoked_then_forwarded_then_established() {
    let mut rig = Rig::nvme(4);
    rig.config_write(0x10, 4, BASE + 0x10_0000);
    let kinds: Vec<_> = rig.steps().into_iter().map(Step::kind).collect();
    use vfio_assign_core::host::StepKind::{Establish, Revoke};
    assert_eq!(kinds, [Revoke, Revoke, Establish, Establish]);
}

#[test]
fn an_access_without_a_step_is_done_at_once_and_counted() {
    let mut rig = Rig::nvme(4);
    let before = rig.function.counters().local_accesses;
    let begin = rig.function.begin(Access::Read { target: Target::Config(0x10), size: 4 });
    let bytes = Bytes::from_slice(&[0x0c, 0, 0, 0xe0]);
    assert_eq!((begin, rig.function.next_step()), (Begin::Done(bytes), None));
    assert_eq!(rig.function.counters().local_accesses - before, 1);
}

#[test]
fn without_an_operation_a_token_is_stale() {
    let mut rig = Rig::nvme(4);
    let _ = rig.function.begin(Access::Read { target: Target::Config(0), size: 4 });
    let (token, _) = rig.function.next_step().unwrap();
    let _ = rig.function.complete(token, Outcome::Value(0));
    assert_eq!(rig.function.complete(token, Outcome::Done), Completion::Stale);
}

#[test]
fn no_command_of_the_embedder_begins_while_an_operation_is_under_way() {
    let mut rig = Rig::nvme(4);
    let read = Access::Read { target: Target::Config(0), size: 4 };
    assert_eq!(rig.function.begin(read), Begin::Steps);
    let before = rig.function.clone();
    assert_eq!(rig.function.begin_stop(BusMastering::Off), Begin::Busy);
    assert_eq!(rig.function.begin_start(), Begin::Busy);
    assert_eq!(rig.function.begin_settle(), Begin::Busy);
    assert_eq!(rig.function.begin_detach(), Begin::Busy);
    assert_eq!(rig.function.reset(&mut rig.host), ResetOutcome::NotReset);
    assert_eq!((rig.function.next_step(), rig.function.is_stopped()), (before.next_step(), false));
    assert_eq!(rig.function.counters().busy, before.counters().busy + 5);
}

#[test]
fn a_read_in_the_middle_of_which_the_device_goes_is_all_ones() {
    let mut rig = Rig::nvme(4);
    let read = Access::Read { target: Target::Config(0), size: 8 };
    assert_eq!(rig.function.begin(read), Begin::Steps);
    let (token, step) = rig.function.next_step().unwrap();
    let outcome = rig.function.perform(step, &mut rig.host).unwrap();
    assert_eq!(rig.function.complete(token, outcome), Completion::Steps);
    rig.function.handle_gone();
    let (token, _) = rig.function.next_step().unwrap();
    let done = rig.function.complete(token, Outcome::Value(0));
    assert_eq!(done, Completion::Done(Bytes::all_ones(8)));
}
