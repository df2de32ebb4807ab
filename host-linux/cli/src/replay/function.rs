//! The function that is driven again: the core, made from the shape of the device.

use std::collections::BTreeMap;

use serde::Serialize;
use vfio_assign_core::fake::{Capture, Shape};
use vfio_assign_core::{
    Access as CoreAccess, AssignedFunction, Bytes, GuestAddr, GuestPort, Target, Vector, VectorIndex, Window,
};

use super::trace::{Access, Operation, Space};
use crate::explain::NoPlan;

/// The function, with room for whatever a device can have.
pub(super) type Function = AssignedFunction<Vec<Vector>, Vec<Window>>;

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Replayed {
    pub(super) accesses: usize,
    pub(super) reads: usize,
    /// Reads for which the device was asked.
    pub(super) asked_device: usize,
    /// Those of them to which a fake device gave another value: it has the shape of the device and not its state. None in
    /// a record, which says what the device answered.
    pub(super) device_differs: usize,
    /// Steps that a record has and that were taken again.
    pub(super) effects: usize,
    /// Interrupts that went to the guest, by kind and vector.
    pub(super) interrupts: BTreeMap<String, usize>,
    /// The first thing that the core did otherwise. Nothing behind it was tried.
    pub(super) difference: Option<Difference>,
    /// How often the host was called, by kind.
    pub(super) calls: BTreeMap<String, usize>,
}

/// Something that the core did otherwise.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    pub(super) kind: DifferenceKind,
    /// The line of what differs.
    pub(super) line: usize,
    /// What was done: the line of the operation.
    pub(super) operation: String,
    pub(super) then: String,
    pub(super) now: String,
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DifferenceKind {
    /// What the guest reads, or how a reset goes.
    Answer,
    /// What the host is asked to do.
    Effect,
}

impl Difference {
    /// An operation that is answered otherwise.
    pub(super) fn answer(operation: &Operation, then: impl Into<String>, now: impl Into<String>) -> Self {
        let Operation { line, text, .. } = operation;
        let (then, now) = (then.into(), now.into());
        Self { kind: DifferenceKind::Answer, line: *line, operation: text.clone(), then, now }
    }
}

/// The function of a device of this shape.
pub(super) fn function(capture: &Capture, shape: &Shape) -> Result<Function, NoPlan> {
    let description = shape.description();
    let areas = description.regions.iter().map(|region| region.areas.len()).sum::<usize>();
    let storage = (vec![Vector::RESET; usize::from(VectorIndex::LIMIT)], vec![Window::default(); 5 * areas]);
    AssignedFunction::new(&description, storage.0, storage.1, |_| {})
        .map_err(|source| NoPlan::new(capture, source))
}

impl Access {
    /// As the core takes it.
    pub(super) fn of_core(&self) -> CoreAccess {
        let target = match self.space {
            // The reader lets no larger offset pass.
            Space::Config => Target::Config(u32::try_from(self.at).unwrap_or(u32::MAX)),
            Space::Memory => Target::Memory(GuestAddr::new(self.at)),
            Space::Port => Target::Port(GuestPort::new(self.at)),
        };
        if self.write {
            CoreAccess::Write { target, data: Bytes::from_slice(&self.value.to_le_bytes()[..self.size]) }
        } else {
            CoreAccess::Read { target, size: self.size }
        }
    }
}

/// What was read, as a number.
pub(super) fn value(bytes: &Bytes) -> u64 {
    let mut value = [0; 8];
    for (to, from) in value.iter_mut().zip(bytes.as_slice()) {
        *to = *from;
    }
    u64::from_le_bytes(value)
}
