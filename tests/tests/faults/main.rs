//! Every call of the host's that a scenario makes fails, in every way in which the kernel may fail it: at each such
//! fault something typed is told or nothing is different, what the guest sees is what stands in the kernel, a second
//! attempt succeeds, and nothing is left over.

mod enumerate;
mod errnos;
mod guest;
mod machine;
mod scenarios;
mod told;

use enumerate::{Report, enumerate};
use scenarios::SCENARIOS;
use std::collections::BTreeSet;
use std::sync::OnceLock;
use vfio_assign_linux::scripted::ScriptedKernel;

/// The scenarios' reports. All run once, one after the other: they count this process's open files.
fn reports() -> &'static [Report] {
    static REPORTS: OnceLock<Vec<Report>> = OnceLock::new();
    REPORTS.get_or_init(|| {
        let mut reports = Vec::new();
        println!(
            "{:<42} {:>5} {:>5} {:>6} {:>7} {:>8}",
            "scenario", "calls", "kinds", "errnos", "faults", "failures"
        );
        let rows = SCENARIOS.iter().flat_map(|scenario| scenario.on.iter().map(move |on| (scenario, *on)));
        for (scenario, backend) in rows {
            let report = enumerate(scenario, backend);
            println!(
                "{:<42} {:>5} {:>5} {:>6} {:>7} {:>8}",
                report.name,
                report.calls.len(),
                report.kinds().len(),
                report.errnos(),
                report.injected.len(),
                report.failures.len()
            );
            reports.push(report);
        }
        reports
    })
}

#[test]
fn every_fault_is_told_and_leaves_nothing() {
    let failures: Vec<_> = reports().iter().flat_map(|report| &report.failures).cloned().collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn no_call_of_a_scenario_is_left_out() {
    for report in reports() {
        assert!(!report.calls.is_empty(), "{}: no calls", report.name);
        for (place, call) in report.calls.iter().enumerate() {
            let failed = report.injected.iter().any(|(at, _)| *at == place);
            assert!(failed, "{}: call {place}, {call}, was never failed", report.name);
        }
    }
}

#[test]
fn every_call_of_the_host_side_is_in_a_scenario() {
    let made: BTreeSet<_> = reports().iter().flat_map(Report::kinds).collect();
    let all: BTreeSet<_> = ScriptedKernel::every_call().iter().copied().collect();
    assert_eq!(made, all);
}
