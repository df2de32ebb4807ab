//! Guests that reset the function or put it to sleep while it works, and guests that try to fill the log.

use vfio_assign_core::fake::CallKind;
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::{Outcome, Step};
use vfio_assign_core::regs::power::PowerState;
use vfio_assign_core::{Access, Begin, Bytes, ConfigOffset, Target, Width};
use vfio_assign_tests::{BASE, Rig, bar, vector};

/// Vector 0 is armed, vector 1 masked and pending.
fn busy(shape: &Shape) -> Rig {
    let mut rig = Rig::started(shape);
    rig.start_interrupts(2);
    rig.mask(1);
    rig.host.raise(vector(1));
    rig.steps();
    rig
}

/// The driver starts over, as after a reset.
fn works_again(rig: &mut Rig) {
    assert_eq!((rig.config_read(4, 2), rig.config_read(0x10, 8), rig.msix_bits()), (0, 0xc, (false, false)));
    assert_eq!((rig.windows(), rig.host.held(), rig.host.hardware_command().bits()), (vec![], (0, 0, 0), 0));
    rig.map_bar0();
    assert!(!rig.is_pending(1));
    rig.start_interrupts(2);
    rig.delivered();
    rig.host.raise(vector(1));
    assert_eq!((rig.delivered(), rig.windows().len()), (vec![1], 1));
}

#[test]
fn flr_with_pending_vectors_forgets_them_and_the_driver_starts_over() {
    let mut rig = busy(&Shape::nvme(4));
    rig.config_write(Rig::DEVICE_CONTROL, 2, 0x8000);
    assert_eq!((rig.host.resets(), rig.delivered()), (1, vec![]));
    works_again(&mut rig);
}

#[test]
fn flr_that_hardware_refuses_still_gives_the_guest_a_reset_function() {
    let mut rig = busy(&Shape::nvme(4));
    rig.host.faults.fail_nth(CallKind::WriteConfig, 0);
    rig.config_write(Rig::DEVICE_CONTROL, 2, 0x8000);
    works_again(&mut rig);
}

#[test]
fn d3_with_pending_vectors_takes_the_windows_away_and_wakes_as_after_reset() {
    let mut rig = busy(&Shape::nvme(4));
    rig.config_write(Rig::PMCSR, 2, 3);
    assert_eq!((rig.windows(), rig.read(BASE, 4)), (vec![], 0xffff_ffff));
    rig.config_write(Rig::PMCSR, 2, 0);
    works_again(&mut rig);
}

#[test]
fn machine_reset_with_pending_vectors_leaves_nothing_for_the_next_guest() {
    let mut rig = busy(&Shape::nvme(4));
    rig.function.reset(&mut rig.host);
    works_again(&mut rig);
}

#[test]
fn reset_amid_an_access_waits_for_it() {
    let mut rig = busy(&Shape::nvme(4));
    let _ = rig.function.begin(Access::Read { target: Target::Config(0), size: 4 });
    assert_eq!(rig.function.begin_reset(), Begin::Busy);
    let (token, _) = rig.function.next_step().unwrap();
    let _ = rig.function.complete(token, Outcome::Value(5));
    rig.function.reset(&mut rig.host);
    works_again(&mut rig);
}

#[test]
fn access_amid_a_reset_is_all_ones_and_changes_nothing() {
    let mut rig = busy(&Shape::nvme(4));
    assert_eq!(rig.function.begin_reset(), Begin::Steps);
    let steps = rig.function.next_step();
    let target = Target::Config(4);
    assert_eq!(rig.access(Access::Read { target, size: 4 }), Bytes::all_ones(4));
    rig.access(Access::Write { target, data: Bytes::from_slice(&[7, 0]) });
    assert_eq!(rig.function.next_step(), steps);
    rig.function.drive(&mut rig.host);
    works_again(&mut rig);
}

#[test]
fn access_while_asleep_reaches_no_hardware_that_would_fault() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR, 1, 3);
    rig.steps();
    rig.write(BASE, 4, 1);
    assert_eq!((rig.read(BASE, 8), rig.kinds()), (u64::MAX, vec![]));
}

#[test]
fn pmcsr_upper_byte_is_forwarded_without_a_change_of_state() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR + 1, 1, 0x81);
    let offset = ConfigOffset::low(0x45);
    assert_eq!(rig.steps(), [Step::WriteConfig { offset, width: Width::Byte, value: 0x81 }]);
    assert_eq!((rig.function.power(), rig.windows().len()), (PowerState::D0, 1));
}

#[test]
fn pmcsr_written_as_a_dword_changes_the_state_too() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR, 4, 0x0000_0103);
    assert_eq!((rig.function.power(), rig.windows()), (PowerState::D3Hot, vec![]));
}

#[test]
fn virtual_function_that_reads_memory_on_is_shown_off_so_that_its_driver_turns_it_on() {
    let mut shape = Shape::nvme(4);
    shape.virtual_function = true;
    let mut rig = Rig::new(&shape);
    assert_eq!(rig.config_read(4, 2), 0);
    rig.map_bar0();
    assert_eq!((rig.config_read(4, 2), rig.windows().len()), (6, 1));
}

#[test]
fn memory_that_hardware_has_on_is_turned_off_when_the_assignment_begins() {
    let mut shape = Shape::nvme(4);
    shape.put(4, &[7, 4]);
    let mut rig = Rig::new(&shape);
    assert_eq!((rig.config_read(4, 2), rig.host.hardware_command().bits()), (0, 0));
    rig.config_write(0x10, 8, BASE);
    assert_eq!((rig.decoded(bar(0)), rig.windows()), (None, vec![]));
}

#[test]
fn accesses_that_fail_in_a_loop_are_counted_and_nothing_grows() {
    let mut rig = Rig::nvme(4);
    rig.host.faults.fail_next(CallKind::ReadBar, 1000);
    for _ in 0..1000 {
        rig.read(BASE, 4);
        rig.write(0, 4, 0);
        rig.config_write(0x1000, 4, 0);
    }
    let counters = *rig.function.counters();
    assert_eq!((counters.failed_reads, counters.missed_bytes), (1000, 8000));
    assert_eq!(rig.steps().len(), 1000);
}

#[test]
fn interrupts_that_fail_in_a_loop_are_counted_and_cost_the_same_each_time() {
    let mut rig = Rig::nvme(4);
    rig.msix_control(true, false);
    rig.write(rig.entry(0, 0), 4, 0x1234);
    rig.steps();
    let mut calls = vec![];
    for _ in 0..100 {
        rig.unmask(0);
        rig.mask(0);
        calls.push(rig.steps().len());
    }
    assert!(calls[1..].iter().all(|count| *count == calls[1]), "{calls:?}");
    assert_eq!(rig.function.counters().failed_establishes, 100);
}
