//! M: MSI-X.

use vfio_assign_core::fake::CallKind::{
    Arm, CommitRoutes, DisableInterrupts, Disarm, EnableInterrupts, PollPending, ReadBar, ReleaseVectors,
    Route, Signal, TakePending, Wire,
};
use vfio_assign_core::fake::{CallKind, FakeError, Raised, Shape};
use vfio_assign_core::host::{Message, Step};
use vfio_assign_core::{Access, Bytes, GuestAddr, Target};
use vfio_assign_tests::{MESSAGE, Rig, message, vector};

/// A started function whose kernel cannot add vectors.
fn noresize(vectors: u16) -> Rig {
    Rig::started(&Shape::nvme(vectors).noresize())
}

fn wires(rig: &mut Rig) -> Vec<(u16, u16)> {
    rig.steps()
        .into_iter()
        .filter_map(|step| match step {
            Step::Wire { first, last } => Some((first.get(), last.get())),
            _ => None,
        })
        .collect()
}

fn count(kinds: &[CallKind], kind: CallKind) -> usize {
    kinds.iter().filter(|found| **found == kind).count()
}

#[test]
fn m1_an_entry_is_zero_and_masked_after_reset() {
    let mut rig = Rig::nvme(2);
    assert_eq!([0, 4, 8, 12].map(|at| rig.read(rig.entry(1, at), 4)), [0, 0, 0, 1]);
}

#[test]
fn m1_reserved_bits_read_zero() {
    let mut rig = Rig::nvme(2);
    rig.write(rig.entry(0, 0), 8, u64::MAX);
    rig.write(rig.entry(0, 8), 8, u64::MAX);
    assert_eq!(
        [0, 4, 8, 12].map(|at| rig.read(rig.entry(0, at), 4)),
        [0xffff_fffc, 0xffff_ffff, 0xffff_ffff, 1]
    );
}

#[test]
fn m1_bytes_and_words_are_lanes() {
    let mut rig = Rig::nvme(2);
    rig.write(rig.entry(0, 9), 1, 0xab);
    rig.write(rig.entry(0, 10), 2, 0x1234);
    assert_eq!((rig.read(rig.entry(0, 8), 4), rig.read(rig.entry(0, 11), 1)), (0x1234_ab00, 0x12));
}

#[test]
fn m1_only_bit_0_of_vector_control_unmasks() {
    let mut rig = Rig::nvme(2);
    rig.msix_control(true, false);
    rig.write(rig.entry(0, 13), 1, 0);
    assert_eq!(rig.host.wired(), []);
}

#[test]
fn m2_a_vector_is_live_only_with_all_three() {
    let mut rig = Rig::nvme(4);
    rig.program(0);
    rig.unmask(0);
    let off = rig.host.armed();
    rig.msix_control(true, true);
    let masked = rig.host.armed();
    rig.msix_control(true, false);
    assert_eq!((off, masked, rig.host.armed()), (vec![], vec![], vec![vector(0)]));
}

#[test]
fn m2_control_reads_back_in_every_width() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::MSIX_CONTROL + 1, 1, 0xc0);
    let byte = rig.config_read(Rig::MSIX_CONTROL, 2);
    rig.config_write(Rig::MSIX_CONTROL, 2, 0x8000);
    let word = rig.config_read(Rig::MSIX_CONTROL, 2);
    rig.config_write(Rig::MSIX, 4, 0x4000_0000);
    assert_eq!((byte, word, rig.config_read(Rig::MSIX_CONTROL, 2)), (0xc003, 0x8003, 0x4003));
}

#[test]
fn m3_a_masked_interrupt_is_pending_and_delivered_once() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(2);
    rig.mask(1);
    assert_eq!([rig.host.raise(vector(1)), rig.host.raise(vector(1))], [Raised::Held; 2]);
    assert!(rig.is_pending(1));
    rig.unmask(1);
    assert_eq!((rig.delivered(), rig.is_pending(1)), (vec![1], false));
}

#[test]
fn m3_under_function_mask_too() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(2);
    rig.msix_control(true, true);
    rig.host.raise(vector(0));
    let pending = (rig.is_pending(0), rig.is_pending(1));
    rig.msix_control(true, false);
    assert_eq!((pending, rig.delivered(), rig.is_pending(0)), ((true, false), vec![0], false));
}

#[test]
fn m3_a_vector_never_wired_is_pending_in_the_device() {
    let mut rig = Rig::nvme(130);
    rig.msix_control(true, false);
    assert_eq!(rig.host.raise(vector(128)), Raised::Latched);
    assert!(rig.is_pending(128));
    rig.program(128);
    rig.unmask(128);
    assert_eq!((rig.delivered(), rig.is_pending(128)), (vec![128], false));
}

#[test]
fn m3_one_poll_for_each_qword() {
    let mut rig = Rig::nvme(130);
    rig.start_interrupts(130);
    rig.msix_control(true, true);
    rig.steps();
    rig.read(rig.pba(64), 8);
    assert_eq!(rig.steps(), [Step::PollPending { first: vector(64), mask: u64::MAX }]);
}

#[test]
fn m3_polling_consumes_nothing() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.mask(0);
    rig.host.raise(vector(0));
    assert!(rig.is_pending(0));
    assert!(rig.is_pending(0));
    assert_eq!(rig.host.count(TakePending), 0);
}

#[test]
fn m3_the_pending_bit_array_is_read_only_and_ends_with_the_last_vector() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(4);
    rig.msix_control(true, true);
    for index in 0..4 {
        rig.host.raise(vector(index));
    }
    rig.write(rig.pba(0), 8, 0);
    let first = rig.pba(0);
    assert_eq!((rig.read(first, 8), rig.read(first, 1), rig.read(first + 1, 1)), (0xf, 0xf, 0));
}

