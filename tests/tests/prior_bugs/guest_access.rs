//! Guests that access registers and structures in every width, at every place, over every edge.

use vfio_assign_core::fake::{CallKind, Shape};
use vfio_assign_core::host::Step;
use vfio_assign_core::{Access, Bytes, ConfigOffset, GuestAddr, Target, Width};
use vfio_assign_tests::{BASE, Rig, message, vector};

fn memory(address: u64) -> Target {
    Target::Memory(GuestAddr::new(address))
}

fn read(rig: &mut Rig, target: Target, size: usize) -> Vec<u8> {
    rig.access(Access::Read { target, size }).as_slice().to_vec()
}

fn write(rig: &mut Rig, target: Target, data: &[u8]) {
    assert!(rig.access(Access::Write { target, data: Bytes::from_slice(data) }).is_empty());
}

/// A function with 65 vectors; the table is at 0x2000 to 0x240f, the Pending Bit Array right behind it to 0x241f.
fn function() -> Rig {
    let mut shape = Shape::nvme(65);
    shape.put(0x50, &0x2410u32.to_le_bytes());
    Rig::started(&shape)
}

/// Where something begins or ends, and what is of interest: registers, the table, the array, the end of the BAR.
const PLACES: [u64; 6] = [BASE, BASE + 0x1ffd, BASE + 0x2000, BASE + 0x2409, BASE + 0x241b, BASE + 0x3ff9];

/// An access of `size` bytes reads what its bytes read one by one, and writes what they write, at each of the places
/// and in configuration space.
fn length_works(size: usize) {
    let data: Vec<u8> = (0..size).map(|at| (0x21 + 7 * at) as u8).collect();
    let rig = function();
    let offsets = [0, 2, 4, 6, 0x0e, 0x11, 0x1e, 0x4a, 0x4b, 0xfc, 0xffd];
    let targets = PLACES.into_iter().map(memory).chain(offsets.map(Target::Config));
    for target in targets {
        let (mut whole, mut single) = (rig.clone(), rig.clone());
        write(&mut whole, target, &data);
        let next = |at: usize| match target {
            Target::Memory(first) => memory(first.get() + at as u64),
            Target::Config(first) => Target::Config(first + at as u32),
            Target::Port(_) => unreachable!("no place is a port"),
        };
        for (at, byte) in data.iter().enumerate() {
            write(&mut single, next(at), &[*byte]);
        }
        let bytes: Vec<u8> = (0..size).flat_map(|at| read(&mut single, next(at), 1)).collect();
        assert_eq!(read(&mut single, target, size), bytes, "{target:?}");
        assert_eq!(read(&mut whole, target, size), bytes, "{target:?}");
    }
}

#[test]
fn access_of_0_bytes_does_nothing() {
    let mut rig = function();
    for target in
        [memory(BASE), memory(BASE + 0x2000), memory(0), Target::Config(4), Target::Config(u32::MAX)]
    {
        write(&mut rig, target, &[]);
        assert_eq!(read(&mut rig, target, 0), []);
    }
    assert_eq!((rig.kinds(), rig.function.counters().missed_bytes), (vec![], 0));
}

#[test]
fn access_of_1_byte_works_everywhere() {
    length_works(1);
}

#[test]
fn access_of_2_bytes_works_everywhere() {
    length_works(2);
}

#[test]
fn access_of_3_bytes_works_everywhere() {
    length_works(3);
}

#[test]
fn access_of_4_bytes_works_everywhere() {
    length_works(4);
}

#[test]
fn access_of_5_bytes_works_everywhere() {
    length_works(5);
}

#[test]
fn access_of_8_bytes_works_everywhere() {
    length_works(8);
}

#[test]
fn access_of_16_bytes_works_everywhere() {
    length_works(16);
}

#[test]
fn access_of_32_bytes_works_everywhere() {
    length_works(32);
}

#[test]
fn access_of_64_bytes_works_everywhere() {
    length_works(64);
}

#[test]
fn qword_in_the_table_at_an_offset_that_is_no_multiple_of_4_is_answered() {
    let mut rig = function();
    rig.program(0);
    rig.program(1);
    // Address, data and control of entry 0, and the first bytes of entry 1.
    let bytes = [0, 0, 0xe0, 0xfe, 0, 0, 0, 0, 0, 0x40, 0, 0, 1, 0, 0, 0, 0, 0, 0xe0, 0xfe, 0, 0, 0, 0];
    for (at, window) in bytes.windows(8).enumerate() {
        let target = memory(rig.entry(0, at as u64));
        assert_eq!(read(&mut rig, target, 8), window, "{at}");
    }
    rig.write(rig.entry(0, 6), 8, 0x0000_aabb_ccdd_0000);
    assert_eq!((rig.read(rig.entry(0, 8), 4), rig.read(rig.entry(0, 12), 4)), (0xaabb_ccdd, 0));
}

