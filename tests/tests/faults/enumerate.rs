//! Runs a scenario once to count its calls, and then once for each call and each way in which that may fail.

use crate::errnos::faults;
use crate::guest::Guest;
use crate::machine::{Machine, sysfs};
use crate::scenarios::Scenario;
use crate::told::Told;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use vfio_assign_linux::scripted::CallFault;
use vfio_assign_linux::{Assigned, Backend};

pub(crate) struct Report {
    /// The scenario's, and the interface.
    pub(crate) name: String,
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

pub(crate) fn enumerate(scenario: &Scenario, backend: Backend) -> Report {
    let folder = sysfs(&(scenario.functions)());
    let name = format!("{}, {backend}", scenario.name);
    let run = |fault, clean| run(scenario, backend, &folder, fault, clean);
    let clean = run(None, None);
    let failures = clean.wrong.iter().map(|wrong| format!("{name}: without a fault: {wrong}")).collect();
    let mut report = Report { name, calls: clean.calls, injected: Vec::new(), failures };
    for (place, call) in report.calls.iter().enumerate() {
        for fault in faults(call) {
            let run = run(Some((place, *fault)), Some(&clean.state));
            if run.struck {
                report.injected.push((place, *fault));
            }
            let told = |wrong: &String| format!("{}: call {place}, {call}, {fault:?}: {wrong}", report.name);
            report.failures.extend(run.wrong.iter().map(told));
        }
    }
    report
}

/// The scenario with at most one fault; its end is compared with that of a run without.
fn run(
    scenario: &Scenario,
    backend: Backend,
    folder: &Arc<tempfile::TempDir>,
    fault: Option<(usize, CallFault)>,
    clean: Option<&Vec<String>>,
) -> Run {
    let machine = Machine::new(&(scenario.functions)(), folder);
    let files = open_files();
    let mut told = Told::new();
    let life = |told: &mut Told, fault| {
        // A scenario that panics is a failure with a name, like any other.
        let lived = catch_unwind(AssertUnwindSafe(|| life(scenario, backend, &machine, told, fault, clean)));
        lived.unwrap_or_else(|_| {
            told.wrong.push("the scenario panics, as is printed above".into());
            Life::default()
        })
    };
    let Life { first, state, complaints } = life(&mut told, fault);
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
            let Life { state, .. } = life(&mut again, None);
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

/// What a guest's life came to.
#[derive(Default)]
struct Life {
    /// How many calls came before the scenario.
    first: usize,
    state: Vec<String>,
    /// What its functions complained of.
    complaints: Vec<String>,
}

/// A guest from its start to its end.
fn life(
    scenario: &Scenario,
    backend: Backend,
    machine: &Machine,
    told: &mut Told,
    fault: Option<(usize, CallFault)>,
    clean: Option<&Vec<String>>,
) -> Life {
    let arm = || {
        if let Some((before, fault)) = fault {
            machine.kernel.fail(before, fault);
        }
    };
    let mut first = machine.kernel.calls().len();
    if scenario.before.is_none() {
        arm();
    }
    let Some(mut guest) = Guest::new(machine, backend, told) else {
        return Life { first, ..Life::default() };
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
    Life { first, state, complaints }
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
