//! C: construction. F: configuration space.

use vfio_assign_core::fake::{CallKind, Shape};
use vfio_assign_core::host::Step;
use vfio_assign_core::{
    AssignedFunction, BarError, CapabilityFinding, ConfigMapError, ConfigOffset, DescriptionError, Finding,
    MsixFinding, Vector, Width, Window,
};
use vfio_assign_tests::{Rig, bar};

fn offset(offset: u16) -> ConfigOffset {
    ConfigOffset::new(offset).unwrap()
}

fn write(at: u16, width: Width, value: u32) -> Step {
    Step::WriteConfig { offset: offset(at), width, value }
}

fn read(at: u16, width: Width) -> Step {
    Step::ReadConfig { offset: offset(at), width }
}

fn assign(shape: &Shape) -> Result<(), DescriptionError> {
    let vectors = [Vector::RESET; 4];
    AssignedFunction::new(&shape.description(), vectors, [Window::default(); 4], |_| {}).map(|_| ())
}

#[test]
fn c3_both_sizes_of_configuration_space_will_do() {
    let mut short = Shape::nvme(4);
    short.config.truncate(256);
    let mut rig = Rig::new(&short);
    assert_eq!((rig.config_read(0xfc, 4), rig.config_read(0x100, 4)), (0, 0xffff_ffff));
}

#[test]
fn c3_a_header_and_no_more_will_do() {
    let mut shape = Shape::new();
    shape.config.truncate(64);
    assert_eq!(assign(&shape), Ok(()));
    shape.config.truncate(63);
    assert_eq!(assign(&shape), Err(DescriptionError::Config(ConfigMapError::TooSmall(63))));
}

#[test]
fn c4_a_bar_that_cannot_be_placed_is_an_error() {
    let shape = Shape::new().wide_bar(bar(5), 0x1000);
    let error = BarError::NoUpperHalf { bar: bar(5), value: 0xc };
    assert_eq!(assign(&shape), Err(DescriptionError::Bars(error)));
}

#[test]
fn c4_a_large_io_bar_is_a_finding() {
    let findings = |size| Rig::unattached(&Shape::new().io_bar(bar(0), size)).findings;
    assert_eq!(findings(512), [Finding::LargeIoBar { bar: bar(0), size: 512 }]);
    assert_eq!(findings(256), []);
}

#[test]
fn c4_masks_come_from_sizes_and_no_probe_is_made() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(0x10, 8, u64::MAX);
    assert_eq!(rig.config_read(0x10, 8), 0xffff_ffff_ffff_c00c);
    assert_eq!(rig.kinds(), []);
}

#[test]
fn c5_the_guest_starts_with_nothing_on() {
    let mut shape = Shape::nvme(4);
    shape.put(4, &[6, 4]);
    shape.put(0x10, &[0x0c, 0x00, 0x00, 0xfe]);
    let mut rig = Rig::new(&shape);
    assert_eq!((rig.config_read(0x10, 4), rig.config_read(4, 2), rig.msix_bits()), (0xc, 0, (false, false)));
    assert_eq!(rig.host.hardware_command().bits(), 0);
}

#[test]
fn c7_a_cycle_is_a_finding_and_no_hang() {
    let mut shape = Shape::nvme(4);
    shape.put(0x55, &[0x40]);
    assert_eq!(Rig::unattached(&shape).findings, [Finding::Capability(CapabilityFinding::Cycle(0x40))]);
}

#[test]
fn c7_an_unusable_table_hides_msix_and_nothing_else() {
    let mut shape = Shape::nvme(4);
    shape.put(0x4c, &[7]);
    let mut rig = Rig::new(&shape);
    assert_eq!(rig.findings, [Finding::Msix(MsixFinding::TableBir(7))]);
    assert_eq!([0x48, 0x49, 0x4a, 0x54].map(|at| rig.config_read(at, 1)), [0, 0x54, 0, 0x10]);
}

#[test]
fn c7_a_misplaced_pba_is_moved() {
    let mut shape = Shape::nvme(4);
    shape.put(0x50, &0x0010_0000u32.to_le_bytes());
    let mut rig = Rig::new(&shape);
    assert_eq!(rig.config_read(0x50, 4), 0x2040);
}

#[test]
fn f1_only_enabled_lanes_reach_hardware() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(0x0d, 1, 0x40);
    assert_eq!(rig.steps(), [write(0x0d, Width::Byte, 0x40)]);
}

#[test]
fn f1_an_unaligned_access_becomes_aligned_pieces() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_read(0x35, 7);
    assert_eq!(rig.steps(), [read(0x35, Width::Byte), read(0x36, Width::Word), read(0x38, Width::Dword)]);
}

