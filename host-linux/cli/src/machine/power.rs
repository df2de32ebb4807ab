//! How the machine comes to a stop: ACPI sleep and reset registers, and what ended a run.
//!
//! ACPI 6.5, 4.8.3.1 (PM1 event), 4.8.3.2 (PM1 control), 4.8.3.6 (reset register).

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::Sender;

use super::layout::{PM1_CONTROL, PM1_EVENT, RESET_PORT};
use super::pci::Quarantine;
use super::vcpu::VcpuError;

/// The sleep type that means off, as the `_S5` object says it.
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;
/// What the FADT tells the guest to write to the reset register.
pub(crate) const RESET_VALUE: u8 = 0x06;
/// In the reset control register: reset the processor.
const RESET_CPU: u8 = 1 << 2;
/// PM1 control: ACPI mode is on, always.
const SCI_ENABLED: u16 = 1;
/// The second half of the event block.
const PM1_ENABLE: u16 = PM1_EVENT + 2;
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;

/// Why a machine does not run any more, least decisive first.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Somebody asks something of the machine.
    Attend,
    /// The guest reset the machine.
    Reset,
    /// The guest powered the machine off.
    PowerOff,
    /// The person at the terminal left.
    Left,
    /// A signal asked the command to end.
    Signal(i32),
    /// A vCPU cannot go on.
    Failed(VcpuError),
    /// Something of a device could not be taken away from the guest.
    Quarantined(Quarantine),
    /// The devices are not to be had, or do not reach the guest's memory.
    NoDevices,
}

impl Stop {
    /// Which of several reasons of the same moment counts.
    pub(crate) fn weight(&self) -> u8 {
        match self {
            Self::Attend => 0,
            Self::Reset => 1,
            Self::PowerOff => 2,
            Self::Left => 3,
            Self::Signal(_) => 4,
            Self::Failed(_) => 5,
            Self::Quarantined(_) => 6,
            Self::NoDevices => 7,
        }
    }
}

/// The registers of power management.
pub(crate) struct Power {
    stop: Sender<Stop>,
    /// PM1 enable. No event ever comes, but what the guest enables must read back.
    enabled: AtomicU16,
}

impl Power {
    /// Registers that report to `stop`.
    pub(crate) fn new(stop: Sender<Stop>) -> Self {
        Self { stop, enabled: AtomicU16::new(0) }
    }

    /// The registers as they are when the machine is turned on.
    pub(crate) fn reset(&self) {
        self.enabled.store(0, Ordering::Relaxed);
    }

    /// What the guest has enabled.
    pub(crate) fn enabled(&self) -> u16 {
        self.enabled.load(Ordering::Relaxed)
    }

    /// What the guest has enabled is this again.
    pub(crate) fn restore(&self, enabled: u16) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    /// Asks for a stop; the machine may already be stopping for another reason.
    pub(crate) fn request(&self, stop: Stop) {
        // Nobody listens only when the machine is already gone.
        drop(self.stop.send(stop));
    }

    /// Whether a port belongs here.
    pub(crate) fn has_port(port: u16) -> bool {
        (PM1_EVENT..PM1_EVENT + 4).contains(&port)
            || (PM1_CONTROL..PM1_CONTROL + 2).contains(&port)
            || port == RESET_PORT
    }

    /// A read of 1, 2 or 4 bytes.
    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        let registers = [
            (PM1_EVENT, [0, self.enabled.load(Ordering::Relaxed)].map(u16::to_le_bytes).concat()),
            (PM1_CONTROL, SCI_ENABLED.to_le_bytes().to_vec()),
            (RESET_PORT, vec![0]),
        ];
        for (byte, port) in data.iter_mut().zip(port..) {
            let value =
                registers.iter().find_map(|(start, bytes)| bytes.get(usize::from(port.checked_sub(*start)?)));
            *byte = value.copied().unwrap_or(0xff);
        }
    }

    /// A write of 1, 2 or 4 bytes. No event is ever pending, so the status bits have nothing to clear.
    pub(crate) fn write(&self, port: u16, data: &[u8]) {
        match (port, data) {
            (PM1_ENABLE, &[low, high]) | (PM1_EVENT, &[_, _, low, high]) => {
                self.enabled.store(u16::from_le_bytes([low, high]), Ordering::Relaxed);
            }
            (RESET_PORT, &[value]) if value & RESET_CPU != 0 => self.request(Stop::Reset),
            (PM1_CONTROL, &[low, high, ..]) if turns_off(u16::from_le_bytes([low, high])) => {
                self.request(Stop::PowerOff);
            }
            _ => {}
        }
    }
}

fn turns_off(control: u16) -> bool {
    control & SLEEP_ENABLE != 0 && control >> SLEEP_TYPE_SHIFT & 7 == u16::from(SLEEP_TYPE_OFF)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn power() -> (Power, Receiver<Stop>) {
        let (sender, receiver) = channel();
        (Power::new(sender), receiver)
    }

    #[test]
    fn the_off_sleep_type_with_the_enable_bit_turns_off() {
        let (power, stops) = power();
        power.write(PM1_CONTROL, &0x3401_u16.to_le_bytes());
        assert!(matches!(stops.try_recv(), Ok(Stop::PowerOff)));
    }

    #[test]
    fn a_sleep_type_alone_does_nothing() {
        let (power, stops) = power();
        power.write(PM1_CONTROL, &0x1401_u16.to_le_bytes());
        assert!(stops.try_recv().is_err());
    }

    #[test]
    fn another_sleep_type_does_nothing() {
        let (power, stops) = power();
        power.write(PM1_CONTROL, &0x2c01_u16.to_le_bytes());
        assert!(stops.try_recv().is_err());
    }

    #[test]
    fn the_reset_value_resets() {
        let (power, stops) = power();
        power.write(RESET_PORT, &[RESET_VALUE]);
        assert!(matches!(stops.try_recv(), Ok(Stop::Reset)));
    }

    #[test]
    fn enabled_events_read_back() {
        let (power, _stops) = power();
        power.write(PM1_ENABLE, &[0x21, 0x03]);
        let mut data = [0xff; 4];
        power.read(PM1_EVENT, &mut data);
        assert_eq!(data, [0, 0, 0x21, 0x03]);
    }

    #[test]
    fn acpi_mode_is_always_on() {
        let (power, _stops) = power();
        let mut data = [0xff; 2];
        power.read(PM1_CONTROL, &mut data);
        assert_eq!(u16::from_le_bytes(data), SCI_ENABLED);
    }
}
