//! What of a configuration space is shape, and what is not: addresses, messages, serial numbers, logs of errors.

use vfio_assign_core::regs::{capability, header, msi};
use vfio_assign_core::{ConfigImage, ConfigOffset};

/// What a capability holds besides its shape: bytes from its first one on that are set to zero.
const STANDARD: [(u8, &[(u16, u16)]); 2] = [
    // PME status and the state that it is in.
    (capability::POWER_MANAGEMENT, &[(4, 4)]),
    // The address register and the data behind it: product data are the device's own.
    (capability::VITAL_PRODUCT_DATA, &[(2, 6)]),
];

/// The same of extended capabilities.
const EXTENDED: [(u16, &[(u16, u16)]); 3] = [
    // Both statuses, and the header of what failed.
    (capability::EXTENDED_AER, &[(0x04, 4), (0x10, 4), (0x1c, 16)]),
    // The serial number.
    (capability::EXTENDED_DSN, &[(4, 8)]),
    // Which virtual functions are on, and how many.
    (capability::EXTENDED_SRIOV, &[(0x08, 2), (0x10, 2)]),
];

/// Where an SR-IOV capability has the BARs of virtual functions: PCI Express Base 5.0, 9.3.3.14.
const VF_BARS: u16 = 0x24;

/// Extended capabilities of vendors' own: PCI Express Base 5.0, 7.9.5 and 7.9.6.
const VENDOR_SPECIFIC: u16 = 0x000b;
const DESIGNATED_VENDOR_SPECIFIC: u16 = 0x0023;

/// What of an extended capability says who made the device: the id of its virtual functions, of a vendor's own
/// capability, and of one that vendors share.
const IDS: [(u16, &[(u16, u16)]); 3] = [
    (capability::EXTENDED_SRIOV, &[(0x1a, 2)]),
    (VENDOR_SPECIFIC, &[(4, 2)]),
    (DESIGNATED_VENDOR_SPECIFIC, &[(4, 2), (8, 2)]),
];

/// No_Soft_Reset of PMCSR, which says what a reset does.
const NO_SOFT_RESET: u8 = 0x08;

/// Takes out what is not shape.
pub(crate) fn scrub(config: &mut [u8]) {
    let standard: Vec<_> = ConfigImage::new(config).capabilities().flatten().collect();
    let extended: Vec<_> = ConfigImage::new(config).extended_capabilities().flatten().collect();
    // Command, and of Status the errors seen: the low half says what there is.
    clear(config, header::COMMAND, 0, 2);
    clear(config, header::STATUS, 1, 1);
    // Cache line size and latency timer, BARs but for their types, the ROM's address, the interrupt line.
    clear(config, header::HEADER_TYPE_DWORD, 0, 2);
    clear_bars(config, header::BAR0.get().into());
    clear(config, header::ROM, 0, 4);
    clear(config, header::INTERRUPT_LINE, 0, 1);
    for found in standard {
        if found.id == capability::MSI {
            clear_msi(config, found.offset);
        }
        if found.id == capability::MSIX {
            // Enable and Function Mask.
            keep(config, found.offset, 3, 0x07);
        }
        let soft = byte(config, found.offset, 4) & NO_SOFT_RESET;
        for (_, runs) in STANDARD.iter().filter(|(id, _)| *id == found.id) {
            runs.iter().for_each(|(first, count)| clear(config, found.offset, *first, *count));
        }
        if found.id == capability::POWER_MANAGEMENT
            && let Some(pmcsr) = config.get_mut(usize::from(found.offset.get()) + 4)
        {
            *pmcsr = soft;
        }
    }
    for found in extended {
        if found.id == capability::EXTENDED_SRIOV {
            clear_bars(config, usize::from(found.offset.get() + VF_BARS));
        }
        for (_, runs) in EXTENDED.iter().filter(|(id, _)| *id == found.id) {
            runs.iter().for_each(|(first, count)| clear(config, found.offset, *first, *count));
        }
    }
}

/// Takes out who made the device and what it is.
pub(crate) fn without_ids(config: &mut [u8]) {
    // 0xffff would say that there is no device.
    for at in [header::ID, header::SUBSYSTEM] {
        clear(config, at, 0, 4);
    }
    clear(config, header::REVISION_AND_CLASS, 0, 1);
    let extended: Vec<_> = ConfigImage::new(config).extended_capabilities().flatten().collect();
    for found in extended {
        for (_, runs) in IDS.iter().filter(|(id, _)| *id == found.id) {
            runs.iter().for_each(|(first, count)| clear(config, found.offset, *first, *count));
        }
    }
}

fn clear(config: &mut [u8], at: ConfigOffset, first: u16, count: u16) {
    let first = usize::from(at.get()) + usize::from(first);
    config.iter_mut().skip(first).take(usize::from(count)).for_each(|byte| *byte = 0);
}

fn keep(config: &mut [u8], at: ConfigOffset, offset: usize, mask: u8) {
    if let Some(byte) = config.get_mut(usize::from(at.get()) + offset) {
        *byte &= mask;
    }
}

fn byte(config: &[u8], at: ConfigOffset, offset: usize) -> u8 {
    config.get(usize::from(at.get()) + offset).copied().unwrap_or(0)
}

