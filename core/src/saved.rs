//! A function's state as bytes: everything that a guest can see of it, and nothing of the host's.
//!
//! The format is versioned, checked by length and by checksum, and made of sections that have a kind and a length:
//!
//! | part | bytes |
//! |---|---|
//! | [`Header`] | 16 |
//! | a [`SectionHeader`] and its body, each of the kinds of [`SavedSection`] that the function has, in order | 8, and its length |
//! | checksum of all before it: FNV-1a, 64 bits | 8 |
//!
//! Numbers are little-endian. What is reserved is zero. There is one way to write a state: bytes that are accepted
//! are the bytes that saving would give again.

mod record;

use record::{
    BarRecord, CHECKSUM_SIZE, FunctionRecord, Header, MAGIC, MsiRecord, MsixRecord, SectionHeader, VERSION,
    VectorRecord, Writer, checksum, contents, take_section,
};

use crate::addr::BarIndex;
use crate::function::AssignedFunction;
use crate::interrupts::{Msi, MsiState, Msix, Vector, VectorState};
use crate::operation::Task;
use crate::regs::header::Command;
use crate::regs::msix as regs;
use crate::regs::power::PowerState;
use crate::text::{count, say};
use crate::windows::Window;
use core::fmt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

/// What a section is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum SavedSection {
    /// Command, power state, BARs.
    Function,
    /// Message Control of MSI-X and the table.
    Msix,
    /// The registers of MSI.
    Msi,
}

impl SavedSection {
    const fn number(self) -> u16 {
        match self {
            Self::Function => 1,
            Self::Msix => 2,
            Self::Msi => 3,
        }
    }
}

impl fmt::Display for SavedSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Function => "function",
            Self::Msix => "MSI-X",
            Self::Msi => "MSI",
        })
    }
}

/// Why a function's state was not saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// It runs: events may hold interrupts. [Stop](AssignedFunction::begin_stop) it first.
    Running,
    /// An operation is under way.
    Busy,
    /// The device is gone, or the function quarantined: there is no state to go on from.
    Lost,
    /// The buffer is too small.
    BufferTooSmall {
        /// Bytes that are needed.
        needed: usize,
        /// Bytes that were given.
        given: usize,
    },
}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::Running => ("the function is not stopped", [0; 3]),
                Self::Busy => ("an operation is under way", [0; 3]),
                Self::Lost => ("the device is gone or quarantined", [0; 3]),
                Self::BufferTooSmall { needed, given } => {
                    ("the state takes %d bytes and the buffer has %d", [count(needed), count(given), 0])
                }
            },
        )
    }
}

