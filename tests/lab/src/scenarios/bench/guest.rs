//! The same guest with the same disk under our command and under QEMU, in one L1, by turns: how far it is when, and what
//! memory the monitor takes.

use super::Cause;
use super::counters;
use super::plot::START;
use super::row::{Goal, Row};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::guest::Work;
use crate::l1::{L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{Life, LifeError, Monitor};
use crate::orders::Servant;
use crate::progress::Progress;
use crate::protocol::End;
use crate::report::mark;
use crate::scenarios::versus::{set_up, touch_memory};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// One monitor, and what was measured of it, by name.
struct Contestant {
    monitor: Monitor,
    figures: BTreeMap<String, Vec<f64>>,
}

impl Contestant {
    fn put(&mut self, key: impl Into<String>, value: f64) {
        self.figures.entry(key.into()).or_default().push(value);
    }

    fn of(&self, key: &str) -> Vec<f64> {
        self.figures.get(key).cloned().unwrap_or_default()
    }
}

/// The rows of the whole guest, and which runs hung.
pub(super) fn measure(
    bench: &Bench,
    runs: u16,
    repeated: &mut Vec<String>,
    progress: &Rc<Progress>,
) -> Result<Vec<Row>, Cause> {
    let mut disk = Disk::random()?;
    let machine = Machine::new().whole_processor().nvme(&disk, None).host_files();
    let patience = Duration::from_secs(300 + 300 * u64::from(runs));
    let monitors = [Monitor::Ours, Monitor::Qemu(bench.qemu.clone()), Monitor::LeanQemu(bench.qemu.clone())];
    let stage = || -> Result<L1, Cause> {
        let mut l1 = set_up(bench.boot(&machine, Watch::total(patience))?, &monitors, progress)?;
        counters::note_entries(&mut l1)?;
        Ok(l1)
    };
    let mut contest = monitors.clone().map(|monitor| Contestant { monitor, figures: BTreeMap::new() });
    let mut l1 = stage()?;
    for run in 1..=runs {
        for place in 0..contest.len() {
            // Whoever is first in a round may find another L1 than whoever is last.
            let contestant = &mut contest[(usize::from(run) - 1 + place) % monitors.len()];
            let name = contestant.monitor.name();
            let figures = contestant.figures.clone();
            let mut turn = |l1: &mut L1| {
                contestant.figures.clone_from(&figures);
                touch_memory(l1, progress)?;
                progress.step(format!("run {run} of {runs}: {name}"));
                one_life(l1, contestant, &mut disk, progress)
            };
            while let Err(error) = turn(&mut l1) {
                match &error {
                    Cause::L1(_) | Cause::Life(LifeError::Stopped { .. } | LifeError::Stuck { .. })
                        if repeated.len() < super::REPEATS => {}
                    _ => return Err(error),
                }
                eprintln!("{} run {run} of {name} is repeated in a fresh L1: {error}", mark(false));
                repeated.push(format!("run {run} of {name}"));
                // The disk's file is one machine's at a time.
                drop(l1);
                l1 = stage()?;
            }
        }
    }
    l1.power_off()?;
    Ok(rows(&contest))
}

/// One guest from the monitor's start to its end.
fn one_life(
    l1: &mut L1,
    contestant: &mut Contestant,
    disk: &mut Disk,
    progress: &Rc<Progress>,
) -> Result<(), Cause> {
    let expected = disk.digest()?;
    counters::forget_entries(l1, progress)?;
    let launch = contestant.monitor.launch(DISK_BDF, Work::Measure);
    let mut life = Life::start(l1, &contestant.monitor, launch, progress)?;
    let seconds = |microseconds: u64| microseconds as f64 / 1e6;
    let first_read = life.until(l1, "first-read")?.at;
    let read = life.until(l1, "read")?;
    super::must("the guest reads what is on its disk", &expected, read.value("sha256").unwrap_or_default())?;
    // A figure that is missing would have others stand beside those of another turn.
    let first = counters::first_entry(l1)?.map(|(after, _place)| after);
    super::must("the guest's first instruction is seen", "true", &first.is_some().to_string())?;
    contestant.figures.entry("first instruction".into()).or_default().extend(first);
    for (key, sign) in [("first kernel line", "Linux version "), ("driver bound", "default/read/poll queues")]
    {
        let at = life.lines.iter().find(|(_, line)| line.contains(sign)).map(|(at, _)| seconds(*at));
        super::must("the guest's kernel says how far it is", "true", &at.is_some().to_string())?;
        contestant.figures.entry(key.into()).or_default().extend(at);
    }
    contestant.put("first read", seconds(first_read));
    contestant.put("digest", seconds(read.at));
    let mut guest = Servant::new(life, l1)?;
    let [resident, anonymous] = counters::memory(l1)?;
    contestant.put("resident", resident / 1024.0);
    contestant.put("anonymous", anonymous / 1024.0);
    guest.begin(l1, "leave")?;
    let (_, end) = guest.life.until_end(l1)?;
    super::must("the monitor ends well", &format!("{:?}", End::Status(0)), &format!("{end:?}"))
}

fn rows(contest: &[Contestant; 3]) -> Vec<Row> {
    let [ours, qemu, lean] = contest;
    let row = |group: &str, name: &str, unit: &str, key: &str, other: &Contestant| {
        Row::new(group, name, unit).ours(ours.of(key)).beside(other.monitor.name(), other.of(key))
    };
    let mut rows = Vec::new();
    for (name, key, goal) in [
        ("guest's first instruction", "first instruction", None),
        ("first line of the guest's kernel", "first kernel line", Some(0.15)),
        ("driver bound", "driver bound", None),
        ("first block read", "first read", Some(0.6)),
        ("digest of the disk", "digest", None),
    ] {
        let against = row(START, name, "s", key, qemu);
        rows.push(Row { goal: goal.map(Goal::RatioAtMost), ..against });
        rows.push(row(START, name, "s", key, lean));
    }
    let group = "monitor's memory beside the guest's";
    rows.push(row(group, "resident", "MiB", "resident", qemu).goal(Goal::RatioAtMost(0.25)));
    rows.push(row(group, "resident", "MiB", "resident", lean));
    rows.push(row(group, "of it in no file", "MiB", "anonymous", qemu));
    rows
}
