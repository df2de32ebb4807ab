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
    pub(crate) fn read(&self, bar: BarIndex, offset: PhysBarOffset, data: &mut [u8]) {
        let width = Width::natural(offset.get(), data.len() as u64);
        let read = self.bars.read(bar, offset, width);
        let outcome = read.as_ref().map_or(Outcome::Failed, |value| Outcome::Value(*value));
        self.tell(Step::ReadBar { bar, offset, width }, outcome);
        let value = read.unwrap_or_else(|error| {
            self.count(&self.reads, error);
            u64::MAX
        });
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    /// Writes 1, 2, 4 or 8 bytes, naturally aligned.
    pub(crate) fn write(&self, bar: BarIndex, offset: PhysBarOffset, data: &[u8]) {
        let width = Width::natural(offset.get(), data.len() as u64);
        let mut value = [0; 8];
        for (to, from) in value.iter_mut().zip(data) {
            *to = *from;
        }
        let value = u64::from_le_bytes(value);
        let written = self.bars.write(bar, offset, width, value);
        let outcome = if written.is_ok() { Outcome::Done } else { Outcome::Failed };
        self.tell(Step::WriteBar { bar, offset, width, value }, outcome);
        if let Err(error) = written {
            self.count(&self.writes, error);
        }
    }

    fn tell(&self, step: Step, outcome: Outcome) {
        if let Some(steps) = &self.steps {
            steps.taken(step, outcome);
        }
    }

    fn count(&self, counter: &AtomicU64, error: RegionError) {
        counter.fetch_add(1, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}
