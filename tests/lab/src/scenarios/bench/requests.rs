//! How fast a guest's disk is under our command and under QEMU, and what the monitors take for that. Both guests are
//! there at once, each with a disk of its own, and work by turns of half a second: the machine below is now faster, now
//! slower, and two that come one after the other have the same of it.
//!
//! What the guest itself ran is known only while KVM's entries are watched, which takes time of its own, of both alike.

use super::Cause;
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
/// How many milliseconds a turn lasts, and how many of them each guest has at each load in a run.
const TURNS: (u32, usize) = (500, 12);
/// A turn without any request: the shell that starts a load, and what is printed, take exits and time, too.
const IDLE: u32 = 0;

/// How many requests there are at a time, and whether they write.
const LOADS: [(&str, u32, u32); 4] = [
    ("4 KiB random read, queue depth 1", 1, 0),
    ("4 KiB random read, queue depth 32", 32, 0),
    ("4 KiB random write, queue depth 1", 1, 1),
    ("4 KiB random write, queue depth 32", 32, 1),
];

/// A row's name and unit, and its goal at queue depth 1 and beyond.
type Measure = (&'static str, &'static str, [Option<Goal>; 2]);

/// What is measured in a turn.
const MEASURES: [Measure; 11] = [
    ("requests a second", "/s", [Some(Goal::RatioAtLeast(0.95)); 2]),
    ("latency, p50", "µs", [None; 2]),
    ("latency, p95", "µs", [None; 2]),
    ("latency, p99", "µs", [None; 2]),
    ("latency, p99.9", "µs", [None; 2]),
    ("monitor's own processor time a request", "µs", [Some(Goal::RatioAtMost(1.0)); 2]),
    ("the same, with the guest's in it", "µs", [None; 2]),
    ("of it by other threads than the processor's", "µs", [None; 2]),
    ("exits a request", "", [None; 2]),
    ("of them for a register, to the monitor", "", [None, Some(Goal::AtMost(0.0))]),
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
    // For good: L1's kernel patches itself for that, which is what the emulator does worst.
    entries::watch(&mut l1)?;
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
        play(&mut l1, &mut contestants, first, &mut figures, progress)?;
        leave(&mut l1, contestants)?;
    }
    l1.power_off()?;
    Ok(rows(&figures, &monitors))
}

/// Whose turn it is, so many times each: who is first in a pair changes from pair to pair.
fn turns(first: usize, turns: usize) -> impl Iterator<Item = usize> {
    (0..turns).flat_map(move |turn| [first + turn, first + turn + 1]).map(|who| who % 2)
}

fn play(
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
        for who in turns(first, TURNS.1) {
            let turn = turn(l1, &mut contestants[who], depth, writes, TURNS.0)?;
            for ((name, ..), value) in MEASURES.iter().zip(turn.figures(&idle[who])?) {
                figures.entry((load, name)).or_default()[who].push(value);
            }
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
    /// How many requests there were, the warm-up's among them.
    requests: f64,
    per_second: f64,
    latencies: [f64; 4],
    ran: Ran,
}

impl Turn {
    /// In the order of the measures.
    fn figures(&self, idle: &Self) -> Result<[f64; MEASURES.len()], Cause> {
        // What an idle turn takes, too, is no request's.
        let each = |of: &dyn Fn(&Ran) -> f64| (of(&self.ran) - of(&idle.ran)) / self.requests;
        let exits =
            |kind: &'static str| each(&|ran| ran.work.exits.get(kind).copied().unwrap_or_default()).max(0.0);
        let own = each(&|ran| ran.work.all - ran.guest) / 1000.0;
        super::must("requests take processor time", "true", &(own > 0.0).to_string())?;
        let all = each(&|ran| ran.work.all) / 1000.0;
        let beside = each(&|ran| ran.work.beside).max(0.0) / 1000.0;
        let returns = each(&|ran| ran.returns).max(0.0);
        let [p50, p95, p99, p999] = self.latencies;
        let exits = [exits("exits"), exits("mmio_exits")];
        Ok([self.per_second, p50, p95, p99, p999, own, all, beside, exits[0], exits[1], returns])
    }
}

fn turn(l1: &mut L1, contestant: &mut Contestant, depth: u32, writes: u32, time: u32) -> Result<Turn, Cause> {
    let before = Entries::take(l1, &contestant.process)?;
    let done = contestant.guest.order(l1, &format!("io {NODE} {depth} {writes} {time}"))?;
    super::must("the guest meets no fault", "", &done.faults.join("; "))?;
    let ran = Entries::take(l1, &contestant.process)?.since(&before)?;
    let number = |key: &str| done.value("io", key).parse::<f64>().unwrap_or(f64::NAN);
    Ok(Turn {
        requests: number("all"),
        per_second: number("count") / number("microseconds") * 1e6,
        latencies: ["p50", "p95", "p99", "p999"].map(|key| number(key) / 1000.0),
        ran,
    })
}

fn rows(figures: &Figures, [_, qemu]: &[Monitor; 2]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, (load, depth, _)) in LOADS.into_iter().enumerate() {
        for (name, unit, goals) in MEASURES {
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
    use super::super::counters::Work as Done;
    use super::*;

    fn turn(requests: f64, all: f64, guest: f64, returns: f64) -> Turn {
        let work = Done { all, beside: 0.0, exits: [("exits".to_owned(), returns * 2.0)].into() };
        Turn { requests, per_second: 1.0, latencies: [0.0; 4], ran: Ran { work, guest, returns } }
    }

    #[test]
    fn a_request_takes_what_an_idle_turn_does_not_and_the_monitors_own_time_is_without_the_guests() {
        let idle = turn(0.0, 300_000.0, 200_000.0, 270.0);
        let figures = turn(100.0, 1_200_000.0, 900_000.0, 290.0).figures(&idle).unwrap();
        assert_eq!(figures, [1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 9.0, 0.0, 0.4, 0.0, 0.2]);
    }

    #[test]
    fn requests_without_processor_time_are_told() {
        let idle = turn(0.0, 300_000.0, 200_000.0, 270.0);
        assert!(turn(100.0, 300_000.0, 200_000.0, 270.0).figures(&idle).is_err());
    }
}
