//! S1: saved state. PRIOR-BUGS 18: state of another length, version, vector count, BAR layout; each byte flipped.

use vfio_assign_core::fake::CallKind::{self, Map};
use vfio_assign_core::fake::Shape;
use vfio_assign_core::{
    Access, BarIndex, Begin, BusMastering, Ids, Options, RestoreError, SaveError, SavedSection, Target,
};
use vfio_assign_tests::{Rig, sealed, vector};

/// Vectors 0 and 1 used, vector 1 masked and pending, stopped.
pub(crate) fn stopped(shape: &Shape) -> Rig {
    let mut rig = Rig::started(shape);
    rig.start_interrupts(2);
    rig.mask(1);
    rig.host.raise(vector(1));
    stop(&mut rig);
    rig
}

pub(crate) fn stop(rig: &mut Rig) {
    rig.function.stop(BusMastering::Kept, &mut rig.host);
}

pub(crate) fn saved(rig: &Rig) -> Vec<u8> {
    let mut bytes = vec![0xee; rig.function.saved_size()];
    assert_eq!(rig.function.save(&mut bytes), Ok(bytes.len()));
    bytes
}

/// The state of `shape` restored into a new function on a new host.
pub(crate) fn restored(shape: &Shape, bytes: &[u8]) -> Rig {
    let mut rig = Rig::new(shape);
    assert_eq!(rig.function.restore(bytes), Ok(()));
    rig
}

/// What restoring `bytes` into a function of `shape` says; it changes nothing.
fn refused(shape: &Shape, bytes: &[u8]) -> RestoreError {
    let mut rig = Rig::new(shape);
    let before = rig.function.clone();
    let error = rig.function.restore(bytes).expect_err("a state that must be refused");
    assert_eq!(rig.function, before, "{error}");
    error
}

/// The bytes with a change, and the checksum made right again.
fn forged(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    bytes.truncate(bytes.len() - 8);
    change(&mut bytes);
    sealed(bytes)
}

/// Where the bodies of the sections start, behind a header of 16 bytes and one of 8 each; and in the first of them,
/// behind 12 bytes of ids, what the guest has written, and the seven records of BARs, 24 bytes each.
const FUNCTION: usize = 16 + 8;
const POWER: usize = FUNCTION + 12 + 4;
const BARS: usize = POWER + 4;
const MSIX: usize = BARS + 7 * 24 + 8;

#[test]
fn s1_round_trip_is_exact() {
    for vectors in [1, 4, 65, 2048] {
        let shape = Shape::nvme(vectors);
        let bytes = saved(&stopped_with(&shape, vectors));
        let mut rig = restored(&shape, &bytes);
        stop(&mut rig);
        assert_eq!(saved(&rig), bytes, "{vectors} vectors");
    }
}

fn stopped_with(shape: &Shape, vectors: u16) -> Rig {
    let mut rig = Rig::started(shape);
    rig.start_interrupts(vectors.min(3));
    rig.mask(0);
    rig.host.raise(vector(0));
    stop(&mut rig);
    rig
}

#[test]
fn s1_size_is_what_the_buffer_must_have() {
    let rig = stopped(&Shape::nvme(4));
    let needed = rig.function.saved_size();
    let mut buffer = vec![0; needed - 1];
    let small = SaveError::BufferTooSmall { needed, given: needed - 1 };
    assert_eq!((rig.function.save(&mut buffer), needed), (Err(small), MSIX + 16 + 4 * 16 + 8));
}

#[test]
fn s1_a_larger_buffer_is_left_alone_behind_the_state() {
    let rig = stopped(&Shape::nvme(4));
    let mut buffer = vec![0xee; 1000];
    let size = rig.function.save(&mut buffer).unwrap();
    assert!(buffer[size..].iter().all(|byte| *byte == 0xee));
}

#[test]
fn s1_a_running_function_is_not_saved() {
    let rig = Rig::nvme(4);
    assert_eq!(rig.function.save(&mut [0; 1000]), Err(SaveError::Running));
}

#[test]
fn s1_a_function_amid_an_operation_is_not_saved_or_restored() {
    let mut rig = stopped(&Shape::nvme(4));
    let bytes = saved(&rig);
    let read = Access::Read { target: Target::Config(0), size: 4 };
    assert_eq!(rig.function.begin(read), Begin::Steps);
    let answers = (rig.function.save(&mut [0; 1000]), rig.function.restore(&bytes));
    assert_eq!(answers, (Err(SaveError::Busy), Err(RestoreError::InUse)));
}