/// Why a state was not restored. The function is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// An operation is under way, or something of this function stands in the host. A function that is new, or
    /// [detached](AssignedFunction::begin_detach), can be restored.
    InUse,
    /// These are no bytes of a saved state.
    NotSavedState,
    /// The format is of another version.
    Version(u16),
    /// The bytes are not as many as they say.
    Length {
        /// Bytes that the header names.
        needed: usize,
        /// Bytes that were given.
        given: usize,
    },
    /// A byte has changed since the state was saved.
    Checksum,
    /// A section is missing, is not where it belongs, or has values that no function writes.
    Section(SavedSection),
    /// Its ids, Revision ID or Class Code were others, configuration space had another size, or the MSI-X capability,
    /// table or Pending Bit Array was elsewhere, or the MSI capability.
    AnotherDevice,
    /// A BAR was of another kind or size.
    Bar(BarIndex),
    /// There were more or fewer vectors.
    Vectors {
        /// Vectors when it was saved.
        saved: u16,
        /// Vectors of this device.
        device: u16,
    },
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::InUse => ("the function is in use", [0; 3]),
                Self::NotSavedState => ("no saved state", [0; 3]),
                Self::Version(version) => ("the format has version %d, not 1", [u64::from(version), 0, 0]),
                Self::Length { needed, given } => {
                    ("the state has %d bytes and %d were given", [count(needed), count(given), 0])
                }
                Self::Checksum => ("the checksum does not match", [0; 3]),
                Self::Section(SavedSection::Function) => {
                    ("the function section is not as it must be", [0; 3])
                }
                Self::Section(SavedSection::Msix) => ("the MSI-X section is not as it must be", [0; 3]),
                Self::Section(SavedSection::Msi) => ("the MSI section is not as it must be", [0; 3]),
                Self::AnotherDevice => ("the state is that of another device", [0; 3]),
                Self::Bar(bar) => ("%b was of another kind or size", [bar.number(), 0, 0]),
                Self::Vectors { saved, device } => {
                    ("there were %d MSI-X vectors and there are %d", [u64::from(saved), u64::from(device), 0])
                }
            },
        )
    }
}

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// How many bytes [`save`](Self::save) needs.
    #[inline(never)]
    pub fn saved_size(&self) -> usize {
        const FIXED: usize =
            size_of::<Header>() + size_of::<SectionHeader>() + size_of::<FunctionRecord>() + CHECKSUM_SIZE;
        const MSI: usize = size_of::<SectionHeader>() + size_of::<MsiRecord>();
        let fixed = if self.interrupts.msi.is_some() { FIXED + MSI } else { FIXED };
        let msix = self.interrupts.msix.as_ref().map(|msix| msix_size(msix.count()));
        msix.map_or(fixed, |size| size.saturating_add(fixed).saturating_add(size_of::<SectionHeader>()))
    }

    /// Writes all that the guest can see of the function to the front of `buffer`; returns the number of bytes.
    ///
    /// What the device itself holds (its registers, its memory, what is in its own Pending Bit Array) is not in it.
    ///
    /// # Errors
    ///
    /// The function is not [stopped](Self::begin_stop) or has an operation under way, the device is lost, or the
    /// buffer has fewer than [`saved_size`](Self::saved_size) bytes.
    pub fn save(&self, buffer: &mut [u8]) -> Result<usize, SaveError> {
        if self.operation.task != Task::Idle {
            return Err(SaveError::Busy);
        }
        if self.gone || self.quarantined {
            return Err(SaveError::Lost);
        }
        if !self.stopped {
            return Err(SaveError::Running);
        }
        let (needed, given) = (self.saved_size(), buffer.len());
        let summed = needed.saturating_sub(CHECKSUM_SIZE);
        let parts = buffer.get_mut(..needed).and_then(|buffer| buffer.split_at_mut_checked(summed));
        let Some((body, trailer)) = parts else {
            return Err(SaveError::BufferTooSmall { needed, given });
        };
        let mut writer = Writer(&mut *body);
        let length = U32::new(u32::try_from(needed).unwrap_or(u32::MAX));
        let header = Header { magic: MAGIC, version: VERSION.into(), reserved: U16::ZERO, length };
        writer.put(header.as_bytes());
        writer.section(SavedSection::Function, size_of::<FunctionRecord>());
        writer.put(self.function_record().as_bytes());
        if let Some(msix) = &self.interrupts.msix {
            writer.section(SavedSection::Msix, msix_size(msix.count()));
            writer.put(msix_record(msix).as_bytes());
            for (address, data, state) in msix.saved() {
                let (state, reserved) = (state.into(), U16::ZERO);
                let record = VectorRecord { address: address.into(), data: data.into(), state, reserved };
                writer.put(record.as_bytes());
            }
        }
        if let Some(msi) = &self.interrupts.msi {
            writer.section(SavedSection::Msi, size_of::<MsiRecord>());
            writer.put(msi_record(msi).as_bytes());
        }
        Writer(trailer).put(&checksum(body).to_le_bytes());
        Ok(needed)
    }

    /// The function becomes what was [saved](Self::save), to be [settled](Self::begin_settle): nothing of it stands
    /// in the host before that. It is not stopped, and what was pending is delivered.
    ///
    /// # Errors
    ///
    /// `bytes` are not exactly what was saved from a function of this shape, or this one is in use. Nothing has
    /// changed then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let stands = self.interrupts.stands() || self.windows.live() != 0 || !self.decoder.is_empty();
        if self.operation.task != Task::Idle || self.quarantined || stands {
            return Err(RestoreError::InUse);
        }
        let mut rest = contents(bytes)?;
        let section = take_section(&mut rest, SavedSection::Function);
        let function = section.and_then(|body| self.fitting_function(body))?;
        let table = match &self.interrupts.msix {
            Some(msix) => {
                let section = take_section(&mut rest, SavedSection::Msix);
                section.and_then(|body| fitting_table(msix_record(msix), body))?
            }
            None => (0, &[][..]),
        };
        let saved_msi = match &self.interrupts.msi {
            Some(msi) => {
                let section = take_section(&mut rest, SavedSection::Msi);
                Some(section.and_then(|body| fitting_msi(msi, body))?)
            }
            None => None,
        };
        if !rest.is_empty() {
            return Err(RestoreError::Section(SavedSection::Msix));
        }
        self.at_rest = false;
        self.command = Command::from_bits_retain(function.command.get());
        self.power = PowerState::from_pmcsr(function.power.get());
        self.bars.restore(function.bars.iter().map(|record| record.value.get()));
        if let Some(msix) = &mut self.interrupts.msix {
            let (control, vectors) = table;
            let saved =
                vectors.iter().map(|record| (record.address.get(), record.data.get(), record.state.get()));
            msix.restore(control, saved);
        }
        if let (Some(msi), Some(state)) = (&mut self.interrupts.msi, saved_msi) {
            msi.restore(state);
        }
        if let Some(intx) = &mut self.interrupts.intx {
            intx.set_disabled(self.command.contains(Command::INTERRUPT_DISABLE));
        }
        self.interrupts.turn_on();
        self.set_stopped(false);
        // Windows wait until hardware has heard of it.
        self.hardware_stale = true;
        self.decode_unknown = true;
        self.decode_changed();
        Ok(())
    }

    fn function_record(&self) -> FunctionRecord {
        let bars = self.bars.saved().map(|(kind, size, value)| BarRecord {
            kind: kind.into(),
            size: size.into(),
            value: value.into(),
        });
        let (config_size, command) = (self.map.size().into(), self.command.bits().into());
        let (identity, power) = (self.map.identity().map(U32::new), self.power.to_pmcsr().into());
        FunctionRecord { identity, config_size, command, power, bars }
    }

    fn fitting_function<'a>(&self, body: &'a [u8]) -> Result<&'a FunctionRecord, RestoreError> {
        let wrong = RestoreError::Section(SavedSection::Function);
        let record = FunctionRecord::ref_from_bytes(body).map_err(|_| wrong)?;
        let own = self.function_record();
        if (record.identity, record.config_size) != (own.identity, own.config_size) {
            return Err(RestoreError::AnotherDevice);
        }
        let power = PowerState::from_pmcsr(record.power.get());
        let awake = power == PowerState::D0;
        let able = awake || (self.map.supports(power) && self.map.power_control().is_some());
        let mut known = able && record.power.get() == power.to_pmcsr();
        for (index, (bar, own)) in BarIndex::ALL.iter().zip(record.bars.iter().zip(&own.bars)) {
            if (bar.kind, bar.size) != (own.kind, own.size) {
                return Err(RestoreError::Bar(*index));
            }
            known &= self.bars.can_hold(*index, bar.value.get());
        }
        if known { Ok(record) } else { Err(wrong) }
    }
}

