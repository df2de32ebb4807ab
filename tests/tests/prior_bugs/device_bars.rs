//! Devices whose BARs contradict themselves, and kernels that offer odd parts of them for mmap.

use vfio_assign_core::fake::{MsixPlan, Shape};
use vfio_assign_core::{
    AssignedFunction, BarError, DescriptionError, Finding, MmapArea, PageSize, Vector, Window, WindowFinding,
};
use vfio_assign_tests::{BASE, Rig, bar};

/// Why a device of this shape is refused.
fn refused(shape: &Shape) -> BarError {
    let function =
        AssignedFunction::new(&shape.description(), [Vector::RESET; 0], [Window::default(); 8], |_| {});
    match function.map(drop) {
        Err(DescriptionError::Bars(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn wide_bar_at_5_is_refused_by_name() {
    let error = BarError::NoUpperHalf { bar: bar(5), value: 0xc };
    assert_eq!(refused(&Shape::new().wide_bar(bar(5), 0x1000)), error);
    assert_eq!(error.to_string(), "BAR5 reads 0x0000000c, a 64-bit BAR without an upper half");
}

#[test]
fn wide_bars_at_odd_indexes_are_pairs() {
    let mut rig = Rig::new(&Shape::new().wide_bar(bar(1), 0x4000).wide_bar(bar(3), 0x4000));
    rig.config_write(0x14, 8, 0x12_e000_0000);
    rig.config_write(0x1c, 8, 0x34_e000_0000);
    rig.config_write(4, 2, 2);
    assert_eq!(rig.windows(), [(1, 0x12_e000_0000, 0x12_e000_3fff), (3, 0x34_e000_0000, 0x34_e000_3fff)]);
    rig.write(0x34_e000_0010, 4, 5);
    assert_eq!((rig.read(0x34_e000_0010, 4), rig.read(0x12_e000_0010, 4)), (5, 0));
}

#[test]
fn reserved_bar_type_is_refused_by_name() {
    let mut shape = Shape::new().memory_bar(bar(2), 0x1000);
    shape.put(0x18, &[6]);
    assert_eq!(refused(&shape), BarError::ReservedType { bar: bar(2), value: 6 });
}

#[test]
fn region_of_size_0_is_an_absent_bar_whatever_its_register_says() {
    let mut shape = Shape::new().memory_bar(bar(1), 0x1000);
    shape.put(0x10, &[0x0c, 0, 0, 0xfe]);
    let mut rig = Rig::new(&shape);
    rig.config_write(0x10, 8, BASE << 32 | 0xffff_ffff);
    rig.config_write(4, 2, 2);
    assert_eq!(rig.config_read(0x10, 8), BASE << 32);
    assert_eq!(rig.windows(), [(1, BASE, BASE + 0xfff)]);
}

#[test]
fn register_with_hard_wired_flags_only_is_an_absent_bar() {
    let mut shape = Shape::new().memory_bar(bar(1), 0x1000);
    shape.put(0x18, &[0x08, 0, 0, 0]);
    let mut rig = Rig::new(&shape);
    rig.config_write(0x18, 4, 0xffff_ffff);
    assert_eq!((rig.findings.len(), rig.config_read(0x18, 4)), (0, 0));
}

#[test]
fn region_smaller_than_its_type_bits_is_refused() {
    let error = BarError::SizeTooSmall { bar: bar(0), size: 8 };
    assert_eq!(refused(&Shape::new().memory_bar(bar(0), 8)), error);
}

#[test]
fn size_that_is_no_power_of_two_is_refused_by_name() {
    let error = BarError::SizeNotPowerOfTwo { bar: bar(0), size: 0xf1_0000 };
    assert_eq!(refused(&Shape::new().memory_bar(bar(0), 0xf1_0000)), error);
}

#[test]
fn size_of_half_the_address_space_or_more_never_wraps() {
    let mut rig = Rig::new(&Shape::new().wide_bar(bar(0), 1 << 63));
    rig.config_write(4, 2, 2);
    for base in [0u64, 1 << 63, u64::MAX] {
        rig.config_write(0x10, 8, base);
        assert_eq!(rig.decoded(bar(0)), None, "{base:#x}");
    }
    assert_eq!(rig.config_read(0x10, 8), 1 << 63 | 0xc);
}

#[test]
fn last_page_of_the_address_space_can_be_decoded_to_its_end() {
    // The half of all-ones is taken for sizing, so that the last place is one below the top.
    let mut rig = Rig::new(&Shape::new().memory_bar(bar(0), 0x1000));
    rig.config_write(0x10, 4, 0xffff_e000);
    rig.config_write(4, 2, 2);
    assert_eq!(rig.decoded(bar(0)), Some((0xffff_e000, 0xffff_efff)));
    assert_eq!(rig.read(0xffff_effc, 8), 0xffff_ffff_0000_0000);
}

#[test]
fn io_bar_above_256_ports_is_a_finding_and_works() {
    let mut rig = Rig::new(&Shape::new().io_bar(bar(0), 0x400));
    assert_eq!(rig.findings, [Finding::LargeIoBar { bar: bar(0), size: 0x400 }]);
    rig.config_write(0x10, 4, 0xc000);
    rig.config_write(4, 2, 1);
    rig.port_write(0xc3fc, 4, 0x1122_3344);
    assert_eq!(rig.port_read(0xc3fc, 4), 0x1122_3344);
}

#[test]
fn io_bar_does_not_keep_the_device_from_being_assigned() {
    let mut rig = Rig::new(&Shape::new().io_bar(bar(0), 0x20).memory_bar(bar(1), 0x1000));
    rig.config_write(0x10, 8, BASE << 32 | 0xc000);
    rig.config_write(4, 2, 3);
    assert_eq!((rig.findings.len(), rig.windows()), (0, vec![(1, BASE, BASE + 0xfff)]));
}

#[test]
fn rom_of_size_0_reads_zero_and_decodes_nothing() {
    let mut shape = Shape::nvme(4);
    shape.put(0x30, &[1, 0, 0, 0xfe]);
    let mut rig = Rig::new(&shape);
    rig.config_write(0x30, 4, 0xffff_ffff);
    let sizing = rig.config_read(0x30, 4);
    rig.config_write(0x30, 4, BASE | 1);
    rig.config_write(4, 2, 2);
    assert_eq!((sizing, rig.read(BASE, 4)), (0, 0xffff_ffff));
}

fn area(offset: u64, size: u64) -> MmapArea {
    MmapArea { offset, size }
}

/// The windows of a 64 KiB BAR of which the kernel offers these areas, and what is odd about them; every byte of the
/// BAR is reached, by a window or a trap.
fn windows(areas: Vec<MmapArea>) -> (Vec<(u64, u64)>, Vec<Finding>) {
    let shape = Shape::new().memory_bar(bar(0), 0x1_0000).mmap(bar(0), areas);
    let mut rig = Rig::started(&shape);
    for at in (0..0x1_0000).step_by(0x800) {
        rig.write(BASE + at, 4, at | 1);
        assert_eq!(rig.read(BASE + at, 4), at | 1);
    }
    let found = rig.windows().into_iter().map(|(_, first, last)| (first - BASE, last - BASE)).collect();
    (found, rig.findings)
}

fn outside(offset: u64, size: u64) -> Finding {
    Finding::Window(WindowFinding::AreaOutside { bar: bar(0), offset, size })
}

#[test]
fn sparse_areas_in_disorder_are_all_taken() {
    let found = windows(vec![area(0x8000, 0x2000), area(0, 0x1000), area(0x4000, 0x1000)]);
    assert_eq!(found, (vec![(0, 0xfff), (0x4000, 0x4fff), (0x8000, 0x9fff)], vec![]));
}

#[test]
fn sparse_areas_that_overlap_make_disjoint_windows() {
    let found = windows(vec![area(0, 0x3000), area(0x2000, 0x2000), area(0x1000, 0x1000)]);
    assert_eq!(found, (vec![(0, 0x2fff), (0x3000, 0x3fff)], vec![]));
}

#[test]
fn sparse_area_that_is_not_aligned_gives_its_whole_pages() {
    assert_eq!(windows(vec![area(0x800, 0x2000)]), (vec![(0x1000, 0x1fff)], vec![]));
    assert_eq!(windows(vec![area(0x1010, 0xff0)]), (vec![], vec![]));
}

#[test]
fn sparse_area_that_is_empty_is_a_finding() {
    assert_eq!(
        windows(vec![area(0, 0), area(0x1000, 0x1000)]),
        (vec![(0x1000, 0x1fff)], vec![outside(0, 0)])
    );
}

#[test]
fn sparse_area_outside_the_bar_is_a_finding() {
    let areas = vec![area(0xf000, 0x2000), area(u64::MAX - 0xfff, 0x2000), area(0, 0x1000)];
    let findings = vec![outside(0xf000, 0x2000), outside(u64::MAX - 0xfff, 0x2000)];
    assert_eq!(windows(areas), (vec![(0, 0xfff)], findings));
}

#[test]
fn hundreds_of_sparse_areas_fill_the_storage_and_the_rest_is_trapped() {
    let areas = (0..400).map(|index| area(index * 0x2000, 0x1000)).collect();
    let shape = Shape::new().memory_bar(bar(0), 0x40_0000).mmap(bar(0), areas);
    let mut rig = Rig::started(&shape);
    assert_eq!(rig.findings, [Finding::Window(WindowFinding::StorageFull(bar(0)))]);
    assert_eq!(rig.windows().len(), 32);
    rig.write(BASE + 399 * 0x2000, 4, 3);
    assert_eq!(rig.read(BASE + 399 * 0x2000, 4), 3);
}

#[test]
fn bar_smaller_than_a_page_is_trapped_and_its_neighbour_on_the_page_too() {
    let shape = Shape::new().memory_bar(bar(0), 0x800).memory_bar(bar(1), 0x800);
    let mut rig = Rig::new(&shape);
    rig.config_write(0x10, 8, (BASE + 0x800) << 32 | BASE);
    rig.config_write(4, 2, 2);
    rig.write(BASE + 0x7fc, 8, 0x2222_2222_1111_1111);
    assert_eq!(rig.windows(), []);
    assert_eq!((rig.read(BASE + 0x7fc, 4), rig.read(BASE + 0x800, 4)), (0x1111_1111, 0x2222_2222));
}

#[test]
fn table_page_is_cut_out_by_the_host_s_page_size() {
    for (page_size, last) in
        [(PageSize::SIZE_4K, 0x1_1fff), (PageSize::SIZE_16K, 0xffff), (PageSize::SIZE_64K, 0xffff)]
    {
        let plan = MsixPlan { vectors: 4, table: (bar(0), 0x1_2000), pba: (bar(0), 0x1_3000) };
        let mut shape = Shape::new().memory_bar(bar(0), 0x2_0000).msix(plan);
        shape.page_size = page_size;
        let rig = Rig::started(&shape);
        assert_eq!(rig.windows()[0], (0, BASE, BASE + last), "{page_size:?}");
        assert!(
            rig.windows().iter().all(|(_, first, last)| last - BASE < 0x1_2000 || first - BASE >= 0x1_4000)
        );
    }
}
