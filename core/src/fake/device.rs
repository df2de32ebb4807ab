//! The hardware of a fake device: configuration space, BAR contents, what a reset does.

use super::faults::FakeError;
use super::shape::Shape;
use crate::access::Width;
use crate::addr::{BarIndex, ConfigOffset, PhysBarOffset};
use crate::caps::ConfigImage;
use crate::regs::header::Command;
use crate::regs::power::{PMCSR_STATE, PowerState};
use crate::regs::{capability, header, power};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// The device behind the kernel.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) plugged: bool,
    pub(super) resets: u32,
    config: Vec<u8>,
    /// Bits that a write changes.
    writable: Vec<u8>,
    /// Bits that a write of one clears.
    clearable: Vec<u8>,
    /// What was written to each BAR; the rest reads zero.
    memory: [BTreeMap<u64, u8>; 7],
    io: [bool; 7],
    sizes: [u64; 7],
    virtual_function: bool,
    resettable: bool,
    pmcsr: Option<usize>,
    device_control: Option<usize>,
    af_control: Option<usize>,
}

/// What a write to configuration space has set off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    Nothing,
    FunctionReset,
}

impl Device {
    pub(super) fn new(shape: &Shape) -> Self {
        let size = shape.config.len();
        let image = ConfigImage::new(&shape.config);
        let find = |id: u8| {
            let found = image.capabilities().flatten().find(|found| found.id == id)?;
            Some(usize::from(found.offset.get()))
        };
        let resets_by_express = |at: &usize| {
            let caps = shape.config.get(at + 4..at + 8).and_then(|bytes| bytes.first_chunk::<4>());
            caps.is_some_and(|caps| u32::from_le_bytes(*caps) & power::DEVICE_CAPABILITIES_FLR != 0)
        };
        let mut io = [false; 7];
        for bar in BarIndex::BARS {
            let register = header::BAR0.get() + 4 * u16::from(bar.get());
            io[bar.position()] = shape.config.get(usize::from(register)).is_some_and(|low| low & 1 != 0);
        }
        let mut device = Self {
            plugged: true,
            resets: 0,
            config: shape.config.clone(),
            writable: vec![0; size],
            clearable: vec![0; size],
            memory: Default::default(),
            io,
            sizes: shape.sizes,
            virtual_function: shape.virtual_function,
            resettable: shape.resettable,
            pmcsr: find(capability::POWER_MANAGEMENT).map(|at| at + usize::from(power::PMCSR)),
            device_control: find(capability::PCI_EXPRESS)
                .filter(resets_by_express)
                .map(|at| at + usize::from(power::DEVICE_CONTROL)),
            af_control: find(capability::ADVANCED_FEATURES).map(|at| at + usize::from(power::AF_CONTROL)),
        };
        device.permit(4, [0x47, 0x05, 0, 0], [0, 0, 0, 0xf9]);
        device.permit(0x0c, [0xff, 0xff, 0, 0], [0; 4]);
        device.permit(0x3c, [0xff, 0, 0, 0], [0; 4]);
        if let Some(at) = device.pmcsr {
            device.permit(at, [0x03, 0x01, 0, 0], [0, 0x80, 0, 0]);
        }
        if let Some(at) = device.device_control {
            device.permit(at, [0xff, 0x7f, 0, 0], [0, 0, 0x0f, 0]);
        }
        device
    }

    /// What writes change in the dword at `at`, and what writes of one clear there.
    fn permit(&mut self, at: usize, writable: [u8; 4], clearable: [u8; 4]) {
        for (to, from) in self.writable.iter_mut().skip(at).zip(writable) {
            *to = from;
        }
        for (to, from) in self.clearable.iter_mut().skip(at).zip(clearable) {
            *to = from;
        }
    }

    /// The Command register of the hardware.
    pub(super) fn command(&self) -> Command {
        let [low, high] = [4, 5].map(|at| self.config.get(at).copied().unwrap_or(0));
        Command::from_bits_retain(u16::from_le_bytes([low, high]))
    }

    /// The power state of the hardware.
    pub(super) fn power(&self) -> PowerState {
        let pmcsr = self.pmcsr.and_then(|at| self.config.get(at));
        PowerState::from_pmcsr(pmcsr.copied().map_or(0, u32::from) & PMCSR_STATE)
    }

    /// Whether the device answers memory accesses.
    pub(super) fn decodes_memory(&self) -> bool {
        let on = self.virtual_function || self.command().contains(Command::MEMORY_SPACE);
        self.plugged && on && self.power() == PowerState::D0
    }

