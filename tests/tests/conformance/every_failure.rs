//! The failed-step table of the architecture, for every step of every operation: what is live then, what the guest sees,
//! and when it is tried again.

use crate::cases::{Case, MSI_MASK, at_every_step, run, undisturbed};
use std::collections::BTreeSet;
use vfio_assign_core::fake::CallKind;
use vfio_assign_core::host::{InterruptKind, Outcome, Step, StepKind};
use vfio_assign_core::{Begin, Counters, ResetOutcome};
use vfio_assign_tests::{BASE, Rig, vector};

/// Lets the step under way fail and the rest of the operation go on; the step, and the counters from before.
fn fail_one(rig: &mut Rig) -> (Step, Counters) {
    let (token, step) = rig.function.next_step().expect("an operation under way");
    let before = *rig.function.counters();
    rig.host.faults.fail_call(0);
    assert!(rig.function.perform(step, &mut rig.host).is_err());
    let _ = rig.function.complete(token, Outcome::Failed);
    rig.steps();
    run(rig, usize::MAX);
    (step, before)
}

/// Whether nobody can know what the guest reaches after this has failed.
fn quarantines(step: Step) -> bool {
    use Step::{DisableInterrupts, Disarm, Unmap, Untrap};
    matches!(step, Unmap(_) | Untrap { .. } | Disarm { .. } | DisableInterrupts { .. })
}

/// What has failed is counted, each kind of step by itself.
fn failed(counters: &Counters, kind: StepKind) -> u64 {
    match kind {
        StepKind::Read => counters.failed_reads,
        StepKind::Forward => counters.failed_forwards,
        StepKind::Revoke => counters.failed_revokes,
        StepKind::Establish => counters.failed_establishes,
    }
}

/// The interrupts that the guest has on.
fn controls(rig: &mut Rig) -> (u64, Option<u64>) {
    let msi = rig.function.msi().is_some();
    (rig.config_read(Rig::MSIX_CONTROL, 2), msi.then(|| rig.config_read(Rig::MSI + 2, 2)))
}

/// The guest, which wants these interrupts on, does once more what leads to another try: it turns decoding, and what
/// reads as off and should not, on again, and unmasks.
fn try_again(rig: &mut Rig, (msix, msi): (u64, Option<u64>)) {
    rig.function.start(&mut rig.host);
    rig.config_write(Rig::PMCSR, 1, 0);
    rig.config_write(4, 2, 0x400);
    rig.map_bar0();
    if let Some(control) = msi {
        rig.config_write(Rig::MSI + 2, 2, control);
        let masked = rig.config_read(MSI_MASK, 4);
        rig.config_write(MSI_MASK, 4, 0xf);
        rig.config_write(MSI_MASK, 4, masked);
    }
    rig.config_write(Rig::MSIX_CONTROL, 2, msix);
    for index in 0..8 {
        if rig.read(rig.entry(index, 12), 4) == 0 {
            rig.mask(index);
            rig.unmask(index);
        }
    }
    rig.settle();
}

/// What the guest has, and what of it stands in the host.
fn has(rig: &mut Rig) -> impl PartialEq + std::fmt::Debug + use<> {
    let traps: Vec<_> = rig.function.bars().iter().map(|(bar, _)| rig.host.trapped(bar)).collect();
    (controls(rig), rig.host.armed(), rig.host.interrupt_mode(), rig.windows(), traps, rig.config_read(4, 2))
}

/// Quarantined: nothing more is done, and all reads are all-ones, until a teardown has ended it. It goes on after the
/// failure, and what could not be taken away is.
fn is_quarantined(case: &Case, rig: &mut Rig) {
    assert!(rig.function.is_quarantined(), "{}", case.name);
    rig.steps();
    assert_eq!((rig.config_read(0, 4), rig.read(BASE, 8)), (0xffff_ffff, u64::MAX));
    rig.config_write(4, 2, 6);
    assert_eq!(rig.function.begin_settle(), Begin::Done(vfio_assign_core::Bytes::EMPTY));
    assert_eq!(rig.kinds(), []);
    rig.function.detach(&mut rig.host);
    assert!(!rig.function.is_quarantined(), "{}", case.name);
    assert_eq!(
        (rig.host.held(), rig.windows(), rig.host.armed()),
        ((0, 0, 0), vec![], vec![]),
        "{}",
        case.name
    );
    assert_eq!((rig.host.interrupt_mode(), rig.host.trapped(vfio_assign_tests::bar(0))), (None, None));
}

