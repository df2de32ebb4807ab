//! The host bridge: a header without BARs and capabilities, by which the guest knows that there is a bus.

use super::PciFunction;

/// Red Hat's identifiers for a generic PCI Express host bridge.
const VENDOR: u16 = 0x1b36;
const DEVICE: u16 = 0x0008;
/// Class code: bridge, host bridge.
const CLASS: [u8; 3] = [0, 0, 6];
const HEADER: usize = 64;

/// The function in slot 0. Nothing in it can be written.
pub(crate) struct HostBridge {
    header: [u8; HEADER],
}

impl HostBridge {
    /// The bridge.
    pub(crate) fn new() -> Self {
        let mut header = [0; HEADER];
        header[0..2].copy_from_slice(&VENDOR.to_le_bytes());
        header[2..4].copy_from_slice(&DEVICE.to_le_bytes());
        header[9..12].copy_from_slice(&CLASS);
        Self { header }
    }
}

impl PciFunction for HostBridge {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        for (index, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.header.get(index).copied().unwrap_or(0);
        }
    }

    fn config_write(&self, _offset: u16, _data: &[u8]) {}

    fn reset(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_over_the_header_s_end_is_zero_there() {
        let mut data = [0xff; 8];
        HostBridge::new().config_read(60, &mut data);
        assert_eq!(data, [0; 8]);
    }

    #[test]
    fn the_identifiers_stand_first() {
        let mut data = [0xff; 4];
        HostBridge::new().config_read(0, &mut data);
        assert_eq!(data, [0x36, 0x1b, 0x08, 0x00]);
    }
}
