//! I1: MSI. Vectors, registers and pending bits, and a kernel that has fewer vectors than the guest wants.

use vfio_assign_core::fake::CallKind::{
    Arm, CommitRoutes, DisableInterrupts, Disarm, PollPending, ReleaseVectors, Route, TakePending, Wire,
    WriteConfig,
};
use vfio_assign_core::fake::{FakeError, Raised, Shape};
use vfio_assign_core::host::{InterruptKind, Message, Step};
use vfio_assign_core::{Access, BusMastering, Bytes, ConfigOffset, Finding, MsiFinding, Target};
use vfio_assign_tests::{MESSAGE, Rig, vector};

/// A device whose MSI has 2 to the power of `capable` vectors, addresses of 64 bits and masks.
fn shape(capable: u16) -> Shape {
    Shape::nvme(4).msi(capable, true, true)
}

/// Such a device started, with nothing programmed.
fn started(capable: u16) -> Rig {
    Rig::started(&shape(capable))
}

/// Such a device with 2 to the power of `enabled` vectors on.
fn on(shape: &Shape, enabled: u16) -> Rig {
    let mut rig = Rig::started(shape);
    rig.program_msi(0x4140);
    rig.msi_control(true, enabled);
    rig
}

fn mask(rig: &mut Rig, bits: u64) {
    rig.config_write(Rig::MSI + 16, 4, bits);
}

fn pending(rig: &mut Rig) -> u64 {
    rig.config_read(Rig::MSI + 20, 4)
}

fn wires(rig: &mut Rig) -> Vec<(u16, u16)> {
    rig.steps()
        .into_iter()
        .filter_map(|step| match step {
            Step::Wire { kind: InterruptKind::Msi, first, last } => Some((first.get(), last.get())),
            _ => None,
        })
        .collect()
}

fn data(rig: &Rig) -> Vec<u32> {
    rig.host.delivered().iter().map(|(_, message)| message.data).collect()
}

#[test]
fn i1_registers_are_virtual_and_the_id_and_link_hardware_s() {
    let mut rig = started(3);
    for at in 0..6 {
        rig.config_write(Rig::MSI + 4 * at, 4, 0xffff_ffff);
    }
    assert!(!rig.kinds().contains(&WriteConfig));
    // 64 bits and masks; 8 vectors, and as many enabled, since there are no more.
    assert_eq!(rig.config_read(Rig::MSI, 4), 0x01b7_0005);
    let registers = [4, 8, 12, 16].map(|at| rig.config_read(Rig::MSI + at, 4));
    assert_eq!(registers, [0xffff_fffc, 0xffff_ffff, 0xffff, 0xff]);
}

#[test]
fn i1_registers_take_bytes() {
    let mut rig = started(2);
    rig.config_write(Rig::MSI + 13, 1, 0x41);
    rig.config_write(Rig::MSI + 7, 1, 0xfe);
    assert_eq!((rig.config_read(Rig::MSI + 12, 2), rig.config_read(Rig::MSI + 4, 4)), (0x4100, 0xfe00_0000));
}

#[test]
fn i1_an_address_of_32_bits_has_its_data_behind_it() {
    let mut rig = Rig::started(&Shape::nvme(4).msi(0, false, false));
    rig.config_write(Rig::MSI + 4, 4, MESSAGE);
    rig.config_write(Rig::MSI + 8, 4, 0xdead_4123);
    rig.msi_control(true, 0);
    rig.host.raise(vector(0));
    let sent = Message { address: MESSAGE, data: 0x4123 };
    assert_eq!((rig.host.delivered(), rig.config_read(Rig::MSI, 4)), (vec![(vector(0), sent)], 0x0001_0005));
}

#[test]
fn i1_masks_behind_an_address_of_32_bits() {
    let mut rig = Rig::started(&Shape::nvme(4).msi(1, false, true));
    rig.config_write(Rig::MSI + 4, 4, MESSAGE);
    rig.config_write(Rig::MSI + 12, 4, 0xffff_ffff);
    rig.msi_control(true, 1);
    rig.host.raise(vector(1));
    assert_eq!([12, 16].map(|at| rig.config_read(Rig::MSI + at, 4)), [3, 2]);
}

#[test]
fn i1_every_vector_has_its_number_in_the_low_bits_of_the_data() {
    for enabled in 0..=5 {
        let mut rig = on(&shape(5), enabled);
        let count = 1 << enabled;
        assert_eq!(wires(&mut rig), [(0, count - 1)], "{count} vectors");
        for index in 0..count {
            rig.host.raise(vector(index));
        }
        let expected: Vec<_> =
            (0..count).map(|index| (0x4140 & !u32::from(count - 1)) | u32::from(index)).collect();
        assert_eq!(data(&rig), expected);
    }
}