#[test]
fn unaligned_access_reaches_hardware_in_aligned_pieces_and_each_byte_once() {
    let mut rig = function();
    rig.write(BASE + 0x1d, 8, 0x8877_6655_4433_2211);
    let pieces: Vec<_> = rig
        .steps()
        .into_iter()
        .map(|step| match step {
            Step::WriteBar { offset, width, value, .. } => (offset.get(), width, value),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        pieces,
        [
            (0x1d, Width::Byte, 0x11),
            (0x1e, Width::Word, 0x3322),
            (0x20, Width::Dword, 0x7766_5544),
            (0x24, Width::Byte, 0x88)
        ]
    );
}

#[test]
fn access_that_starts_before_the_table_is_split_at_its_first_byte() {
    let mut rig = function();
    rig.write(BASE + 0x1ffc, 8, 0xfee0_1000_1122_3344);
    assert_eq!(rig.kinds(), [CallKind::WriteBar]);
    assert_eq!((rig.read(BASE + 0x1ffc, 4), rig.read(rig.entry(0, 0), 4)), (0x1122_3344, 0xfee0_1000));
}

#[test]
fn access_across_the_table_s_end_is_split_there() {
    let mut shape = Shape::nvme(2);
    shape.put(0x50, &0x2040u32.to_le_bytes());
    let mut rig = Rig::started(&shape);
    rig.write(BASE + 0x201c, 8, 0x1122_3344_0000_0000);
    assert_eq!((rig.read(rig.entry(1, 12), 4), rig.read(BASE + 0x2020, 4)), (0, 0x1122_3344));
}

#[test]
fn access_across_the_edge_of_table_and_pba_reads_both() {
    let mut rig = function();
    rig.msix_control(true, false);
    rig.host.raise(vector(0));
    assert_eq!(rig.read(BASE + 0x240c, 8), 1 << 32 | 1);
}

#[test]
fn access_across_the_bar_s_end_reads_all_ones_past_it_and_drops_the_rest() {
    let mut rig = function();
    rig.write(BASE + 0x3ffc, 8, 0x5566_7788_1122_3344);
    assert_eq!(rig.read(BASE + 0x3ffc, 8), 0xffff_ffff_1122_3344);
    assert_eq!(rig.function.counters().missed_bytes, 8);
}

#[test]
fn access_across_a_page_s_end_is_one_access() {
    let mut rig = function();
    rig.write(BASE + 0xffc, 8, 0x5566_7788_1122_3344);
    rig.write(BASE + 0xfff, 2, 0xabcd);
    assert_eq!(rig.read(BASE + 0xffc, 8), 0x5566_77ab_cd22_3344);
}

#[test]
fn offset_of_all_ones_does_not_wrap_around() {
    let mut rig = function();
    let before = rig.config_read(0, 4);
    for size in [1, 2, 4, 8] {
        rig.config_write(u32::MAX, size, 0);
        rig.write(u64::MAX, size, 0);
        assert_eq!(rig.config_read(u32::MAX, size), u64::MAX >> (64 - 8 * size));
        assert_eq!(rig.read(u64::MAX, size), u64::MAX >> (64 - 8 * size));
    }
    assert_eq!((rig.config_read(0, 4), before), (before, 0x0010_1b36));
    assert_eq!(rig.config_read(0xffff, 4), 0xffff_ffff);
}

/// The writes to hardware's configuration space since the last time.
fn writes(rig: &mut Rig) -> Vec<(u16, Width)> {
    rig.steps()
        .into_iter()
        .filter_map(|step| match step {
            Step::WriteConfig { offset, width, .. } => Some((offset.get(), width)),
            _ => None,
        })
        .collect()
}

fn offset(at: u16) -> ConfigOffset {
    ConfigOffset::new(at).unwrap()
}

/// A device whose Status has bits that a write of one clears, the function decoding memory as a bus master.
fn with_status() -> Rig {
    let mut shape = Shape::nvme(4);
    shape.put(6, &[0x10, 0xf9]);
    Rig::started(&shape)
}

#[test]
fn byte_write_to_command_leaves_its_other_byte_and_status_alone() {
    let mut rig = with_status();
    rig.config_write(5, 1, 4);
    assert_eq!(rig.steps(), [Step::WriteConfig { offset: offset(5), width: Width::Byte, value: 4 }]);
    assert_eq!(rig.config_read(4, 4), 0xf910_0406);
}

#[test]
fn word_write_to_command_does_not_clear_status() {
    let mut rig = with_status();
    rig.config_write(4, 2, 0x407);
    assert_eq!(rig.config_read(4, 4), 0xf910_0407);
}

#[test]
fn dword_write_to_command_clears_the_status_bits_that_it_names() {
    let mut rig = with_status();
    rig.config_write(4, 4, 0x8100_0406);
    assert_eq!(rig.config_read(4, 4), 0x7810_0406);
}

#[test]
fn qword_write_over_command_writes_the_dword_behind_it_too() {
    let mut rig = with_status();
    rig.config_write(4, 8, 0x0000_0000_0000_0002);
    assert_eq!(writes(&mut rig), [(4, Width::Dword), (8, Width::Dword)]);
    assert_eq!(rig.config_read(4, 4), 0xf910_0002);
}

#[test]
fn write_over_status_and_the_next_register_leaves_command_alone() {
    let mut rig = with_status();
    rig.config_write(6, 4, 0);
    assert_eq!((rig.config_read(4, 4), rig.windows().len()), (0xf910_0006, 1));
}

#[test]
fn write_over_a_bar_and_its_neighbour_changes_both_and_reaches_no_hardware() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(0x12, 4, 0x0012_e000);
    assert_eq!((rig.config_read(0x10, 4), rig.config_read(0x14, 4)), (0xe000_000c, 0x12));
    assert_eq!(writes(&mut rig), []);
    // Header Type and BIST before it are hardware's.
    rig.config_write(0x0e, 4, 0x8000_0000);
    assert_eq!((rig.config_read(0x10, 4), writes(&mut rig)), (0xe000_800c, vec![(0x0e, Width::Word)]));
}

