//! Every step of a function's as it was taken, for whoever records a run.

use std::fmt;
use vfio_assign_core::host::{Outcome, Step};

/// Whoever wants to know of each step that was taken for a function, and how it went: with the guest's accesses, all that
/// its machines decide from, so that a recording can be compared with what they do another time.
///
/// The steps of one operation come one after the other, from the thread that drives it. An access that only passes through
/// is one step, told from its vCPU's thread beside those of others.
pub trait StepObserver: Send + Sync + fmt::Debug {
    /// The step was taken. The guest waits for the return of this.
    fn taken(&self, step: Step, outcome: Outcome);
}
