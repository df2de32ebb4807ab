//! The same guest under our command and under QEMU, in the same L1, by turns: how long it lives, and how long it
//! takes to its kernel's first line.
//!
//! QEMU runs as one starts it (`-accel kvm -nographic`), which is what the limits are about, and once more as lean
//! as its options allow, which is shown for fairness.

use super::{Cause, Failure, check_kernel_log, named, seconds};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::driver::{self, VFIO};
use crate::guest::Work;
use crate::l1::{L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{Life, LifeError, Monitor};
use crate::progress::Progress;
use crate::protocol::{End, Launch};
use crate::report::{Report, mark};
use std::rc::Rc;
use std::time::Duration;

/// The part of QEMU's time that ours may take for the guest's whole life.
const LIFE_LIMIT: f64 = 0.7;
/// The same from the monitor's start to the first line of the guest's kernel.
const FIRST_LINE_LIMIT: f64 = 0.2;

/// Runs that may hang without failing the whole: emulated nested virtualisation hangs a guest now and then, ours and
/// QEMU's alike, and a life that never ended has no time.
const HUNG_RUNS: usize = 2;

/// A page of L1's that was never written, or last held a guest's code, costs the emulator several times what it costs
/// later; whoever comes first, or after another, must not pay for that.
const TOUCH_MEMORY: &str = "/bin/busybox dd if=/dev/zero of=/dev/null bs=1280M count=1";

/// How thorough.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Runs of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    runs: u16,
}

/// One monitor and the times of its guests, in seconds.
struct Contestant {
    monitor: Monitor,
    right: u16,
    life: Vec<f64>,
    first_line: Vec<f64>,
}

impl Contestant {
    fn new(monitor: Monitor) -> Self {
        Self { monitor, right: 0, life: Vec::new(), first_line: Vec::new() }
    }
}

/// Runs the scenario.
pub(crate) fn run(options: &Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("versus-qemu", carry_through(options, progress))
}

fn carry_through(options: &Options, progress: &Rc<Progress>) -> Result<Report, Cause> {
    let bench = Bench::prepare(progress, true)?;
    let mut disk = Disk::random()?;
    let expected = disk.digest()?;
    let machine = Machine::new().whole_processor().nvme(&disk, None).host_files();
    let patience = Duration::from_secs(120 + 160 * u64::from(options.runs));
    let qemu = || bench.qemu.clone();
    let mut contest = [Monitor::Ours, Monitor::Qemu(qemu()), Monitor::LeanQemu(qemu())].map(Contestant::new);
    let monitors = contest.each_ref().map(|contestant| contestant.monitor.clone());
    let stage = || set_up(bench.boot(&machine, Watch::total(patience))?, &monitors, progress);
    let mut l1 = stage()?;
    let mut report = Report::new("versus-qemu");
    let mut hung = Vec::new();
    for run in 1..=options.runs {
        for contestant in &mut contest {
            let name = contestant.monitor.name();
            let mut turn = |l1: &mut L1| {
                touch_memory(l1, progress)?;
                progress.step(format!("run {run} of {}: {name}", options.runs));
                one_life(l1, contestant, &expected, progress)
            };
            match turn(&mut l1) {
                Err(Cause::Life(stopped @ LifeError::Stopped { .. })) if hung.len() < HUNG_RUNS => {
                    eprintln!(
                        "{} run {run} of {name} hung and is repeated in a fresh L1: {stopped}",
                        mark(false)
                    );
                    hung.push(format!("run {run} of {name}"));
                    // The disk's file is one machine's at a time.
                    drop(l1);
                    l1 = stage()?;
                    turn(&mut l1)?;
                }
                done => done?,
            }
        }
    }
    report.figure("hung_runs", hung);
    report.figure("qemu_version", version(&mut l1, &monitors[1], progress)?);
    let log = l1.power_off()?;
    for contestant in &contest {
        let name = format!("{}'s guests read the disk and end well", contestant.monitor.name());
        report.equal(&name, options.runs, contestant.right);
    }
    check_kernel_log(&mut report, &log);
    let rows = [
        Row::new("whole life", "life", LIFE_LIMIT, contest.each_ref().map(|each| each.life.as_slice())),
        Row::new(
            "first line of the guest's kernel",
            "first_line",
            FIRST_LINE_LIMIT,
            contest.each_ref().map(|each| each.first_line.as_slice()),
        ),
    ];
    progress.clear();
    println!(
        "\n  {:<36}{:>12}{:>10}{:>8}{:>14}",
        "seconds from the monitor's start", "vfio-assign", "QEMU", "ratio", "lean QEMU"
    );
    for row in &rows {
        row.record(&mut report);
        println!("{}", row.line());
    }
    println!();
    Ok(report)
}

