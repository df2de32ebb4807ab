//! Devices whose MSI-X structures are not where, or not as large, as they should be.

use vfio_assign_core::fake::{FakeHost, MsixPlan, Shape};
use vfio_assign_core::{BarIndex, Finding, MsixFinding};
use vfio_assign_tests::{BASE, Rig, bar, message, vector};

/// A function with 32 KiB of memory in BAR 0, ports in BAR 1, nothing in BAR 2, 16 KiB of 64-bit memory in BARs 3
/// and 4, and these Table and PBA registers.
fn device(vectors: u16, table: u32, pba: u32) -> Shape {
    let bar0 = bar(0);
    let mut shape = Shape::new()
        .memory_bar(bar0, 0x8000)
        .io_bar(bar(1), 0x20)
        .wide_bar(bar(3), 0x4000)
        .msix(MsixPlan { vectors, table: (bar0, 0), pba: (bar0, 0) })
        .capability(0x09, &[4, 0x77]);
    shape.put(0x44, &table.to_le_bytes());
    shape.put(0x48, &pba.to_le_bytes());
    shape
}

/// BAR 0 at [`BASE`], BAR 3 behind it, everything on.
fn start(shape: &Shape) -> Rig {
    let mut rig = Rig::new(shape);
    rig.config_write(0x10, 4, BASE);
    rig.config_write(0x1c, 8, BASE + 0x8000);
    rig.config_write(4, 2, 7);
    rig.steps();
    rig
}

/// MSI-X is not offered, the reason is `finding`, and the rest of the device works.
fn hides_msix_and_keeps_the_device(shape: &Shape, finding: MsixFinding) {
    let mut rig = start(shape);
    assert_eq!(rig.findings, [Finding::Msix(finding)]);
    assert!(rig.function.msix().is_none());
    assert_eq!([rig.config_read(0x40, 4), rig.config_read(0x44, 8)], [0x4c00, 0]);
    assert_eq!(rig.config_read(0x4c, 4), 0x7704_0009);
    rig.config_write(0x42, 2, 0xc000);
    assert!(!rig.host.interrupts_on());
    rig.write(BASE + 0x100, 4, 0x1234_5678);
    rig.write(BASE + 0x8100, 4, 0x8765_4321);
    assert_eq!((rig.read(BASE + 0x100, 4), rig.read(BASE + 0x8100, 4)), (0x1234_5678, 0x8765_4321));
}

/// MSI-X is offered, the last vector works, pending bit included, and the first one besides it.
fn delivers(rig: &mut Rig, vectors: u16) {
    let table = rig.function.msix().unwrap().layout().table;
    let pba = rig.function.msix().unwrap().layout().pba;
    let at = |place: vfio_assign_core::TablePlace| {
        let base = if place.bar == BarIndex::BARS[0] { BASE } else { BASE + 0x8000 };
        base + place.span.first().get()
    };
    rig.config_write(0x42, 2, 0x8000);
    for index in [0, vectors - 1] {
        let entry = at(table) + 16 * u64::from(index);
        rig.write(entry, 8, message(index).address);
        rig.write(entry + 8, 8, u64::from(message(index).data));
        rig.write(entry + 12, 4, 1);
        rig.host.raise(vector(index));
        let pending = rig.read(at(pba) + u64::from(index / 64) * 8, 8);
        assert_eq!(pending, 1 << (index % 64), "pending bits of vector {index}");
        rig.write(entry + 12, 4, 0);
        assert_eq!(rig.host.take_delivered(), [(vector(index), message(index))]);
        assert_eq!(rig.read(at(pba) + u64::from(index / 64) * 8, 8), 0);
    }
}

#[test]
fn bir_6_hides_msix_and_is_not_the_rom() {
    let shape = device(4, 0x2006, 0x3000).rom(0x8000);
    hides_msix_and_keeps_the_device(&shape, MsixFinding::TableBir(6));
}

#[test]
fn bir_7_hides_msix_and_keeps_the_device() {
    hides_msix_and_keeps_the_device(&device(4, 0x2007, 0x3000), MsixFinding::TableBir(7));
}

#[test]
fn bir_naming_an_io_bar_hides_msix_and_keeps_the_device() {
    hides_msix_and_keeps_the_device(&device(1, 1, 0x3000), MsixFinding::TableBir(1));
}

#[test]
fn bir_naming_an_absent_bar_hides_msix_and_keeps_the_device() {
    hides_msix_and_keeps_the_device(&device(4, 2, 0x3000), MsixFinding::TableBir(2));
}

