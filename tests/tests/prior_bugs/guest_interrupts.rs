//! Guests that turn MSI-X on and off, mask and unmask in every order, and send nowhere.

use vfio_assign_core::fake::CallKind::{self, Arm, CommitRoutes, Disarm, Route, Wire};
use vfio_assign_core::fake::{Raised, Shape};
use vfio_assign_core::host::{Message, Outcome, Step};
use vfio_assign_core::{Access, Bytes, GuestAddr, Target};
use vfio_assign_tests::{MESSAGE, Rig, message, vector};

/// Takes `count` steps of the operation under way.
fn take(rig: &mut Rig, count: usize) {
    for _ in 0..count {
        let (token, step) = rig.function.next_step().unwrap();
        let outcome = rig.function.perform(step, &mut rig.host).unwrap_or(Outcome::Failed);
        let _ = rig.function.complete(token, outcome);
    }
}

#[test]
fn msix_on_and_off_in_a_loop_leaks_nothing_and_costs_the_same_each_time() {
    for shape in [Shape::nvme(16), Shape::nvme(16).noresize()] {
        let mut rig = Rig::started(&shape);
        let mut calls = vec![];
        for _ in 0..100 {
            rig.msix_control(true, true);
            for index in 0..16 {
                rig.program(index);
                rig.unmask(index);
            }
            rig.msix_control(true, false);
            assert_eq!(rig.host.armed().len(), 16);
            rig.msix_control(false, false);
            assert_eq!((rig.host.held(), rig.host.interrupts_on()), ((0, 0, 0), false));
            calls.push(rig.steps().len());
        }
        // The first time the entries are unmasked one by one; they stay so.
        assert!(calls[1..].iter().all(|count| *count == calls[1]), "{calls:?}");
    }
}

#[test]
fn function_mask_over_2048_vectors_takes_no_vector_away() {
    let mut rig = Rig::nvme(2048);
    rig.start_interrupts(2048);
    for _ in 0..3 {
        rig.msix_control(true, true);
        assert!(rig.kinds().iter().all(|kind| *kind == Disarm));
        assert_eq!((rig.host.armed().len(), rig.host.wired().len()), (0, 2048));
        rig.msix_control(true, false);
        assert!(rig.kinds().iter().all(|kind| *kind == Arm));
        assert_eq!(rig.host.armed().len(), 2048);
    }
}

#[test]
fn function_mask_reads_back_and_stops_every_vector() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(2);
    rig.msix_control(true, true);
    assert_eq!(rig.msix_bits(), (true, true));
    assert_eq!([0, 1].map(|index| rig.host.raise(vector(index))), [Raised::Held; 2]);
    rig.msix_control(true, false);
    assert_eq!((rig.msix_bits(), rig.delivered()), ((true, false), vec![0, 1]));
}

#[test]
fn entries_are_masked_after_reset_so_that_enabling_wires_none() {
    let mut rig = Rig::nvme(2048);
    rig.msix_control(true, false);
    assert_eq!((rig.kinds(), rig.host.held()), (vec![CallKind::EnableInterrupts], (1, 0, 0)));
}

#[test]
fn vector_unmasked_before_its_data_is_written_is_not_armed_with_half_a_message() {
    let mut rig = Rig::nvme(4);
    rig.msix_control(true, false);
    rig.unmask(1);
    // The address is zero: nobody is there.
    assert_eq!(rig.host.armed(), []);
    rig.host.raise(vector(1));
    assert!(rig.is_pending(1));
    rig.program(1);
    assert_eq!(rig.host.delivered(), [(vector(1), Message { address: MESSAGE, data: 0 })]);
    assert_eq!(rig.host.armed(), [vector(1)]);
    rig.host.raise(vector(1));
    assert_eq!(rig.host.delivered()[1], (vector(1), message(1)));
}

#[test]
fn address_outside_the_local_apics_is_not_armed_and_its_interrupt_waits() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(3);
    for address in [0, 0x1000, 0xfed0_0000, 0xfef0_0000, 0x1_fee0_0000] {
        rig.write(rig.entry(1, 0), 8, address);
        assert_eq!(rig.host.armed(), [vector(0), vector(2)], "{address:#x}");
    }
    assert_eq!((rig.msix_bits(), rig.function.counters().failed_establishes), ((true, false), 5));
    rig.host.raise(vector(1));
    assert!(rig.is_pending(1));
    rig.program(1);
    assert_eq!(rig.delivered(), [1]);
}

#[test]
fn interrupt_of_a_masked_vector_is_latched_and_not_lost() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.mask(0);
    assert_eq!(rig.host.raise(vector(0)), Raised::Held);
    assert!(rig.is_pending(0));
    rig.unmask(0);
    assert_eq!((rig.delivered(), rig.is_pending(0)), (vec![0], false));
    assert_eq!(rig.host.raise(vector(0)), Raised::Delivered);
}

