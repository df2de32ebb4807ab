//! Vectors wired to events: a range in one call, and each in a call of its own.

use crate::{must, sample};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;
use vfio_assign_core::{Bdf, VectorIndex};
use vfio_assign_linux::{Host, IrqKind, IrqVectors, Vm, VmOptions};

/// What two processors have room for.
const COUNTS: [u16; 4] = [1, 8, 64, 256];

/// Each number of vectors in both ways, by turns; from MSI-X off to all of them wired.
pub(crate) fn measure(bdf: Bdf, rounds: u32) -> Result<(), Box<dyn Error>> {
    let host = Host::linux();
    let device = Arc::new(Vm::new(host.clone(), VmOptions::default()).open(bdf)?);
    let calls = || host.calls().get("vfio-device-set-irqs").copied().unwrap_or_default();
    for _ in 0..rounds {
        for count in COUNTS {
            for (way, step) in [("ranged", count), ("single", 1)] {
                let mut vectors = IrqVectors::new(device.clone(), IrqKind::Msix);
                let before = calls();
                let started = Instant::now();
                for first in (0..count).step_by(usize::from(step)) {
                    wire(&mut vectors, first, first + step - 1)?;
                }
                sample(&format!("vectors_{count}_{way}"), started.elapsed().as_nanos() as f64);
                sample(&format!("vectors_{count}_{way}_calls"), (calls() - before) as f64);
                must("all are wired", vectors.events() == usize::from(count))?;
                vectors.disable()?;
            }
        }
    }
    Ok(())
}

fn wire(vectors: &mut IrqVectors, first: u16, last: u16) -> Result<(), Box<dyn Error>> {
    let vector = |index| VectorIndex::new(index).ok_or("no such vector");
    vectors.wire(vector(first)?, vector(last)?, &|_| true)?;
    Ok(())
}