#[test]
fn i1_multiple_message_enable_is_clamped_to_what_the_device_has() {
    for enabled in [3, 5, 6, 7] {
        let mut rig = on(&shape(2), enabled);
        assert_eq!((rig.msi_bits(), wires(&mut rig)), ((true, 2), vec![(0, 3)]));
    }
}

#[test]
fn i1_a_reserved_count_of_the_device_s_is_32() {
    let mut rig = Rig::started(&shape(7));
    assert_eq!(rig.findings, [Finding::Msi(MsiFinding::ReservedCount(7))]);
    assert_eq!(rig.config_read(Rig::MSI + 2, 2) >> 1 & 7, 5);
}

#[test]
fn i1_a_capability_that_does_not_fit_is_hidden() {
    // At 0xf4, behind another; with masks it needs 24 bytes, and there are 12.
    let mut rig = Rig::new(&Shape::new().capability(0x09, &[0xb4; 0xb2]).msi(0, true, true));
    assert_eq!(rig.findings, [Finding::Msi(MsiFinding::CapabilityTruncated(0xf4))]);
    rig.config_write(0xf8, 4, MESSAGE);
    assert_eq!((rig.config_read(0xf4, 1), rig.config_read(0xf8, 8)), (0, 0));
}

#[test]
fn i1_a_second_capability_is_hidden() {
    let mut rig = Rig::started(&shape(0).msi(0, false, false));
    assert_eq!(rig.findings, [Finding::Msi(MsiFinding::SecondCapability(0xa8))]);
    rig.config_write(0xac, 4, MESSAGE);
    assert_eq!((rig.config_read(0xa8, 1), rig.config_read(0xac, 4)), (0, 0));
}

#[test]
fn i1_all_vectors_are_wired_at_once_whatever_is_masked() {
    let mut rig = started(3);
    rig.program_msi(0);
    mask(&mut rig, 0xfe);
    rig.steps();
    rig.msi_control(true, 3);
    assert_eq!(rig.kinds(), [Wire, Route, CommitRoutes, Arm]);
    assert_eq!((rig.host.wired().len(), rig.host.armed()), (8, vec![vector(0)]));
}

#[test]
fn i1_a_masked_interrupt_is_pending_and_delivered_once() {
    let mut rig = on(&shape(2), 2);
    mask(&mut rig, 0b0100);
    rig.steps();
    assert_eq!([rig.host.raise(vector(2)), rig.host.raise(vector(2))], [Raised::Held; 2]);
    assert_eq!((pending(&mut rig), rig.kinds()), (0b0100, vec![PollPending]));
    mask(&mut rig, 0);
    assert_eq!((rig.delivered(), pending(&mut rig)), (vec![2], 0));
}

#[test]
fn i1_pending_bits_read_in_bytes_and_take_no_write() {
    let mut rig = on(&shape(4), 4);
    mask(&mut rig, 0xffff);
    rig.host.raise(vector(9));
    rig.config_write(Rig::MSI + 20, 4, 0);
    assert_eq!([0, 1, 2].map(|at| rig.config_read(Rig::MSI + 20 + at, 1)), [0, 2, 0]);
}

#[test]
fn i1_mask_and_pending_read_in_one_access() {
    let mut rig = on(&shape(2), 2);
    mask(&mut rig, 1);
    rig.host.raise(vector(0));
    assert_eq!(rig.config_read(Rig::MSI + 16, 8), 1 << 32 | 1);
}

#[test]
fn i1_without_masks_there_are_no_registers_for_them() {
    let mut rig = Rig::started(&Shape::nvme(4).msi(0, true, false).capability(0x09, &[4, 0xab]));
    assert_eq!(rig.config_read(Rig::MSI + 16, 4), 0xab04_0009);
}

#[test]
fn i1_mask_and_unmask_take_no_call_but_disarm_and_arm() {
    let mut rig = on(&shape(2), 2);
    rig.steps();
    mask(&mut rig, 2);
    mask(&mut rig, 0);
    assert_eq!(rig.kinds(), [Disarm, Arm]);
}

#[test]
fn i1_what_reached_an_event_outlives_disable() {
    let mut rig = on(&shape(2), 2);
    mask(&mut rig, 2);
    rig.host.raise(vector(1));
    rig.steps();
    rig.msi_control(false, 2);
    let kinds = rig.kinds();
    assert_eq!(kinds[kinds.len() - 3..], [DisableInterrupts, TakePending, ReleaseVectors]);
    assert_eq!((rig.host.held(), rig.host.lost_interrupts(), pending(&mut rig)), ((0, 0, 0), 0, 2));
    rig.msi_control(true, 2);
    mask(&mut rig, 0);
    assert_eq!(rig.delivered(), [1]);
}