#[test]
fn f1_a_command_write_does_not_clear_status() {
    let mut shape = Shape::nvme(4);
    shape.put(6, &[0x10, 0xf9]);
    let mut rig = Rig::new(&shape);
    rig.config_write(4, 2, 0xffff);
    assert_eq!(rig.config_read(6, 2), 0xf910);
}

#[test]
fn f1_every_read_is_made_of_its_bytes() {
    let mut shape =
        Shape::nvme(4).extended_capability(0x10, &[0xaa; 60]).extended_capability(0xb, &[0xbb; 12]);
    shape.put(0x80, &std::array::from_fn::<u8, 128, _>(|at| at as u8));
    let mut rig = Rig::new(&shape);
    let bytes: Vec<u8> = (0..4110).map(|at| rig.config_read(at, 1) as u8).collect();
    for at in 0..4100u32 {
        for size in 1..=8usize {
            let mut expected = [0; 8];
            expected[..size].copy_from_slice(&bytes[at as usize..][..size]);
            assert_eq!(rig.config_read(at, size), u64::from_le_bytes(expected), "{size} bytes at {at:#x}");
        }
    }
}

#[test]
fn f1_every_write_is_made_of_its_bytes() {
    let shape = Shape::nvme(4);
    let rig = Rig::new(&shape);
    let data = 0x8c00_0246_1234_8e5fu64;
    for at in 0..0x70u32 {
        for size in 1..=8usize {
            let (mut whole, mut single) = (rig.clone(), rig.clone());
            whole.config_write(at, size, data);
            for byte in 0..size {
                single.config_write(at + byte as u32, 1, data >> (8 * byte) & 0xff);
            }
            let image = |rig: &mut Rig| (0..64).map(|at| rig.config_read(4 * at, 4)).collect::<Vec<_>>();
            assert_eq!(image(&mut whole), image(&mut single), "{size} bytes at {at:#x}");
        }
    }
}

#[test]
fn f1_an_access_of_no_bytes_does_nothing() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(4, 0, 0);
    rig.config_read(4, 0);
    assert_eq!(rig.kinds(), []);
}

#[test]
fn f2_past_the_end_reads_all_ones() {
    let mut rig = Rig::new(&Shape::nvme(4));
    assert_eq!(rig.config_read(0xffe, 4), 0xffff_0000);
    assert_eq!(rig.function.counters().missed_bytes, 2);
}

#[test]
fn f2_a_failed_read_is_all_ones_and_counted() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.host.faults.fail_nth(CallKind::ReadConfig, 0);
    assert_eq!((rig.config_read(0, 4), rig.function.counters().failed_reads), (0xffff_ffff, 1));
}

#[test]
fn f2_a_failed_write_is_dropped_and_counted() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.host.faults.fail_nth(CallKind::WriteConfig, 0);
    rig.config_write(0x3c, 1, 5);
    assert_eq!((rig.config_read(0x3c, 1), rig.function.counters().failed_forwards), (0x0b, 1));
}

#[test]
fn f2_a_device_that_is_gone_reads_all_ones_without_a_call() {
    let mut rig = Rig::new(&Shape::nvme(4));
    assert!(!rig.function.is_gone());
    rig.function.handle_gone();
    assert!(rig.function.is_gone());
    assert_eq!((rig.config_read(0x10, 8), rig.kinds()), (u64::MAX, vec![]));
}

#[test]
fn f3_merged_bytes_come_from_both_sides() {
    let mut shape = Shape::nvme(4);
    shape.put(0x0e, &[0x80]);
    let mut rig = Rig::new(&shape);
    rig.config_write(0x0c, 1, 0x10);
    assert_eq!(rig.config_read(0x0c, 4), 0x10);
}

#[test]
fn f4_sizing_with_decode_off_makes_no_call() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(0x10, 4, 0xffff_ffff);
    rig.config_read(0x10, 4);
    rig.config_write(0x10, 4, 0xe000_0000);
    assert_eq!(rig.kinds(), []);
}

#[test]
fn f4_rom_sizing_reads_the_mask() {
    let mut rig = Rig::new(&Shape::new().rom(0x1_0000));
    rig.config_write(0x30, 4, 0xffff_f800);
    assert_eq!((rig.config_read(0x30, 4), rig.kinds()), (0xffff_0000, vec![]));
}

#[test]
fn f4_an_absent_bar_reads_zero() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(0x18, 4, 0xffff_ffff);
    assert_eq!((rig.config_read(0x18, 4), rig.kinds()), (0, vec![]));
}

#[test]
fn f4_command_reads_as_it_was_written_on_a_virtual_function() {
    let mut shape = Shape::nvme(4);
    shape.virtual_function = true;
    let mut rig = Rig::new(&shape);
    let before = rig.config_read(4, 2);
    rig.config_write(4, 2, 0x404);
    assert_eq!((before, rig.config_read(4, 2)), (0, 0x404));
}

