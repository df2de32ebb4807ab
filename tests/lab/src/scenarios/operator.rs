//! An operator and a host that nobody has prepared: what the doctor says is done to the letter, until a guest has the
//! disk; then the disk goes back, and the host mounts it.

use super::command::{Ran, run_line};
use super::{Cause, Failure, check_kernel_log, named};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::driver;
use crate::guest::Work;
use crate::l1::{L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{Life, Monitor, OURS};
use crate::progress::Progress;
use crate::protocol::{End, Request};
use crate::report::Report;
use serde::Deserialize;
use std::rc::Rc;
use std::time::Duration;

/// Another function of the disk's slot: without ACS they are one IOMMU group.
const SIBLING: &str = "0000:00:04.1";
/// What the operator does again and again can be done this often.
const ROUNDS: usize = 10;
/// Where the run records the guest's accesses.
const RECORDING: &str = "/tmp/run.trace";
/// What is written onto the disk before a guest has it.
const NOTE: &str = "the host was here";

/// What `doctor --json` prints, as far as it is acted on.
#[derive(Deserialize)]
struct Examination {
    would_work: Option<bool>,
    cause: Option<String>,
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct Check {
    id: String,
    found: String,
    remedy: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    Run(String),
    Do(String),
}

/// Runs the scenario.
pub(crate) fn run(progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("operator", carry_through(progress))
}

fn carry_through(progress: &Rc<Progress>) -> Result<Report, Cause> {
    let bench = Bench::prepare(progress, true)?;
    let (mut disk, other) = (Disk::random()?, Disk::random()?);
    let machine = Machine::new()
        .drive("disk", &disk)
        .device("nvme,drive=disk,serial=disk,addr=4.0,multifunction=on")
        .drive("other", &other)
        .device("nvme,drive=other,serial=other,addr=4.1");
    let mut l1 = bench.boot_fresh(&machine, Watch::total(Duration::from_secs(500)))?;
    let mut report = Report::new("operator");

    progress.step("the host uses the disk");
    let name = disk_name(&mut l1)?;
    let used = format!(
        "mkdir -p /srv; mke2fs {name} >/dev/null; mount -t ext4 {name} /srv; echo {NOTE} > /srv/note"
    );
    expect(&mut l1, &used, progress)?;
    let before = [DISK_BDF, SIBLING].map(|device| driver::driver_of(&mut l1, device));
    let [disk_driver, sibling_driver] = before;
    report.equal(
        "at first the host's driver has both",
        "nvme nvme",
        format!("{} {}", disk_driver?.unwrap_or_default(), sibling_driver?.unwrap_or_default()),
    );

    let cured = follow(&mut l1, &mut report, progress)?;
    report.holds("what the doctor says leads to a host that works", cured, "it does", cured);

    progress.step("a guest reads the disk");
    let expected = disk.digest()?;
    let mut launch = Monitor::Ours.launch(DISK_BDF, Work::Read);
    launch.arguments.extend(["--record", RECORDING].map(str::to_owned));
    let mut life = Life::start(&mut l1, &Monitor::Ours, launch, progress)?;
    let (_, end) = life.until_end(&mut l1)?;
    let read = life.said("read").next().and_then(|mark| mark.value("sha256")).unwrap_or("nothing").to_owned();
    report.equal(
        "a guest reads the disk",
        format!("{expected} {:?}", End::Status(0)),
        format!("{read} {end:?}"),
    );

    let replayed = run_line(&mut l1, &format!("vfio-assign replay {RECORDING}"), progress)?;
    let got = format!("{:?}, {}", replayed.end, replayed.output.lines().next().unwrap_or(&replayed.errors));
    let same = replayed.end == End::Status(0);
    report.holds("what the guest did is answered the same without the disk", same, "it is", got);

    progress.step("the disk goes back");
    expect(&mut l1, &format!("vfio-assign unbind --siblings {DISK_BDF}"), progress)?;
    let name = disk_name(&mut l1)?;
    let mounted =
        expect(&mut l1, &format!("mount -t ext4 {name} /srv; cat /srv/note; umount /srv"), progress)?;
    report.equal("the host mounts it again", NOTE, mounted.output.trim());
    let sibling = driver::driver_of(&mut l1, SIBLING)?.unwrap_or_default();
    report.equal("the other function went back, too", "nvme", sibling);
    let log = l1.power_off()?;
    check_kernel_log(&mut report, &log);
    Ok(report)
}

/// Does what the doctor says until it has nothing more to say; whether it then says that all would work.
fn follow(l1: &mut L1, report: &mut Report, progress: &Rc<Progress>) -> Result<bool, Cause> {
    for round in 1..=ROUNDS {
        progress.step(format!("asking the doctor, {round}"));
        let said = run_line(l1, &format!("{OURS} doctor --json {DISK_BDF}"), progress)?;
        let found: Examination = serde_json::from_str(&said.output).map_err(std::io::Error::from)?;
        let status = match found.would_work {
            Some(true) => 0,
            Some(false) => 3,
            None => 4,
        };
        report.equal(
            "the exit status says what the text says",
            format!("{:?}", End::Status(status)),
            format!("{:?}", said.end),
        );
        let cause = found.checks.iter().find(|check| Some(&check.id) == found.cause.as_ref());
        let Some(cause) = cause else { return Ok(found.would_work == Some(true)) };
        let lines: Vec<&String> = cause
            .remedy
            .iter()
            .filter_map(|step| match step {
                Step::Run(line) => Some(line),
                Step::Do(_) => None,
            })
            .collect();
        if lines.is_empty() {
            let told = cause.remedy.iter().map(|step| match step {
                Step::Run(text) | Step::Do(text) => text.as_str(),
            });
            let got = format!("{}: {}; {}", cause.id, cause.found, told.collect::<Vec<_>>().join("; "));
            report.holds("the doctor names a line for a shell", false, "one", got);
            return Ok(false);
        }
        for line in lines {
            progress.step(format!("doing what it says: {line}"));
            let Ran { end, errors, .. } = run_line(l1, line, progress)?;
            let name = format!("{}: {line}", cause.id);
            report.equal(&name, format!("{:?}", End::Status(0)), format!("{end:?} {errors}").trim());
        }
    }
    Ok(false)
}

/// The disk's file under the host's driver.
fn disk_name(l1: &mut L1) -> Result<String, Cause> {
    let folder = format!("/sys/bus/pci/devices/{DISK_BDF}/nvme");
    l1.ask(Request::AwaitPath { path: folder.clone(), milliseconds: 5000 })?;
    let controller = l1.list(&folder)?.pop().unwrap_or_default();
    let disk = format!("/dev/{controller}n1");
    l1.ask(Request::AwaitPath { path: disk.clone(), milliseconds: 5000 })?;
    Ok(disk)
}

/// Runs a line that must succeed.
fn expect(l1: &mut L1, line: &str, progress: &Rc<Progress>) -> Result<Ran, Cause> {
    let ran = run_line(l1, line, progress)?;
    match ran.end {
        End::Status(0) => Ok(ran),
        end => Err(Cause::Shell { command: line.to_owned(), end, stderr: ran.errors }),
    }
}