#[test]
fn m3_what_reached_an_event_outlives_disable() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(2);
    rig.mask(1);
    rig.host.raise(vector(1));
    rig.msix_control(false, false);
    assert!(rig.is_pending(1));
    rig.msix_control(true, false);
    assert_eq!((rig.delivered(), rig.is_pending(1)), (vec![], true));
    rig.unmask(1);
    assert_eq!((rig.delivered(), rig.is_pending(1), rig.host.lost_interrupts()), (vec![1], false, 0));
}

#[test]
fn m3_an_interrupt_between_disarm_and_disable_is_kept() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    let target = Target::Config(Rig::MSIX_CONTROL);
    let _ = rig.function.begin(Access::Write { target, data: Bytes::from_slice(&[0, 0]) });
    let (token, step) = rig.function.next_step().unwrap();
    assert_eq!(step, Step::Disarm { vector: vector(0) });
    let outcome = rig.function.perform(step, &mut rig.host).unwrap();
    let _ = rig.function.complete(token, outcome);
    assert_eq!(rig.host.raise(vector(0)), Raised::Held);
    rig.function.drive(&mut rig.host);
    assert_eq!((rig.is_pending(0), rig.host.lost_interrupts()), (true, 0));
}

#[test]
fn m3_a_latch_and_a_held_event_are_one_interrupt() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.mask(0);
    rig.function.handle_interrupt(vector(0));
    rig.host.raise(vector(0));
    rig.unmask(0);
    assert_eq!((rig.delivered(), rig.is_pending(0)), (vec![0], false));
}

#[test]
fn m3_an_interrupt_that_the_embedder_saw_is_delivered_at_the_next_settling() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.function.handle_interrupt(vector(0));
    rig.function.settle(&mut rig.host);
    assert_eq!((rig.delivered(), rig.kinds()), (vec![0], vec![Signal]));
}

#[test]
fn m4_a_message_written_in_one_access_changes_at_once() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    let mut entry = [0; 16];
    entry[..8].copy_from_slice(&(MESSAGE + 0x1000).to_le_bytes());
    entry[8..12].copy_from_slice(&0x4555u32.to_le_bytes());
    let target = Target::Memory(GuestAddr::new(rig.entry(0, 0)));
    rig.access(Access::Write { target, data: Bytes::from_slice(&entry) });
    let new = Message { address: MESSAGE + 0x1000, data: 0x4555 };
    assert_eq!(rig.steps(), [Step::Route { vector: vector(0), message: new }, Step::CommitRoutes]);
    rig.host.raise(vector(0));
    assert_eq!(rig.host.delivered(), [(vector(0), new)]);
}

#[test]
fn m4_a_message_changed_under_mask_is_the_one_delivered() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.mask(0);
    rig.host.raise(vector(0));
    rig.write(rig.entry(0, 8), 4, 0x4777);
    rig.unmask(0);
    assert_eq!(rig.host.delivered()[0].1.data, 0x4777);
}

#[test]
fn m5_enable_with_nothing_live_is_one_call() {
    let mut rig = Rig::nvme(64);
    rig.msix_control(true, false);
    assert_eq!((rig.kinds(), rig.host.held()), (vec![EnableInterrupts], (1, 0, 0)));
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
    for vectors in [2, 64, 2048] {
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
        assert_eq!((counts, rig.host.armed().len()), ([1, 1, 1], usize::from(vectors)), "{vectors} vectors");
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
    let mut rig = Rig::nvme(64);
    linux(&mut rig, 64, 5, |rig, index| {
        let expected =
            if index == u16::MAX { vec![EnableInterrupts] } else { vec![Wire, Route, CommitRoutes, Arm] };
        assert_eq!(rig.kinds(), expected, "vector {index}");
    });
    assert_eq!((rig.host.wired().len(), rig.host.held()), (5, (5, 5, 5)));
}

#[test]
fn m5_linux_without_resizing_grows_by_doubling() {
    let mut rig = noresize(64);
    let mut disables = 0;
    linux(&mut rig, 64, 64, |rig, _| disables += count(&rig.kinds(), DisableInterrupts));
    // From 1 to 64.
    assert_eq!((disables, rig.host.armed().len()), (6, 64));
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
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(2);
    rig.mask(1);
    rig.unmask(1);
    assert_eq!(rig.kinds(), [Disarm, Arm]);
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

#[test]
fn m3_unwired_pending_bits_need_no_poll() {
    let mut rig = Rig::nvme(4);
    rig.msix_control(true, false);
    rig.steps();
    rig.is_pending(0);
    assert_eq!(rig.kinds(), [ReadBar]);
    rig.msix_control(false, false);
    rig.steps();
    rig.is_pending(0);
    assert_eq!(count(&rig.kinds(), PollPending), 0);
}

#[test]
fn m1_every_vector_count_has_its_last_entry_and_pending_bit() {
    for vectors in [1, 2, 32, 33, 64, 65, 255, 256, 257, 2047, 2048] {
        let mut rig = Rig::nvme(vectors);
        rig.start_interrupts(vectors);
        let last = vectors - 1;
        assert_eq!(rig.read(rig.entry(last, 8), 4), u64::from(message(last).data));
        rig.mask(last);
        rig.host.raise(vector(last));
        assert!(rig.is_pending(last), "{vectors} vectors");
        rig.unmask(last);
        assert_eq!(rig.delivered(), [last], "{vectors} vectors");
    }
}