#[test]
fn f4_command_is_told_as_far_as_it_is_the_guest_s() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(4, 2, 0x0546);
    assert_eq!(rig.function.command().bits(), 0x0406);
}

#[test]
fn f4_command_is_forwarded() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(4, 2, 0x446);
    assert_eq!((rig.host.hardware_command().bits(), rig.config_read(4, 2)), (0x446, 0x446));
}

#[test]
fn f5_msix_id_and_link_are_hardware_s_and_the_rest_is_ours() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(Rig::MSIX, 4, 0xffff_ffff);
    assert_eq!(rig.config_read(Rig::MSIX, 4), 0xc003_5411);
    assert_eq!((rig.config_read(0x4c, 4), rig.config_read(0x50, 4)), (0x2000, 0x3000));
    assert!(!rig.kinds().contains(&CallKind::WriteConfig));
}

#[test]
fn f6_hidden_capabilities_keep_the_chain_and_read_zero() {
    let mut shape = Shape::nvme(4)
        .capability(
            0x05,
            &[0x80, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
        )
        .capability(0x09, &[4, 0xab]);
    shape.put(0x0e, &[0x80]);
    shape.carried[1] = false;
    let mut rig = Rig::new(&shape);
    // MSI is at 0x90, after the 60 bytes of PCI Express.
    assert_eq!(rig.config_read(0x90, 4), 0xa800);
    assert_eq!((rig.config_read(0x94, 8), rig.config_read(0x9c, 8), rig.config_read(0xa4, 4)), (0, 0, 0));
    assert_eq!((rig.config_read(0xa8, 4), rig.config_read(0x0e, 1)), (0xab04_0009, 0));
}

#[test]
fn f6_hidden_capabilities_take_no_write() {
    let mut shape = Shape::nvme(4).capability(0x05, &[0; 22]);
    shape.carried[1] = false;
    let mut rig = Rig::new(&shape);
    rig.config_write(0x90, 8, u64::MAX);
    assert_eq!((rig.config_read(0x90, 1), rig.kinds()), (0, vec![]));
}

#[test]
fn f6_hidden_extended_capabilities_keep_the_chain_and_read_zero() {
    for (id, body) in [(0x10, 60), (0x0e, 4), (0x0f, 4), (0x13, 12), (0x1b, 4)] {
        let shape =
            Shape::nvme(4).extended_capability(id, &vec![0xee; body]).extended_capability(0x0b, &[7; 8]);
        let mut rig = Rig::new(&shape);
        let next = 0x104 + body as u32;
        assert_eq!(rig.config_read(0x100, 4), u64::from(next) << 20, "{id:#x}");
        assert!((0x104..next).all(|at| rig.config_read(at, 1) == 0), "{id:#x}");
        assert_eq!(rig.config_read(next, 4), 0x0001_000b, "{id:#x}");
    }
}

#[test]
fn f6_resizable_bar_is_hidden_as_long_as_it_is() {
    // Two BARs: a capability register each, and the count in the first control register.
    let body = [1, 1, 1, 1, 0x40, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4];
    let shape = Shape::nvme(4).extended_capability(0x15, &body).extended_capability(0x0b, &[7; 8]);
    let mut rig = Rig::new(&shape);
    assert_eq!([0x104, 0x108, 0x10c, 0x110].map(|at| rig.config_read(at, 4)), [0; 4]);
    assert_eq!(rig.config_read(0x114, 4), 0x0001_000b);
}

#[test]
fn f6_a_pin_that_is_not_carried_is_hidden() {
    let mut shape = Shape::nvme(4).pin();
    shape.carried[0] = false;
    assert_eq!(Rig::new(&shape).config_read(0x3c, 4), 0x0000_000b);
}

#[test]
fn f8_an_offset_of_another_function_does_nothing() {
    let mut rig = Rig::new(&Shape::nvme(4));
    rig.config_write(0x1004, 2, 7);
    rig.config_write(0xffff_fffc, 8, 7);
    assert_eq!((rig.config_read(4, 2), rig.config_read(0xffff_ffff, 8)), (0, u64::MAX));
}

#[test]
fn c7_storage_for_fewer_vectors_than_the_device_has_hides_msix() {
    let shape = Shape::nvme(5);
    let made = |storage: usize| {
        let mut findings = Vec::new();
        let (vectors, windows) = (vec![Vector::RESET; storage], vec![Window::default(); 8]);
        let function =
            AssignedFunction::new(&shape.description(), vectors, windows, |found| findings.push(found))
                .unwrap();
        (function.msix().map(|msix| msix.count()), findings)
    };
    let finding = Finding::Msix(MsixFinding::StorageTooSmall { device: 5, storage: 4 });
    assert_eq!((made(4), made(5)), ((None, vec![finding]), (Some(5), vec![])));
}