#[test]
fn i1_a_kernel_with_fewer_is_asked_for_what_it_has() {
    for (supply, wired) in [(1, 1), (2, 2), (3, 2), (7, 4)] {
        let mut shape = shape(3);
        shape.host_vectors = supply;
        let mut rig = on(&shape, 3);
        assert_eq!(
            rig.host.calls().iter().filter_map(|call| call.failed).collect::<Vec<_>>(),
            [FakeError::FewerVectors(supply)]
        );
        assert_eq!(wires(&mut rig), [(0, 7), (0, wired - 1)], "{supply}");
        assert_eq!((rig.msi_bits(), rig.host.armed().len()), ((true, 3), usize::from(wired)));
        let msi = rig.function.msi().unwrap();
        assert_eq!((msi.live(), msi.host_vectors()), ((wired, wired), None));
    }
}

#[test]
fn i1_a_kernel_with_fewer_is_not_asked_again_for_each_new_message() {
    let mut shape = shape(3);
    shape.host_vectors = 4;
    let mut rig = on(&shape, 3);
    rig.steps();
    rig.program_msi(0x5100);
    mask(&mut rig, 0xf0);
    mask(&mut rig, 0);
    assert_eq!(wires(&mut rig), []);
    rig.host.raise(vector(3));
    assert_eq!(data(&rig), [0x5103]);
}

#[test]
fn i1_a_kernel_with_none_reads_back_as_off() {
    let mut shape = shape(3);
    shape.host_vectors = 0;
    let mut rig = on(&shape, 3);
    assert_eq!((rig.msi_bits(), rig.host.interrupt_mode(), rig.host.held()), ((false, 3), None, (0, 0, 0)));
    assert_eq!(rig.function.msi().unwrap().host_vectors(), Some(0));
}

#[test]
fn i1_a_first_enable_that_fails_is_tried_at_the_next_enable_only() {
    let mut rig = started(1);
    rig.program_msi(0);
    rig.host.faults.fail_nth(Wire, 0);
    rig.msi_control(true, 1);
    rig.settle();
    assert_eq!((rig.msi_bits(), wires(&mut rig)), ((false, 1), vec![(0, 1)]));
    rig.msi_control(true, 1);
    assert_eq!((rig.msi_bits(), rig.host.armed().len()), ((true, 1), 2));
}

#[test]
fn i1_more_vectors_while_enabled_start_over_and_signal_each_once() {
    let mut rig = on(&shape(3), 1);
    rig.steps();
    rig.msi_control(true, 3);
    let kinds = rig.kinds();
    assert_eq!((&kinds[..2], rig.host.wired().len()), (&[DisableInterrupts, Wire][..], 8));
    let mut delivered = rig.delivered();
    delivered.sort_unstable();
    assert_eq!(delivered, [0, 1]);
}

#[test]
fn i1_more_vectors_than_the_kernel_has_while_enabled_keep_those_there_are() {
    let mut shape = shape(3);
    shape.host_vectors = 2;
    let mut rig = on(&shape, 1);
    rig.steps();
    rig.msi_control(true, 3);
    assert_eq!((wires(&mut rig), rig.host.armed().len()), (vec![(0, 7), (0, 1)], 2));
    assert_eq!(rig.msi_bits(), (true, 3));
}

#[test]
fn i1_fewer_vectors_while_enabled_cut_the_others_off() {
    let mut rig = on(&shape(2), 2);
    rig.msi_control(true, 1);
    assert_eq!(rig.host.armed(), [vector(0), vector(1)]);
}

#[test]
fn i1_a_message_written_in_one_access_changes_at_once() {
    let mut rig = on(&shape(0), 0);
    rig.steps();
    let mut bytes = [0; 10];
    bytes[..4].copy_from_slice(&0xfee0_3000u32.to_le_bytes());
    bytes[8..].copy_from_slice(&[0x55, 0x41]);
    let target = Target::Config(Rig::MSI + 4);
    rig.access(Access::Write { target, data: Bytes::from_slice(&bytes) });
    let message = Message { address: 0xfee0_3000, data: 0x4155 };
    let route = Step::Route { kind: InterruptKind::Msi, vector: vector(0), message };
    assert_eq!(rig.steps(), [route, Step::CommitRoutes]);
}

#[test]
fn i1_an_interrupt_that_the_embedder_saw_is_delivered_at_the_next_settling() {
    let mut rig = on(&shape(1), 1);
    rig.function.handle_interrupt(InterruptKind::Msi, vector(1));
    rig.settle();
    assert_eq!(rig.delivered(), [1]);
}

#[test]
fn i1_a_message_that_cannot_be_routed_leaves_the_vectors_unarmed_and_pending() {
    let mut rig = on(&shape(0), 0);
    rig.config_write(Rig::MSI + 4, 4, 0x1234_5000);
    rig.host.raise(vector(0));
    assert_eq!((rig.host.armed(), pending(&mut rig)), (vec![], 1));
    rig.program_msi(0x4140);
    assert_eq!(rig.delivered(), [0]);
}

