//! Counters of what a guest can repeat, in place of log lines that it could flood.

use crate::host::{Step, StepKind};

/// How often each thing has happened; each counter wraps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Accesses to configuration space.
    pub config_accesses: u64,
    /// Accesses to BARs.
    pub bar_accesses: u64,
    /// Accesses that needed no host call.
    pub local_accesses: u64,
    /// Bytes that a guest accessed outside every BAR, or past the end of configuration space.
    pub missed_bytes: u64,
    /// Hardware reads that failed: the guest read all-ones.
    pub failed_reads: u64,
    /// Hardware writes that failed: they were dropped.
    pub failed_forwards: u64,
    /// Steps to take something away that failed.
    pub failed_revokes: u64,
    /// Steps to set something up that failed.
    pub failed_establishes: u64,
    /// Completions whose token was not that of the step under way.
    pub stale_tokens: u64,
    /// Accesses that came while another was under way.
    pub busy: u64,
}

impl Counters {
    /// `step` has failed.
    pub(crate) fn failed(&mut self, step: Step) {
        let counter = match step.kind() {
            StepKind::Read => &mut self.failed_reads,
            StepKind::Forward => &mut self.failed_forwards,
            StepKind::Revoke => &mut self.failed_revokes,
            StepKind::Establish => &mut self.failed_establishes,
        };
        *counter = counter.wrapping_add(1);
    }
}