    /// Whether the device can send messages.
    pub(super) fn can_signal(&self) -> bool {
        self.plugged && self.command().contains(Command::BUS_MASTER) && self.power() == PowerState::D0
    }

    /// Whether the device may assert its interrupt pin.
    pub(super) fn may_assert(&self) -> bool {
        self.plugged && !self.command().contains(Command::INTERRUPT_DISABLE)
    }

    /// The device has, or no longer has, a reason to assert its interrupt pin: Interrupt Status.
    pub(super) fn interrupt_status(&mut self, asserted: bool) {
        if let Some(status) = self.config.get_mut(6) {
            *status = (*status & !8) | if asserted { 8 } else { 0 };
        }
    }

    /// A device that is gone reads all-ones, without an error.
    pub(super) fn config_read(&self, offset: ConfigOffset, width: Width) -> Result<u32, FakeError> {
        let first = usize::from(offset.get());
        let bytes = self.config.get(first..first + width.bytes());
        let bytes = bytes.ok_or(FakeError::OutOfRange(u64::from(offset.get())))?;
        let mut value = [0; 4];
        for (index, (to, from)) in value.iter_mut().zip(bytes).enumerate() {
            let always_on = self.virtual_function && first + index == 4;
            *to = if self.plugged { *from | if always_on { 2 } else { 0 } } else { 0xff };
        }
        Ok(u32::from_le_bytes(value))
    }

    pub(super) fn config_write(
        &mut self,
        offset: ConfigOffset,
        width: Width,
        value: u32,
    ) -> Result<Effect, FakeError> {
        if !self.plugged {
            return Err(FakeError::Gone);
        }
        let first = usize::from(offset.get());
        if first + width.bytes() > self.config.len() {
            return Err(FakeError::OutOfRange(u64::from(offset.get())));
        }
        let mut effect = Effect::Nothing;
        for (at, byte) in (first..).zip(value.to_le_bytes()).take(width.bytes()) {
            let flr = self.device_control.is_some_and(|control| at == control + 1) && byte & 0x80 != 0;
            let af = self.af_control == Some(at) && byte & 1 != 0;
            let (writable, clearable) = (self.writable[at], self.clearable[at]);
            let old = self.config[at];
            let mut new = ((old & !writable) | (byte & writable)) & !(byte & clearable);
            if self.pmcsr == Some(at) && !self.enters(new & 3, old & 3) {
                new = (new & !3) | (old & 3);
            }
            self.config[at] = new;
            if flr || af {
                effect = Effect::FunctionReset;
            }
        }
        if effect == Effect::FunctionReset {
            self.function_reset();
        }
        Ok(effect)
    }

    /// Whether a write of this state changes the one that the device is in: out of sleep the only way is to D0, and a
    /// state that the device does not have is no state to go to.
    ///
    /// Source: PCI Power Management 1.2, 3.2.4 PMCSR and 5.4 Power State Transitions.
    fn enters(&self, to: u8, from: u8) -> bool {
        let has = |bit: u32| {
            let high = self.pmcsr.and_then(|at| self.config.get(at.checked_sub(1)?));
            high.is_some_and(|high| u32::from(*high).wrapping_shl(24) & bit != 0)
        };
        match to {
            0 => true,
            1 => has(power::PMC_D1) && from < to,
            2 => has(power::PMC_D2) && from < to,
            _ => from < to,
        }
    }

    /// The kernel's function reset: registers behind the BARs as after power-on, D0; Command is restored.
    fn function_reset(&mut self) {
        self.resets += 1;
        self.interrupt_status(false);
        self.memory = Default::default();
        if let Some(state) = self.pmcsr.and_then(|at| self.config.get_mut(at)) {
            *state &= !3;
        }
    }

    /// VFIO_DEVICE_RESET.
    pub(super) fn reset(&mut self) -> Result<(), FakeError> {
        if !self.plugged {
            return Err(FakeError::Gone);
        }
        if !self.resettable {
            return Err(FakeError::NoReset);
        }
        self.function_reset();
        Ok(())
    }

    /// Whether an access to `bar` is one that the device answers.
    fn reaches(&self, bar: BarIndex, offset: PhysBarOffset, width: Width) -> Result<(), FakeError> {
        if !self.plugged {
            return Err(FakeError::Gone);
        }
        if !self.io[bar.position()] && !self.decodes_memory() {
            return Err(FakeError::NotDecoding);
        }
        let bytes = width.all_ones().count_ones() / 8;
        match offset.get().checked_add(u64::from(bytes)) {
            Some(end) if end <= self.sizes[bar.position()] => Ok(()),
            _ => Err(FakeError::OutOfRange(offset.get())),
        }
    }

