//! Configuration space in memory, as the crates beside us want to reach it: they are drivers, which probe registers.

use pci_types::{ConfigRegionAccess, PciAddress};
use std::cell::RefCell;
use std::rc::Rc;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

/// A function of which the six BARs are 32-bit memory BARs of 4 KiB.
#[derive(Clone)]
pub(crate) struct Memory(Rc<RefCell<[u32; 64]>>);

impl Memory {
    pub(crate) fn new(config: &[u8]) -> Self {
        let mut dwords = [0; 64];
        for (dword, bytes) in dwords.iter_mut().zip(config.chunks_exact(4)) {
            *dword = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self(Rc::new(RefCell::new(dwords)))
    }

    fn get(&self, offset: usize) -> u32 {
        self.0.borrow()[offset / 4 % 64]
    }

    fn set(&self, offset: usize, value: u32) {
        let writable = if (0x10..0x28).contains(&offset) { !0xfff } else { 0x7 };
        let mut dwords = self.0.borrow_mut();
        let dword = &mut dwords[offset / 4 % 64];
        *dword = (*dword & !writable) | (value & writable);
    }
}

#[expect(unsafe_code, reason = "the trait's methods are declared so; these reach an array")]
impl ConfigRegionAccess for Memory {
    unsafe fn read(&self, _: PciAddress, offset: u16) -> u32 {
        self.get(usize::from(offset))
    }
    unsafe fn write(&self, _: PciAddress, offset: u16, value: u32) {
        self.set(usize::from(offset), value);
    }
}

#[expect(unsafe_code, reason = "the trait's method is declared so; this shares an array")]
impl ConfigurationAccess for Memory {
    fn read_word(&self, _: DeviceFunction, register_offset: u8) -> u32 {
        self.get(usize::from(register_offset))
    }
    fn write_word(&mut self, _: DeviceFunction, register_offset: u8, data: u32) {
        self.set(usize::from(register_offset), data);
    }
    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}
