//! Runs a scenario once to count its calls, and then once for each call and each way in which that may fail.

use crate::errnos::faults;
use crate::guest::Guest;
use crate::machine::{Machine, sysfs};
use crate::scenarios::Scenario;
use crate::told::Told;
use std::collections::BTreeSet;
use std::sync::Arc;
use vfio_assign_linux::Assigned;
use vfio_assign_linux::scripted::{CallFault, ScriptedFunction};

pub(crate) struct Report {
    pub(crate) name: &'static str,
    /// The names of the scenario's calls, in order.
    pub(crate) calls: Vec<&'static str>,
    /// Which call failed, and how.
    pub(crate) injected: Vec<(usize, CallFault)>,
    /// What should not have been.
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn kinds(&self) -> BTreeSet<&'static str> {
        self.calls.iter().copied().collect()
    }

    /// How many kinds of failures.
    pub(crate) fn errnos(&self) -> usize {
        let names: BTreeSet<_> = self.injected.iter().map(|(_, fault)| format!("{fault:?}")).collect();
        names.len()
    }
}

/// What one run came to.
struct Run {
    calls: Vec<&'static str>,
    state: Vec<String>,
    wrong: Vec<String>,
    struck: bool,
}

pub(crate) fn enumerate(scenario: &Scenario) -> Report {
    let functions = (scenario.functions)();
    let places: Vec<_> = functions.iter().map(|function| (function.bdf(), function.group())).collect();
    let names: Vec<_> = functions.iter().map(ScriptedFunction::cdev_name).collect();
    let folder = sysfs(&places, &names);
    let clean = run(scenario, &folder, None, None);
    let mut report =
        Report { name: scenario.name, calls: clean.calls, injected: Vec::new(), failures: clean.wrong };
    for (place, call) in report.calls.iter().enumerate() {
        for fault in faults(call) {
            let run = run(scenario, &folder, Some((place, *fault)), Some(&clean.state));
            if run.struck {
                report.injected.push((place, *fault));
            }
            let told =
                |wrong: &String| format!("{}: call {place}, {call}, {fault:?}: {wrong}", scenario.name);
            report.failures.extend(run.wrong.iter().map(told));
        }
    }
    report
}

/// The scenario with at most one fault; its end is compared with that of a run without.
fn run(
    scenario: &Scenario,
    folder: &Arc<tempfile::TempDir>,
    fault: Option<(usize, CallFault)>,
    clean: Option<&Vec<String>>,
) -> Run {
    let machine = Machine::new(&(scenario.functions)(), folder);
    let files = open_files();
    let mut told = Told::new();
    let (first, state, complaints) = life(scenario, &machine, &mut told, fault, clean);
    let calls = machine.kernel.calls();
    let last = calls.len();
    let struck = !machine.kernel.is_fault_pending();
    let mut wrong = std::mem::take(&mut told.wrong);
    wrong.extend(left_over(&machine, files));
    match fault {
        None => wrong.extend(complaints.iter().chain(&told.all()).map(|line| format!("told of: {line}"))),
        Some(_) if !struck => wrong.push("the call did not come".into()),
        Some(_) => {
            // The same machine again: whatever has happened, nothing of it is in the way.
            let mut again = Told::new();
            let (_, state, _) = life(scenario, &machine, &mut again, None, clean);
            if Some(&state) != clean {
                wrong.push(format!("another guest ends otherwise: {}", difference(&state, clean)));
            }
            wrong.extend(again.wrong.iter().map(|line| format!("another guest: {line}")));
            wrong.extend(again.all().iter().map(|line| format!("another guest is told of: {line}")));
            wrong.extend(left_over(&machine, files));
        }
    }
    Run { calls: calls[first..last].to_vec(), state, wrong, struck }
}

/// A guest from its start to its end. How many calls came before the scenario, the state it ended in, what its
/// functions complained of.
fn life(
    scenario: &Scenario,
    machine: &Machine,
    told: &mut Told,
    fault: Option<(usize, CallFault)>,
    clean: Option<&Vec<String>>,
) -> (usize, Vec<String>, Vec<String>) {
    let arm = || {
        if let Some((before, fault)) = fault {
            machine.kernel.fail(before, fault);
        }
    };
    let mut first = machine.kernel.calls().len();
    if scenario.before.is_none() {
        arm();
    }
    let Some(mut guest) = Guest::new(machine, scenario.backend, told) else {
        return (first, Vec::new(), Vec::new());
    };
    if let Some(before) = scenario.before {
        before(&mut guest);
        first = machine.kernel.calls().len();
        arm();
    }
    (scenario.work)(&mut guest);
    let mut state = guest.state();
    let complaints = guest.complaints();
    if let Some(clean) = clean
        && state != *clean
    {
        let lost = difference(&state, Some(clean));
        if complaints.is_empty() {
            guest.told.wrong.push(format!("not told that: {lost}"));
        }
        // The guest tries again, from a reset on.
        let functions: Vec<_> = guest.functions.iter().collect();
        Assigned::reset_all(&functions);
        (scenario.again)(&mut guest);
        state = guest.state();
        if state != *clean {
            let still = difference(&state, Some(clean));
            guest.told.wrong.push(format!("a second attempt ends otherwise: {still}, after: {complaints:?}"));
        }
    }
    guest.functions.clear();
    // The last device takes all with it, though the machine goes on.
    let left = machine.kernel.standing();
    guest.told.wrong.extend(left.iter().map(|line| format!("left over in a machine that goes on: {line}")));
    drop(guest);
    (first, state, complaints)
}

/// What stands in the kernel although all is dropped.
fn left_over(machine: &Machine, files: usize) -> Vec<String> {
    let mut left: Vec<_> =
        machine.kernel.standing().iter().map(|line| format!("left over: {line}")).collect();
    let open = open_files();
    if open != files {
        left.push(format!("left over: {open} files are open, {files} were"));
    }
    left
}

/// How many files this process has open.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The lines that only one of two states has.
fn difference(state: &[String], clean: Option<&Vec<String>>) -> String {
    let clean = clean.map_or(&[][..], Vec::as_slice);
    let missing = clean.iter().filter(|line| !state.contains(line)).map(|line| format!("-{line}"));
    let more = state.iter().filter(|line| !clean.contains(line)).map(|line| format!("+{line}"));
    let lines: Vec<_> = missing.chain(more).take(4).collect();
    lines.join("; ")
}
