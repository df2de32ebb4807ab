//! The operation protocol: one operation at a time, its steps in order, and what may come in between.

use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::{InterruptKind, Outcome, Step};
use vfio_assign_core::{
    Access, Begin, BusMastering, Bytes, Completion, GuestAddr, ResetOutcome, Target, VectorIndex,
};
use vfio_assign_tests::{BASE, Rig, vector};

/// An operation, and the state that it starts from.
struct Case {
    name: &'static str,
    rig: Rig,
    begin: fn(&mut Rig) -> Begin,
    /// Whether what was pending is forgotten.
    resets: bool,
}

fn write(rig: &mut Rig, target: Target, data: &[u8]) -> Begin {
    rig.function.begin(Access::Write { target, data: Bytes::from_slice(data) })
}

fn memory(address: u64) -> Target {
    Target::Memory(GuestAddr::new(address))
}

/// Vectors 0 and 1 are armed, 2 is wired and masked, 3 was never unmasked.
fn busy(shape: &Shape) -> Rig {
    let mut rig = Rig::started(shape);
    rig.start_interrupts(3);
    rig.mask(2);
    rig.program(3);
    rig.steps();
    rig
}

fn cases() -> Vec<Case> {
    let nvme = || busy(&Shape::nvme(8));
    let noresize = || busy(&Shape::nvme(8).noresize());
    let case = |name, rig, begin| Case { name, rig, begin, resets: false };
    let reset = |name, rig, begin| Case { name, rig, begin, resets: true };
    vec![
        case("config read", nvme(), |rig| {
            rig.function.begin(Access::Read { target: Target::Config(3), size: 8 })
        }),
        case("register read", nvme(), |rig| {
            rig.function.begin(Access::Read { target: memory(BASE + 0x13), size: 8 })
        }),
        case("pending bits read", nvme(), |rig| {
            rig.function.begin(Access::Read { target: memory(rig.pba(0)), size: 8 })
        }),
        case("register write", nvme(), |rig| write(rig, memory(BASE + 0x13), &[1; 8])),
        case("memory off", nvme(), |rig| write(rig, Target::Config(4), &[4, 0])),
        case("move", nvme(), |rig| write(rig, Target::Config(0x10), &[0, 0, 0, 0xe1])),
        case("sleep", nvme(), |rig| write(rig, Target::Config(Rig::PMCSR), &[1])),
        case("first unmask", nvme(), |rig| write(rig, memory(rig.entry(3, 12)), &[0; 4])),
        case("growth", noresize(), |rig| write(rig, memory(rig.entry(3, 12)), &[0; 4])),
        case("mask", nvme(), |rig| write(rig, memory(rig.entry(1, 12)), &[1, 0, 0, 0])),
        case("function mask", nvme(), |rig| write(rig, Target::Config(Rig::MSIX_CONTROL), &[0, 0xc0])),
        case("interrupts off", nvme(), |rig| write(rig, Target::Config(Rig::MSIX_CONTROL), &[0, 0])),
        case("settling", nvme(), |rig| {
            rig.function.handle_interrupt(InterruptKind::Msix, vector(0));
            rig.function.handle_interrupt(InterruptKind::Msix, vector(1));
            rig.function.begin_settle()
        }),
        reset("function-level reset", nvme(), |rig| {
            write(rig, Target::Config(Rig::DEVICE_CONTROL), &[0, 0x80])
        }),
        reset("attach", nvme(), |rig| rig.function.begin_attach()),
        reset("machine reset", nvme(), |rig| rig.function.begin_reset()),
        reset("detach", nvme(), |rig| rig.function.begin_detach()),
    ]
}

/// Takes steps until the operation is complete or `limit` are taken; how many that were.
fn run(rig: &mut Rig, limit: usize) -> usize {
    let mut taken = 0;
    while let Some((token, step)) = rig.function.next_step().filter(|_| taken < limit) {
        let outcome = rig.function.perform(step, &mut rig.host).unwrap_or(Outcome::Failed);
        let _ = rig.function.complete(token, outcome);
        taken += 1;
    }
    taken
}

/// All that a guest can see, and what stands in the host.
fn view(rig: &Rig) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut rig = rig.clone();
    let config: Vec<_> = (0..64).map(|at| rig.config_read(at * 4, 4)).collect();
    let delivered = rig.host.take_delivered();
    let host = (rig.host.wired(), rig.host.armed(), rig.host.held(), rig.windows(), rig.host.interrupts_on());
    let memory: Vec<_> = (0x1ff0..0x2100).step_by(4).map(|at| rig.read(BASE + at, 4)).collect();
    (config, memory, rig.is_pending(2), delivered, host)
}

/// Runs each operation once for each of its steps, up to that step, and then does `interfere` and `check`.
fn at_every_step(mut interfere: impl FnMut(&Case, &mut Rig, usize)) {
    for case in cases() {
        let mut whole = case.rig.clone();
        assert_eq!((case.begin)(&mut whole), Begin::Steps, "{}", case.name);
        let steps = run(&mut whole, usize::MAX);
        assert!(steps > 0, "{}", case.name);
        for stop in 0..steps {
            let mut rig = case.rig.clone();
            let _ = (case.begin)(&mut rig);
            assert_eq!(run(&mut rig, stop), stop);
            interfere(&case, &mut rig, stop);
        }
    }
}

/// The same operation without interference.
fn undisturbed(case: &Case) -> Rig {
    let mut rig = case.rig.clone();
    let _ = (case.begin)(&mut rig);
    run(&mut rig, usize::MAX);
    rig
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
            rig.function.handle_interrupt(InterruptKind::Msix, vector(index));
            run(rig, usize::MAX);
            rig.settle();
            let delivered = rig.delivered().contains(&index);
            let pending = rig.function.msix().unwrap().pending(VectorIndex::default());
            let waits = (pending.known | pending.poll) >> index & 1 != 0
                && !rig.host.armed().contains(&vector(index));
            assert!(delivered || waits || case.resets, "vector {index}, {} at {stop}", case.name);
        });
    }
}

#[test]
fn an_interrupt_of_the_device_in_the_middle_is_not_lost_at_every_step() {
    for index in 0..3 {
        at_every_step(|case, rig, stop| {
            rig.host.take_delivered();
            let on = rig.host.interrupts_on();
            rig.host.raise(vector(index));
            run(rig, usize::MAX);
            let delivered = rig.delivered().contains(&index);
            // Memory may be off: the guest looks again when it is on.
            rig.config_write(Rig::PMCSR, 1, 0);
            rig.map_bar0();
            assert!(
                delivered || rig.is_pending(index) || !on || case.resets,
                "vector {index}, {} at {stop}",
                case.name
            );
        });
    }
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