#[test]
fn bir_naming_an_upper_half_hides_msix_and_keeps_the_device() {
    hides_msix_and_keeps_the_device(&device(4, 4, 0x3000), MsixFinding::TableBir(4));
}

#[test]
fn pba_bir_that_names_no_memory_bar_gets_a_pba_beside_the_table() {
    for bir in [1, 2, 4, 6, 7] {
        let mut rig = start(&device(4, 0x2000, 0x3000 | bir));
        assert_eq!(rig.findings, [Finding::Msix(MsixFinding::PbaBir(bir as u8))]);
        assert_eq!(rig.config_read(0x48, 4), 0x2040);
        delivers(&mut rig, 4);
    }
}

#[test]
fn table_past_the_end_of_its_bar_hides_msix() {
    let finding = MsixFinding::TablePastEnd { bar: bar(0), offset: 0x7fd0, size: 0x40 };
    hides_msix_and_keeps_the_device(&device(4, 0x7fd0, 0x3000), finding);
}

#[test]
fn table_that_ends_with_its_bar_is_offered() {
    let mut rig = start(&device(4, 0x7fc0, 0x3000));
    assert_eq!(rig.findings, []);
    delivers(&mut rig, 4);
}

#[test]
fn table_whose_end_wraps_hides_msix() {
    let finding = MsixFinding::TablePastEnd { bar: bar(0), offset: 0xffff_fff8, size: 0x8000 };
    hides_msix_and_keeps_the_device(&device(2048, 0xffff_fff8, 0x3000), finding);
}

#[test]
fn pba_past_the_end_of_its_bar_is_put_beside_the_table() {
    let mut rig = start(&device(65, 0x2000, 0x7ff8));
    assert_eq!(rig.findings, [Finding::Msix(MsixFinding::PbaPastEnd { bar: bar(0), offset: 0x7ff8 })]);
    delivers(&mut rig, 65);
}

#[test]
fn pba_whose_end_wraps_is_put_beside_the_table() {
    let mut rig = start(&device(128, 0x2000, 0xffff_fff8));
    assert_eq!(rig.findings, [Finding::Msix(MsixFinding::PbaPastEnd { bar: bar(0), offset: 0xffff_fff8 })]);
    delivers(&mut rig, 128);
}

#[test]
fn pba_before_the_table_is_where_it_says() {
    let mut rig = start(&device(65, 0x3000, 0x2000));
    assert_eq!((rig.findings.len(), rig.config_read(0x48, 4)), (0, 0x2000));
    delivers(&mut rig, 65);
}

#[test]
fn pba_inside_the_table_is_moved_out_of_it() {
    let mut rig = start(&device(65, 0x2000, 0x2100));
    assert_eq!(rig.findings, [Finding::Msix(MsixFinding::PbaOverTable { bar: bar(0), offset: 0x2100 })]);
    assert_eq!(rig.config_read(0x48, 4), 0x2410);
    delivers(&mut rig, 65);
}

#[test]
fn pba_that_reaches_into_the_table_is_moved_out_of_it() {
    let mut rig = start(&device(65, 0x2000, 0x1ff8));
    assert_eq!(rig.findings, [Finding::Msix(MsixFinding::PbaOverTable { bar: bar(0), offset: 0x1ff8 })]);
    delivers(&mut rig, 65);
}

#[test]
fn device_that_changes_its_registers_after_it_was_opened_is_not_believed() {
    let honest = device(4, 0x2000, 0x3000);
    let mut rig = Rig::unattached(&honest);
    let mut liar = device(2048, 0x7ff7, 0xffff_fff8);
    liar.put(0x10, &[6, 0, 0, 0]);
    liar.put(0x40, &[0x11, 0x40]);
    rig.host = FakeHost::new(&liar);
    rig.function.attach(&mut rig.host);
    rig.config_write(0x10, 4, BASE);
    rig.config_write(4, 2, 6);
    assert_eq!(
        [rig.config_read(0x42, 2), rig.config_read(0x44, 4), rig.config_read(0x48, 4)],
        [3, 0x2000, 0x3000]
    );
    assert_eq!(rig.config_read(0x10, 4), BASE);
    rig.write(BASE + 0x2008, 4, 0x4242);
    assert_eq!(rig.read(BASE + 0x2008, 4), 0x4242);
    assert_eq!(rig.windows()[0], (0, BASE, BASE + 0x1fff));
}

