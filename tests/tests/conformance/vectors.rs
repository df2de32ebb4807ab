//! M5 to M9: the vectors of the host, and the calls that they take.

use vfio_assign_core::fake::CallKind::{
    Arm, CommitRoutes, DisableInterrupts, Disarm, EnableInterrupts, ReleaseVectors, Route, TakePending, Wire,
};
use vfio_assign_core::fake::{CallKind, FakeError, Shape};
use vfio_assign_core::host::Step;
use vfio_assign_tests::{Rig, vector};

/// A started function whose kernel cannot add vectors.
fn noresize(vectors: u16) -> Rig {
    Rig::started(&Shape::nvme(vectors).noresize())
}

fn wires(rig: &mut Rig) -> Vec<(u16, u16)> {
    rig.steps()
        .into_iter()
        .filter_map(|step| match step {
            Step::Wire { first, last, .. } => Some((first.get(), last.get())),
            _ => None,
        })
        .collect()
}

fn count(kinds: &[CallKind], kind: CallKind) -> usize {
    kinds.iter().filter(|found| **found == kind).count()
}

#[test]
fn m5_enable_with_nothing_live_is_one_call() {
    for vectors in [1, 64, 2048] {
        for mut rig in [Rig::nvme(vectors), noresize(vectors)] {
            rig.msix_control(true, false);
            assert_eq!((rig.kinds(), rig.host.held()), (vec![EnableInterrupts], (1, 0, 0)));
        }
    }
}

#[test]
fn m5_vectors_released_at_once_are_one_wire_and_one_commit() {
    for vectors in [1, 64, 2048] {
        let mut rig = Rig::nvme(vectors);
        rig.msix_control(true, true);
        for index in 0..vectors {
            rig.program(index);
            rig.unmask(index);
        }
        assert_eq!(rig.kinds(), [EnableInterrupts], "{vectors} vectors, while masked");
        rig.msix_control(true, false);
        let kinds = rig.kinds();
        let counts = [Wire, CommitRoutes, Route, Arm].map(|kind| count(&kinds, kind));
        let n = usize::from(vectors);
        assert_eq!((counts, kinds.len()), ([1, 1, n, n], 2 * n + 2), "{vectors} vectors");
    }
}

#[test]
fn m5_vectors_released_at_once_without_resizing_are_one_disable_one_enable_and_one_commit() {
    for vectors in [1, 64, 2048] {
        let mut rig = noresize(vectors);
        rig.start_interrupts(0);
        rig.msix_control(true, true);
        for index in 0..vectors {
            rig.program(index);
            rig.unmask(index);
        }
        rig.msix_control(true, false);
        let kinds = rig.kinds();
        let counts = [DisableInterrupts, Wire, CommitRoutes].map(|kind| count(&kinds, kind));
        // One vector is there already.
        let disables = usize::from(vectors > 1);
        assert_eq!((counts, rig.host.armed().len()), ([disables, 1, 1], vectors.into()), "{vectors} vectors");
    }
}

#[test]
fn m5_first_enable_with_vectors_wanted_is_one_wire() {
    for mut rig in [Rig::nvme(8), noresize(8)] {
        for index in 0..4 {
            rig.program(index);
            rig.unmask(index);
        }
        rig.msix_control(true, false);
        assert_eq!(wires(&mut rig), [(0, 3)]);
    }
}

/// What Linux does: on with Function Mask, every entry masked, Function Mask off, then one vector after another.
fn linux(rig: &mut Rig, vectors: u16, used: u16, mut each: impl FnMut(&mut Rig, u16)) {
    rig.msix_control(true, true);
    for index in 0..vectors {
        rig.mask(index);
    }
    rig.msix_control(true, false);
    each(rig, u16::MAX);
    for index in 0..used {
        rig.program(index);
        rig.unmask(index);
        each(rig, index);
    }
}

#[test]
fn m5_linux_takes_one_wire_one_commit_and_one_arm_for_each_first_unmask() {
    for vectors in [1, 64, 2048] {
        let (mut rig, used) = (Rig::nvme(vectors), usize::from(vectors).div_ceil(2));
        linux(&mut rig, vectors, vectors.div_ceil(2), |rig, index| {
            let expected = match index {
                u16::MAX => vec![EnableInterrupts],
                _ => vec![Wire, Route, CommitRoutes, Arm],
            };
            assert_eq!(rig.kinds(), expected, "vector {index} of {vectors}");
        });
        assert_eq!((rig.host.wired().len(), rig.host.held()), (used, (used, used, used)));
    }
}

