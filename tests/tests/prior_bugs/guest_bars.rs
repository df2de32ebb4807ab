//! Guests that write BARs while they decode, half by half, over one another and to places where no BAR can be.

use vfio_assign_core::fake::{CallKind, Shape};
use vfio_assign_tests::{BASE, Rig, bar};

fn two() -> Rig {
    let mut rig = Rig::new(&Shape::new().memory_bar(bar(0), 0x4000).memory_bar(bar(1), 0x4000));
    rig.config_write(0x10, 8, (BASE + 0x4000) << 32 | BASE);
    rig.config_write(4, 2, 2);
    rig.steps();
    rig
}

#[test]
fn bar_written_while_it_decodes_is_remapped() {
    let mut rig = two();
    rig.write(BASE + 8, 4, 7);
    rig.config_write(0x10, 4, BASE + 0x1_0000);
    assert_eq!(rig.kinds()[1..], [CallKind::Unmap, CallKind::Untrap, CallKind::Trap, CallKind::Map]);
    assert_eq!((rig.read(BASE + 0x1_0008, 4), rig.read(BASE + 8, 4)), (7, 0xffff_ffff));
    assert_eq!(rig.windows()[0], (0, BASE + 0x1_0000, BASE + 0x1_3fff));
}

#[test]
fn bar_written_as_it_is_makes_no_call() {
    let mut rig = two();
    rig.config_write(0x10, 4, BASE);
    assert_eq!(rig.kinds(), []);
}

#[test]
fn base_of_0_is_not_decoded() {
    let mut rig = two();
    rig.config_write(0x10, 4, 0);
    assert_eq!((rig.decoded(bar(0)), rig.read(0, 4), rig.windows().len()), (None, 0xffff_ffff, 1));
}

#[test]
fn sizing_while_decoding_maps_nothing_at_all_ones_and_comes_back() {
    let mut rig = two();
    rig.config_write(0x10, 4, 0xffff_ffff);
    assert_eq!((rig.config_read(0x10, 4), rig.decoded(bar(0))), (0xffff_c000, None));
    assert_eq!(rig.windows(), [(1, BASE + 0x4000, BASE + 0x7fff)]);
    rig.config_write(0x10, 4, BASE);
    assert_eq!(rig.windows().len(), 2);
}

#[test]
fn bar_over_memory_that_the_host_refuses_to_cover_stays_trapped_and_is_mapped_elsewhere() {
    let mut rig = two();
    // What a hypervisor says where its guest has memory.
    rig.host.faults.fail_nth(CallKind::Map, 0);
    rig.config_write(0x10, 4, 0x10_0000);
    assert_eq!((rig.windows().len(), rig.function.counters().failed_establishes), (1, 1));
    assert!(!rig.function.is_quarantined());
    rig.config_write(0x10, 4, BASE);
    assert_eq!(rig.windows(), [(0, BASE, BASE + 0x3fff), (1, BASE + 0x4000, BASE + 0x7fff)]);
}

#[test]
fn bar_over_another_bar_loses_by_index_and_comes_back() {
    let mut rig = two();
    rig.write(BASE, 4, 1);
    rig.write(BASE + 0x4000, 4, 2);
    rig.config_write(0x14, 4, BASE);
    assert_eq!((rig.windows(), rig.read(BASE, 4)), (vec![(0, BASE, BASE + 0x3fff)], 1));
    rig.config_write(0x10, 4, BASE + 0x1_0000);
    assert_eq!((rig.windows().len(), rig.read(BASE, 4), rig.read(BASE + 0x1_0000, 4)), (2, 2, 1));
}

#[test]
fn two_bars_that_swap_places_are_both_mapped() {
    let mut rig = two();
    rig.config_write(0x10, 8, BASE << 32 | (BASE + 0x4000));
    assert_eq!(rig.windows(), [(0, BASE + 0x4000, BASE + 0x7fff), (1, BASE, BASE + 0x3fff)]);
    assert_eq!(rig.function.counters().failed_establishes, 0);
}

#[test]
fn upper_half_written_first_ends_where_the_guest_wants_it() {
    let mut rig = Rig::nvme(4);
    rig.config_write(0x14, 4, 0x12);
    rig.config_write(0x10, 4, 0xd000_0000);
    assert_eq!(rig.windows(), [(0, 0x12_d000_0000, 0x12_d000_1fff)]);
}

#[test]
fn half_of_a_sizing_value_is_not_decoded() {
    let mut rig = Rig::nvme(4);
    rig.config_write(0x10, 4, 0xffff_ffff);
    let lower = rig.decoded(bar(0));
    rig.config_write(0x14, 4, 0xffff_ffff);
    let both = rig.decoded(bar(0));
    rig.config_write(0x10, 4, BASE);
    assert_eq!((lower, both, rig.decoded(bar(0)), rig.windows()), (None, None, None, vec![]));
    rig.config_write(0x14, 4, 0);
    assert_eq!(rig.windows().len(), 1);
}

#[test]
fn bar_written_byte_by_byte_ends_where_the_guest_wants_it() {
    let mut rig = two();
    for (at, byte) in [(0x10, 0), (0x11, 0x40), (0x12, 0x01), (0x13, 0xd0)] {
        rig.config_write(at, 1, byte);
    }
    assert_eq!(rig.windows(), [(0, 0xd001_4000, 0xd001_7fff), (1, BASE + 0x4000, BASE + 0x7fff)]);
}

#[test]
fn bar_written_in_d3_is_not_mapped_before_d0() {
    let mut shape = Shape::nvme(4);
    // No_Soft_Reset, so that D0 finds the BAR as it was written.
    shape.put(0x44, &[0x08]);
    let mut rig = Rig::started(&shape);
    rig.config_write(Rig::PMCSR, 1, 3);
    rig.steps();
    rig.config_write(0x10, 4, BASE + 0x10_0000);
    rig.config_write(4, 2, 6);
    assert!(!rig.kinds().contains(&CallKind::Map));
    rig.config_write(Rig::PMCSR, 1, 0);
    assert_eq!(rig.windows(), [(0, BASE + 0x10_0000, BASE + 0x10_1fff)]);
}

#[test]
fn decode_toggled_in_a_loop_costs_the_same_each_time_and_leaks_nothing() {
    let mut rig = two();
    let mut calls = vec![];
    for _ in 0..200 {
        rig.config_write(4, 2, 0);
        assert_eq!((rig.windows(), rig.host.trapped(bar(0))), (vec![], None));
        rig.config_write(4, 2, 2);
        assert_eq!(rig.windows().len(), 2);
        calls.push(rig.steps().len());
    }
    assert_eq!(calls, [10; 200]);
}

#[test]
fn removed_function_leaves_no_trap_for_the_next_one() {
    let mut rig = two();
    rig.function.detach(&mut rig.host);
    assert_eq!((rig.host.trapped(bar(0)), rig.host.trapped(bar(1)), rig.windows()), (None, None, vec![]));
    rig.function.attach(&mut rig.host);
    rig.config_write(0x10, 4, BASE);
    rig.config_write(4, 2, 2);
    rig.write(BASE, 4, 3);
    assert_eq!(rig.read(BASE, 4), 3);
}