/// Keeps the types of the six BARs from a place on.
fn clear_bars(config: &mut [u8], first: usize) {
    for bar in 0..6 {
        clear_bar(config, first, first + 4 * bar);
    }
}

/// Keeps a BAR's type. The upper half of a wide one is an address as a whole.
fn clear_bar(config: &mut [u8], first: usize, at: usize) {
    let upper = at > first && {
        let below = config.get(at - 4).copied().unwrap_or(0);
        u32::from(below) & (header::bar::IO | header::bar::TYPE) == header::bar::TYPE_64
    };
    for (place, byte) in config.iter_mut().skip(at).take(4).enumerate() {
        let io = *byte & 1 != 0;
        *byte &= match (place, upper) {
            (0, false) if io => 0x03,
            (0, false) => 0x0f,
            _ => 0,
        };
    }
}

/// Enable, how many are enabled, the message, masks and what is pending.
fn clear_msi(config: &mut [u8], at: ConfigOffset) {
    let image = ConfigImage::new(config);
    let control = (image.dword(at) >> 16) as u16;
    let size = if control & msi::WIDE != 0 { 14 } else { 10 };
    let size = if control & msi::MASKABLE != 0 { size + 10 } else { size };
    let [low, _] = (!(msi::ENABLE | msi::ENABLED)).to_le_bytes();
    keep(config, at, 2, low);
    clear(config, at, 4, size - 4);
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_assign_core::BarIndex;
    use vfio_assign_core::fake::Shape;

    fn shape() -> Shape {
        Shape::nvme(65).msi(3, true, true).extended_capability(capability::EXTENDED_DSN, &[0; 8])
    }

    #[test]
    fn what_has_only_shape_stays_as_it_is() {
        let before = shape().config;
        let mut after = before.clone();
        scrub(&mut after);
        // The interrupt line is where firmware routed the pin.
        after[0x3c] = before[0x3c];
        assert_eq!(after, before);
    }

    #[test]
    fn addresses_messages_and_serial_numbers_go() {
        let clean = {
            let mut config = shape().config;
            scrub(&mut config);
            config
        };
        let mut used = shape();
        used.put(0x04, &[0x06, 0x05]);
        used.put(0x11, &[0x10, 0x00, 0xfe, 0x7f]);
        let msi =
            ConfigImage::new(&used.config).capabilities().flatten().find(|found| found.id == 5).unwrap();
        used.put(msi.offset.get() + 2, &[used.config[usize::from(msi.offset.get()) + 2] | 0x31]);
        used.put(msi.offset.get() + 4, &[0x00, 0x10, 0xe0, 0xfe, 1, 0, 0, 0, 0x22, 0x40]);
        used.put(0x104, &[1, 2, 3, 4, 5, 6, 7, 8]);
        scrub(&mut used.config);
        assert_eq!(used.config, clean);
        assert_eq!(used.sizes[BarIndex::BARS[0].position()], shape().sizes[0]);
    }

    #[test]
    fn virtual_functions_are_shape_and_their_addresses_are_not() {
        let mut body = vec![0; 0x3c];
        // From the capability's first byte: Control, InitialVFs, TotalVFs, NumVFs, the id, two BARs of 64 bits.
        for (at, bytes) in [
            (0x08, &[0x09, 0][..]),
            (0x0c, &[8, 0, 8, 0]),
            (0x10, &[3, 0]),
            (0x1a, &[0x10, 0x00]),
            (0x24, &[0x04, 0, 0x10, 0xfe, 0x7f, 0, 0, 0]),
        ] {
            body[at - 4..at - 4 + bytes.len()].copy_from_slice(bytes);
        }
        let mut config = Shape::nvme(65).extended_capability(capability::EXTENDED_SRIOV, &body).config;
        let at = |config: &[u8], first: usize, count: usize| config[0x100 + first..][..count].to_vec();
        scrub(&mut config);
        assert_eq!((at(&config, 0x08, 2), at(&config, 0x10, 2)), (vec![0, 0], vec![0, 0]));
        assert_eq!((at(&config, 0x0c, 4), at(&config, 0x1a, 2)), (vec![8, 0, 8, 0], vec![0x10, 0]));
        assert_eq!(at(&config, 0x24, 8), [4, 0, 0, 0, 0, 0, 0, 0]);
        without_ids(&mut config);
        assert_eq!(at(&config, 0x1a, 2), [0, 0]);
    }

    #[test]
    fn vendors_own_capabilities_name_nobody() {
        for (id, body, expected) in [
            (VENDOR_SPECIFIC, [0x34, 0x12, 1, 1, 7, 7, 7, 7], [0, 0, 1, 1, 7, 7, 7, 7]),
            (DESIGNATED_VENDOR_SPECIFIC, [0x86, 0x80, 1, 1, 3, 0, 7, 7], [0, 0, 1, 1, 0, 0, 7, 7]),
        ] {
            let mut config = Shape::nvme(65).extended_capability(id, &body).config;
            without_ids(&mut config);
            assert_eq!(config[0x104..0x10c], expected);
        }
    }

    #[test]
    fn who_made_it_can_be_taken_out() {
        let mut config = shape().config;
        without_ids(&mut config);
        assert_eq!((&config[..4], &config[0x2c..0x30], config[0x0b]), (&[0; 4][..], &[0; 4][..], 1));
    }
}
