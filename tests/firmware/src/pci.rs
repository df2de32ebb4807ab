//! The machine's real PCI functions: their configuration space through ECAM, and their BARs where the firmware of the
//! machine has placed them.

use crate::sys::apic::pause;
use crate::sys::iommu::Confined;
use crate::sys::{NoEcam, Registers, endpoint};
use vfio_assign_core::regs::header::{BAR0, COMMAND, Command, ID, REVISION_AND_CLASS, bar};
use vfio_assign_core::regs::{capability, power};
use vfio_assign_core::{ConfigImage, ConfigOffset, Width};

/// A copy of one function's configuration space.
pub(crate) type Config = [u8; 4096];
/// How long a function is left alone after a reset, and when it wakes: milliseconds.
const AFTER_RESET: u32 = 100;
const AFTER_SLEEP: u32 = 10;

/// A function that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    /// Its device number on bus 0.
    pub(crate) device: u8,
    config: Registers,
    bars: [Option<Registers>; 6],
    /// What the BARs' registers hold.
    placed: [u32; 6],
    /// Where the PCI Express capability is, if with it there is a function-level reset.
    express: Option<ConfigOffset>,
    /// Where the power management capability is.
    power: Option<ConfigOffset>,
}

/// Why a function cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum PciError {
    /// A BAR is not where BARs can be.
    #[error(
        "BAR {index} is at {address:#x}, {size:#x} bytes: not from 2 GiB on, or over the chipset's registers"
    )]
    BarElsewhere {
        /// Its index.
        index: usize,
        /// Where it is.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// It cannot be reset by itself.
    #[error("the function has no reset of its own")]
    NoReset,
}

/// A place on the bus where a function is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Its device number on bus 0.
    pub(crate) device: u8,
    config: Registers,
    confined: Confined,
}

/// The endpoints on bus 0, function 0 of each device.
pub(crate) fn places(confined: Confined) -> Result<[Option<Place>; 32], NoEcam> {
    let mut places = [None; 32];
    for (place, device) in places.iter_mut().zip(0..) {
        *place = endpoint(confined, device)?.map(|config| Place { device, config, confined });
    }
    Ok(places)
}

impl Place {
    /// Vendor in the low half, device in the high one.
    pub(crate) fn id(&self) -> u32 {
        self.config.read(u64::from(ID.get()), Width::Dword) as u32
    }

    /// Base class, sub-class and programming interface.
    pub(crate) fn class(&self) -> u32 {
        self.config.read(u64::from(REVISION_AND_CLASS.get()), Width::Dword) as u32 >> 8
    }
}

impl Function {
    /// Finds out about a function, with a copy of its configuration space.
    pub(crate) fn new(place: Place, image: &mut Config) -> Result<Self, PciError> {
        let Place { device, config, confined } = place;
        let mut function =
            Self { device, config, bars: [None; 6], placed: [0; 6], express: None, power: None };
        function.placed = core::array::from_fn(|index| function.read(bar_register(index), Width::Dword));
        function.copy_config(image);
        let find = |id| {
            let mut found = ConfigImage::new(image).capabilities().flatten();
            found.find(|found| found.id == id).map(|found| found.offset)
        };
        function.power = find(capability::POWER_MANAGEMENT);
        function.express = find(capability::PCI_EXPRESS).filter(|at| {
            let capabilities = at.checked_add(power::DEVICE_CAPABILITIES);
            let has_reset = |at| function.read(at, Width::Dword) & power::DEVICE_CAPABILITIES_FLR != 0;
            capabilities.is_some_and(has_reset)
        });
        let command = function.read(COMMAND, Width::Word);
        // What is measured must not decode meanwhile.
        function.write(COMMAND, Width::Word, 0);
        let mut index = 0;
        while index < function.bars.len() {
            index = function.measure(confined, index)?;
        }
        function.write(COMMAND, Width::Word, command);
        Ok(function)
    }

    /// Finds out about one memory BAR; returns the index of the next. Ports, and a memory BAR of size 0, are none.
    fn measure(&mut self, confined: Confined, index: usize) -> Result<usize, PciError> {
        let offset = bar_register(index);
        let low = self.read(offset, Width::Dword);
        if low & bar::IO != 0 {
            return Ok(index + 1);
        }
        let mut mask = u64::from(self.mask(offset) & !0xf);
        let mut address = u64::from(low & !0xf);
        let is_wide = low & bar::TYPE == bar::TYPE_64 && index + 1 < self.bars.len();
        let next = if is_wide {
            let upper = bar_register(index + 1);
            mask |= u64::from(self.mask(upper)) << 32;
            address |= u64::from(self.read(upper, Width::Dword)) << 32;
            index + 2
        } else {
            mask |= if mask == 0 { 0 } else { u64::from(u32::MAX) << 32 };
            index + 1
        };
        if mask != 0 {
            let size = mask.wrapping_neg();
            let registers = Registers::of_bar(confined, address, size);
            self.bars[index] = Some(registers.ok_or(PciError::BarElsewhere { index, address, size })?);
        }
        Ok(next)
    }