#[test]
fn table_that_fills_its_bar_leaves_no_room_for_a_misplaced_pba_and_hides_msix() {
    let mut rig = start(&device(2048, 0, 0));
    let over = MsixFinding::PbaOverTable { bar: bar(0), offset: 0 };
    assert_eq!(rig.findings, [over, MsixFinding::NoRoomForPba(bar(0))].map(Finding::Msix));
    assert!(rig.function.msix().is_none());
    // Hardware still has its table there.
    assert!(rig.windows().iter().all(|window| window.0 == 3));
    rig.write(BASE + 0x8100, 4, 0x8765_4321);
    assert_eq!((rig.config_read(0x40, 1), rig.read(BASE + 0x8100, 4)), (0, 0x8765_4321));
}

#[test]
fn table_and_pba_in_one_page_keep_the_other_pages_mapped() {
    let mut rig = start(&device(4, 0x2000, 0x2800));
    let bar0: Vec<_> = rig.windows().into_iter().filter(|window| window.0 == 0).collect();
    assert_eq!(bar0, [(0, BASE, BASE + 0x1fff), (0, BASE + 0x3000, BASE + 0x7fff)]);
    rig.write(BASE + 0x2400, 4, 0x55aa);
    assert_eq!(rig.read(BASE + 0x2400, 4), 0x55aa);
    delivers(&mut rig, 4);
}

#[test]
fn pba_in_another_bar_at_the_same_offset_is_not_taken_for_the_table() {
    let mut rig = start(&device(4, 0x2000, 0x2003));
    assert_eq!((rig.findings.len(), rig.config_read(0x48, 4)), (0, 0x2003));
    rig.write(BASE + 0xa008, 8, u64::MAX);
    assert_eq!((rig.read(BASE + 0x2000, 8), rig.read(BASE + 0xa000, 8)), (0, 0));
    delivers(&mut rig, 4);
}

#[test]
fn table_that_crosses_a_page_from_mid_page_is_trapped_in_both() {
    let mut rig = start(&device(4, 0x1fe0, 0x4000));
    let bar0: Vec<_> = rig.windows().into_iter().filter(|window| window.0 == 0).collect();
    assert_eq!(
        bar0,
        [(0, BASE, BASE + 0xfff), (0, BASE + 0x3000, BASE + 0x3fff), (0, BASE + 0x5000, BASE + 0x7fff)]
    );
    delivers(&mut rig, 4);
}

/// A device with so many vectors: the last has its entry, its pending bit and its interrupt, and behind it is the
/// device.
fn count_works(vectors: u16) {
    let mut shape = Shape::nvme(vectors);
    // The Pending Bit Array right behind the table.
    let behind = 0x2000 + u32::from(vectors) * 16;
    shape.put(0x50, &behind.to_le_bytes());
    let mut rig = Rig::started(&shape);
    assert_eq!(rig.config_read(Rig::MSIX_CONTROL, 2), u64::from(vectors - 1));
    rig.start_interrupts(vectors);
    let last = vectors - 1;
    rig.mask(last);
    rig.host.raise(vector(last));
    assert!(rig.is_pending(last));
    rig.unmask(last);
    assert_eq!(rig.delivered(), [last]);
    let end = BASE + u64::from(behind) + u64::from(vectors.div_ceil(64)) * 8;
    rig.write(end, 4, 0x1111_2222);
    assert_eq!((rig.read(end, 4), rig.is_pending(last)), (0x1111_2222, false));
}

#[test]
fn count_of_1_vector_works() {
    count_works(1);
}

#[test]
fn count_of_2_vectors_works() {
    count_works(2);
}

#[test]
fn count_of_32_vectors_works() {
    count_works(32);
}

#[test]
fn count_of_33_vectors_works() {
    count_works(33);
}

#[test]
fn count_of_64_vectors_works() {
    count_works(64);
}

#[test]
fn count_of_65_vectors_works() {
    count_works(65);
}

#[test]
fn count_of_255_vectors_works() {
    count_works(255);
}

#[test]
fn count_of_256_vectors_works() {
    count_works(256);
}

#[test]
fn count_of_257_vectors_works() {
    count_works(257);
}

#[test]
fn count_of_2047_vectors_works() {
    count_works(2047);
}

#[test]
fn count_of_2048_vectors_works() {
    count_works(2048);
}

#[test]
fn pending_bits_past_vector_63_are_in_the_next_qword() {
    let mut rig = Rig::nvme(130);
    rig.start_interrupts(130);
    rig.msix_control(true, true);
    for index in [0, 63, 64, 129] {
        rig.host.raise(vector(index));
    }
    let first = rig.pba(0);
    assert_eq!([0, 8, 16].map(|at| rig.read(first + at, 8)), [1 << 63 | 1, 1, 2]);
    assert_eq!(rig.read(first + 4, 4), 1 << 31);
}