#[test]
fn m5_linux_without_resizing_grows_by_doubling() {
    for (vectors, growths) in [(1, 0), (64, 6), (2048, 11)] {
        let mut rig = noresize(vectors);
        let mut disables = 0;
        linux(&mut rig, vectors, vectors, |rig, _| {
            let kinds = rig.kinds();
            assert!([Wire, CommitRoutes].iter().all(|kind| count(&kinds, *kind) <= 1), "{kinds:?}");
            disables += count(&kinds, DisableInterrupts);
        });
        assert_eq!((disables, rig.host.armed().len()), (growths, vectors.into()), "{vectors} vectors");
    }
}

#[test]
fn m5_a_2048_vector_device_works_if_the_vectors_used_fit() {
    for resizable in [true, false] {
        let mut shape = Shape::nvme(2048);
        (shape.host_vectors, shape.resizable) = (32, resizable);
        let mut rig = Rig::started(&shape);
        linux(&mut rig, 2048, 20, |_, _| {});
        assert_eq!(rig.host.armed().len(), 20, "resizable {resizable}");
        rig.host.raise(vector(19));
        assert!(rig.delivered().contains(&19));
    }
}

#[test]
fn m5_growth_that_fails_at_double_takes_exactly_what_is_wanted() {
    let mut shape = Shape::nvme(64).noresize();
    shape.host_vectors = 5;
    let mut rig = Rig::started(&shape);
    linux(&mut rig, 64, 4, |_, _| {});
    rig.steps();
    rig.program(4);
    rig.unmask(4);
    assert_eq!(wires(&mut rig), [(0, 7), (0, 4)]);
    assert_eq!(rig.host.armed().len(), 5);
}

#[test]
fn m5_growth_that_fails_goes_back_and_tries_at_the_next_unmask() {
    let mut shape = Shape::nvme(64).noresize();
    shape.host_vectors = 4;
    let mut rig = Rig::started(&shape);
    linux(&mut rig, 64, 4, |_, _| {});
    rig.steps();
    rig.program(4);
    rig.unmask(4);
    assert_eq!(wires(&mut rig), [(0, 7), (0, 4), (0, 3)]);
    assert_eq!((rig.host.armed().len(), rig.msix_bits()), (4, (true, false)));
    rig.steps();
    rig.config_read(0, 4);
    assert_eq!(wires(&mut rig), []);
    rig.mask(4);
    rig.unmask(4);
    assert_eq!(wires(&mut rig).len(), 3);
}

#[test]
fn m5_growth_that_fails_wholly_turns_msix_off_for_the_guest_and_loses_nothing() {
    let mut rig = noresize(8);
    rig.start_interrupts(2);
    rig.mask(1);
    rig.host.raise(vector(1));
    rig.host.faults.fail_next(Wire, 3);
    rig.program(2);
    rig.unmask(2);
    assert_eq!((rig.msix_bits(), rig.host.held()), ((false, false), (0, 0, 0)));
    assert_eq!((rig.host.lost_interrupts(), rig.is_pending(1)), (0, true));
    rig.delivered();
    rig.msix_control(true, false);
    assert_eq!(rig.host.armed(), [vector(0), vector(2)]);
    rig.host.raise(vector(2));
    rig.unmask(1);
    let mut delivered = rig.delivered();
    delivered.sort_unstable();
    assert!(delivered.contains(&1) && delivered.contains(&2));
}

#[test]
fn m5_after_growth_each_wired_vector_is_signalled_once() {
    let mut rig = noresize(8);
    rig.start_interrupts(2);
    rig.mask(1);
    rig.program(2);
    rig.unmask(2);
    assert_eq!(rig.delivered(), [0]);
    rig.unmask(1);
    assert_eq!(rig.delivered(), [1]);
}

