//! Accesses of the guest's that go to the device unchanged, and those of them that it did not answer.

use crate::bar::MappedBars;
use crate::device::RegionError;
use crate::steps::StepObserver;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vfio_assign_core::host::{Outcome, Step};
use vfio_assign_core::{BarIndex, PhysBarOffset, Width};

/// The way to a device's registers that vCPUs take side by side.
#[derive(Debug)]
pub(crate) struct Passthrough {
    bars: Arc<MappedBars>,
    steps: Option<Arc<dyn StepObserver>>,
    reads: AtomicU64,
    writes: AtomicU64,
    last: Mutex<Option<RegionError>>,
}

/// How often passthrough accesses failed, and how the last one did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccessFailures {
    /// Reads: the guest read all-ones.
    pub reads: u64,
    /// Writes: they were dropped.
    pub writes: u64,
    /// The last one.
    pub last: Option<RegionError>,
}

impl Passthrough {
    pub(crate) fn new(bars: Arc<MappedBars>, steps: Option<Arc<dyn StepObserver>>) -> Self {
        Self { bars, steps, reads: AtomicU64::new(0), writes: AtomicU64::new(0), last: Mutex::default() }
    }

    pub(crate) fn bars(&self) -> &MappedBars {
        &self.bars
    }

    pub(crate) fn failures(&self) -> AccessFailures {
        AccessFailures {
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            last: *self.last.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Reads 1, 2, 4 or 8 bytes, naturally aligned.
    #[inline]
    pub(crate) fn read(&self, bar: BarIndex, offset: PhysBarOffset, data: &mut [u8]) {
        let width = width_of(data);
        let read = self.bars.read(bar, offset, width);
        if let Some(steps) = &self.steps {
            let outcome = read.as_ref().map_or(Outcome::Failed, |value| Outcome::Value(*value));
            steps.taken(Step::ReadBar { bar, offset, width }, outcome);
        }
        let value = read.unwrap_or_else(|error| self.failed(&self.reads, error));
        give(value, data);
    }

    /// Writes 1, 2, 4 or 8 bytes, naturally aligned.
    #[inline]
    pub(crate) fn write(&self, bar: BarIndex, offset: PhysBarOffset, data: &[u8]) {
        let (width, value) = (width_of(data), value_of(data));
        let written = self.bars.write(bar, offset, width, value);
        if let Some(steps) = &self.steps {
            let outcome = if written.is_ok() { Outcome::Done } else { Outcome::Failed };
            steps.taken(Step::WriteBar { bar, offset, width, value }, outcome);
        }
        if let Err(error) = written {
            self.failed(&self.writes, error);
        }
    }

    /// The device did not answer: what is read then.
    #[cold]
    fn failed(&self, counter: &AtomicU64, error: RegionError) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        u64::MAX
    }
}

/// The width of 1, 2, 4 or 8 bytes, which are naturally aligned.
#[inline]
fn width_of(data: &[u8]) -> Width {
    match data.len() {
        1 => Width::Byte,
        2 => Width::Word,
        4 => Width::Dword,
        _ => Width::Qword,
    }
}

/// The value of 1, 2, 4 or 8 bytes. Each width is loaded as one: a processor waits for bytes that it stored one by one
/// and loads together.
#[inline]
fn value_of(data: &[u8]) -> u64 {
    match *data {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

/// Stores the low 1, 2, 4 or 8 bytes of a value, each width as one.
#[inline]
fn give(value: u64, data: &mut [u8]) {
    let [a, b, c, d, ..] = value.to_le_bytes();
    match data.len() {
        1 => data.copy_from_slice(&[a]),
        2 => data.copy_from_slice(&[a, b]),
        4 => data.copy_from_slice(&[a, b, c, d]),
        8 => data.copy_from_slice(&value.to_le_bytes()),
        _ => {}
    }
}
