//! B: Base Address Registers.

use vfio_assign_core::fake::{CallKind, Shape};
use vfio_assign_core::{Decoded, PhysBarOffset};
use vfio_assign_tests::{BASE, Rig, bar};

/// Three BARs: memory at 0, memory at 1, ports at 2.
fn three() -> Shape {
    Shape::new().memory_bar(bar(0), 0x4000).memory_bar(bar(1), 0x4000).io_bar(bar(2), 0x20)
}

fn placed(bar0: u64, bar1: u64) -> Rig {
    let mut rig = Rig::new(&three());
    rig.config_write(0x10, 4, bar0);
    rig.config_write(0x14, 4, bar1);
    rig.config_write(4, 2, 3);
    rig.steps();
    rig
}

#[test]
fn b1_a_pair_is_one_bar() {
    let mut rig = Rig::new(&Shape::new().wide_bar(bar(1), 0x4000));
    rig.config_write(0x14, 8, 0x12_e000_0000);
    rig.config_write(4, 2, 2);
    assert_eq!((rig.decoded(bar(1)), rig.decoded(bar(2))), (Some((0x12_e000_0000, 0x12_e000_3fff)), None));
}

#[test]
fn b2_base_zero_is_not_decoded() {
    assert_eq!(placed(0, BASE).decoded(bar(0)), None);
}

#[test]
fn b2_a_sizing_value_is_not_decoded() {
    assert_eq!(placed(0xffff_ffff, BASE).decoded(bar(0)), None);
}

#[test]
fn b2_an_upper_half_of_all_ones_is_not_decoded() {
    let mut rig = Rig::nvme(4);
    rig.config_write(0x14, 4, 0xffff_ffff);
    assert_eq!((rig.decoded(bar(0)), rig.windows()), (None, vec![]));
}

#[test]
fn b2_memory_off_is_not_decoded() {
    let mut rig = placed(BASE, BASE + 0x1_0000);
    rig.config_write(4, 2, 1);
    assert_eq!((rig.decoded(bar(0)), rig.windows(), rig.host.trapped(bar(0))), (None, vec![], None));
    assert!(rig.host.trapped(bar(2)).is_none());
}

#[test]
fn b2_sleep_is_not_decoded() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR, 1, 1);
    assert_eq!((rig.decoded(bar(0)), rig.windows()), (None, vec![]));
}

#[test]
fn b2_a_bar_written_in_sleep_is_decoded_after_it() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR, 1, 1);
    rig.config_write(0x10, 4, BASE + 0x10_0000);
    rig.config_write(Rig::PMCSR, 1, 0);
    assert_eq!(rig.decoded(bar(0)), Some((BASE + 0x10_0000, BASE + 0x10_3fff)));
}

#[test]
fn b3_a_move_is_the_unmaps_and_maps_of_that_bar() {
    let mut rig = placed(BASE, BASE + 0x1_0000);
    rig.config_write(0x10, 4, BASE + 0x4000);
    assert_eq!(rig.kinds(), [CallKind::Unmap, CallKind::Untrap, CallKind::Trap, CallKind::Map]);
    assert_eq!(rig.windows(), [(0, BASE + 0x4000, BASE + 0x7fff), (1, BASE + 0x1_0000, BASE + 0x1_3fff)]);
}

#[test]
fn b3_two_bars_swap() {
    let mut rig = placed(BASE, BASE + 0x1_0000);
    rig.config_write(0x10, 8, BASE << 32 | (BASE + 0x1_0000));
    assert_eq!(rig.windows(), [(0, BASE + 0x1_0000, BASE + 0x1_3fff), (1, BASE, BASE + 0x3fff)]);
}

#[test]
fn b3_a_failed_map_stays_trapped_and_is_tried_at_the_next_change() {
    let mut rig = placed(BASE, BASE + 0x1_0000);
    rig.host.faults.fail_nth(CallKind::Map, 0);
    rig.config_write(0x10, 4, BASE + 0x4000);
    assert_eq!(rig.windows(), [(1, BASE + 0x1_0000, BASE + 0x1_3fff)]);
    assert_eq!(rig.function.counters().failed_establishes, 1);
    assert_eq!(
        rig.decode(BASE + 0x4000, 4),
        Decoded::Passthrough { bar: bar(0), offset: PhysBarOffset::new(0) }
    );
    rig.steps();
    rig.config_read(0x10, 4);
    assert_eq!(rig.kinds(), []);
    rig.config_write(0x14, 4, BASE + 0x2_0000);
    assert_eq!(rig.windows().len(), 2);
}

#[test]
fn b3_decode_toggled_in_a_loop_leaves_nothing_behind() {
    let mut rig = placed(BASE, BASE + 0x1_0000);
    for _ in 0..100 {
        rig.config_write(4, 2, 0);
        assert_eq!(rig.windows(), []);
        rig.config_write(4, 2, 3);
        assert_eq!(rig.windows().len(), 2);
    }
}

#[test]
fn b4_the_lowest_index_wins_and_the_loser_comes_back() {
    let mut rig = placed(BASE, BASE);
    let at = |rig: &Rig| rig.decode(BASE, 4);
    assert_eq!(rig.windows(), [(0, BASE, BASE + 0x3fff)]);
    assert_eq!(at(&rig), Decoded::Passthrough { bar: bar(0), offset: PhysBarOffset::new(0) });
    rig.config_write(0x10, 4, BASE + 0x1_0000);
    assert_eq!(rig.windows(), [(0, BASE + 0x1_0000, BASE + 0x1_3fff), (1, BASE, BASE + 0x3fff)]);
    assert_eq!(at(&rig), Decoded::Passthrough { bar: bar(1), offset: PhysBarOffset::new(0) });
}