    pub(super) fn bar_read(
        &self,
        bar: BarIndex,
        offset: PhysBarOffset,
        width: Width,
    ) -> Result<u64, FakeError> {
        self.reaches(bar, offset, width)?;
        let memory = &self.memory[bar.position()];
        let mut value = [0; 8];
        for (at, to) in (offset.get()..).zip(value.iter_mut()).take(width.bytes()) {
            *to = memory.get(&at).copied().unwrap_or(0);
        }
        Ok(u64::from_le_bytes(value))
    }

    pub(super) fn bar_write(
        &mut self,
        bar: BarIndex,
        offset: PhysBarOffset,
        width: Width,
        value: u64,
    ) -> Result<(), FakeError> {
        self.reaches(bar, offset, width)?;
        for (at, byte) in (offset.get()..).zip(value.to_le_bytes()).take(width.bytes()) {
            self.memory[bar.position()].insert(at, byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAR0: BarIndex = BarIndex::BARS[0];

    fn device() -> Device {
        Device::new(&Shape::nvme(4).io_bar(BarIndex::BARS[2], 0x20))
    }

    fn on(mut device: Device) -> Device {
        device.config_write(header::COMMAND, Width::Word, 6).unwrap();
        device
    }

    fn write(device: &mut Device, offset: u64, value: u64) -> Result<(), FakeError> {
        device.bar_write(BAR0, PhysBarOffset::new(offset), Width::Dword, value)
    }

    fn read(device: &Device, offset: u64) -> Result<u64, FakeError> {
        device.bar_read(BAR0, PhysBarOffset::new(offset), Width::Dword)
    }

    #[test]
    fn memory_off_fails_memory_accesses() {
        assert_eq!(read(&device(), 0), Err(FakeError::NotDecoding));
    }

    #[test]
    fn memory_off_does_not_fail_ports() {
        let ports = device().bar_read(BarIndex::BARS[2], PhysBarOffset::new(0), Width::Byte);
        assert_eq!(ports, Ok(0));
    }

    #[test]
    fn d3_fails_memory_accesses() {
        let mut device = on(device());
        let pmcsr = ConfigOffset::low(0x44);
        device.config_write(pmcsr, Width::Byte, 3).unwrap();
        device.config_write(pmcsr, Width::Byte, 1).unwrap();
        assert_eq!(read(&device, 0), Err(FakeError::NotDecoding));
    }

    #[test]
    fn a_state_that_the_device_does_not_have_is_not_entered() {
        let reached = |byte: u8| {
            [1, 2, 3].map(|state| {
                let mut shape = Shape::nvme(4);
                shape.put(0x43, &[byte]);
                let mut device = Device::new(&shape);
                device.config_write(ConfigOffset::low(0x44), Width::Word, state).unwrap();
                device.power()
            })
        };
        let [d0, d1, d2, d3] = [PowerState::D0, PowerState::D1, PowerState::D2, PowerState::D3Hot];
        assert_eq!([0, 2, 4, 6].map(reached), [[d0, d0, d3], [d1, d0, d3], [d0, d2, d3], [d1, d2, d3]]);
    }

    #[test]
    fn flr_clears_registers_and_keeps_command() {
        let mut device = on(device());
        write(&mut device, 0x14, 7).unwrap();
        let control = ConfigOffset::low(0x5c);
        let effect = device.config_write(control, Width::Word, 0x8000);
        assert_eq!((effect, read(&device, 0x14)), (Ok(Effect::FunctionReset), Ok(0)));
    }

    #[test]
    fn status_bits_are_cleared_by_ones() {
        let mut device = device();
        device.config[7] = 0xf9;
        device.config_write(header::STATUS, Width::Word, 0x8000).unwrap();
        assert_eq!(device.config_read(header::STATUS, Width::Word), Ok(0x7910));
    }

    #[test]
    fn virtual_function_says_that_memory_is_on() {
        let mut shape = Shape::nvme(4);
        shape.virtual_function = true;
        assert_eq!(Device::new(&shape).config_read(header::COMMAND, Width::Byte), Ok(2));
    }

    #[test]
    fn absent_device_reads_all_ones() {
        let mut device = device();
        device.plugged = false;
        assert_eq!(device.config_read(header::ID, Width::Dword), Ok(u32::MAX));
    }
}
