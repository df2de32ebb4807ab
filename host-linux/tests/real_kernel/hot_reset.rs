//! Resets of a whole bus.

use crate::edu::Edu;
use crate::rig::{Rig, figure, open, vm};
use std::time::Instant;
use vfio_assign_core::ResetOutcome;
use vfio_assign_linux::{Assigned, ResetError};

#[test]
fn what_is_on_the_root_bus_has_none() {
    let Some(rig) = Rig::get() else { return };
    assert_eq!(open(rig.edu).hot_reset(), Err(ResetError::NoHotReset { bdf: rig.edu }));
}

#[test]
fn functions_of_a_bus_are_reset_with_each_other() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let [first, second] = rig.bus.map(|bdf| vm.open(bdf).expect("opens"));
    assert!(!first.is_resettable() && !second.is_resettable());
    let mut affected: Vec<_> =
        first.hot_reset_set().expect("the kernel tells").iter().map(|function| function.bdf).collect();
    affected.sort_unstable();
    assert_eq!(affected, rig.bus);
    let started = Instant::now();
    assert_eq!(first.hot_reset(), Ok(()));
    figure("ms_hot_reset", format_args!("{:.3}", started.elapsed().as_secs_f64() * 1000.0));
}

#[test]
fn function_of_a_group_that_is_ours_need_not_be_open() {
    let Some(rig) = Rig::get() else { return };
    assert_eq!(open(rig.bus[0]).hot_reset(), Ok(()));
}

#[test]
fn functions_of_one_machine_are_reset_together_or_not_at_all() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let [first, second] = rig.bus.map(|bdf| Edu::of_vm(vm.clone(), bdf, None));
    assert_eq!(first.assigned.reset(), ResetOutcome::NotReset);
    let (bdf, others) = (rig.bus[0], vec![rig.bus[1]]);
    assert_eq!(first.assigned.reset_error(), Some(ResetError::Together { bdf, others }));
    let both = [&first.assigned, &second.assigned];
    assert_eq!(Assigned::reset_all(&both), [ResetOutcome::Reset, ResetOutcome::Reset]);
    assert_eq!(both.map(Assigned::reset_error), [None, None]);
}