    /// The bits of a BAR's register that can be written.
    fn mask(&self, offset: ConfigOffset) -> u32 {
        let before = self.read(offset, Width::Dword);
        self.write(offset, Width::Dword, u32::MAX);
        let mask = self.read(offset, Width::Dword);
        self.write(offset, Width::Dword, before);
        mask
    }

    /// Reads a register of configuration space.
    pub(crate) fn read(&self, offset: ConfigOffset, width: Width) -> u32 {
        self.config.read(u64::from(offset.get()), width) as u32
    }

    /// Writes one.
    pub(crate) fn write(&self, offset: ConfigOffset, width: Width, value: u32) {
        self.config.write(u64::from(offset.get()), width, u64::from(value));
    }

    /// The registers behind a memory BAR.
    pub(crate) fn bar(&self, index: usize) -> Option<Registers> {
        self.bars.get(index).copied().flatten()
    }

    /// The first BAR's register that does not hold what the firmware of the machine has put there.
    pub(crate) fn displaced(&self) -> Option<usize> {
        let holds = |index| self.read(bar_register(index), Width::Dword);
        (0..self.placed.len()).find(|index| holds(*index) != self.placed[*index])
    }

    /// Whether it may reach memory by itself.
    pub(crate) fn is_bus_master(&self) -> bool {
        self.read(COMMAND, Width::Word) & u32::from(Command::BUS_MASTER.bits()) != 0
    }

    /// Copies all of configuration space.
    fn copy_config(&self, image: &mut Config) {
        for (dword, bytes) in image.chunks_exact_mut(4).enumerate() {
            let value = self.config.read(4 * dword as u64, Width::Dword) as u32;
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Does something while the function decodes memory, whatever the guest has made of its Command register.
    pub(crate) fn while_decoding<T>(&self, act: impl FnOnce() -> T) -> T {
        let before = self.read(COMMAND, Width::Word);
        self.write(COMMAND, Width::Word, before | u32::from(Command::MEMORY_SPACE.bits()));
        let result = act();
        self.write(COMMAND, Width::Word, before);
        result
    }

    /// A function-level reset: PCI Express Base 5.0, 6.6.2.
    pub(crate) fn reset(&self) -> Result<(), PciError> {
        let control =
            self.express.and_then(|at| at.checked_add(power::DEVICE_CONTROL)).ok_or(PciError::NoReset)?;
        self.write(COMMAND, Width::Word, 0);
        let value = self.read(control, Width::Word) | power::DEVICE_CONTROL_INITIATE_FLR;
        self.write_on_behalf(control, Width::Word, value);
        Ok(())
    }

    /// Writes a register for the guest. One that resets the function, or wakes it, takes the time that the
    /// specification gives the function, and what the host has in its BARs is there again afterwards.
    pub(crate) fn write_on_behalf(&self, offset: ConfigOffset, width: Width, value: u32) {
        self.write(offset, width, value);
        let sets = |register: Option<ConfigOffset>, distance: u16, bit: u32| {
            let at = register.and_then(|register| register.checked_add(distance));
            let byte = at
                .and_then(|at| at.get().checked_sub(offset.get()))
                .filter(|at| usize::from(*at) < width.bytes());
            byte.is_some_and(|byte| value >> (8 * byte) & bit == bit)
        };
        // Initiate Function Level Reset is bit 7 of the second byte of Device Control.
        if sets(self.express, power::DEVICE_CONTROL + 1, power::DEVICE_CONTROL_INITIATE_FLR >> 8) {
            pause(AFTER_RESET);
        } else if sets(self.power, power::PMCSR, 0) {
            pause(AFTER_SLEEP);
        } else {
            return;
        }
        for (index, placed) in self.placed.into_iter().enumerate() {
            self.write(bar_register(index), Width::Dword, placed);
        }
    }
}

/// Where the register of a BAR is.
fn bar_register(index: usize) -> ConfigOffset {
    BAR0.checked_add(4 * index as u16).unwrap_or(BAR0)
}