#[test]
fn b4_a_loser_that_had_the_place_first_goes() {
    let mut rig = placed(BASE + 0x1_0000, BASE);
    rig.config_write(0x10, 4, BASE);
    assert_eq!(rig.windows(), [(0, BASE, BASE + 0x3fff)]);
}

#[test]
fn b4_a_small_bar_in_a_large_one_s_place() {
    let mut rig = Rig::new(&Shape::new().memory_bar(bar(0), 0x1000).memory_bar(bar(1), 0x4000));
    rig.config_write(0x10, 8, BASE << 32 | (BASE + 0x1000));
    rig.config_write(4, 2, 2);
    rig.write(BASE + 0xffc, 8, 0x2222_2222_1111_1111);
    rig.write(BASE + 0x1ffc, 8, 0x4444_4444_3333_3333);
    assert_eq!(
        [BASE + 0xffc, BASE + 0x1000, BASE + 0x1ffc, BASE + 0x2000].map(|at| rig.read(at, 4)),
        [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444]
    );
    assert_eq!(rig.windows(), [(0, BASE + 0x1000, BASE + 0x1fff)]);
}

#[test]
fn b5_enable_writes_then_maps() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(0x10, 4, BASE);
    rig.config_write(4, 2, 2);
    assert_eq!(rig.kinds(), [CallKind::WriteConfig, CallKind::Trap, CallKind::Map]);
}

#[test]
fn b5_disable_unmaps_then_writes() {
    let mut rig = Rig::nvme(4);
    rig.config_write(4, 2, 0);
    assert_eq!(rig.kinds(), [CallKind::Unmap, CallKind::Untrap, CallKind::WriteConfig]);
}

#[test]
fn b5_sleep_unmaps_then_writes() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR, 2, 3);
    assert_eq!(rig.kinds(), [CallKind::Unmap, CallKind::Untrap, CallKind::WriteConfig]);
}

#[test]
fn b5_waking_writes_then_maps() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR, 2, 1);
    rig.steps();
    rig.config_write(Rig::PMCSR, 2, 0);
    assert_eq!(rig.kinds(), [CallKind::WriteConfig, CallKind::Trap, CallKind::Map]);
}

#[test]
fn b6_ports_are_trapped() {
    let mut rig = placed(BASE, BASE + 0x1_0000);
    rig.config_write(0x18, 4, 0xc040);
    rig.port_write(0xc044, 4, 0x1234_5678);
    assert_eq!((rig.port_read(0xc045, 1), rig.port_read(0xc03f, 1)), (0x56, 0xff));
}

#[test]
fn b6_each_port_belongs_to_its_bar() {
    let mut rig = Rig::new(&Shape::new().io_bar(bar(0), 32).io_bar(bar(1), 64));
    rig.config_write(0x10, 4, 0xc000);
    rig.config_write(0x14, 4, 0xd000);
    rig.config_write(4, 2, 1);
    rig.port_write(0xc004, 4, 1);
    rig.port_write(0xd004, 4, 2);
    assert_eq!((rig.port_read(0xc004, 4), rig.port_read(0xd004, 4)), (1, 2));
}

#[test]
fn b3_windows_that_the_guest_reaches_are_counted() {
    let mut rig = Rig::nvme(4);
    let mapped = rig.function.mapped_windows();
    rig.config_write(4, 2, 4);
    assert_eq!((mapped, rig.function.mapped_windows()), (1, 0));
}

#[test]
fn b7_an_access_across_the_end_of_a_bar_is_not_passed_through() {
    let rig = Rig::nvme(4);
    assert_eq!(rig.decode(BASE - 4, 8), Decoded::Function);
    assert_eq!((rig.decode(BASE - 4, 4), rig.decode(BASE - 8, 8)), (Decoded::Miss, Decoded::Miss));
}

#[test]
fn b6_the_rom_is_read_only_and_never_passes_through() {
    let mut rig = Rig::new(&Shape::new().rom(0x1_0000));
    rig.config_write(0x30, 4, BASE + 1);
    rig.config_write(4, 2, 2);
    rig.steps();
    rig.write(BASE, 4, 7);
    assert_eq!((rig.kinds(), rig.decode(BASE, 4)), (vec![], Decoded::Function));
    rig.read(BASE, 4);
    assert_eq!(rig.kinds(), [CallKind::ReadBar]);
}

#[test]
fn b6_an_absent_rom_decodes_nothing() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(0x30, 4, BASE + 1);
    rig.config_write(4, 2, 2);
    assert_eq!((rig.config_read(0x30, 4), rig.decode(BASE, 4)), (0, Decoded::Miss));
}

#[test]
fn b7_the_decoder_changes_its_generation_with_each_change() {
    let mut rig = placed(BASE, BASE + 0x1_0000);
    let before = rig.host.decoder().generation();
    rig.config_write(0x10, 4, BASE + 0x4000);
    assert!(before < rig.host.decoder().generation());
    assert_eq!(rig.host.decoder(), rig.function.decoder());
}