/// The bytes of an MSI-X section for so many vectors.
fn msix_size(vectors: u16) -> usize {
    usize::from(vectors).saturating_mul(size_of::<VectorRecord>()).saturating_add(size_of::<MsixRecord>())
}

/// What of MSI-X is not in its table.
fn msix_record<V: AsRef<[Vector]> + AsMut<[Vector]>>(msix: &Msix<V>) -> MsixRecord {
    let layout = msix.layout();
    MsixRecord {
        control: msix.message_control().into(),
        capability: layout.capability.get().into(),
        table: layout.table_register().into(),
        pba: layout.pba_register().into(),
        reserved: U32::ZERO,
    }
}

/// MSI as it is saved.
fn msi_record(msi: &Msi) -> MsiRecord {
    let MsiState { control, address, data, masked, waits } = msi.saved();
    MsiRecord {
        capability: msi.capability().get().into(),
        control: control.into(),
        data: data.into(),
        reserved: U16::ZERO,
        address: address.into(),
        masked: masked.into(),
        waits: waits.into(),
    }
}

/// The state of a section, if it can be that of this function.
fn fitting_msi(msi: &Msi, body: &[u8]) -> Result<MsiState, RestoreError> {
    let wrong = RestoreError::Section(SavedSection::Msi);
    let record = MsiRecord::ref_from_bytes(body).map_err(|_| wrong)?;
    if record.capability.get() != msi.capability().get() {
        return Err(RestoreError::AnotherDevice);
    }
    let state = MsiState {
        control: record.control.get(),
        address: record.address.get(),
        data: record.data.get(),
        masked: record.masked.get(),
        waits: record.waits.get(),
    };
    if record.reserved == U16::ZERO && msi.can_be(state) { Ok(state) } else { Err(wrong) }
}

/// Message Control and the table of a section, if they are those of a function with this record.
fn fitting_table(own: MsixRecord, body: &[u8]) -> Result<(u16, &[VectorRecord]), RestoreError> {
    let wrong = RestoreError::Section(SavedSection::Msix);
    let (record, table) = MsixRecord::ref_from_prefix(body).map_err(|_| wrong)?;
    let vectors = <[VectorRecord]>::ref_from_bytes(table).map_err(|_| wrong)?;
    let (control, device) = (record.control.get(), own.control.get());
    let [saved, device] = [control, device].map(|control| (control & regs::TABLE_SIZE).saturating_add(1));
    if saved != device {
        return Err(RestoreError::Vectors { saved, device });
    }
    if (MsixRecord { control: own.control, ..*record }) != own {
        return Err(RestoreError::AnotherDevice);
    }
    let written = |record: &VectorRecord| {
        let state = VectorState::from_bits_retain(record.state.get());
        let known = VectorState::SAVED.contains(state) && record.reserved == U16::ZERO;
        known && record.address.get() & 3 == 0
    };
    let reserved = control & !(regs::ENABLE | regs::FUNCTION_MASK | regs::TABLE_SIZE) != 0;
    if reserved || vectors.len() != usize::from(device) || !vectors.iter().all(written) {
        return Err(wrong);
    }
    Ok((control, vectors))
}
