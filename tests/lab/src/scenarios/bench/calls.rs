//! System calls that a monitor makes: until its guest runs, as the guest's driver brings the disk up, takes it away and
//! brings it up again, and in a second of I/O. L1's kernel counts them as they come in; a monitor is slower for that, and
//! does the same.

use super::Cause;
use super::row::{Goal, Row};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::guest::Work;
use crate::l1::{L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{Life, Monitor};
use crate::orders::Servant;
use crate::progress::Progress;
use crate::scenarios::versus::set_up;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

const TRIGGER: &str = "/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/trigger";
const COUNTS: &str = "/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/hist";
/// By thread, with the name it had at its first call of a kind, and call.
const HISTOGRAM: &str = "hist:keys=common_pid.execname,id.syscall:size=8192";
/// The lab's agent, which is not a monitor.
const AGENT: &str = "init";

/// What the guest is told to do, by the title of the row; without an order there is what came before.
const PHASES: [(&str, Option<&str>); 4] = [
    ("start, until the guest's first process", None),
    ("driver loaded, disk there (MSI-X brought up)", Some("bring_up nvme0n1")),
    ("driver unbound and bound again", Some("rebind nvme0n1")),
    ("1 s of random reads, queue depth 32", Some("io nvme0n1 32 0 1000")),
];

/// Calls by name.
type Calls = BTreeMap<String, f64>;

/// The rows.
pub(super) fn measure(bench: &Bench, runs: u16, progress: &Rc<Progress>) -> Result<Vec<Row>, Cause> {
    let disk = Disk::random()?;
    let machine = Machine::new().whole_processor().nvme(&disk, None).host_files();
    let monitors = [Monitor::Ours, Monitor::Qemu(bench.qemu.clone())];
    let patience = Duration::from_secs(120 + 120 * u64::from(runs));
    let mut l1 = set_up(bench.boot(&machine, Watch::total(patience))?, &monitors, progress)?;
    l1.write(TRIGGER, HISTOGRAM)?;
    // By monitor, phase and run.
    let mut counted = [(); 2].map(|()| PHASES.map(|_| Vec::<Calls>::new()));
    for run in 1..=runs {
        for (monitor, counted) in monitors.iter().zip(&mut counted) {
            progress.step(format!("run {run} of {runs}: {}", monitor.name()));
            one_life(&mut l1, monitor, counted, progress)?;
        }
    }
    l1.power_off()?;
    let [ours, qemu] = counted;
    let phases = PHASES.iter().zip(ours.iter().zip(&qemu));
    Ok(phases.flat_map(|((title, _), (ours, theirs))| rows(title, ours, theirs)).collect())
}

fn one_life(
    l1: &mut L1,
    monitor: &Monitor,
    counted: &mut [Vec<Calls>; 4],
    progress: &Rc<Progress>,
) -> Result<(), Cause> {
    let mut before = calls(&l1.read(COUNTS)?);
    let life = Life::start(l1, monitor, monitor.launch(DISK_BDF, Work::Wait), progress)?;
    let mut guest = Servant::new(life, l1)?;
    for ((_, order), counted) in PHASES.iter().zip(counted) {
        if let Some(order) = order {
            let faults = guest.order(l1, order)?.faults;
            super::must("the guest meets no fault", "", &faults.join("; "))?;
        }
        let now = calls(&l1.read(COUNTS)?);
        counted.push(since(&now, &before));
        before = now;
    }
    guest.begin(l1, "leave")?;
    guest.life.until_end(l1)?;
    Ok(())
}

/// How often each call was made by threads that are not the agent's.
fn calls(histogram: &str) -> Calls {
    // `{ common_pid: vcpu0           [       123], id: sys_ioctl                     [ 16] } hitcount:         10`
    let parsed: Vec<(&str, &str, &str, f64)> = histogram.lines().filter_map(line).collect();
    let others: BTreeSet<&str> =
        parsed.iter().filter(|(name, ..)| *name != AGENT).map(|(_, thread, ..)| *thread).collect();
    let mut calls = Calls::new();
    for (_, thread, call, count) in parsed {
        // A thread of the monitor's has the agent's name until its program is begun.
        if others.contains(thread) {
            *calls.entry(call.to_owned()).or_default() += count;
        }
    }
    calls
}

/// The thread's name and number, the call, and how often.
fn line(line: &str) -> Option<(&str, &str, &str, f64)> {
    let (key, count) = line.strip_prefix("{ common_pid:")?.split_once("} hitcount:")?;
    let (thread, call) = key.split_once(", id:")?;
    let (name, number) = thread.rsplit_once('[')?;
    let call = call.split_whitespace().next()?.trim_start_matches("sys_");
    Some((name.trim(), number.trim().trim_end_matches(']').trim(), call, count.trim().parse().ok()?))
}

fn since(now: &Calls, before: &Calls) -> Calls {
    let grown = now.iter().map(|(call, count)| (call.clone(), count - before.get(call).unwrap_or(&0.0)));
    grown.filter(|(_, count)| *count > 0.0).collect()
}

/// All calls of a phase, and how many of them are `ioctl`.
fn rows(title: &str, ours: &[Calls], theirs: &[Calls]) -> Vec<Row> {
    let all = |runs: &[Calls]| runs.iter().map(|calls| calls.values().sum()).collect::<Vec<f64>>();
    let ioctls =
        |runs: &[Calls]| runs.iter().map(|calls| calls.get("ioctl").copied().unwrap_or(0.0)).collect();
    let row = |name: &str| Row::new("system calls of the monitor", format!("{title}{name}"), "");
    vec![
        row("").ours(all(ours)).beside("QEMU", all(theirs)).goal(Goal::RatioAtMost(1.0)),
        row(", ioctl of them").ours(ioctls(ours)).beside("QEMU", ioctls(theirs)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIST: &str = "# event histogram\n\n\
        { common_pid: init            [         1], id: sys_read                      [  0] } hitcount:          9\n\
        { common_pid: init            [       140], id: sys_execve                    [ 59] } hitcount:          1\n\
        { common_pid: vfio-assign     [       140], id: sys_ioctl                     [ 16] } hitcount:         40\n\
        { common_pid: vcpu0           [       141], id: sys_ioctl                     [ 16] } hitcount:          2\n\
        \nTotals:\n    Hits: 52\n";

    #[test]
    fn the_agents_calls_are_not_the_monitors() {
        let expected = [("execve".to_owned(), 1.0), ("ioctl".to_owned(), 42.0)];
        assert_eq!(calls(HIST), expected.into());
    }

    #[test]
    fn only_what_came_since_counts() {
        let before = Calls::from([("ioctl".to_owned(), 40.0), ("execve".to_owned(), 1.0)]);
        assert_eq!(since(&calls(HIST), &before), [("ioctl".to_owned(), 2.0)].into());
    }
}
