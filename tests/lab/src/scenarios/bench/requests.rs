//! How fast a guest's disk is under our command and under QEMU, and what the monitors take for that. Both guests are
//! there at once, each with a disk of its own, and work by turns, a second each: the machine below is now faster, now
//! slower, and two that come one after the other have the same of it.

use super::Cause;
use super::counters::{Counts, Work as Done};
use super::row::{Goal, Row};
use crate::bench::Bench;
use crate::diagnosis::monitors_processes;
use crate::disk::Disk;
use crate::driver::{self, VFIO};
use crate::guest::Work;
use crate::l1::{L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{Life, Monitor};
use crate::orders::Servant;
use crate::progress::Progress;
use crate::protocol::End;
use crate::scenarios::versus::set_up;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// The second disk, where `nvme` puts it below.
const OTHER_BDF: &str = "0000:00:05.0";
/// What L1 has, in MiB: both guests' memory, and as much again.
const L1_MEMORY: u32 = 3 << 10;
/// The guest's name for the disk.
const NODE: &str = "nvme0n1";
/// How long each turn lasts.
const MILLISECONDS: u32 = 1000;
/// How many turns each guest has at each load.
const TURNS: usize = 5;

/// How many requests there are at a time, and whether they write.
const LOADS: [(&str, u32, u32); 4] = [
    ("4 KiB random read, queue depth 1", 1, 0),
    ("4 KiB random read, queue depth 32", 32, 0),
    ("4 KiB random write, queue depth 1", 1, 1),
    ("4 KiB random write, queue depth 32", 32, 1),
];

/// What is measured in each turn: the row's name and unit, and its goal at queue depth 1 and beyond.
const MEASURES: [(&str, &str, [Option<Goal>; 2]); 9] = [
    ("requests a second", "/s", [Some(Goal::RatioAtLeast(0.95)); 2]),
    ("latency, p50", "µs", [None; 2]),
    ("latency, p95", "µs", [None; 2]),
    ("latency, p99", "µs", [None; 2]),
    ("latency, p99.9", "µs", [None; 2]),
    ("monitor's processor time a request, the guest's in it", "µs", [Some(Goal::RatioAtMost(1.0)); 2]),
    ("the same, processor's thread left out", "µs", [None; 2]),
    ("exits a request", "", [None; 2]),
    ("of them for a register, to the monitor", "", [None, Some(Goal::AtMost(0.0))]),
];

/// A guest that serves, and who runs it.
struct Contestant {
    monitor: Monitor,
    /// The monitor's process, as L1 numbers it.
    process: String,
    guest: Servant,
}

impl Contestant {
    /// A guest that has read its disk.
    fn start(
        l1: &mut L1,
        monitor: &Monitor,
        device: &'static str,
        progress: &Rc<Progress>,
    ) -> Result<Self, Cause> {
        let before = monitors_processes(l1)?;
        let life = Life::start(l1, monitor, monitor.launch(device, Work::Measure), progress)?;
        let guest = Servant::new(life, l1)?;
        let mut new = monitors_processes(l1)?;
        new.retain(|process| !before.contains(process));
        super::must("there is one virtual machine more", "1", &new.len().to_string())?;
        Ok(Self { monitor: monitor.clone(), process: new.concat(), guest })
    }
}

/// Figures by load and measure: ours, and QEMU's.
type Figures = BTreeMap<(usize, usize), [Vec<f64>; 2]>;

/// The rows.
pub(super) fn measure(bench: &Bench, runs: u16, progress: &Rc<Progress>) -> Result<Vec<Row>, Cause> {
    let disks = [Disk::random()?, Disk::random()?];
    let machine = Machine::new()
        .whole_processor()
        .memory(L1_MEMORY)
        .nvme(&disks[0], None)
        .drive("other", &disks[1])
        .device("nvme,drive=other,serial=other,addr=5.0")
        .host_files();
    let monitors = [Monitor::Ours, Monitor::Qemu(bench.qemu.clone())];
    let patience = Duration::from_secs(300 + 300 * u64::from(runs));
    let mut l1 = set_up(bench.boot(&machine, Watch::total(patience))?, &monitors, progress)?;
    driver::bind(&mut l1, OTHER_BDF, VFIO)?;
    let mut figures = Figures::new();
    for run in 1..=runs {
        progress.step(format!("run {run} of {runs}: both guests boot"));
        // Where a guest's memory lies may make it faster or slower: who is first and has which disk changes.
        let first = usize::from(run % 2 == 0);
        let devices = match run / 2 % 2 {
            0 => [DISK_BDF, OTHER_BDF],
            _ => [OTHER_BDF, DISK_BDF],
        };
        let mut start = |who: usize| Contestant::start(&mut l1, &monitors[who], devices[who], progress);
        let mut contestants = [start(first)?, start(1 - first)?];
        contestants.rotate_left(first);
        one_run(&mut l1, contestants, first, &mut figures, progress)?;
    }
    l1.power_off()?;
    Ok(rows(&figures, &monitors))
}

/// Two guests from where they are ready to their ends.
fn one_run(
    l1: &mut L1,
    mut contestants: [Contestant; 2],
    first: usize,
    figures: &mut Figures,
    progress: &Rc<Progress>,
) -> Result<(), Cause> {
    for (place, (load, depth, writes)) in LOADS.into_iter().enumerate() {
        progress.step(load);
        // What the guest prints of a load, and the shell that starts it, takes exits and time, too.
        let mut idle = Vec::new();
        for contestant in &mut contestants {
            idle.push(turn(l1, contestant, depth, writes, 1)?.work);
        }
        for number in 0..TURNS {
            for who in [(first + number) % 2, (first + number + 1) % 2] {
                let turn = turn(l1, &mut contestants[who], depth, writes, MILLISECONDS)?;
                for (measure, value) in turn.figures(&idle[who]).into_iter().enumerate() {
                    figures.entry((place, measure)).or_default()[who].push(value);
                }
            }
        }
    }
    for Contestant { monitor, mut guest, .. } in contestants {
        guest.begin(l1, "leave")?;
        let (_, end) = guest.life.until_end(l1)?;
        let well = format!("{} {:?}", monitor.name(), End::Status(0));
        super::must("the monitor ends well", &well, &format!("{} {end:?}", monitor.name()))?;
    }
    Ok(())
}

/// What became of a turn.
struct Turn {
    requests: f64,
    per_second: f64,
    latencies: [f64; 4],
    work: Done,
}

impl Turn {
    /// In the order of the measures.
    fn figures(&self, idle: &Done) -> [f64; MEASURES.len()] {
        let each = |all: f64, idle: f64| (all - idle).max(0.0) / self.requests;
        let exits = |kind: &str| {
            let count = |work: &Done| work.exits.get(kind).copied().unwrap_or_default();
            each(count(&self.work), count(idle))
        };
        let [p50, p95, p99, p999] = self.latencies;
        let all = each(self.work.all, idle.all) / 1000.0;
        let beside = each(self.work.beside, idle.beside) / 1000.0;
        [self.per_second, p50, p95, p99, p999, all, beside, exits("exits"), exits("mmio_exits")]
    }
}

fn turn(l1: &mut L1, contestant: &mut Contestant, depth: u32, writes: u32, time: u32) -> Result<Turn, Cause> {
    let process = contestant.process.as_str();
    let before = Counts::take(l1, process)?;
    let done = contestant.guest.order(l1, &format!("io {NODE} {depth} {writes} {time}"))?;
    let after = Counts::take(l1, process)?;
    super::must("the guest meets no fault", "", &done.faults.join("; "))?;
    let number = |key: &str| done.value("io", key).parse::<f64>().unwrap_or(f64::NAN);
    let requests = number("count");
    Ok(Turn {
        requests,
        per_second: requests / number("microseconds") * 1e6,
        latencies: ["p50", "p95", "p99", "p999"].map(|key| number(key) / 1000.0),
        work: after.since(&before),
    })
}

fn rows(figures: &Figures, [_, qemu]: &[Monitor; 2]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, (load, depth, _)) in LOADS.into_iter().enumerate() {
        for (measure, (name, unit, goals)) in MEASURES.into_iter().enumerate() {
            let [ours, theirs] = figures.get(&(place, measure)).cloned().unwrap_or_default();
            let row = Row::new(load, name, unit).ours(ours).beside(qemu.name(), theirs);
            let row = Row { goal: goals[usize::from(depth > 1)], ..row };
            rows.push(if measure == 0 { row.more_is_better() } else { row });
        }
    }
    rows
}
