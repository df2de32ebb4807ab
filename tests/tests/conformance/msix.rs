//! M1 to M4: MSI-X as the guest sees it.

use vfio_assign_core::fake::CallKind::{PollPending, ReadBar, Signal, TakePending};
use vfio_assign_core::fake::{CallKind, Raised, Shape};
use vfio_assign_core::host::{InterruptKind, Message, Step};
use vfio_assign_core::{Access, Bytes, GuestAddr, Target};
use vfio_assign_tests::{MESSAGE, Rig, message, vector};

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
    assert_eq!(
        rig.steps(),
        [Step::PollPending { kind: InterruptKind::Msix, first: vector(64), mask: u64::MAX }]
    );
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
    assert_eq!(step, Step::Disarm { kind: InterruptKind::Msix, vector: vector(0) });
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
    rig.function.handle_interrupt(InterruptKind::Msix, vector(0));
    rig.host.raise(vector(0));
    rig.unmask(0);
    assert_eq!((rig.delivered(), rig.is_pending(0)), (vec![0], false));
}

#[test]
fn m3_an_interrupt_that_the_embedder_saw_is_delivered_at_the_next_settling() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.function.handle_interrupt(InterruptKind::Msix, vector(0));
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
    assert_eq!(
        rig.steps(),
        [Step::Route { kind: InterruptKind::Msix, vector: vector(0), message: new }, Step::CommitRoutes]
    );
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

#[test]
fn m7_a_first_enable_of_more_than_the_host_has_reads_back_as_off_and_says_how_many_there_are() {
    let mut shape = Shape::nvme(8).noresize();
    shape.host_vectors = 3;
    let mut rig = Rig::started(&shape);
    rig.program(6);
    rig.unmask(6);
    rig.msix_control(true, false);
    let msix = rig.function.msix().unwrap();
    assert_eq!((msix.host_vectors(), msix.live()), (Some(3), (0, 0)));
    assert_eq!(rig.msix_bits(), (false, false));
}
