//! F7: power states and function-level reset. P: reset of the machine.

use vfio_assign_core::fake::CallKind::{
    DisableInterrupts, Disarm, ReleaseVectors, ResetFunction, TakePending, Unmap, Untrap, WriteConfig,
};
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::Step;
use vfio_assign_core::regs::power::PowerState;
use vfio_assign_core::{ConfigOffset, ResetOutcome, Width};
use vfio_assign_tests::{BASE, Rig, vector};

fn write(at: u8, width: Width, value: u32) -> Step {
    Step::WriteConfig { offset: ConfigOffset::low(at), width, value }
}

/// What a guest finds after a reset.
fn is_fresh(rig: &mut Rig) {
    assert_eq!(rig.config_read(4, 2), 0);
    assert_eq!(rig.config_read(0x10, 8), 0xc);
    assert_eq!(rig.msix_bits(), (false, false));
    assert_eq!(rig.function.power(), PowerState::D0);
    assert_eq!((rig.windows(), rig.host.held(), rig.host.interrupts_on()), (vec![], (0, 0, 0), false));
    assert_eq!(rig.host.hardware_command().bits(), 0);
    rig.map_bar0();
    let entry = [0, 4, 8, 12].map(|at| rig.read(rig.entry(0, at), 4));
    assert_eq!((entry, rig.is_pending(0)), ([0, 0, 0, 1], false));
}

/// A function in full swing, with vector 0 masked and pending.
fn busy(shape: &Shape) -> Rig {
    let mut rig = Rig::started(shape);
    rig.start_interrupts(2);
    rig.mask(0);
    rig.host.raise(vector(0));
    assert!(rig.is_pending(0));
    rig.steps();
    rig
}

#[test]
fn f7_other_bytes_of_pmcsr_are_forwarded() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR + 1, 1, 0x01);
    assert_eq!((rig.steps(), rig.function.power()), (vec![write(0x45, Width::Byte, 1)], PowerState::D0));
}

#[test]
fn f7_every_sleep_is_tracked() {
    for (value, state) in [(1, PowerState::D1), (2, PowerState::D2), (3, PowerState::D3Hot)] {
        let mut rig = Rig::nvme(4);
        rig.config_write(Rig::PMCSR, 2, value);
        assert_eq!((rig.function.power(), rig.config_read(Rig::PMCSR, 1)), (state, value));
    }
}

#[test]
fn f7_a_state_that_the_function_does_not_have_is_ignored() {
    let mut shape = Shape::nvme(4);
    shape.put(0x43, &[0]);
    let mut rig = Rig::started(&shape);
    rig.config_write(Rig::PMCSR, 1, 1);
    assert_eq!((rig.function.power(), rig.windows().len()), (PowerState::D0, 1));
    assert!(rig.host.decodes_memory());
}

#[test]
fn f7_d1_and_d2_are_each_there_or_not() {
    for (byte, states) in [(2, [PowerState::D1, PowerState::D0]), (4, [PowerState::D0, PowerState::D2])] {
        let mut shape = Shape::nvme(4);
        shape.put(0x43, &[byte]);
        let reached = [1, 2].map(|state| {
            let mut rig = Rig::started(&shape);
            rig.config_write(Rig::PMCSR, 1, state);
            rig.function.power()
        });
        assert_eq!(reached, states);
    }
}

#[test]
fn f7_a_lighter_sleep_is_not_a_way_out_of_a_deeper_one() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR, 1, 3);
    rig.config_write(Rig::PMCSR, 1, 1);
    assert_eq!(rig.function.power(), PowerState::D3Hot);
}

#[test]
fn f7_flr_by_device_control() {
    let mut rig = busy(&Shape::nvme(4));
    rig.config_write(Rig::DEVICE_CONTROL, 2, 0x8000);
    assert_eq!(
        rig.kinds(),
        [Disarm, DisableInterrupts, TakePending, ReleaseVectors, Unmap, Untrap, WriteConfig, WriteConfig]
    );
    assert_eq!(rig.host.resets(), 1);
    is_fresh(&mut rig);
}

#[test]
fn f7_flr_by_device_control_s_byte() {
    let mut rig = busy(&Shape::nvme(4));
    rig.config_write(Rig::DEVICE_CONTROL + 1, 1, 0x80);
    assert_eq!(rig.host.resets(), 1);
    is_fresh(&mut rig);
}

#[test]
fn f7_flr_by_advanced_features() {
    // At 0x90, after PCI Express.
    let mut rig = busy(&Shape::nvme(4).advanced_features());
    rig.config_write(0x94, 1, 1);
    assert_eq!(rig.host.resets(), 1);
    is_fresh(&mut rig);
}

#[test]
fn f7_other_bits_of_device_control_and_advanced_features_reset_nothing() {
    let mut rig = busy(&Shape::nvme(4).advanced_features());
    rig.config_write(Rig::DEVICE_CONTROL, 2, 0x1010);
    rig.config_write(0x94, 1, 0xfe);
    assert_eq!((rig.kinds(), rig.msix_bits()), (vec![WriteConfig, WriteConfig], (true, false)));
    assert_eq!(rig.host.resets(), 0);
}

