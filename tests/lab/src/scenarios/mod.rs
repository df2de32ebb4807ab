//! The scenarios: each boots an L1 or several, and fills in a report.

pub(crate) mod bench;
pub(crate) mod boot;
pub(crate) mod captures;
mod command;
pub(crate) mod demo;
pub(crate) mod errors;
pub(crate) mod exec;
pub(crate) mod firmware;
pub(crate) mod kernel;
pub(crate) mod life;
pub(crate) mod lifecycle;
pub(crate) mod operator;
pub(crate) mod shell;
pub(crate) mod test;
pub(crate) mod versus;
pub(crate) mod zoo;

use crate::bench::{Bench, BenchError};
use crate::build::BuildError;
use crate::driver;
use crate::l1::{L1, L1Error};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{LifeError, Monitor};
use crate::protocol::{End, Request};
use crate::record::RecordError;
use crate::report::Report;
use crate::virtual_function::VirtualFunctionError;
use std::io;

/// A scenario that could not be carried through.
#[derive(Debug, thiserror::Error)]
#[error("{scenario}: {cause}")]
pub(crate) struct Failure {
    scenario: &'static str,
    cause: Cause,
}

/// What stopped it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("{0}")]
    Bench(#[from] BenchError),
    #[error("{0}")]
    L1(#[from] L1Error),
    #[error("{0}")]
    Life(#[from] LifeError),
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("{0}")]
    VirtualFunction(#[from] VirtualFunctionError),
    #[error("the disk's file or the terminal: {0}")]
    File(#[from] io::Error),
    #[error("'{command}' ended with {end:?}: {stderr}")]
    Program { command: String, end: End, stderr: String },
    #[error("it is not so that {what}: expected {expected}, got {got}")]
    NotSo { what: &'static str, expected: String, got: String },
    #[error("'{command}' in L1 ended with {end:?}: {stderr}")]
    Shell { command: String, end: End, stderr: String },
}

impl Cause {
    /// Whether L1 itself was lost: QEMU ended, L1's kernel panicked, or nobody said anything any more. None of these
    /// is a check that failed, and the last may be anybody's fault.
    fn is_lost_machine(&self) -> bool {
        let error = match self {
            Cause::L1(error) | Cause::Bench(BenchError::L1(error)) | Cause::Life(LifeError::L1(error)) => {
                error
            }
            Cause::Life(LifeError::Stopped { source, .. }) => source,
            Cause::Life(LifeError::Stuck { .. }) => return true,
            _ => return false,
        };
        matches!(error, L1Error::Ended { .. } | L1Error::Panic { .. } | L1Error::Silence { .. })
    }
}

impl Failure {
    /// The exit status: 2 where this machine lacks something, 1 where something did not work.
    pub(crate) fn status(&self) -> u8 {
        match self.cause {
            Cause::Bench(BenchError::Package(_) | BenchError::Kernel(BuildError::Package(_))) => 2,
            _ => 1,
        }
    }

    /// A report whose only check is the one that the scenario did not get past.
    pub(crate) fn report(&self) -> Report {
        let mut report = Report::new(self.scenario);
        report.holds("the scenario can be carried through", false, "it can", &self.cause);
        report
    }
}

/// Names the scenario in an error.
fn named<T>(scenario: &'static str, result: Result<T, Cause>) -> Result<T, Failure> {
    result.map_err(|cause| Failure { scenario, cause })
}

/// Which monitor a scenario uses, where a person may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// Our command.
    Ours,
    /// QEMU, to see whether a failure is the lab's.
    Qemu,
}

impl Choice {
    /// The monitor, and the machine with what it needs.
    fn monitor(self, bench: &Bench, machine: Machine) -> (Monitor, Machine) {
        match self {
            Choice::Ours => (Monitor::Ours, machine),
            Choice::Qemu => (Monitor::LeanQemu(bench.qemu.clone()), machine.host_files()),
        }
    }
}

/// Gives the disk back to L1's own driver and takes its digest through it.
fn read_in_l1(l1: &mut L1) -> Result<String, Cause> {
    driver::bind(l1, DISK_BDF, "nvme")?;
    let folder = format!("/sys/bus/pci/devices/{DISK_BDF}/nvme");
    l1.ask(Request::AwaitPath { path: folder.clone(), milliseconds: 5000 })?;
    let controller = l1.list(&folder)?.pop().unwrap_or_default();
    let disk = format!("/dev/{controller}n1");
    l1.ask(Request::AwaitPath { path: disk.clone(), milliseconds: 5000 })?;
    Ok(l1.digest(&disk)?)
}

/// L1's kernel must have had nothing to say against what was done.
fn check_kernel_log(report: &mut Report, log: &[(u8, String)]) {
    check_kernel_log_but(report, log, &[]);
}

/// The same where a scenario does something that the kernel must complain about.
fn check_kernel_log_but(report: &mut Report, log: &[(u8, String)], provoked: &[&str]) {
    check_kernel_log_of(report, "L1's kernel has nothing to complain about", log, provoked);
}

/// The same under another name, where a scenario has several L1s.
fn check_kernel_log_of(report: &mut Report, name: &str, log: &[(u8, String)], provoked: &[&str]) {
    let mut complaints = complaints(log);
    complaints.retain(|text| !provoked.iter().any(|wanted| text.contains(wanted)));
    report.holds(name, complaints.is_empty(), "no warning", complaints.join("; "));
}

/// Microseconds as seconds with three decimals.
fn seconds(microseconds: u64) -> f64 {
    (microseconds as f64 / 1000.0).round() / 1000.0
}

/// The kernel's complaints, of warning level and above, about what the lab is about; and any oops.
fn complaints(kernel_log: &[(u8, String)]) -> Vec<String> {
    const WARNING: u8 = 4;
    const SUBJECTS: [&str; 5] = ["vfio", "iommu", "dmar", "kvm", "irq"];
    const ALWAYS: [&str; 5] = ["Call Trace", "BUG:", "Oops", "WARNING:", "blocked for more than"];
    // A guest that tries a register of the processor that KVM does not have; what Linux 6.1 says of the emulated
    // IOMMU, and a built-in kvm_intel of AMD's processor, at every boot; and what a built-in KVM says that was there
    // before the emulated clock was measured. No monitor has a say in any.
    const KNOWN: [&str; 5] = [
        "Unhandled WRMSR",
        "Unhandled RDMSR",
        "VT-d Scalable Mode not enabled",
        "VMX not supported by CPU",
        "user requested TSC rate below hardware speed",
    ];
    let complains = |(level, text): &&(u8, String)| {
        let lower = text.to_lowercase();
        let about = *level <= WARNING && SUBJECTS.iter().any(|subject| lower.contains(subject));
        (about || ALWAYS.iter().any(|sign| text.contains(sign)))
            && !KNOWN.iter().any(|known| text.contains(known))
    };
    kernel_log.iter().filter(complains).map(|(_, text)| text.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_about_the_iommu_is_a_complaint() {
        let log = [
            (4, "DMAR: [DMA Write NO_PASID] Request device [00:04.0] fault".to_owned()),
            (6, "DMAR: Host address width 48".to_owned()),
        ];
        assert_eq!(complaints(&log), [log[0].1.clone()]);
    }

    #[test]
    fn a_trace_is_a_complaint_at_any_level() {
        assert_eq!(complaints(&[(6, "Call Trace:".to_owned())]).len(), 1);
    }
}
