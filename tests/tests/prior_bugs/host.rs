//! Hosts that run out of things, refuse, say one thing and do another, or were left in the middle of something.

use vfio_assign_core::ResetOutcome;
use vfio_assign_core::fake::CallKind::{
    Arm, CommitRoutes, EnableInterrupts, Map, ResetFunction, Route, Wire, WriteConfig,
};
use vfio_assign_core::fake::{CallKind, FakeError, FakeHost, Raised, Shape};
use vfio_assign_core::host::{Outcome, Step};
use vfio_assign_core::regs::header::Command;
use vfio_assign_tests::{BASE, Rig, bar, vector};

/// The guest turns MSI-X on with vector 0 unmasked.
fn enable_one(rig: &mut Rig) {
    rig.program(0);
    rig.unmask(0);
    rig.msix_control(true, false);
}

#[test]
fn first_enable_that_fails_reads_back_as_off_and_the_next_one_works() {
    for shape in [Shape::nvme(4), Shape::nvme(4).noresize()] {
        let mut rig = Rig::started(&shape);
        rig.host.faults.fail_next(Wire, 1);
        rig.host.faults.fail_next(EnableInterrupts, 1);
        enable_one(&mut rig);
        assert_eq!(
            (rig.msix_bits(), rig.host.interrupts_on(), rig.host.held()),
            ((false, false), false, (0, 0, 0))
        );
        rig.host.faults.clear();
        rig.msix_control(true, false);
        assert_eq!((rig.msix_bits(), rig.host.armed()), ((true, false), vec![vector(0)]));
    }
}

#[test]
fn fewer_vectors_than_asked_for_at_first_enable_is_no_success() {
    let mut shape = Shape::nvme(4).noresize();
    shape.host_vectors = 2;
    let mut rig = Rig::started(&shape);
    rig.program(3);
    rig.unmask(3);
    rig.msix_control(true, false);
    assert_eq!(
        rig.host.calls().iter().filter_map(|call| call.failed).next(),
        Some(FakeError::FewerVectors(2))
    );
    assert_eq!((rig.msix_bits(), rig.host.interrupts_on()), ((false, false), false));
}

#[test]
fn host_without_vectors_left_leaves_one_vector_silent_and_the_others_alive() {
    let mut shape = Shape::nvme(8);
    shape.host_vectors = 3;
    let mut rig = Rig::started(&shape);
    rig.msix_control(true, false);
    for index in 0..4 {
        rig.program(index);
        rig.unmask(index);
    }
    assert_eq!((rig.msix_bits(), rig.host.armed().len()), ((true, false), 3));
    assert_eq!(rig.host.raise(vector(3)), Raised::Latched);
    assert!(rig.is_pending(3));
    rig.delivered();
    rig.host.raise(vector(2));
    assert_eq!(rig.delivered(), [2]);
}

#[test]
fn kernel_that_cannot_add_vectors_starts_over_with_more_and_loses_none() {
    let mut rig = Rig::started(&Shape::nvme(8).noresize());
    rig.start_interrupts(2);
    rig.mask(1);
    rig.host.raise(vector(1));
    rig.program(5);
    rig.unmask(5);
    assert!(rig.host.calls().iter().all(|call| call.failed.is_none()));
    rig.unmask(1);
    assert!(rig.delivered().contains(&1));
    assert_eq!((rig.host.armed().len(), rig.host.lost_interrupts()), (3, 0));
}

#[test]
fn kernel_that_promises_to_add_vectors_and_does_not_leaves_the_others_alive() {
    let mut rig = Rig::unattached(&Shape::nvme(8));
    rig.host = FakeHost::new(&Shape::nvme(8).noresize());
    rig.function.attach(&mut rig.host);
    rig.map_bar0();
    enable_one(&mut rig);
    rig.program(1);
    rig.unmask(1);
    assert_eq!((rig.msix_bits(), rig.host.armed()), ((true, false), vec![vector(0)]));
    rig.host.raise(vector(0));
    assert_eq!((rig.delivered(), rig.function.is_quarantined()), (vec![0], false));
}

#[test]
fn turning_off_fires_no_vector() {
    let mut rig = Rig::nvme(8);
    rig.start_interrupts(8);
    rig.delivered();
    rig.msix_control(false, false);
    assert_eq!((rig.delivered(), rig.host.interrupts_on()), (vec![], false));
    assert!(!(0..8).any(|index| rig.is_pending(index)));
}

#[test]
fn host_without_events_left_leaves_that_vector_silent() {
    let mut rig = Rig::nvme(8);
    rig.start_interrupts(2);
    // As when no descriptor is left.
    rig.host.faults.fail_next(Wire, 1);
    rig.program(2);
    rig.unmask(2);
    assert_eq!((rig.host.armed().len(), rig.host.held().1, rig.msix_bits()), (2, 2, (true, false)));
    rig.mask(2);
    rig.unmask(2);
    assert_eq!(rig.host.armed().len(), 3);
}