#[test]
fn s1_a_new_function_amid_an_operation_is_not_restored() {
    let shape = Shape::nvme(4);
    let bytes = saved(&stopped(&shape));
    let mut rig = Rig::new(&shape);
    assert_eq!(rig.function.begin(Access::Read { target: Target::Config(0), size: 4 }), Begin::Steps);
    assert_eq!(rig.function.restore(&bytes), Err(RestoreError::InUse));
}

#[test]
fn s1_sections_have_the_numbers_that_they_always_had() {
    let bytes = saved(&stopped(&Shape::nvme(4).msi(2, true, true)));
    let numbers = [FUNCTION, MSIX, MSI].map(|body| u16::from_le_bytes([bytes[body - 8], bytes[body - 7]]));
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn s1_bytes_that_open_otherwise_are_no_state() {
    let bytes = saved(&stopped(&Shape::nvme(4)));
    for at in [0, 3, 10] {
        let other = forged(bytes.clone(), |bytes| bytes[at] ^= 1);
        assert_eq!(refused(&Shape::nvme(4), &other), RestoreError::NotSavedState, "byte {at}");
    }
}

#[test]
fn s1_a_device_that_is_gone_is_not_saved() {
    let mut rig = stopped(&Shape::nvme(4));
    rig.function.handle_gone();
    assert_eq!(rig.function.save(&mut [0; 1000]), Err(SaveError::Lost));
}

#[test]
fn s1_a_function_that_stands_in_the_host_is_not_restored() {
    let mut rig = stopped(&Shape::nvme(4));
    let bytes = saved(&rig);
    let standing = rig.function.restore(&bytes);
    rig.function.detach(&mut rig.host);
    assert_eq!((standing, rig.function.restore(&bytes)), (Err(RestoreError::InUse), Ok(())));
}

#[test]
fn s1_each_byte_changed_is_an_error() {
    let shape = Shape::nvme(2);
    let bytes = saved(&stopped(&shape));
    let rig = Rig::new(&shape);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            let mut function = rig.function.clone();
            assert!(function.restore(&bytes).is_err(), "byte {at} changed by {flip:#x}");
            assert_eq!(function, rig.function, "byte {at} changed by {flip:#x}");
        }
    }
}

#[test]
fn s1_each_truncation_is_an_error() {
    let shape = Shape::nvme(2);
    let bytes = saved(&stopped(&shape));
    for length in 0..bytes.len() {
        let short = if length < 16 {
            RestoreError::NotSavedState
        } else {
            RestoreError::Length { needed: bytes.len(), given: length }
        };
        assert_eq!(refused(&shape, &bytes[..length]), short);
    }
}

#[test]
fn s1_bytes_behind_the_state_are_an_error() {
    let shape = Shape::nvme(2);
    let mut bytes = saved(&stopped(&shape));
    let needed = bytes.len();
    bytes.push(0);
    assert_eq!(refused(&shape, &bytes), RestoreError::Length { needed, given: needed + 1 });
}

#[test]
fn s1_another_version_is_an_error() {
    let shape = Shape::nvme(2);
    let bytes = forged(saved(&stopped(&shape)), |bytes| bytes[8] = 2);
    assert_eq!(refused(&shape, &bytes), RestoreError::Version(2));
}

#[test]
fn s1_another_vector_count_is_an_error() {
    // The table has room, so that nothing else differs.
    let bytes = saved(&stopped(&Shape::nvme(4)));
    let error = RestoreError::Vectors { saved: 4, device: 5 };
    assert_eq!(refused(&Shape::nvme(5), &bytes), error);
}

#[test]
fn s1_another_table_place_is_an_error() {
    let mut shape = Shape::nvme(4);
    let bytes = saved(&stopped(&shape));
    shape.put(0x4c, &[0x00, 0x10]);
    assert_eq!(refused(&shape, &bytes), RestoreError::AnotherDevice);
}

#[test]
fn s1_another_bar_layout_is_an_error() {
    let shape = Shape::nvme(4);
    let bytes = saved(&stopped(&shape));
    let (bar0, bar2) = (BarIndex::BARS[0], BarIndex::BARS[2]);
    let mut narrow = shape.clone();
    narrow.put(0x10, &[0x08]);
    assert_eq!(refused(&narrow, &bytes), RestoreError::Bar(bar0));
    assert_eq!(refused(&shape.clone().wide_bar(bar0, 0x8000), &bytes), RestoreError::Bar(bar0));
    assert_eq!(refused(&shape.clone().io_bar(bar2, 0x20), &bytes), RestoreError::Bar(bar2));
    assert_eq!(refused(&shape.rom(0x800), &bytes), RestoreError::Bar(BarIndex::ROM));
}