/// What the guest sees at once, row by row.
fn sees(what: &str, rig: &mut Rig, whole: &mut Rig, (step, was_on): (Step, bool)) {
    let armed = rig.host.armed();
    match step {
        Step::Map(window) => {
            assert!(rig.host.windows().iter().all(|live| live.index != window.index));
            assert_eq!(rig.host.trapped(window.bar), whole.host.trapped(window.bar), "it stays trapped");
        }
        Step::Trap { bar, .. } => {
            assert_eq!((rig.host.trapped(bar), rig.function.decoder().range(bar)), (None, None))
        }
        Step::ResetFunction => assert_eq!(rig.function.last_reset(), Some(ResetOutcome::NotReset)),
        Step::EnableInterrupts { .. } => assert_eq!(rig.msix_bits(), (false, false)),
        // A range that could not be unwired is not wired either: nothing signals the events.
        Step::Wire { .. } if rig.function.is_stopped() => assert_eq!(armed, [], "{what}: {step:?}"),
        // All in the end, in halves and singly, or, where vectors cannot be added, none.
        Step::Wire { kind: InterruptKind::Msix, first, last } if first < last || !was_on => {
            assert!(armed == whole.host.armed() || rig.msix_bits() == (false, false), "{what}: {step:?}");
        }
        Step::Wire { kind: InterruptKind::Msi, .. } if was_on => {
            let whole = whole.host.armed();
            assert!(
                armed.iter().all(|vector| whole.contains(vector)) && rig.msi_bits().0,
                "{what}: {step:?}"
            );
        }
        Step::Wire { kind: InterruptKind::Msi, .. } => assert!(!rig.msi_bits().0, "{what}: {step:?}"),
        Step::Wire { first: vector, .. } | Step::Route { vector, .. } | Step::Arm { vector, .. } => {
            assert!(!armed.contains(&vector), "{what}: {step:?}");
            assert_eq!(controls(rig), controls(whole), "{what}: {step:?}");
        }
        Step::CommitRoutes => {
            assert!(armed.len() < whole.host.armed().len());
            rig.settle();
            assert_eq!(rig.host.armed(), whole.host.armed(), "in the next operation");
        }
        Step::Signal { vector, .. } => {
            rig.delivered();
            rig.settle();
            assert!(rig.delivered().contains(&vector.get()), "in the next operation");
        }
        Step::UnmaskIntx => {
            rig.settle();
            assert_eq!(rig.host.count(CallKind::UnmaskIntx), 1, "in the next operation");
        }
        _ => {}
    }
}

#[test]
fn every_step_of_every_operation_that_fails_is_what_its_row_says() {
    let mut kinds = BTreeSet::new();
    at_every_step(|case, rig, stop| {
        let what = format!("{} at {stop}", case.name);
        let (step, before) = fail_one(rig);
        let was_on = matches!(step, Step::Wire { kind, .. } if case.rig.host.interrupt_mode() == Some(kind));
        kinds.insert(CallKind::of(step));
        let counted = failed(rig.function.counters(), step.kind()) - failed(&before, step.kind());
        assert_eq!(counted, 1, "{what}: {step:?} is counted");
        // Resets write Command twice.
        let once = matches!(step.kind(), StepKind::Read | StepKind::Forward) && !case.resets;
        assert!(
            !once || rig.host.calls().iter().all(|call| call.step != step),
            "{what}: {step:?} is done again"
        );
        if quarantines(step) {
            return is_quarantined(case, rig);
        }
        assert!(!rig.function.is_quarantined(), "{what}: {step:?}");
        let mut whole = undisturbed(case);
        sees(&what, rig, &mut whole, (step, was_on));
        if case.name.starts_with("detach") {
            rig.function.detach(&mut rig.host);
            assert_eq!((rig.host.held(), rig.windows()), ((0, 0, 0), vec![]), "{what}: {step:?}");
            return;
        }
        let wanted = controls(&mut whole);
        try_again(rig, wanted);
        try_again(&mut whole, wanted);
        assert_eq!(has(rig), has(&mut whole), "{what}: {step:?}, tried again");
        rig.delivered();
        let (raised, vectors) = (vector(0), rig.host.armed());
        if vectors.contains(&raised) && rig.host.interrupt_mode() != Some(InterruptKind::Intx) {
            rig.host.raise(raised);
            assert_eq!(rig.delivered(), [0], "{what}: {step:?}, tried again");
        }
    });
    let missing: Vec<_> = CallKind::ALL.into_iter().filter(|kind| !kinds.contains(kind)).collect();
    assert_eq!(missing, [], "steps that no operation takes");
}
