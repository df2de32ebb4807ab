//! The accesses of a trace, done to the core on a fake device.

use std::collections::BTreeMap;

use serde::Serialize;
use vfio_assign_core::fake::{CallKind, Capture, FakeHost};
use vfio_assign_core::{
    Access, AssignedFunction, Bytes, GuestAddr, GuestPort, Target, Vector, VectorIndex, Window,
};

use super::trace::{Line, Space};
use crate::explain::NoPlan;

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Replayed {
    pub(super) accesses: usize,
    pub(super) reads: usize,
    /// Reads for which the device was asked. The fake has its shape and not its state: they may differ.
    pub(super) asked_device: usize,
    pub(super) device_differs: usize,
    /// The first read that the core answered otherwise. Nothing behind it was tried.
    pub(super) difference: Option<Difference>,
    /// How often the host was called, by kind.
    pub(super) calls: BTreeMap<String, usize>,
}

/// A read that the core answered otherwise.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    pub(super) line: usize,
    pub(super) access: String,
    pub(super) then: u64,
    pub(super) now: u64,
}

/// Carries out accesses up to the first that differs.
pub(super) fn carry_out(capture: &Capture, lines: &[Line]) -> Result<Replayed, NoPlan> {
    let shape = capture.shape();
    let mut host = FakeHost::new(&shape);
    let description = shape.description();
    let areas = description.regions.iter().map(|region| region.areas.len()).sum::<usize>();
    let storage = (vec![Vector::RESET; usize::from(VectorIndex::LIMIT)], vec![Window::default(); 5 * areas]);
    let mut function = AssignedFunction::new(&description, storage.0, storage.1, |_| {})
        .map_err(|source| NoPlan::new(capture, source))?;
    function.attach(&mut host);
    host.take_steps();
    let mut replayed = Replayed {
        accesses: 0,
        reads: 0,
        asked_device: 0,
        device_differs: 0,
        difference: None,
        calls: BTreeMap::new(),
    };
    for line in lines {
        let target = match line.space {
            // The reader lets no larger offset pass.
            Space::Config => Target::Config(u32::try_from(line.at).unwrap_or(u32::MAX)),
            Space::Memory => Target::Memory(GuestAddr::new(line.at)),
            Space::Port => Target::Port(GuestPort::new(line.at)),
        };
        replayed.accesses += 1;
        let answer = if line.write {
            let data = Bytes::from_slice(&line.value.to_le_bytes()[..line.size]);
            function.access(Access::Write { target, data }, &mut host)
        } else {
            function.access(Access::Read { target, size: line.size }, &mut host)
        };
        let kinds: Vec<CallKind> = host.take_steps().into_iter().map(CallKind::of).collect();
        for kind in &kinds {
            *replayed.calls.entry(format!("{kind:?}")).or_default() += 1;
        }
        if line.write {
            continue;
        }
        replayed.reads += 1;
        let now = value(&answer);
        let asked = kinds
            .iter()
            .any(|kind| matches!(kind, CallKind::ReadConfig | CallKind::ReadBar | CallKind::PollPending));
        replayed.asked_device += usize::from(asked);
        if now != line.value && asked {
            replayed.device_differs += 1;
        } else if now != line.value {
            let access = line.text.clone();
            replayed.difference = Some(Difference { line: line.number, access, then: line.value, now });
            break;
        }
    }
    Ok(replayed)
}

fn value(bytes: &Bytes) -> u64 {
    let mut value = [0; 8];
    for (to, from) in value.iter_mut().zip(bytes.as_slice()) {
        *to = *from;
    }
    u64::from_le_bytes(value)
}