#[test]
fn host_without_routes_left_leaves_that_vector_pending_and_the_others_alive() {
    let mut shape = Shape::nvme(8);
    shape.routes = 2;
    let mut rig = Rig::started(&shape);
    rig.start_interrupts(3);
    assert_eq!(rig.host.armed(), [vector(0), vector(1)]);
    rig.host.raise(vector(2));
    assert!(rig.is_pending(2));
    rig.host.raise(vector(1));
    assert_eq!(rig.delivered(), [1]);
}

#[test]
fn device_of_2048_vectors_holds_only_the_routes_that_its_driver_uses() {
    let mut rig = Rig::nvme(2048);
    rig.msix_control(true, true);
    for index in 0..2048 {
        rig.mask(index);
    }
    rig.msix_control(true, false);
    for index in 0..9 {
        rig.program(index);
        rig.unmask(index);
    }
    assert_eq!(rig.host.held(), (9, 9, 9));
}

#[test]
fn host_without_memory_slots_left_leaves_the_bar_trapped_and_the_guest_running() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.host.faults.fail_next(Map, 1);
    rig.map_bar0();
    rig.write(BASE + 0x10, 8, 0x1122_3344_5566_7788);
    assert_eq!((rig.windows(), rig.read(BASE + 0x10, 8)), (vec![], 0x1122_3344_5566_7788));
}

#[test]
fn one_window_that_cannot_be_mapped_leaves_the_others_mapped() {
    let shape = Shape::new().memory_bar(bar(0), 0x4000).memory_bar(bar(1), 0x4000).memory_bar(bar(2), 0x4000);
    let mut rig = Rig::new(&shape);
    rig.config_write(0x10, 8, (BASE + 0x4000) << 32 | BASE);
    rig.config_write(0x18, 4, BASE + 0x8000);
    rig.host.faults.fail_nth(Map, 1);
    rig.config_write(4, 2, 2);
    assert_eq!(rig.windows(), [(0, BASE, BASE + 0x3fff), (2, BASE + 0x8000, BASE + 0xbfff)]);
    rig.write(BASE + 0x4000, 4, 8);
    assert_eq!((rig.read(BASE + 0x4000, 4), rig.function.is_quarantined()), (8, false));
}

#[test]
fn old_message_is_not_sent_when_the_new_one_is_refused() {
    for kind in [Route, CommitRoutes] {
        let mut rig = Rig::nvme(4);
        rig.start_interrupts(2);
        rig.host.faults.fail_next(kind, 1);
        rig.write(rig.entry(0, 8), 4, 0x7777);
        rig.host.raise(vector(0));
        assert!(rig.host.delivered().iter().all(|(_, message)| message.data == 0x7777), "{kind:?}");
        rig.mask(0);
        rig.unmask(0);
        assert_eq!(rig.host.delivered()[0].1.data, 0x7777, "{kind:?}");
    }
}

#[test]
fn arm_that_fails_keeps_the_interrupt_and_the_next_unmask_delivers_it() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.mask(0);
    rig.host.faults.fail_next(Arm, 1);
    rig.unmask(0);
    rig.host.raise(vector(0));
    assert!(rig.is_pending(0));
    rig.mask(0);
    rig.unmask(0);
    assert_eq!(rig.delivered(), [0]);
}

/// A VMM is killed: the kernel closes its device, which turns MSI-X off and resets nothing that this shape does
/// not say; the next VMM opens it as it was left.
fn left_behind(rig: &Rig, shape: &Shape) -> Shape {
    let mut left = shape.clone();
    let mut rig = rig.clone();
    rig.host.faults.clear();
    for at in (0..256u16).step_by(4) {
        let offset = vfio_assign_core::ConfigOffset::new(at).unwrap();
        let width = vfio_assign_core::Width::Dword;
        let value =
            vfio_assign_core::host::PhysicalFunction::config_read(&mut rig.host, offset, width).unwrap();
        left.put(at, &value.to_le_bytes());
    }
    left
}

#[test]
fn vmm_killed_at_any_step_leaves_a_device_that_can_be_assigned_again() {
    let shape = Shape::nvme(4);
    for steps in 0.. {
        let mut rig = Rig::unattached(&shape);
        let mut left = steps;
        let _ = rig.function.begin_attach();
        let finished = life(&mut rig, &mut left);
        let mut next = Rig::unattached(&left_behind(&rig, &shape));
        assert_eq!(next.findings, [], "after {steps} steps");
        next.function.attach(&mut next.host);
        assert_eq!(next.host.hardware_command(), Command::empty(), "after {steps} steps");
        assert_eq!((next.config_read(4, 2), next.config_read(Rig::PMCSR, 1)), (0, 0), "after {steps} steps");
        next.map_bar0();
        next.write(BASE + 0x10, 4, 7);
        next.start_interrupts(2);
        next.host.raise(vector(1));
        assert_eq!((next.read(BASE + 0x10, 4), next.delivered()), (7, vec![1]), "after {steps} steps");
        if finished {
            assert!(steps > 15, "only {steps} steps");
            return;
        }
    }
}