#[test]
fn s1_another_device_of_the_same_layout_is_an_error() {
    let shape = Shape::nvme(4);
    let bytes = saved(&stopped(&shape));
    // Vendor ID, Device ID, Revision ID, the three bytes of Class Code, Subsystem Vendor ID, Subsystem ID.
    for at in [0x00, 0x02, 0x08, 0x09, 0x0a, 0x0b, 0x2c, 0x2e] {
        let mut other = shape.clone();
        other.put(at, &[0x77]);
        assert_eq!(refused(&other, &bytes), RestoreError::AnotherDevice, "byte {at:#x}");
    }
}

#[test]
fn s1_ids_that_the_guest_reads_are_those_that_count() {
    let shape = Shape::nvme(4);
    let ids = Ids { device: Some(0x1234), ..Ids::default() };
    let mut rig = Rig::with(&shape, Options { ids, ..Options::default() }).unwrap();
    stop(&mut rig);
    let bytes = saved(&rig);
    let mut other = shape.clone();
    other.put(0x02, &[0x34, 0x12]);
    assert_eq!(refused(&shape, &bytes), RestoreError::AnotherDevice);
    restored(&other, &bytes);
}

#[test]
fn s1_another_config_size_is_an_error() {
    let mut shape = Shape::nvme(4);
    let bytes = saved(&stopped(&shape));
    shape.config.truncate(256);
    assert_eq!(refused(&shape, &bytes), RestoreError::AnotherDevice);
}

#[test]
fn s1_a_device_without_msix_is_an_error_both_ways() {
    let with = Shape::nvme(4);
    let without = Shape::new().wide_bar(BarIndex::BARS[0], with.sizes[0]).power_management(0);
    let mut rig = Rig::started(&without);
    stop(&mut rig);
    let msix = RestoreError::Section(SavedSection::Msix);
    assert_eq!(refused(&with, &saved(&rig)), msix);
    assert_eq!(refused(&without, &saved(&stopped(&with))), msix);
}

#[test]
fn s1_values_that_no_function_writes_are_errors() {
    let shape = Shape::nvme(4);
    let bytes = saved(&stopped(&shape));
    let (function, msix) = (SavedSection::Function, SavedSection::Msix);
    let cases = [
        // The section's kind, and what is reserved in its header; a power state that there is none of; an address
        // bit below a BAR's size.
        (FUNCTION - 8, 2, function),
        (FUNCTION - 6, 1, function),
        (POWER, 4, function),
        (POWER + 1, 1, function),
        (BARS + 17, 0x01, function),
        // The section's length; a reserved bit of Message Control, of an address, of the flags.
        (MSIX - 4, 0x40, msix),
        (MSIX + 1, 0x10, msix),
        (MSIX + 16, 1, msix),
        (MSIX + 16 + 12, 4, msix),
    ];
    for (at, value, section) in cases {
        let bytes = forged(bytes.clone(), |bytes| bytes[at] = value);
        assert_eq!(refused(&shape, &bytes), RestoreError::Section(section), "byte {at} is {value}");
    }
}

#[test]
fn s1_a_sleep_that_the_device_does_not_have_is_an_error() {
    let mut shape = Shape::nvme(4);
    let mut rig = Rig::started(&shape);
    rig.config_write(Rig::PMCSR, 1, 1);
    stop(&mut rig);
    shape.put(0x43, &[0]);
    assert_eq!(refused(&shape, &saved(&rig)), RestoreError::Section(SavedSection::Function));
}

