//! How fast a guest's disk is under our command and under QEMU, and what the monitors take for that. Both guests are
//! there at once, each with a disk of its own, and work by turns of a second or less: the machine below is now faster,
//! now slower, and two that come one after the other have the same of it.
//!
//! What the guest itself ran is known only while KVM's entries are watched, which takes time of its own. So that is done
//! in other turns than those in which requests are timed, by the guests of the last run.

use super::Cause;
use super::counters::{Counts, Work as Done};
use super::entries::{self, Entries, Ran};
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
/// How long a turn lasts in which requests are timed, and how many of them each guest has at each load in a run.
const TIMED: (u32, usize) = (500, 8);
/// The same, in each round, where the guest's entries are watched: longer, for the monitor's own part of it is small.
const WATCHED: (u32, usize) = (1000, 4);
/// A turn in which hardly any request counts: the shell that starts a load, the program's warm-up and what it prints take
/// exits and time, too.
const IDLE: u32 = 1;

/// How many requests there are at a time, and whether they write.
const LOADS: [(&str, u32, u32); 4] = [
    ("4 KiB random read, queue depth 1", 1, 0),
    ("4 KiB random read, queue depth 32", 32, 0),
    ("4 KiB random write, queue depth 1", 1, 1),
    ("4 KiB random write, queue depth 32", 32, 1),
];

/// A row's name and unit, and its goal at queue depth 1 and beyond.
type Measure = (&'static str, &'static str, [Option<Goal>; 2]);

/// What is measured in turns that are timed.
const MEASURES: [Measure; 9] = [
    ("requests a second", "/s", [Some(Goal::RatioAtLeast(0.95)); 2]),
    ("latency, p50", "µs", [None; 2]),
    ("latency, p95", "µs", [None; 2]),
    ("latency, p99", "µs", [None; 2]),
    ("latency, p99.9", "µs", [None; 2]),
    ("monitor's processor time a request, the guest's in it", "µs", [None; 2]),
    ("the same, processor's thread left out", "µs", [None; 2]),
    ("exits a request", "", [None; 2]),
    ("of them for a register, to the monitor", "", [None, Some(Goal::AtMost(0.0))]),
];

/// What is measured in turns in which the guest's entries are watched.
const WATCHED_MEASURES: [Measure; 2] = [
    ("monitor's own processor time a request", "µs", [Some(Goal::RatioAtMost(1.0)); 2]),
    ("returns from KVM to the monitor a request", "", [None; 2]),
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

/// Figures by load and the measure's name: ours, and QEMU's.
type Figures = BTreeMap<(usize, &'static str), [Vec<f64>; 2]>;

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
        timed_turns(&mut l1, &mut contestants, first, &mut figures, progress)?;
        if run == runs {
            // Once, and for good: L1's kernel patches itself for that, which is what the emulator does worst.
            entries::watch(&mut l1)?;
            for round in 1..=runs {
                progress.step(format!("round {round} of {runs} with the guests' entries watched"));
                watched_turns(&mut l1, &mut contestants, first, &mut figures)?;
            }
        }
        leave(&mut l1, contestants)?;
    }
    l1.power_off()?;
    Ok(rows(&figures, &monitors))
}

/// Whose turn it is, so many times each: who is first in a pair changes from pair to pair.
fn turns(first: usize, turns: usize) -> impl Iterator<Item = usize> {
    (0..turns).flat_map(move |turn| [first + turn, first + turn + 1]).map(|who| who % 2)
}

fn put(figures: &mut Figures, load: usize, who: usize, measures: &[Measure], values: &[f64]) {
    for ((name, ..), value) in measures.iter().zip(values) {
        figures.entry((load, name)).or_default()[who].push(*value);
    }
}