/// Places the BAR, uses two vectors and falls asleep, as long as steps are left.
fn life(rig: &mut Rig, left: &mut usize) -> bool {
    use vfio_assign_core::{Access, Begin, Bytes, GuestAddr, Target};
    let entry = |at| Target::Memory(GuestAddr::new(BASE + 0x2000 + at));
    let writes: [(Target, &[u8]); 9] = [
        (Target::Config(0x10), &[0, 0, 0, 0xe0, 0, 0, 0, 0]),
        (Target::Config(4), &[6, 4]),
        (Target::Config(Rig::MSIX_CONTROL), &[0, 0x80]),
        (entry(0), &[0, 0, 0xe0, 0xfe, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
        (entry(16), &[0, 0, 0xe0, 0xfe, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
        (Target::Config(Rig::DEVICE_CONTROL), &[0x10, 0x20]),
        (Target::Config(Rig::PMCSR), &[1, 0]),
        (Target::Config(Rig::PMCSR), &[3, 1]),
        (Target::Config(0x3c), &[9]),
    ];
    for write in std::iter::once(None).chain(writes.map(Some)) {
        if let Some((target, data)) = write {
            assert_ne!(
                rig.function.begin(Access::Write { target, data: Bytes::from_slice(data) }),
                Begin::Busy
            );
        }
        while let Some((token, step)) = rig.function.next_step() {
            if *left == 0 {
                return false;
            }
            *left -= 1;
            let outcome = rig.function.perform(step, &mut rig.host).unwrap_or(Outcome::Failed);
            let _ = rig.function.complete(token, outcome);
        }
    }
    true
}

#[test]
fn device_left_asleep_is_woken_when_the_assignment_begins() {
    let mut shape = Shape::nvme(4);
    shape.put(0x44, &[3]);
    let mut rig = Rig::new(&shape);
    assert_eq!(rig.config_read(Rig::PMCSR, 1), 0);
    rig.map_bar0();
    rig.write(BASE, 4, 7);
    assert_eq!((rig.read(BASE, 4), rig.windows().len()), (7, 1));
}

#[test]
fn state_restored_into_a_device_that_was_left_asleep_finds_it_awake() {
    let mut shape = Shape::nvme(4);
    let mut rig = Rig::started(&shape);
    rig.function.stop(vfio_assign_core::BusMastering::Kept, &mut rig.host);
    let mut bytes = vec![0; rig.function.saved_size()];
    rig.function.save(&mut bytes).unwrap();
    shape.put(0x44, &[3]);
    for attached in [true, false] {
        let mut rig = if attached { Rig::new(&shape) } else { Rig::unattached(&shape) };
        rig.function.restore(&bytes).unwrap();
        rig.settle();
        rig.write(BASE, 4, 7);
        assert_eq!((rig.read(BASE, 4), rig.windows().len()), (7, 1), "attached {attached}");
        assert_eq!(rig.config_read(Rig::PMCSR, 1), 0, "attached {attached}");
    }
}

/// A device without a reset, in full swing.
fn without_reset() -> Rig {
    let mut shape = Shape::nvme(4);
    shape.resettable = false;
    let mut rig = Rig::started(&shape);
    rig.start_interrupts(2);
    assert!(rig.host.hardware_command().contains(Command::BUS_MASTER));
    rig
}

#[test]
fn reset_that_is_not_supported_leaves_no_bus_master_for_the_next_guest() {
    let mut rig = without_reset();
    assert_eq!(rig.function.reset(&mut rig.host), ResetOutcome::NotReset);
    assert_eq!(rig.host.hardware_command(), Command::empty());
    assert_eq!((rig.host.interrupts_on(), rig.host.held(), rig.windows()), (false, (0, 0, 0), vec![]));
    assert_eq!(rig.config_read(4, 2), 0);
}

#[test]
fn bus_mastering_goes_off_before_the_device_is_reset() {
    let mut rig = without_reset();
    rig.function.reset(&mut rig.host);
    let steps = rig.steps();
    let place = |wanted: CallKind| steps.iter().position(|step| CallKind::of(*step) == wanted).unwrap();
    assert!(place(WriteConfig) < place(ResetFunction), "{steps:?}");
    assert!(matches!(steps[place(WriteConfig)], Step::WriteConfig { value: 0, .. }));
}

#[test]
fn end_of_the_assignment_leaves_no_bus_master() {
    let mut rig = without_reset();
    rig.function.detach(&mut rig.host);
    assert_eq!((rig.host.hardware_command(), rig.host.interrupts_on()), (Command::empty(), false));
}

#[test]
fn reset_that_fails_is_told_and_the_device_is_quiet() {
    let mut rig = Rig::nvme(4);
    rig.host.faults.fail_nth(ResetFunction, 0);
    assert_eq!(rig.function.reset(&mut rig.host), ResetOutcome::NotReset);
    assert_eq!(rig.function.last_reset(), Some(ResetOutcome::NotReset));
    assert_eq!(rig.host.hardware_command(), Command::empty());
    assert_eq!(rig.function.reset(&mut rig.host), ResetOutcome::Reset);
}