#[test]
fn dword_write_over_msix_control_turns_msix_on() {
    let mut rig = Rig::nvme(4);
    rig.program(2);
    rig.unmask(2);
    rig.config_write(Rig::MSIX, 4, 0x8000_0000);
    assert_eq!((rig.msix_bits(), rig.host.armed()), ((true, false), vec![vector(2)]));
    rig.config_write(Rig::MSIX, 4, 0x4003_0011);
    assert_eq!((rig.msix_bits(), rig.host.interrupts_on()), ((false, true), false));
}

#[test]
fn write_of_the_high_byte_of_msix_control_turns_msix_on() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::MSIX_CONTROL + 1, 1, 0x80);
    assert_eq!((rig.msix_bits(), rig.host.interrupts_on()), ((true, false), true));
}

#[test]
fn write_of_the_low_byte_of_msix_control_changes_nothing() {
    let mut rig = Rig::nvme(4);
    rig.msix_control(true, false);
    rig.config_write(Rig::MSIX_CONTROL, 1, 0xff);
    assert_eq!((rig.msix_bits(), rig.config_read(Rig::MSIX_CONTROL, 2)), ((true, false), 0x8003));
}

#[test]
fn write_over_msix_control_reaches_no_hardware_and_no_neighbour() {
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::MSIX_CONTROL, 8, 0xffff_ffff_ffff_8000);
    assert_eq!(rig.kinds(), [CallKind::EnableInterrupts]);
    assert_eq!((rig.config_read(0x4c, 4), rig.config_read(0x50, 4)), (0x2000, 0x3000));
}

#[test]
fn write_that_spans_two_policies_gives_each_register_its_own_bytes() {
    // Power Management is hardware's, MSI-X behind it is ours.
    let mut rig = Rig::nvme(4);
    rig.config_write(Rig::PMCSR + 1, 8, 0x00c0_0000_0000_0001);
    // Bytes 1 to 3 of PMCSR's dword; nothing of MSI-X at 0x48, nor of its table register at 0x4c.
    assert_eq!(writes(&mut rig), [(0x45, Width::Byte), (0x46, Width::Word)]);
    assert_eq!(rig.msix_bits(), (true, true));
}

#[test]
fn reserved_bits_of_vector_control_are_dropped_and_are_no_flags() {
    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.write(rig.entry(0, 12), 4, 0xffff_fffe);
    assert_eq!((rig.read(rig.entry(0, 12), 4), rig.kinds()), (0, vec![]));
    rig.host.raise(vector(0));
    assert_eq!(rig.delivered(), [0]);
}

#[test]
fn pba_write_of_every_width_changes_nothing_and_reaches_no_hardware() {
    let mut rig = Rig::nvme(65);
    rig.start_interrupts(65);
    rig.mask(64);
    rig.host.raise(vector(64));
    rig.steps();
    for size in 1..=8 {
        rig.write(rig.pba(0), size, u64::MAX);
        rig.write(rig.pba(64), size, 0);
    }
    assert_eq!(rig.kinds(), []);
    assert_eq!((rig.read(rig.pba(0), 8), rig.is_pending(64)), (0, true));
    rig.unmask(64);
    assert_eq!(rig.host.delivered(), [(vector(64), message(64))]);
}

#[test]
fn sixty_four_bytes_over_the_end_of_the_table_reach_every_entry_they_cover() {
    let mut rig = function();
    let mut data = [0; 64];
    for entry in data.chunks_mut(16) {
        entry[..8].copy_from_slice(&message(0).address.to_le_bytes());
        entry[8] = 0x41;
    }
    let first = memory(rig.entry(62, 0));
    write(&mut rig, first, &data);
    assert_eq!((rig.read(rig.entry(64, 8), 8), rig.read(rig.entry(62, 0), 8)), (0x41, message(0).address));
    assert_eq!(rig.read(rig.pba(0), 8), 0);
}