#[test]
fn s1_a_section_behind_the_last_is_an_error() {
    let shape = Shape::nvme(4);
    let bytes = forged(saved(&stopped(&shape)), |bytes| bytes.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(refused(&shape, &bytes), RestoreError::Section(SavedSection::Msix));
}

#[test]
fn s1_another_place_of_msi_is_an_error() {
    let shape = Shape::nvme(4).msi(2, true, true);
    let mut rig = Rig::started(&shape);
    stop(&mut rig);
    let other = Shape::nvme(4).capability(0x09, &[4, 0]).msi(2, true, true);
    assert_eq!(refused(&other, &saved(&rig)), RestoreError::AnotherDevice);
}

#[test]
fn l2_a_section_that_is_wrong_is_named() {
    let sections = [SavedSection::Function, SavedSection::Msix, SavedSection::Msi];
    let texts = sections.map(|section| RestoreError::Section(section).to_string());
    assert_eq!(
        texts,
        ["function", "MSI-X", "MSI"].map(|name| format!("the {name} section is not as it must be"))
    );
}

/// Where the body of MSI's section starts, behind MSI-X with four vectors.
const MSI: usize = MSIX + 16 + 4 * 16 + 8;

/// The state of MSI in use, with bytes of its section changed.
fn forged_msi(shape: &Shape, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut rig = Rig::started(shape);
    rig.program_msi(0x4140);
    rig.msi_control(true, 2);
    stop(&mut rig);
    forged(saved(&rig), |bytes| changes.iter().for_each(|(at, value)| bytes[MSI + at] = *value))
}

#[test]
fn s1_values_of_msi_that_no_function_writes_are_errors() {
    let (all, least) = (Shape::nvme(4).msi(2, true, true), Shape::nvme(4).msi(2, false, false));
    let wrong = RestoreError::Section(SavedSection::Msi);
    let cases: [(&Shape, &[(usize, u8)]); 9] = [
        // Message Control: more vectors than the device has, without its 64-bit address, a reserved bit.
        (&all, &[(2, 0xb5)]),
        (&all, &[(2, 0x25)]),
        (&all, &[(3, 0x03)]),
        // What is reserved; an address that is none of a dword's.
        (&all, &[(6, 1)]),
        (&all, &[(8, 2)]),
        // A vector that the device does not have: masked, pending, both.
        (&all, &[(16, 0x10)]),
        (&all, &[(20, 0x10)]),
        (&all, &[(16, 0x10), (20, 0x10)]),
        // An upper half of the address that there is no register for.
        (&least, &[(12, 1)]),
    ];
    for (shape, changes) in cases {
        assert_eq!(refused(shape, &forged_msi(shape, changes)), wrong, "{changes:x?}");
    }
    assert_eq!(refused(&least, &forged_msi(&least, &[(16, 1)])), wrong, "a mask without Mask Bits");
}

#[test]
fn s1_values_of_msi_that_a_function_writes_are_taken() {
    let shape = Shape::nvme(4).msi(2, true, true);
    let bytes = forged_msi(&shape, &[(4, 0x99), (8, 0x04), (12, 1), (16, 0x09), (20, 0x08)]);
    let mut rig = restored(&shape, &bytes);
    rig.settle();
    let registers = [4, 8, 12, 16, 20].map(|at| rig.config_read(Rig::MSI + at, 4));
    assert_eq!(registers, [0xfee0_0004, 1, 0x4199, 9, 8]);
}

#[test]
fn s1_a_device_without_msi_is_an_error_both_ways() {
    let (with, without) = (Shape::nvme(4).msi(2, true, true), Shape::nvme(4));
    let state = |shape: &Shape| {
        let mut rig = Rig::started(shape);
        stop(&mut rig);
        saved(&rig)
    };
    assert_eq!(refused(&with, &state(&without)), RestoreError::Section(SavedSection::Msi));
    assert!(matches!(refused(&without, &state(&with)), RestoreError::Section(_)));
}

/// Whether a function that this has happened to refuses a state as one that is in use.
fn is_in_use(rig: &Rig) -> bool {
    let bytes = saved(&stopped(&Shape::nvme(4)));
    rig.function.clone().restore(&bytes) == Err(RestoreError::InUse)
}

#[test]
fn s1_each_thing_that_stands_in_the_host_keeps_a_state_out() {
    let mut rig = Rig::new(&Shape::nvme(4));
    assert!(!is_in_use(&rig), "attached");
    rig.msix_control(true, false);
    assert!(is_in_use(&rig), "MSI-X on, and no vector wired");
    rig.msix_control(false, false);
    assert!(!is_in_use(&rig), "MSI-X off again");

    let mut rig = Rig::nvme(4);
    rig.start_interrupts(1);
    rig.host.faults.fail_next(CallKind::ReleaseVectors, 1);
    rig.msix_control(false, false);
    rig.config_write(4, 2, 0);
    assert!(is_in_use(&rig), "events that could not be given back");

    let mut rig = Rig::nvme(4);
    rig.config_write(4, 2, 0);
    assert!(!is_in_use(&rig), "decoding off");
    rig.host.faults.fail_next(Map, 1);
    rig.config_write(4, 2, 2);
    assert!(is_in_use(&rig), "trapped, and not mapped");

    let mut rig = Rig::nvme(4);
    rig.config_write(4, 2, 0);
    rig.host.faults.fail_next(CallKind::Trap, 1);
    rig.config_write(4, 2, 2);
    assert!(is_in_use(&rig), "mapped, and not trapped");
}
