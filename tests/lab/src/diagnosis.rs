//! What a guest that has fallen silent does, as far as L1's KVM knows: it tells a guest that spins from one that
//! sleeps, and an interrupt that never came from a monitor that does not answer. For the latter there is what each of
//! the monitor's threads waits for in L1's kernel.

use crate::l1::{L1, L1Error};
use std::collections::BTreeMap;
use std::time::Duration;

/// Where KVM keeps its counters, a folder a virtual machine.
const COUNTERS: &str = "/sys/kernel/debug/kvm";
/// How long the counters are watched.
const WATCHED: Duration = Duration::from_secs(2);

/// For each virtual machine the counters that rose while L1 was watched and where in L1's kernel each thread of its
/// monitor is; and whether L1's own clocks go. Lines for a person; what fails is told in its place.
pub(crate) fn of_silence(l1: &mut L1) -> String {
    let not_known = |error: L1Error| format!("not known: {error}");
    let mut lines = format!("\n    L1's timers: {}", clocks(l1).unwrap_or_else(not_known));
    for machine in machines(l1).unwrap_or_default() {
        let threads = threads(l1, process_of(&machine)).unwrap_or_else(not_known);
        lines += &format!("\n    {machine}: {}\n{threads}", risen(l1, &machine));
    }
    lines
}

/// When each of L1's processors expects its timer, by now: one that has expected it for long has lost it.
fn clocks(l1: &mut L1) -> Result<String, L1Error> {
    let text = l1.read("/proc/timer_list")?;
    let number = |line: &str| line.split_whitespace().find_map(|word| word.parse::<i64>().ok());
    let now = text.lines().find(|line| line.starts_with("now at")).and_then(number).unwrap_or_default();
    let nexts = text.lines().filter(|line| line.trim_start().starts_with(".expires_next")).filter_map(number);
    let nexts =
        nexts.enumerate().map(|(cpu, next)| format!("processor {cpu} in {} ms", (next - now) / 1_000_000));
    Ok(nexts.collect::<Vec<_>>().join(", "))
}

fn risen(l1: &mut L1, machine: &str) -> String {
    match rise(l1, machine) {
        Ok(rise) if rise.is_empty() => "nothing at all".into(),
        Ok(rise) => rise.iter().map(|(name, by)| format!("{name} {by}")).collect::<Vec<_>>().join(", "),
        Err(error) => format!("not known: {error}"),
    }
}

/// A line a thread: its name, its state, and the calls it is in.
fn threads(l1: &mut L1, process: &str) -> Result<String, L1Error> {
    let mut lines = String::new();
    for thread in l1.list(&format!("/proc/{process}/task"))? {
        let folder = format!("/proc/{process}/task/{thread}");
        let mut file =
            |name: &str| l1.read(&format!("{folder}/{name}")).unwrap_or_else(|why| why.to_string());
        let (name, status, stack) = (file("comm"), file("status"), file("stack"));
        let state = status.lines().find(|line| line.starts_with("State")).unwrap_or_default().to_owned();
        let calls: Vec<&str> = stack.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        lines += &format!("      {} {state} {}\n", name.trim(), calls.join(" < "));
    }
    Ok(lines)
}

/// The folder of counters of a process's virtual machine; none if it has none.
pub(crate) fn counters_folder(l1: &mut L1, process: &str) -> Result<Option<String>, L1Error> {
    let machines = machines(l1)?;
    let own = machines.iter().find(|machine| process_of(machine) == process);
    Ok(own.map(|machine| format!("{COUNTERS}/{machine}")))
}

/// The first monitor's process; none if no monitor is running.
pub(crate) fn monitors_process(l1: &mut L1) -> Result<Option<String>, L1Error> {
    Ok(monitors_processes(l1)?.into_iter().next())
}

/// All monitors' processes.
pub(crate) fn monitors_processes(l1: &mut L1) -> Result<Vec<String>, L1Error> {
    Ok(machines(l1)?.iter().map(|machine| process_of(machine).to_owned()).collect())
}

/// The monitors' virtual machines.
fn machines(l1: &mut L1) -> Result<Vec<String>, L1Error> {
    let mut names = l1.list(COUNTERS)?;
    names.retain(|name| is_of_a_monitor(name));
    Ok(names)
}

fn process_of(machine: &str) -> &str {
    machine.split('-').next().unwrap_or_default()
}

/// A machine is named by its process and file descriptor. Process 1 is the agent, which keeps one that never runs.
fn is_of_a_monitor(name: &str) -> bool {
    name.split_once('-').is_some_and(|(process, _)| process != "1")
}

fn rise(l1: &mut L1, machine: &str) -> Result<BTreeMap<String, i64>, L1Error> {
    let before = counters(l1, machine)?;
    std::thread::sleep(WATCHED);
    let mut after = counters(l1, machine)?;
    for (name, count) in &mut after {
        *count -= before.get(name).copied().unwrap_or(0);
    }
    after.retain(|_, by| *by != 0);
    Ok(after)
}

/// A virtual machine's counters, by name.
pub(crate) fn counters(l1: &mut L1, machine: &str) -> Result<BTreeMap<String, i64>, L1Error> {
    let folder = format!("{COUNTERS}/{machine}");
    let mut counters = BTreeMap::new();
    for name in l1.list(&folder)? {
        // Folders of processors and histograms are no counters.
        let value = l1.read(&format!("{folder}/{name}")).ok().and_then(|text| text.trim().parse().ok());
        counters.extend(value.map(|value| (name, value)));
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_machine_is_no_monitors() {
        assert_eq!(["1-8", "143-9", "mmio_exits"].map(is_of_a_monitor), [false, true, false]);
    }
}