#[test]
fn i1_a_write_that_spans_into_another_capability_leaves_hardware_s_msi_alone() {
    let mut rig = Rig::started(&Shape::nvme(4).msi(0, true, false).capability(0x01, &[3, 6, 0, 0, 0, 0]));
    rig.steps();
    rig.config_write(Rig::MSI + 12, 2, 0x4155);
    rig.config_write(Rig::MSI + 14, 4, 0xffff_ffff);
    assert_eq!(rig.config_read(Rig::MSI + 12, 4), 0x4155);
    assert!(rig.steps().iter().all(|step| !matches!(step,
        Step::WriteConfig { offset, .. } if *offset < ConfigOffset::low(0xa0))));
}

#[test]
fn i1_reset_clears_every_register() {
    let mut rig = on(&shape(2), 2);
    mask(&mut rig, 0xf);
    rig.host.raise(vector(1));
    rig.config_write(Rig::DEVICE_CONTROL, 2, 0x8000);
    let registers = [0, 4, 8, 12, 16, 20].map(|at| rig.config_read(Rig::MSI + at, 4));
    assert_eq!(registers, [0x0184_0005, 0, 0, 0, 0, 0]);
    assert_eq!((rig.host.held(), rig.host.interrupt_mode()), ((0, 0, 0), None));
}

#[test]
fn m8_disable_of_msi_disarms_then_turns_off_then_gives_back() {
    let mut rig = on(&shape(1), 1);
    rig.steps();
    rig.msi_control(false, 1);
    assert_eq!(rig.kinds(), [Disarm, Disarm, DisableInterrupts, TakePending, ReleaseVectors]);
}

#[test]
fn m9_msi_on_and_off_in_a_loop_leaks_nothing() {
    let mut rig = on(&shape(5), 5);
    for _ in 0..50 {
        assert_eq!((rig.host.armed().len(), rig.host.held()), (32, (32, 32, 32)));
        rig.msi_control(false, 5);
        assert_eq!((rig.host.armed(), rig.host.held()), (vec![], (0, 0, 0)));
        rig.msi_control(true, 5);
    }
}

#[test]
fn s1_msi_is_saved_with_its_masks_and_what_waits() {
    let shape = shape(2);
    let mut rig = on(&shape, 2);
    mask(&mut rig, 0b1010);
    rig.host.raise(vector(3));
    let bytes = saved(&mut rig);
    let mut restored = Rig::new(&shape);
    assert_eq!(restored.function.restore(&bytes), Ok(()));
    restored.settle();
    let registers =
        |rig: &mut Rig| (0..6).map(|at| rig.config_read(Rig::MSI + 4 * at, 4)).collect::<Vec<_>>();
    assert_eq!(registers(&mut restored), registers(&mut rig));
    mask(&mut restored, 0);
    assert_eq!((restored.delivered(), saved(&mut restored).len()), (vec![3], bytes.len()));
}

#[test]
fn s1_a_state_of_another_msi_is_refused() {
    let mut rig = on(&shape(2), 2);
    let bytes = saved(&mut rig);
    let others =
        [shape(3), Shape::nvme(4).msi(2, false, true), Shape::nvme(4).msi(2, true, false), Shape::nvme(4)];
    for other in others {
        let mut other = Rig::new(&other);
        let before = other.function.clone();
        assert!(other.function.restore(&bytes).is_err());
        assert_eq!(other.function, before);
    }
}

#[test]
fn p3_what_msi_without_masks_sends_while_stopped_is_not_lost() {
    let mut rig = on(&Shape::nvme(4).msi(1, true, false), 1);
    rig.function.stop(BusMastering::Kept, &mut rig.host);
    assert_eq!((rig.host.wired(), rig.delivered()), (vec![], vec![]));
    rig.function.start(&mut rig.host);
    // It cannot be known which it sent: each once.
    let mut delivered = rig.delivered();
    delivered.sort_unstable();
    assert_eq!((delivered, rig.host.armed().len()), (vec![0, 1], 2));
}

#[test]
fn p3_msi_with_masks_is_held_while_stopped_and_delivered_once() {
    let mut rig = on(&shape(1), 1);
    rig.function.stop(BusMastering::Kept, &mut rig.host);
    rig.host.raise(vector(1));
    rig.function.start(&mut rig.host);
    assert_eq!(rig.delivered(), [1]);
}

fn saved(rig: &mut Rig) -> Vec<u8> {
    rig.function.stop(BusMastering::Kept, &mut rig.host);
    let mut bytes = vec![0; rig.function.saved_size()];
    assert_eq!(rig.function.save(&mut bytes), Ok(bytes.len()));
    bytes
}
