//! Configuration space by ports: the address register at 0xCF8, the data window at 0xCFC.
//!
//! PCI Local Bus 3.0, 3.2.2.3.2 "Software Generation of Configuration Transactions".

use std::sync::atomic::{AtomicU32, Ordering};

use super::PciBus;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const DATA_END: u16 = 0xd00;
/// The bit that turns data accesses into configuration accesses.
const ENABLE: u32 = 1 << 31;
/// Bits that the address register keeps: enable, bus, device, function, register.
const KEPT: u32 = ENABLE | 0x00ff_fffc;

/// The two registers.
#[derive(Default)]
pub(crate) struct ConfigPorts {
    address: AtomicU32,
}

impl ConfigPorts {
    /// Whether an access is one of configuration space. The address register takes whole double words only:
    /// narrower ones pass it by, and the reset register lies within.
    pub(crate) fn has(port: u16, length: usize) -> bool {
        (port == ADDRESS_PORT && length == 4) || (DATA_PORT..DATA_END).contains(&port)
    }

    /// Forgets the address.
    pub(crate) fn reset(&self) {
        self.address.store(0, Ordering::Relaxed);
    }

    /// The address register.
    pub(crate) fn address(&self) -> u32 {
        self.address.load(Ordering::Relaxed)
    }

    /// The address register holds this again.
    pub(crate) fn restore(&self, address: u32) {
        self.address.store(address & KEPT, Ordering::Relaxed);
    }

    /// A read of an access that [`Self::has`] accepts.
    pub(crate) fn read(&self, bus: &PciBus, port: u16, data: &mut [u8]) {
        if port == ADDRESS_PORT {
            data.copy_from_slice(&self.address.load(Ordering::Relaxed).to_le_bytes());
        } else if let Some((offset, length)) = self.target(port, data.len()) {
            bus.ecam_read(offset, &mut data[..length]);
        }
    }

    /// A write of an access that [`Self::has`] accepts.
    pub(crate) fn write(&self, bus: &PciBus, port: u16, data: &[u8]) {
        match (port, data) {
            (ADDRESS_PORT, &[a, b, c, d]) => {
                self.address.store(u32::from_le_bytes([a, b, c, d]) & KEPT, Ordering::Relaxed);
            }
            _ => {
                if let Some((offset, length)) = self.target(port, data.len()) {
                    bus.ecam_write(offset, &data[..length]);
                }
            }
        }
    }

    /// Where a data access goes, as an offset of the memory-mapped space, and how much of it.
    fn target(&self, port: u16, length: usize) -> Option<(u64, usize)> {
        let address = self.address.load(Ordering::Relaxed);
        if address & ENABLE == 0 {
            return None;
        }
        let lane = port - DATA_PORT;
        let function = u64::from(address >> 8 & 0xffff);
        let register = u64::from(address & 0xfc) + u64::from(lane);
        Some(((function << 12) + register, length.min(usize::from(DATA_END - port))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fake, bus};
    use super::*;

    /// Slot 1, register 0x20.
    const REGISTER: u32 = 0x8000_0820;

    fn addressed(address: u32) -> ConfigPorts {
        let ports = ConfigPorts::default();
        ports.write(&bus(vec![]), ADDRESS_PORT, &address.to_le_bytes());
        ports
    }

    fn read<const N: usize>(ports: &ConfigPorts, port: u16) -> [u8; N] {
        let mut data = [0xff; N];
        ports.read(&bus(vec![Fake::filled()]), port, &mut data);
        data
    }

    #[test]
    fn a_double_word_comes_from_the_addressed_register() {
        assert_eq!(read(&addressed(REGISTER), DATA_PORT), [0x20, 0x21, 0x22, 0x23]);
    }

    #[test]
    fn the_data_port_s_low_bits_choose_the_byte() {
        assert_eq!(read(&addressed(REGISTER), DATA_PORT + 3), [0x23]);
    }

    #[test]
    fn an_access_beyond_the_data_window_stops_at_its_end() {
        assert_eq!(read(&addressed(REGISTER), DATA_PORT + 2), [0x22, 0x23, 0xff, 0xff]);
    }

    #[test]
    fn without_the_enable_bit_nothing_answers() {
        assert_eq!(read(&addressed(REGISTER & !ENABLE), DATA_PORT), [0xff; 4]);
    }

    #[test]
    fn another_bus_is_empty() {
        assert_eq!(read(&addressed(REGISTER | 1 << 16), DATA_PORT), [0xff; 4]);
    }

    #[test]
    fn the_address_register_reads_back_without_reserved_bits() {
        assert_eq!(read(&addressed(0xffff_ffff), ADDRESS_PORT), KEPT.to_le_bytes());
    }

    #[test]
    fn a_byte_within_the_address_register_is_not_configuration() {
        assert!(!ConfigPorts::has(0xcf9, 1));
    }

    #[test]
    fn a_write_reaches_its_byte_only() {
        let (ports, bus) = (addressed(REGISTER), bus(vec![Fake::filled()]));
        ports.write(&bus, DATA_PORT + 1, &[0xaa]);
        let mut data = [0xff; 4];
        ports.read(&bus, DATA_PORT, &mut data);
        assert_eq!(data, [0x20, 0xaa, 0x22, 0x23]);
    }
}
