//! Which register each dword is, of devices good and bad.

use super::*;

fn endpoint() -> [u8; 4096] {
    let mut bytes = [0; 4096];
    bytes[..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
    bytes[6] = 0x10;
    bytes
}

fn map(bytes: &[u8]) -> ConfigMap {
    ConfigMap::new(ConfigImage::new(bytes), &Options::default(), |_| {}).unwrap()
}

fn at(map: &ConfigMap, offset: u16) -> Option<Register> {
    map.register(ConfigOffset::new(offset).unwrap())
}

#[test]
fn plain_dword_is_hardware() {
    assert_eq!(at(&map(&endpoint()), 0x2c), Some(Register::Hardware));
}

#[test]
fn past_the_end_is_nothing() {
    assert_eq!(at(&map(&endpoint()[..256]), 0x100), None);
}

#[test]
fn msi_that_cannot_be_offered_is_hidden_and_its_link_kept() {
    let mut bytes = endpoint();
    bytes[0x34] = 0x50;
    bytes[0x50..0x54].copy_from_slice(&[0x05, 0x60, 0x80, 0x00]);
    let mut map = map(&bytes);
    map.hide_msi();
    assert_eq!(
        [0x50, 0x54, 0x5c, 0x60].map(|offset| at(&map, offset)),
        [
            Some(Register::HiddenHeader),
            Some(Register::Hidden),
            Some(Register::Hidden),
            Some(Register::Hardware)
        ]
    );
}

#[test]
fn msi_of_32_bits_has_data_after_the_address_and_no_masks() {
    let mut bytes = endpoint();
    bytes[0x34] = 0x50;
    bytes[0x50..0x54].copy_from_slice(&[0x05, 0x00, 0x00, 0x00]);
    assert_eq!(
        [0x50, 0x54, 0x58, 0x5c].map(|offset| at(&map(&bytes), offset)),
        [Register::MsiControl, Register::MsiAddress, Register::MsiData, Register::Hardware].map(Some)
    );
}

#[test]
fn msi_of_64_bits_with_masks_has_six_registers() {
    let mut bytes = endpoint();
    bytes[0x34] = 0x50;
    bytes[0x50..0x54].copy_from_slice(&[0x05, 0x00, 0x80, 0x01]);
    assert_eq!(
        [0x58, 0x5c, 0x60, 0x64, 0x68].map(|offset| at(&map(&bytes), offset)),
        [
            Register::MsiUpperAddress,
            Register::MsiData,
            Register::MsiMask,
            Register::MsiPending,
            Register::Hardware
        ]
        .map(Some)
    );
}

#[test]
fn overlapping_capability_does_not_take_a_rule_away() {
    let mut bytes = endpoint();
    bytes[0x34] = 0x50;
    bytes[0x50..0x54].copy_from_slice(&[0x11, 0x54, 0x00, 0x00]);
    bytes[0x54..0x58].copy_from_slice(&[0x05, 0x00, 0x00, 0x00]);
    assert_eq!(at(&map(&bytes), 0x54), Some(Register::MsixTable));
}

#[test]
fn sriov_is_hidden() {
    let mut bytes = endpoint();
    bytes[0x100..0x104].copy_from_slice(&0x1501_0010u32.to_le_bytes());
    let map = map(&bytes);
    assert_eq!(
        (at(&map, 0x100), at(&map, 0x13c), at(&map, 0x140)),
        (Some(Register::HiddenExtendedHeader), Some(Register::Hidden), Some(Register::Hardware))
    );
}

#[test]
fn resizable_bar_is_hidden_as_long_as_its_count_says() {
    let mut bytes = endpoint();
    bytes[0x100..0x104].copy_from_slice(&0x1501_0015u32.to_le_bytes());
    bytes[0x108] = 0x40;
    let map = map(&bytes);
    assert_eq!((at(&map, 0x110), at(&map, 0x114)), (Some(Register::Hidden), Some(Register::Hardware)));
}

#[test]
fn flr_bit_needs_the_capability() {
    let mut bytes = endpoint();
    bytes[0x34] = 0x80;
    bytes[0x80] = 0x10;
    let without = at(&map(&bytes), 0x88);
    bytes[0x87] = 0x10;
    assert_eq!((without, at(&map(&bytes), 0x88)), (Some(Register::Hardware), Some(Register::DeviceControl)));
}

#[test]
fn bridge_is_refused() {
    let mut bytes = endpoint();
    bytes[0xe] = 0x81;
    let map = ConfigMap::new(ConfigImage::new(&bytes), &Options::default(), |_| {});
    assert_eq!(map, Err(ConfigMapError::NotEndpoint(0x81)));
}

#[test]
fn absent_device_is_refused() {
    let map = ConfigMap::new(ConfigImage::new(&[0xff; 256]), &Options::default(), |_| {});
    assert_eq!(map, Err(ConfigMapError::Gone));
}