#[test]
fn masking_one_vector_leaves_the_others_armed() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(4);
    rig.mask(2);
    assert_eq!((rig.kinds(), rig.host.armed()), (vec![Disarm], vec![vector(0), vector(1), vector(3)]));
}

#[test]
fn mask_that_races_with_an_interrupt_loses_none_and_sends_none_after_it() {
    for before in 0..=1 {
        let mut rig = Rig::nvme(4);
        rig.start_interrupts(1);
        let target = Target::Memory(GuestAddr::new(rig.entry(0, 12)));
        let _ = rig.function.begin(Access::Write { target, data: Bytes::from_slice(&[1, 0, 0, 0]) });
        take(&mut rig, before);
        rig.host.raise(vector(0));
        rig.function.drive(&mut rig.host);
        // Before the event is cut off it is delivered, as to a processor that has not yet seen the write.
        let (delivered, pending) = (rig.delivered().len(), rig.is_pending(0));
        assert_eq!((delivered, pending), (1 - before, before == 1), "{before} steps before");
    }
}

#[test]
fn disable_that_races_with_an_interrupt_loses_none() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    let target = Target::Config(Rig::MSIX_CONTROL);
    let _ = rig.function.begin(Access::Write { target, data: Bytes::from_slice(&[0, 0]) });
    take(&mut rig, 1);
    assert_eq!(rig.host.raise(vector(0)), Raised::Held);
    rig.function.drive(&mut rig.host);
    assert_eq!((rig.delivered(), rig.is_pending(0), rig.host.lost_interrupts()), (vec![], true, 0));
    rig.msix_control(true, false);
    assert_eq!((rig.delivered(), rig.is_pending(0)), (vec![0], false));
}

#[test]
fn pending_of_a_masked_vector_is_kept_across_disable_and_enable() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(2);
    rig.mask(0);
    rig.host.raise(vector(0));
    for _ in 0..3 {
        rig.msix_control(false, false);
        rig.msix_control(true, false);
        assert!(rig.is_pending(0));
    }
    rig.unmask(0);
    assert_eq!((rig.delivered(), rig.host.lost_interrupts()), (vec![0], 0));
}

#[test]
fn re_armed_event_that_has_delivered_leaves_no_false_pending_bit() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.mask(0);
    rig.host.raise(vector(0));
    rig.unmask(0);
    rig.delivered();
    rig.mask(0);
    assert!(!rig.is_pending(0));
    rig.unmask(0);
    assert_eq!(rig.delivered(), []);
}

#[test]
fn message_written_in_one_access_is_routed_once_and_never_mixed() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    let mut entry = [0; 16];
    entry[..8].copy_from_slice(&(MESSAGE + 0x2000).to_le_bytes());
    entry[8..12].copy_from_slice(&0x4999u32.to_le_bytes());
    let target = Target::Memory(GuestAddr::new(rig.entry(0, 0)));
    rig.access(Access::Write { target, data: Bytes::from_slice(&entry) });
    let routed: Vec<_> = rig
        .steps()
        .into_iter()
        .filter_map(|step| match step {
            Step::Route { message, .. } => Some(message),
            _ => None,
        })
        .collect();
    assert_eq!(routed, [Message { address: MESSAGE + 0x2000, data: 0x4999 }]);
}

#[test]
fn message_written_while_masked_is_the_one_sent_after_unmask() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.mask(0);
    rig.steps();
    rig.write(rig.entry(0, 0), 4, MESSAGE + 0x3000);
    rig.write(rig.entry(0, 8), 4, 0x4aaa);
    assert_eq!(rig.kinds(), []);
    rig.unmask(0);
    assert_eq!(rig.kinds(), [Route, CommitRoutes, Arm]);
    rig.host.raise(vector(0));
    assert_eq!(rig.host.delivered()[0].1, Message { address: MESSAGE + 0x3000, data: 0x4aaa });
}

#[test]
fn entry_left_unmasked_by_the_last_driver_is_live_only_with_msix_on() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.msix_control(false, false);
    rig.program(1);
    rig.unmask(1);
    assert!((rig.host.armed(), rig.host.wired()) == (vec![], vec![]));
    rig.msix_control(true, true);
    assert_eq!(rig.host.armed(), []);
}

#[test]
fn many_vectors_unmasked_at_once_are_one_wire_and_one_commit() {
    let mut rig = Rig::nvme(513);
    rig.msix_control(true, true);
    for index in 0..513 {
        rig.program(index);
        rig.unmask(index);
    }
    rig.steps();
    rig.msix_control(true, false);
    assert_eq!((rig.host.count(Wire), rig.host.count(CommitRoutes), rig.host.armed().len()), (1, 1, 513));
}

#[test]
fn table_at_an_offset_is_the_table_and_what_is_before_it_is_not() {
    let mut rig = Rig::nvme(4);
    rig.write(rig.entry(0, 0) - 16, 8, 0x1122_3344_5566_7788);
    assert_eq!((rig.kinds(), rig.read(rig.entry(0, 0), 8)), (vec![CallKind::WriteBar], 0));
}
