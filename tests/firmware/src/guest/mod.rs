//! The guest: drivers that know a [`Machine`] and some memory of their own, and nothing of what is behind.

pub(crate) mod edu;
pub(crate) mod hostile;
pub(crate) mod memory;
pub(crate) mod nvme;

use crate::paravisor::Machine;
use vfio_assign_core::Width;
use vfio_assign_core::regs::header::{BAR0, COMMAND, Command, bar};

/// How long a driver waits for an interrupt that must come. The machine may be slow.
const PATIENCE: u32 = 10_000;
/// How long it waits for one that must not.
const QUIET: u32 = 20;

/// What a driver finds wrong with its PCI function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum BusError {
    /// A BAR is not there, or not of memory.
    #[error("BAR {0} is no memory")]
    NoBar(u16),
    /// A BAR does not read back what was written.
    #[error("BAR {bar} was placed at {wanted:#x} and reads {found:#x}")]
    NotPlaced {
        /// The BAR.
        bar: u16,
        /// Where it was to be.
        wanted: u64,
        /// What it reads.
        found: u64,
    },
    /// A register at the BAR's old place still answers.
    #[error("{address:#x} still answers after the BAR was moved: {value:#x}")]
    StillThere {
        /// The address.
        address: u64,
        /// What it reads.
        value: u64,
    },
    /// A capability is not there.
    #[error("there is no capability {0:#x}")]
    NoCapability(u8),
    /// An interrupt did not come.
    #[error("no interrupt for {0}")]
    NoInterrupt(&'static str),
    /// Another interrupt came, or one where none was to come.
    #[error("interrupt {vector:#x} for {cause}")]
    Unexpected {
        /// Its vector.
        vector: u8,
        /// What the driver waited for, or did.
        cause: &'static str,
    },
}

/// A memory BAR of the guest's only function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bar {
    index: u16,
    wide: bool,
    /// Bytes.
    pub(crate) size: u64,
    /// Where the driver has put it.
    pub(crate) address: u64,
}

impl Bar {
    /// Sizes a BAR, as the specification has it: PCI Local Bus 3.0, 6.2.5.1.
    pub(crate) fn size(machine: &mut dyn Machine, index: u16) -> Result<Self, BusError> {
        set_command(machine, Command::empty());
        let offset = BAR0.get() + 4 * index;
        let low = machine.config_read(offset, Width::Dword);
        let wide = low & (bar::IO | bar::TYPE) == bar::TYPE_64;
        machine.config_write(offset, Width::Dword, u32::MAX);
        let mut mask = u64::from(machine.config_read(offset, Width::Dword) & !0xf);
        mask |= if wide {
            machine.config_write(offset + 4, Width::Dword, u32::MAX);
            u64::from(machine.config_read(offset + 4, Width::Dword)) << 32
        } else {
            0xffff_ffff << 32
        };
        if low & bar::IO != 0 || mask as u32 == 0 {
            return Err(BusError::NoBar(index));
        }
        Ok(Self { index, wide, size: mask.wrapping_neg(), address: 0 })
    }

    /// Puts it somewhere, and turns decoding and bus mastering on.
    pub(crate) fn place(&mut self, machine: &mut dyn Machine, address: u64) -> Result<(), BusError> {
        set_command(machine, Command::empty());
        let offset = BAR0.get() + 4 * self.index;
        machine.config_write(offset, Width::Dword, address as u32);
        let mut found = u64::from(machine.config_read(offset, Width::Dword) & !0xf);
        if self.wide {
            machine.config_write(offset + 4, Width::Dword, (address >> 32) as u32);
            found |= u64::from(machine.config_read(offset + 4, Width::Dword)) << 32;
        }
        if found != address {
            return Err(BusError::NotPlaced { bar: self.index, wanted: address, found });
        }
        self.address = address;
        set_command(machine, Command::MEMORY_SPACE | Command::BUS_MASTER);
        Ok(())
    }

    /// Moves it, and sees that nothing answers any more where it was.
    pub(crate) fn move_to(&mut self, machine: &mut dyn Machine, address: u64) -> Result<(), BusError> {
        let old = self.address;
        self.place(machine, address)?;
        let value = machine.read(old, Width::Dword);
        if value != Width::Dword.all_ones() {
            return Err(BusError::StillThere { address: old, value });
        }
        Ok(())
    }

    /// Reads a register of it.
    pub(crate) fn read(&self, machine: &mut dyn Machine, offset: u64, width: Width) -> u64 {
        machine.read(self.address + offset, width)
    }

    /// Writes one.
    pub(crate) fn write(&self, machine: &mut dyn Machine, offset: u64, width: Width, value: u64) {
        machine.write(self.address + offset, width, value);
    }
}

fn set_command(machine: &mut dyn Machine, command: Command) {
    machine.config_write(COMMAND.get(), Width::Word, u32::from(command.bits()));
}

/// Where a capability is.
fn capability(machine: &mut dyn Machine, id: u8) -> Result<u16, BusError> {
    let mut at = machine.config_read(0x34, Width::Byte) as u16 & 0xfc;
    // There is room for 48 of them.
    for _ in 0..48 {
        if at == 0 {
            break;
        }
        if machine.config_read(at, Width::Byte) == u32::from(id) {
            return Ok(at);
        }
        at = machine.config_read(at + 1, Width::Byte) as u16 & 0xfc;
    }
    Err(BusError::NoCapability(id))
}

/// Waits for an interrupt that must come.
fn expect(machine: &mut dyn Machine, vector: u8, cause: &'static str) -> Result<(), BusError> {
    match machine.interrupt(PATIENCE) {
        Some(found) if found == vector => Ok(()),
        Some(vector) => Err(BusError::Unexpected { vector, cause }),
        None => Err(BusError::NoInterrupt(cause)),
    }
}

/// Sees that none comes.
fn expect_none(machine: &mut dyn Machine, cause: &'static str) -> Result<(), BusError> {
    machine.interrupt(QUIET).map_or(Ok(()), |vector| Err(BusError::Unexpected { vector, cause }))
}
