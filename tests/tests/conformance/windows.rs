//! W: the mapping plan.

use vfio_assign_core::fake::{CallKind, MsixPlan, Shape};
use vfio_assign_core::host::Step;
use vfio_assign_core::{
    CapabilityChoice, CapabilityId, Decoded, DescriptionError, Exclusion, Finding, GuestBarOffset, MmapArea,
    Options, PageSize, PhysBarOffset, Relocation, RelocationError, Span, Width, WindowFinding,
};
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
fn w2_an_area_that_is_a_byte_too_long_is_a_finding() {
    let findings = |size| {
        let shape = Shape::new().memory_bar(bar(0), 0x4000).mmap(bar(0), vec![area(0, size)]);
        Rig::unattached(&shape).findings
    };
    let outside = WindowFinding::AreaOutside { bar: bar(0), offset: 0, size: 0x4001 };
    assert_eq!((findings(0x4000), findings(0x4001)), (vec![], vec![Finding::Window(outside)]));
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

/// A device of 8 KiB whose registers share the pages of the table and of the Pending Bit Array.
fn shared() -> Shape {
    let plan = MsixPlan { vectors: 4, table: (bar(0), 0x800), pba: (bar(0), 0x1c00) };
    Shape::new().wide_bar(bar(0), 0x2000).msix(plan)
}

fn with(shape: &Shape, options: Options<'_>) -> Rig {
    let mut rig = Rig::with(shape, options).unwrap();
    rig.map_bar0();
    rig
}

fn relocated(msix_mappable: bool, to: Relocation) -> Rig {
    let mut shape = shared();
    shape.msix_mappable = msix_mappable;
    with(&shape, Options { relocation: Some(to), ..Options::default() })
}

fn parts(rig: &Rig) -> Vec<(u64, u64)> {
    rig.windows().into_iter().map(|(_, first, last)| (first - BASE, last - BASE)).collect()
}

#[test]
fn w1_registers_that_share_their_pages_with_msix_are_trapped() {
    assert_eq!(plan(shared()), []);
}

#[test]
fn w1_msix_pages_that_the_kernel_maps_are_not_the_guest_s_either() {
    assert_eq!(plan(shared().msix_mappable()), []);
}

#[test]
fn w1_a_relocated_table_leaves_its_pages_to_registers() {
    assert_eq!(parts(&relocated(true, Relocation::Behind(bar(0)))), [(0, 0x1fff)]);
}

#[test]
fn w1_a_table_that_is_hidden_is_not_relocated_and_not_mapped() {
    let shape = shared().msix_mappable();
    let capabilities = &[CapabilityChoice { id: CapabilityId::Standard(0x11), hidden: true }];
    let relocation = Some(Relocation::Behind(bar(0)));
    assert_eq!(parts(&with(&shape, Options { capabilities, relocation, ..Options::default() })), []);
}

#[test]
fn w1_a_relocated_table_that_the_kernel_does_not_map_leaves_nothing() {
    assert_eq!(parts(&relocated(false, Relocation::Behind(bar(0)))), []);
}

#[test]
fn w1_the_guest_finds_a_relocated_table_in_a_larger_bar() {
    let mut rig = relocated(true, Relocation::Behind(bar(0)));
    assert_eq!((rig.config_read(0x44, 4), rig.config_read(0x48, 4)), (0x2000, 0x2040));
    rig.config_write(0x10, 8, u64::MAX);
    assert_eq!(rig.config_read(0x10, 8), 0xffff_ffff_ffff_c00c);
}

#[test]
fn w1_a_relocated_table_is_emulated_where_the_guest_finds_it() {
    let mut rig = relocated(true, Relocation::Behind(bar(0)));
    rig.steps();
    rig.write(BASE + 0x2008, 4, 0x77);
    assert_eq!((rig.read(BASE + 0x2008, 4), rig.read(BASE + 0x200c, 4)), (0x77, 1));
    assert_eq!((rig.kinds(), rig.decode(BASE + 0x2008, 4)), (vec![], Decoded::Function));
}

#[test]
fn w1_behind_the_device_s_last_byte_nobody_answers() {
    let mut rig = relocated(true, Relocation::Behind(bar(0)));
    rig.steps();
    rig.write(BASE + 0x2800, 8, 0);
    assert_eq!((rig.read(BASE + 0x2800, 8), rig.kinds()), (u64::MAX, vec![]));
    assert_eq!(rig.function.counters().missed_bytes, 16);
    assert_eq!(rig.decode(BASE + 0x2800, 4), Decoded::Function);
}

#[test]
fn w1_registers_before_a_relocated_table_are_the_device_s() {
    let mut rig = relocated(true, Relocation::Behind(bar(0)));
    rig.steps();
    rig.write(BASE + 0x1ffc, 8, 0x2222_2222_1111_1111);
    assert_eq!(rig.kinds(), [CallKind::WriteBar]);
    let offset = PhysBarOffset::new(0x1ff8);
    assert_eq!(rig.decode(BASE + 0x1ff8, 8), Decoded::Passthrough { bar: bar(0), offset });
}

#[test]
fn w1_pending_bits_of_a_relocated_array_are_the_device_s() {
    let mut rig = relocated(true, Relocation::Behind(bar(0)));
    rig.config_write(0x42, 2, 0x8000);
    rig.steps();
    rig.read(BASE + 0x2040, 8);
    let offset = PhysBarOffset::new(0x1c00);
    assert_eq!(rig.steps(), [Step::ReadBar { bar: bar(0), offset, width: Width::Qword }]);
}

#[test]
fn w1_a_table_relocated_into_an_unused_part_takes_its_page() {
    let shape = Shape::nvme(4).msix_mappable();
    let to = Relocation::At { bar: bar(0), offset: GuestBarOffset::new(0x1000) };
    let mut rig = with(&shape, Options { relocation: Some(to), ..Options::default() });
    assert_eq!(parts(&rig), [(0, 0xfff), (0x2000, 0x3fff)]);
    assert_eq!((rig.config_read(0x4c, 4), rig.config_read(0x50, 4)), (0x1000, 0x1040));
}

#[test]
fn w1_a_relocation_that_cannot_be_is_a_typed_error() {
    let relocation = Some(Relocation::Behind(bar(3)));
    let error = Rig::with(&shared(), Options { relocation, ..Options::default() }).err();
    assert_eq!(error, Some(DescriptionError::Relocation(RelocationError::NoBar(bar(3)))));
}

#[test]
fn w1_without_msix_there_is_nothing_to_relocate() {
    let shape = Shape::new().memory_bar(bar(0), 0x1000);
    let mut rig =
        with(&shape, Options { relocation: Some(Relocation::Behind(bar(0))), ..Options::default() });
    rig.config_write(0x10, 4, 0xffff_ffff);
    assert_eq!(rig.config_read(0x10, 4), 0xffff_f000);
}

#[test]
fn w1_what_is_excluded_is_trapped_in_whole_pages() {
    let part = Span::from_size(PhysBarOffset::new(0x17ff), 2);
    let unmapped = [Exclusion { bar: bar(0), part }];
    let shape = Shape::new().wide_bar(bar(0), 0x4000);
    let mut rig = with(&shape, Options { unmapped: &unmapped, ..Options::default() });
    assert_eq!(parts(&rig), [(0, 0xfff), (0x2000, 0x3fff)]);
    rig.write(BASE + 0x1000, 4, 5);
    assert_eq!(rig.read(BASE + 0x1000, 4), 5);
}

#[test]
fn w1_a_whole_bar_is_excluded() {
    let unmapped = [Exclusion { bar: bar(0), part: None }];
    let rig = with(&Shape::nvme(4), Options { unmapped: &unmapped, ..Options::default() });
    assert_eq!(parts(&rig), []);
}

#[test]
fn w1_every_page_size_makes_whole_pages_of_its_own() {
    let expected = [
        (PageSize::SIZE_4K, vec![(0, 0x7fff), (0x9000, 0x1_0fff), (0x1_2000, 0x3_ffff)]),
        (PageSize::SIZE_16K, vec![(0, 0x7fff), (0xc000, 0xffff), (0x1_4000, 0x3_ffff)]),
        (PageSize::SIZE_64K, vec![(0x2_0000, 0x3_ffff)]),
    ];
    let plan = MsixPlan { vectors: 16, table: (bar(0), 0x8000), pba: (bar(0), 0x1_1000) };
    for (page_size, windows) in expected {
        let mut shape = Shape::new().wide_bar(bar(0), 0x4_0000).msix(plan);
        shape.page_size = page_size;
        assert_eq!(self::plan(shape), windows, "{page_size:?}");
    }
}
