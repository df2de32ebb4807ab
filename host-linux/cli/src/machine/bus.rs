//! Where an access of the guest goes: to a platform device, to configuration space, to a function, or nowhere.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use vm_superio::{I8042Device, Trigger};

use super::layout::{ECAM, ECAM_SIZE, SERIAL_PORTS};
use super::pci::config::ConfigPorts;
use super::pci::{PciBus, SavedPort};
use super::power::{Power, Stop};
use super::serial::{SavedSerial, SerialPort};
use crate::saved::SavedError;

/// Ports of the keyboard controller: only its line to the processor's reset is there.
const KEYBOARD_PORTS: RangeInclusive<u16> = 0x60..=0x64;

/// The platform's devices in a file. The keyboard controller's reset line keeps nothing that matters.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedBus {
    serial: SavedSerial,
    power: u16,
    config_address: u32,
    ports: Vec<SavedPort>,
}

/// Everything that is reached by ports and addresses.
pub(crate) struct Bus {
    serial: Arc<SerialPort>,
    power: Arc<Power>,
    keyboard: Mutex<I8042Device<ResetLine>>,
    config: ConfigPorts,
    pci: Arc<PciBus>,
}

impl Bus {
    /// Puts the devices together.
    pub(crate) fn new(serial: Arc<SerialPort>, power: Arc<Power>, pci: Arc<PciBus>) -> Self {
        let keyboard = Mutex::new(I8042Device::new(ResetLine(Arc::clone(&power))));
        Self { serial, power, keyboard, config: ConfigPorts::default(), pci }
    }

    /// The PCI functions.
    pub(crate) fn pci(&self) -> &PciBus {
        &self.pci
    }

    /// Puts the platform's devices into their power-on state.
    pub(crate) fn reset(&self) {
        self.serial.reset();
        self.power.reset();
        self.config.reset();
        self.pci.reset();
    }

    /// What the guest can see of the platform's devices, for a file.
    pub(crate) fn save(&self) -> SavedBus {
        let (serial, ports) = (self.serial.save(), self.pci.save());
        SavedBus { serial, power: self.power.enabled(), config_address: self.config.address(), ports }
    }

    /// The platform's devices become what was saved.
    pub(crate) fn restore(&self, saved: SavedBus) -> Result<(), SavedError> {
        let SavedBus { serial, power, config_address, ports } = saved;
        let other = |what| SavedError::Other { what };
        self.serial.restore(serial).map_err(|_| other("a serial port"))?;
        self.power.restore(power);
        self.config.restore(config_address);
        if self.pci.restore(&ports) { Ok(()) } else { Err(other("slots")) }
    }

    /// A read of 1, 2 or 4 bytes from a port.
    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if SERIAL_PORTS.contains(&port) {
            // An 8-bit device on a bus that splits wider accesses.
            for (offset, byte) in (port - SERIAL_PORTS.start()..8).zip(data) {
                *byte = self.serial.read(offset as u8);
            }
        } else if ConfigPorts::has(port, data.len()) {
            self.config.read(&self.pci, port, data);
        } else if Power::has_port(port) {
            self.power.read(port, data);
        } else if KEYBOARD_PORTS.contains(&port) {
            data.fill(lock(&self.keyboard).read((port - KEYBOARD_PORTS.start()) as u8));
        } else {
            self.pci.port_read(port, data);
        }
    }

    /// A write of 1, 2 or 4 bytes to a port.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) {
        if SERIAL_PORTS.contains(&port) {
            for (offset, byte) in (port - SERIAL_PORTS.start()..8).zip(data) {
                self.serial.write(offset as u8, *byte);
            }
        } else if ConfigPorts::has(port, data.len()) {
            self.config.write(&self.pci, port, data);
        } else if Power::has_port(port) {
            self.power.write(port, data);
        } else if KEYBOARD_PORTS.contains(&port) {
            if let &[value] = data {
                let offset = (port - KEYBOARD_PORTS.start()) as u8;
                let Ok(()) = lock(&self.keyboard).write(offset, value);
            }
        } else {
            self.pci.port_write(port, data);
        }
    }

    /// A read of 1 to 8 bytes from an address without memory.
    pub(crate) fn memory_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        match in_ecam(address) {
            Some(offset) => self.pci.ecam_read(offset, data),
            None => self.pci.memory_read(address, data),
        }
    }

    /// A write of 1 to 8 bytes to an address without memory.
    pub(crate) fn memory_write(&self, address: u64, data: &[u8]) {
        match in_ecam(address) {
            Some(offset) => self.pci.ecam_write(offset, data),
            None => self.pci.memory_write(address, data),
        }
    }
}

fn in_ecam(address: u64) -> Option<u64> {
    address.checked_sub(ECAM).filter(|&offset| offset < ECAM_SIZE)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The keyboard controller's line to the processor's reset.
struct ResetLine(Arc<Power>);

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.request(Stop::Reset);
        Ok(())
    }
}