/// An L1 in which each of the monitors can be started at once.
pub(super) fn set_up(mut l1: L1, monitors: &[Monitor], progress: &Rc<Progress>) -> Result<L1, Cause> {
    driver::bind(&mut l1, DISK_BDF, VFIO)?;
    for monitor in monitors {
        // QEMU comes over 9p; it must not pay for that in the first run.
        progress.step(format!("loading {}", monitor.name()));
        version(&mut l1, monitor, progress)?;
    }
    Ok(l1)
}

/// The first line of what a monitor says of its version.
fn version(l1: &mut L1, monitor: &Monitor, progress: &Rc<Progress>) -> Result<String, Cause> {
    let mut life = Life::start(l1, monitor, monitor.warm_up(), progress)?;
    life.until_end(l1)?;
    Ok(life.lines.first().map(|(_, line)| line.trim().to_owned()).unwrap_or_default())
}

pub(super) fn touch_memory(l1: &mut L1, progress: &Rc<Progress>) -> Result<(), Cause> {
    let arguments = TOUCH_MEMORY.split_whitespace().map(str::to_owned).collect();
    let touching = Launch { arguments, user: None };
    Life::start(l1, &Monitor::Ours, touching, progress)?.until_end(l1)?;
    Ok(())
}

/// One guest from the monitor's start to its end.
fn one_life(
    l1: &mut L1,
    contestant: &mut Contestant,
    expected: &str,
    progress: &Rc<Progress>,
) -> Result<(), Cause> {
    let launch = contestant.monitor.launch(DISK_BDF, Work::Read);
    let mut life = Life::start(l1, &contestant.monitor, launch, progress)?;
    let read = life.until(l1, "read")?;
    let (end_time, end) = life.until_end(l1)?;
    contestant.right += u16::from(read.value("sha256") == Some(expected) && end == End::Status(0));
    contestant.life.push(seconds(end_time));
    contestant.first_line.extend(life.first_kernel_line().map(seconds));
    Ok(())
}

/// One thing that was timed.
struct Row {
    title: &'static str,
    key: &'static str,
    limit: f64,
    ours: Vec<f64>,
    qemu: Vec<f64>,
    lean: Vec<f64>,
}

impl Row {
    fn new(title: &'static str, key: &'static str, limit: f64, times: [&[f64]; 3]) -> Self {
        let [ours, qemu, lean] = times.map(<[f64]>::to_vec);
        Self { title, key, limit, ours, qemu, lean }
    }

    fn ratio(&self) -> f64 {
        median(&self.ours) / median(&self.qemu)
    }

    fn passed(&self) -> bool {
        self.ratio() <= self.limit
    }

    fn record(&self, report: &mut Report) {
        let name = format!("{}: at most {} of QEMU's time", self.title, self.limit);
        report.holds(&name, self.passed(), format!("at most {}", self.limit), format!("{:.3}", self.ratio()));
        report.figure(&format!("{}_ratio", self.key), (self.ratio() * 1000.0).round() / 1000.0);
        for (who, times) in [("ours", &self.ours), ("qemu", &self.qemu), ("lean_qemu", &self.lean)] {
            report.figure(&format!("{}_seconds_{who}", self.key), times.clone());
            report.figure(&format!("{}_median_{who}", self.key), median(times));
        }
    }

    fn line(&self) -> String {
        let (ours, qemu, lean) = (median(&self.ours), median(&self.qemu), median(&self.lean));
        let (title, ratio, verdict, limit) = (self.title, self.ratio(), mark(self.passed()), self.limit);
        format!(
            "  {title:<36}{ours:>12.2}{qemu:>10.2}{ratio:>8.2}{lean:>14.2}  {verdict} ratio at most {limit}"
        )
    }
}

/// The middle value; of an even number the mean of the middle two. Of none it is no number, which passes no check.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle)) {
        (_, None) => f64::NAN,
        (1, Some(&value)) => value,
        (_, Some(&value)) => (value + sorted[middle - 1]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_the_sorted_values() {
        assert!((median(&[9.0, 1.0, 3.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn nothing_timed_passes_no_limit() {
        assert!(!Row::new("x", "x", 1.0, [&[], &[], &[]]).passed());
    }
}
