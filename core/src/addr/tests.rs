//! Addresses and indexes at their limits, and as text.

use super::*;

fn bdf(text: &str) -> Result<Bdf, BdfError> {
    text.parse()
}

#[test]
fn bdf_with_segment() {
    assert_eq!(bdf("0001:02:1f.7"), Ok(Bdf { segment: 1, bus: 2, device: 31, function: 7 }));
}

#[test]
fn bdf_without_segment() {
    assert_eq!(bdf("04:00.0"), Ok(Bdf { segment: 0, bus: 4, device: 0, function: 0 }));
}

#[test]
fn bdf_device_above_31() {
    assert_eq!(bdf("00:20.0"), Err(BdfError::Device(0x20)));
}

#[test]
fn bdf_function_above_7() {
    assert_eq!(bdf("00:1f.8"), Err(BdfError::Function(8)));
}

#[test]
fn bdf_with_sign_is_refused() {
    assert_eq!(bdf("00:+4.0"), Err(BdfError::Shape));
}

#[test]
fn bdf_in_other_letters_is_refused() {
    assert_eq!(bdf("00:é4.0"), Err(BdfError::Shape));
}

#[test]
fn bdf_empty_is_refused() {
    assert_eq!(bdf(""), Err(BdfError::Shape));
}

#[test]
fn bdf_has_one_to_so_many_digits_a_part() {
    for text in ["00:04.", "00:.0", ":04.0", ":00:04.0", "00:04.00", "00:004.0", "000:04.0", "00000:00:04.0"]
    {
        assert_eq!(bdf(text), Err(BdfError::Shape), "{text}");
    }
    assert_eq!(bdf("1:4.2"), Ok(Bdf { segment: 0, bus: 1, device: 4, function: 2 }));
}

#[test]
fn bdf_is_told_in_its_parts_and_written_as_it_is_read() {
    let place = Bdf::new(0x10, 0x2a, 0x1b, 6).unwrap();
    assert_eq!((place.segment(), place.bus(), place.device(), place.function()), (0x10, 0x2a, 0x1b, 6));
    assert_eq!(bdf(&std::format!("{place}")), Ok(place));
}

#[test]
fn numbers_are_written_as_people_look_them_up() {
    let (offset, vector) = (ConfigOffset::low(0x4a), VectorIndex::new(17).unwrap());
    assert_eq!(std::format!("{offset} {offset:?} {vector}"), "0x04a ConfigOffset(0x04a) 17");
    let address = GuestAddr::new(0xfee0_0000);
    assert_eq!(
        std::format!("{address} {address:?} {address:x}"),
        "0xfee00000 GuestAddr(0xfee00000) fee00000"
    );
    assert_eq!(std::format!("{} {}", BarIndex::BARS[5], BarIndex::ROM), "BAR5 ROM");
}

#[test]
fn bdf_has_32_devices_of_8_functions() {
    assert_eq!((Bdf::new(0, 0, 32, 0), Bdf::new(0, 0, 0, 8)), (None, None));
    assert!(Bdf::new(0, 0, 31, 7).is_some());
}

#[test]
fn config_offset_ends_at_4095() {
    assert_eq!(ConfigOffset::new(4096), None);
}

#[test]
fn vector_index_ends_at_2047() {
    assert_eq!(VectorIndex::new(2048), None);
}

#[test]
fn page_size_is_a_power_of_two() {
    assert_eq!(PageSize::new(0x3000), None);
}

#[test]
fn hexadecimal_heeds_the_prefix_and_a_width_with_zeros() {
    let address = GuestAddr::new(0x1f);
    assert_eq!(
        std::format!("{address:x} {address:#x} {address:08x} {address:#010x} {address:#x}"),
        "1f 0x1f 0000001f 0x0000001f 0x1f"
    );
    assert_eq!(
        std::format!("{:x} {:016x}", GuestAddr::new(0), GuestAddr::new(u64::MAX)),
        "0 ffffffffffffffff"
    );
}
