//! A: trapped access.

use vfio_assign_core::fake::{CallKind, Shape};
use vfio_assign_core::host::Step;
use vfio_assign_core::{Access, Bytes, GuestAddr, MmapArea, PhysBarOffset, Target, Width};
use vfio_assign_tests::{BASE, Rig, bar, message};

fn bar_read(offset: u64, width: Width) -> Step {
    Step::ReadBar { bar: bar(0), offset: PhysBarOffset::new(offset), width }
}

fn memory(address: u64) -> Target {
    Target::Memory(GuestAddr::new(address))
}

#[test]
fn a1_aligned_eight_bytes_are_one_access() {
    let mut rig = Rig::nvme(4);
    rig.read(BASE + 0x14, 4);
    rig.read(BASE + 0x28, 8);
    assert_eq!(rig.steps(), [bar_read(0x14, Width::Dword), bar_read(0x28, Width::Qword)]);
}

#[test]
fn a1_unaligned_access_becomes_aligned_pieces() {
    let mut rig = Rig::nvme(4);
    rig.read(BASE + 0x13, 8);
    assert_eq!(
        rig.steps(),
        [
            bar_read(0x13, Width::Byte),
            bar_read(0x14, Width::Dword),
            bar_read(0x18, Width::Word),
            bar_read(0x1a, Width::Byte)
        ]
    );
}

#[test]
fn a1_sixty_four_bytes_are_eight_accesses() {
    let mut rig = Rig::nvme(4);
    let data = Bytes::from_slice(&std::array::from_fn::<u8, 64, _>(|at| at as u8));
    rig.access(Access::Write { target: memory(BASE + 0x40), data });
    assert_eq!(rig.kinds(), [CallKind::WriteBar; 8]);
    let read = rig.access(Access::Read { target: memory(BASE + 0x40), size: 64 });
    assert_eq!(read, data);
}

#[test]
fn a1_more_than_sixty_four_bytes_are_cut() {
    let mut rig = Rig::nvme(4);
    assert_eq!(rig.access(Access::Read { target: memory(BASE), size: 65 }).len(), 64);
}

#[test]
fn a1_every_read_around_every_edge_is_made_of_its_bytes() {
    let mut shape = Shape::nvme(65);
    // Table at 0x2000 to 0x240f, Pending Bit Array behind it at 0x2410 to 0x241f.
    shape.put(0x50, &0x2410u32.to_le_bytes());
    let mut rig = Rig::started(&shape);
    for index in [0, 63, 64] {
        rig.program(index);
    }
    rig.write(BASE + 0x1ff8, 8, 0x0123_4567_89ab_cdef);
    rig.write(BASE + 0x2420, 8, 0xfedc_ba98_7654_3210);
    rig.write(BASE + 0x3ff8, 8, 0x1122_3344_5566_7788);
    for edge in [0x2000u64, 0x2410, 0x2420, 0x4000] {
        for at in edge - 20..edge + 20 {
            let bytes: Vec<u8> = (at..at + 16).map(|at| rig.read(BASE + at, 1) as u8).collect();
            for size in 1..=16 {
                let read = rig.access(Access::Read { target: memory(BASE + at), size });
                assert_eq!(read.as_slice(), &bytes[..size], "{size} bytes at {at:#x}");
            }
        }
    }
}

#[test]
fn a1_every_write_around_the_table_is_made_of_its_bytes() {
    let mut shape = Shape::nvme(2);
    shape.put(0x50, &0x2020u32.to_le_bytes());
    let rig = Rig::started(&shape);
    let data: [u8; 16] = std::array::from_fn(|at| 0xa1 + at as u8);
    let image = |rig: &mut Rig| (0x1fe0..0x2060).map(|at| rig.read(BASE + at, 1)).collect::<Vec<_>>();
    for at in 0x1ff0..0x2030u64 {
        for size in 1..=16 {
            let (mut whole, mut single) = (rig.clone(), rig.clone());
            let bytes = Bytes::from_slice(&data[..size]);
            whole.access(Access::Write { target: memory(BASE + at), data: bytes });
            for (at, byte) in (at..).zip(&data[..size]) {
                single.write(BASE + at, 1, u64::from(*byte));
            }
            assert_eq!(image(&mut whole), image(&mut single), "{size} bytes at {at:#x}");
        }
    }
}

#[test]
fn a1_an_access_across_two_bars_reaches_both() {
    let shape = Shape::new().memory_bar(bar(0), 0x1000).memory_bar(bar(1), 0x1000);
    let mut rig = Rig::new(&shape);
    rig.config_write(0x10, 8, (BASE + 0x1000) << 32 | BASE);
    rig.config_write(4, 2, 2);
    rig.write(BASE + 0xffc, 8, 0x2222_2222_1111_1111);
    assert_eq!((rig.read(BASE + 0xffc, 4), rig.read(BASE + 0x1000, 4)), (0x1111_1111, 0x2222_2222));
}

#[test]
fn a2_outside_every_bar_reads_all_ones_and_is_counted() {
    let mut rig = Rig::nvme(4);
    assert_eq!(rig.read(BASE + 0x3ffc, 8) >> 32, 0xffff_ffff);
    assert_eq!((rig.read(u64::MAX, 8), rig.read(0, 4)), (u64::MAX, 0xffff_ffff));
    assert_eq!(rig.function.counters().missed_bytes, 4 + 8 + 4);
}

#[test]
fn a2_failing_hardware_reads_all_ones_and_is_counted() {
    let mut rig = Rig::nvme(4);
    rig.host.faults.fail_nth(CallKind::ReadBar, 0);
    assert_eq!((rig.read(BASE + 0x10, 4), rig.function.counters().failed_reads), (0xffff_ffff, 1));
}

#[test]
fn a2_failing_hardware_drops_the_write_and_is_counted() {
    let mut rig = Rig::nvme(4);
    rig.host.faults.fail_nth(CallKind::WriteBar, 0);
    rig.write(BASE + 0x10, 4, 1);
    assert_eq!((rig.read(BASE + 0x10, 4), rig.function.counters().failed_forwards), (0, 1));
}

#[test]
fn a2_an_unplugged_device_reads_all_ones_everywhere() {
    let mut rig = Rig::nvme(4);
    rig.host.unplug();
    assert_eq!((rig.config_read(0, 4), rig.read(BASE, 8)), (0xffff_ffff, u64::MAX));
}

#[test]
fn a2_a_hole_that_is_not_mapped_is_trapped() {
    let shape = Shape::nvme(4).mmap(bar(0), vec![MmapArea { offset: 0, size: 0x1000 }]);
    let mut rig = Rig::started(&shape);
    assert_eq!(rig.windows(), [(0, BASE, BASE + 0xfff)]);
    rig.write(BASE + 0x1000, 4, 5);
    assert_eq!(rig.read(BASE + 0x1000, 4), 5);
}

#[test]
fn a2_the_table_is_not_the_device_s() {
    let mut rig = Rig::nvme(4);
    rig.program(1);
    assert_eq!((rig.read(rig.entry(1, 8), 4), rig.kinds()), (u64::from(message(1).data), vec![]));
}