fn timed_turns(
    l1: &mut L1,
    contestants: &mut [Contestant; 2],
    first: usize,
    figures: &mut Figures,
    progress: &Rc<Progress>,
) -> Result<(), Cause> {
    for (load, (name, depth, writes)) in LOADS.into_iter().enumerate() {
        progress.step(name);
        let mut idle = Vec::new();
        for contestant in &mut *contestants {
            idle.push(turn(l1, contestant, depth, writes, IDLE)?);
        }
        for who in turns(first, TIMED.1) {
            let turn = turn(l1, &mut contestants[who], depth, writes, TIMED.0)?;
            put(figures, load, who, &MEASURES, &turn.figures(&idle[who]));
        }
    }
    Ok(())
}

fn watched_turns(
    l1: &mut L1,
    contestants: &mut [Contestant; 2],
    first: usize,
    figures: &mut Figures,
) -> Result<(), Cause> {
    for (load, (_, depth, writes)) in LOADS.into_iter().enumerate() {
        for who in turns(first, WATCHED.1) {
            let idle = watched(l1, &mut contestants[who], depth, writes, IDLE)?;
            let turn = watched(l1, &mut contestants[who], depth, writes, WATCHED.0)?;
            put(figures, load, who, &WATCHED_MEASURES, &turn.figures(&idle));
        }
    }
    Ok(())
}

fn leave(l1: &mut L1, contestants: [Contestant; 2]) -> Result<(), Cause> {
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
    /// What each request took of something that an idle turn takes, too.
    fn each(&self, all: f64, idle: f64) -> f64 {
        (all - idle).max(0.0) / self.requests
    }

    /// In the order of the measures.
    fn figures(&self, idle: &Self) -> [f64; MEASURES.len()] {
        let exits = |kind: &str| {
            let count = |turn: &Self| turn.work.exits.get(kind).copied().unwrap_or_default();
            self.each(count(self), count(idle))
        };
        let [p50, p95, p99, p999] = self.latencies;
        let all = self.each(self.work.all, idle.work.all) / 1000.0;
        let beside = self.each(self.work.beside, idle.work.beside) / 1000.0;
        [self.per_second, p50, p95, p99, p999, all, beside, exits("exits"), exits("mmio_exits")]
    }
}

/// What became of a turn in which the guest's entries were watched.
struct WatchedTurn {
    turn: Turn,
    ran: Ran,
}

impl WatchedTurn {
    /// Nanoseconds that the monitor and L1's kernel ran for the guest, which itself did not.
    fn own(&self) -> f64 {
        self.turn.work.all - self.ran.guest
    }

    /// In the order of the measures.
    fn figures(&self, idle: &Self) -> [f64; WATCHED_MEASURES.len()] {
        let own = self.turn.each(self.own(), idle.own()) / 1000.0;
        [own, self.turn.each(self.ran.returns, idle.ran.returns)]
    }
}

fn watched(
    l1: &mut L1,
    contestant: &mut Contestant,
    depth: u32,
    writes: u32,
    time: u32,
) -> Result<WatchedTurn, Cause> {
    let before = Entries::take(l1, &contestant.process)?;
    let turn = turn(l1, contestant, depth, writes, time)?;
    let ran = Entries::take(l1, &contestant.process)?.since(&before)?;
    Ok(WatchedTurn { turn, ran })
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
        for (name, unit, goals) in MEASURES.into_iter().chain(WATCHED_MEASURES) {
            let [ours, theirs] = figures.get(&(place, name)).cloned().unwrap_or_default();
            let row = Row::new(load, name, unit).ours(ours).beside(qemu.name(), theirs);
            let row = Row { goal: goals[usize::from(depth > 1)], ..row };
            rows.push(if unit == "/s" { row.more_is_better() } else { row });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(requests: f64, ran: f64, guest: f64, returns: f64) -> WatchedTurn {
        let work = Done { all: ran, beside: 0.0, exits: BTreeMap::new() };
        let turn = Turn { requests, per_second: 0.0, latencies: [0.0; 4], work };
        WatchedTurn { turn, ran: Ran { guest, returns } }
    }

    #[test]
    fn the_monitors_own_time_is_without_the_guests_and_without_an_idle_turns() {
        let idle = turn(1.0, 300_000.0, 200_000.0, 270.0);
        assert_eq!(turn(100.0, 1_200_000.0, 900_000.0, 290.0).figures(&idle), [2.0, 0.2]);
    }
}