#[test]
fn m5_growth_keeps_what_masked_events_hold() {
    let mut rig = noresize(8);
    rig.start_interrupts(2);
    rig.mask(1);
    rig.host.raise(vector(1));
    rig.program(2);
    rig.unmask(2);
    assert!(rig.is_pending(1));
    rig.delivered();
    rig.unmask(1);
    assert_eq!(rig.delivered(), [1]);
}

#[test]
fn m5_runs_are_wired_one_by_one() {
    let mut rig = Rig::nvme(16);
    rig.msix_control(true, true);
    for index in [1, 2, 3, 7, 8, 15] {
        rig.program(index);
        rig.unmask(index);
    }
    rig.msix_control(true, false);
    assert_eq!(wires(&mut rig), [(1, 3), (7, 8), (15, 15)]);
}

#[test]
fn m6_mask_unmask_makes_no_call_but_disarm_arm() {
    for vectors in [1, 64, 2048] {
        for mut rig in [Rig::nvme(vectors), noresize(vectors)] {
            rig.start_interrupts(vectors);
            rig.mask(vectors - 1);
            rig.unmask(vectors - 1);
            assert_eq!(rig.kinds(), [Disarm, Arm], "{vectors} vectors");
        }
    }
}

#[test]
fn m6_a_mask_that_is_set_already_makes_no_call() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(2);
    rig.unmask(1);
    rig.mask(2);
    rig.msix_control(true, false);
    assert_eq!(rig.kinds(), []);
}

#[test]
fn m6_routes_are_committed_once_for_many_changes() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(4);
    rig.msix_control(true, true);
    for index in 0..4 {
        rig.write(rig.entry(index, 8), 4, 0x5000);
    }
    rig.steps();
    rig.msix_control(true, false);
    assert_eq!(rig.kinds(), [Route, Route, Route, Route, CommitRoutes, Arm, Arm, Arm, Arm]);
}

#[test]
fn m7_a_first_enable_that_finds_too_few_reads_back_as_off() {
    let mut shape = Shape::nvme(4);
    shape.host_vectors = 0;
    for mut rig in [Rig::started(&shape), Rig::started(&shape.clone().noresize())] {
        rig.program(0);
        rig.unmask(0);
        rig.msix_control(true, false);
        assert_eq!((rig.msix_bits(), rig.host.interrupts_on()), ((false, false), false));
        assert_eq!(rig.host.calls()[0].failed, Some(FakeError::FewerVectors(0)));
    }
}

#[test]
fn m7_a_first_enable_that_fails_is_tried_at_the_next_enable_only() {
    let mut rig = Rig::nvme(4);
    rig.host.faults.fail_nth(EnableInterrupts, 0);
    rig.msix_control(true, false);
    rig.config_read(0, 4);
    rig.settle();
    assert_eq!(rig.host.count(EnableInterrupts), 1);
    rig.msix_control(true, false);
    assert_eq!((rig.msix_bits(), rig.host.interrupts_on()), ((true, false), true));
}

#[test]
fn m7_a_range_that_fails_is_halved_until_the_bad_one_is_alone() {
    let mut shape = Shape::nvme(8);
    shape.host_vectors = 6;
    let mut rig = Rig::started(&shape);
    rig.start_interrupts(8);
    assert_eq!(rig.host.wired().len(), 6);
    assert_eq!((rig.msix_bits(), rig.function.msix().unwrap().live()), ((true, false), (6, 6)));
}

#[test]
fn m8_disable_disarms_then_turns_off_then_gives_back() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(2);
    rig.mask(1);
    rig.steps();
    rig.msix_control(false, false);
    assert_eq!(rig.kinds(), [Disarm, DisableInterrupts, TakePending, ReleaseVectors]);
}

#[test]
fn m8_disable_with_nothing_wired_is_one_call() {
    let mut rig = Rig::nvme(4);
    rig.msix_control(true, false);
    rig.steps();
    rig.msix_control(false, false);
    assert_eq!(rig.kinds(), [DisableInterrupts]);
}

#[test]
fn m9_on_and_off_in_a_loop_leaks_nothing() {
    for mut rig in [Rig::nvme(16), noresize(16)] {
        for _ in 0..50 {
            rig.start_interrupts(16);
            assert_eq!(rig.host.armed().len(), 16);
            rig.msix_control(false, false);
            assert_eq!((rig.host.held(), rig.host.armed()), ((0, 0, 0), vec![]));
        }
    }
}
