//! W: the mapping plan.

use vfio_assign_core::fake::Shape;
use vfio_assign_core::{Finding, MmapArea, PageSize, WindowFinding};
use vfio_assign_tests::{BASE, Rig, bar};

fn area(offset: u64, size: u64) -> MmapArea {
    MmapArea { offset, size }
}

/// The windows of a started function with these areas, relative to the BAR's first byte.
fn plan(shape: Shape) -> Vec<(u64, u64)> {
    Rig::started(&shape).windows().into_iter().map(|(_, first, last)| (first - BASE, last - BASE)).collect()
}

#[test]
fn w1_registers_are_mapped_and_msix_is_not() {
    assert_eq!(plan(Shape::nvme(4)), [(0, 0x1fff)]);
}

#[test]
fn w1_a_sparse_list_is_taken_as_it_is() {
    let shape = Shape::nvme(4).mmap(bar(0), vec![area(0, 0x1000)]);
    assert_eq!(plan(shape), [(0, 0xfff)]);
}

#[test]
fn w1_large_pages_leave_less() {
    let mut shape = Shape::nvme(1024);
    shape.page_size = PageSize::SIZE_16K;
    // The table starts at 0x2000: no whole page lies before it.
    assert_eq!(plan(shape), []);
}

#[test]
fn w2_both_ends_of_the_table_are_rounded_outward() {
    let mut shape = Shape::nvme(65).mmap(bar(0), vec![area(0, 0x4000)]);
    shape.put(0x4c, &0x1ff0u32.to_le_bytes());
    assert_eq!(plan(shape), [(0, 0xfff)]);
}

#[test]
fn w2_a_relocated_pba_is_not_mapped_either() {
    let mut shape = Shape::nvme(256);
    // The table fills 0x2000 to 0x2fff; a Pending Bit Array past the end goes behind it.
    shape.put(0x50, &0x0010_0000u32.to_le_bytes());
    assert_eq!(plan(shape), [(0, 0x1fff)]);
}

#[test]
fn w2_the_pages_of_a_hidden_table_are_not_mapped() {
    let mut shape = Shape::nvme(4);
    // The table runs past the end of the BAR: MSI-X is hidden, and hardware still has a part of it.
    shape.put(0x4c, &0x3ff0u32.to_le_bytes());
    shape.put(0x50, &0x1000u32.to_le_bytes());
    assert_eq!(plan(shape), [(0, 0xfff), (0x2000, 0x2fff)]);
}

#[test]
fn w2_areas_in_disorder_make_disjoint_windows() {
    let areas = vec![area(0x1800, 0x800), area(0x1000, 0x1000), area(0, 0x1000), area(0x800, 0x1000)];
    assert_eq!(plan(Shape::nvme(4).mmap(bar(0), areas)), [(0, 0xfff), (0x1000, 0x1fff)]);
}

#[test]
fn w2_areas_outside_and_empty_ones_are_findings() {
    let areas = vec![area(0x3000, 0x2000), area(0, 0), area(u64::MAX, 2), area(0, 0x1000)];
    let rig = Rig::unattached(&Shape::nvme(4).mmap(bar(0), areas));
    let outside = |offset, size| Finding::Window(WindowFinding::AreaOutside { bar: bar(0), offset, size });
    assert_eq!(rig.findings, [outside(0x3000, 0x2000), outside(0, 0), outside(u64::MAX, 2)]);
}

#[test]
fn w2_hundreds_of_areas_fill_the_storage_and_the_rest_is_trapped() {
    let areas = (0..500).map(|index| area(index * 0x2000, 0x1000)).collect();
    let shape = Shape::new().memory_bar(bar(0), 0x100_0000).mmap(bar(0), areas);
    let mut rig = Rig::unattached(&shape);
    rig.map_bar0();
    assert_eq!(rig.findings, [Finding::Window(WindowFinding::StorageFull(bar(0)))]);
    assert_eq!(rig.windows().len(), 32);
}

#[test]
fn w3_a_bar_smaller_than_a_page_is_trapped() {
    let mut rig = Rig::started(&Shape::new().memory_bar(bar(0), 0x800));
    rig.write(BASE + 0x10, 4, 7);
    assert_eq!((rig.windows(), rig.read(BASE + 0x10, 4)), (vec![], 7));
}

#[test]
fn w3_a_bar_smaller_than_a_large_page_is_trapped() {
    let mut shape = Shape::new().memory_bar(bar(0), 0x1000);
    shape.page_size = PageSize::SIZE_64K;
    assert_eq!(plan(shape), []);
}