#[test]
fn f7_advanced_features_without_flr_reset_nothing() {
    let mut rig = busy(&Shape::nvme(4).capability(0x13, &[0x06, 0x01, 0x00, 0x00]));
    rig.config_write(0x94, 1, 1);
    assert_eq!((rig.kinds(), rig.msix_bits()), (vec![WriteConfig], (true, false)));
}

#[test]
fn f7_flr_writes_command_last() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::DEVICE_CONTROL, 2, 0x8000);
    let steps = rig.steps();
    assert_eq!(steps[2..], [write(0x5c, Width::Word, 0x8000), write(4, Width::Word, 0)]);
}

#[test]
fn f7_flr_of_a_function_without_it_is_a_plain_write() {
    let mut shape = Shape::nvme(4);
    shape.put(0x58, &[0; 4]);
    let mut rig = busy(&shape);
    rig.config_write(Rig::DEVICE_CONTROL, 2, 0x8000);
    assert_eq!((rig.kinds(), rig.windows().len(), rig.msix_bits()), (vec![WriteConfig], 1, (true, false)));
}

#[test]
fn f7_flr_in_sleep_ends_awake() {
    let mut rig = busy(&Shape::nvme(4));
    rig.config_write(Rig::PMCSR, 1, 3);
    rig.config_write(Rig::DEVICE_CONTROL, 2, 0x8000);
    is_fresh(&mut rig);
}

#[test]
fn p1_reset_turns_everything_off_then_resets_the_device() {
    let mut rig = busy(&Shape::nvme(4));
    assert_eq!(rig.function.reset(&mut rig.host), ResetOutcome::Reset);
    let steps = rig.steps();
    let tail = &steps[steps.len() - 3..];
    let off = write(4, Width::Word, 0);
    assert_eq!(
        (tail, rig.function.last_reset()),
        (&[off, Step::ResetFunction, off][..], Some(ResetOutcome::Reset))
    );
    is_fresh(&mut rig);
}

#[test]
fn p1_reset_that_the_device_does_not_have_is_reported_and_leaves_it_quiet() {
    let mut shape = Shape::nvme(4);
    shape.resettable = false;
    let mut rig = busy(&shape);
    assert_eq!(rig.function.reset(&mut rig.host), ResetOutcome::NotReset);
    is_fresh(&mut rig);
}

#[test]
fn p1_reset_in_sleep_wakes_a_device_that_cannot_be_reset() {
    let mut shape = Shape::nvme(4);
    shape.resettable = false;
    let mut rig = busy(&shape);
    rig.config_write(Rig::PMCSR, 1, 3);
    rig.function.reset(&mut rig.host);
    is_fresh(&mut rig);
    assert!(rig.host.decodes_memory());
}

#[test]
fn p1_a_reset_that_was_not_begun_is_not_the_last_one_s_success() {
    let mut rig = Rig::nvme(4);
    rig.function.reset(&mut rig.host);
    rig.map_bar0();
    rig.host.faults.fail_nth(Unmap, 0);
    rig.config_write(4, 2, 0);
    assert!(rig.function.is_quarantined());
    assert_eq!(rig.function.reset(&mut rig.host), ResetOutcome::NotReset);
}

#[test]
fn p2_waking_from_d3hot_is_a_reset() {
    let mut rig = busy(&Shape::nvme(4));
    rig.config_write(Rig::PMCSR, 1, 3);
    rig.steps();
    rig.config_write(Rig::PMCSR, 1, 0);
    let steps = rig.steps();
    assert_eq!(steps[steps.len() - 2..], [write(0x44, Width::Byte, 0), write(4, Width::Word, 0)]);
    is_fresh(&mut rig);
}

#[test]
fn p2_waking_from_d3hot_with_no_soft_reset_keeps_everything() {
    let mut shape = Shape::nvme(4);
    shape.put(0x44, &[0x08]);
    let mut rig = busy(&shape);
    rig.config_write(Rig::PMCSR, 1, 3);
    rig.config_write(Rig::PMCSR, 1, 0);
    assert_eq!((rig.windows().len(), rig.msix_bits(), rig.is_pending(0)), (1, (true, false), true));
    rig.unmask(0);
    assert_eq!(rig.delivered(), [0]);
}

#[test]
fn p2_waking_from_d1_keeps_everything() {
    let mut rig = busy(&Shape::nvme(4));
    rig.config_write(Rig::PMCSR, 1, 1);
    rig.config_write(Rig::PMCSR, 1, 0);
    assert_eq!((rig.windows(), rig.msix_bits()), (vec![(0, BASE, BASE + 0x1fff)], (true, false)));
}

#[test]
fn p3_detach_gives_everything_back() {
    let mut rig = busy(&Shape::nvme(4));
    rig.function.detach(&mut rig.host);
    assert_eq!(rig.host.count(ResetFunction), 0);
    is_fresh(&mut rig);
}
