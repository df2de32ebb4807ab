//! An operator and a host that nobody has prepared: what the doctor says is done to the letter, until a guest has the
//! disk; then the disk goes back, and the host mounts it.

use super::command::{PATH, Ran, run_line};
use super::{Cause, Failure, check_kernel_log, named};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::driver;
use crate::guest::Work;
use crate::l1::{L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{Life, Monitor, OURS};
use crate::progress::Progress;
use crate::protocol::{End, Launch, Request};
use crate::report::Report;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Another function of the disk's slot: without ACS they are one IOMMU group.
const SIBLING: &str = "0000:00:04.1";
/// What the operator does again and again can be done this often.
const ROUNDS: usize = 10;
/// Where the run records what happens to the device.
const RECORDING: &str = "/tmp/run.record";
/// Where the run listens, and what a look at the device in its guest has shown.
const SOCKET: &str = "/tmp/run.control";
const LOOK: &str = "/tmp/look.json";
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

/// What `replay --json` prints, as far as it is looked at.
#[derive(Deserialize)]
struct Replayed {
    effects: u64,
    interrupts: BTreeMap<String, u64>,
    difference: Option<serde_json::Value>,
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
    launch.arguments.extend(["--record", RECORDING, "--control", SOCKET].map(str::to_owned));
    let mut life = Life::start(&mut l1, &Monitor::Ours, launch, progress)?;
    look(&mut l1)?;
    let (_, end) = life.until_end(&mut l1)?;
    let read = life.said("read").next().and_then(|mark| mark.value("sha256")).unwrap_or("nothing").to_owned();
    report.equal(
        "a guest reads the disk",
        format!("{expected} {:?}", End::Status(0)),
        format!("{read} {end:?}"),
    );

    let replayed = expect(&mut l1, &format!("vfio-assign replay --json {RECORDING} || true"), progress)?;
    let replayed: Replayed = serde_json::from_str(&replayed.output).map_err(std::io::Error::from)?;
    let difference = replayed.difference.map_or_else(|| "none".into(), |found| found.to_string());
    report.equal("what was done is done the same without the disk", "none", difference);
    let Replayed { effects, interrupts, .. } = replayed;
    let recorded = effects > 0 && interrupts.values().sum::<u64>() > 0;
    report.holds(
        "effects and interrupts are recorded",
        recorded,
        "some",
        format!("{effects}, {interrupts:?}"),
    );
    looked(&mut l1, &mut report, progress)?;

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

/// Looks at the device in its guest until interrupts have come to it, or the run listens no more. Beside the guest, for that
/// is when they come.
fn look(l1: &mut L1) -> Result<(), Cause> {
    l1.ask(Request::AwaitPath { path: SOCKET.to_owned(), milliseconds: 60_000 })?;
    let line = format!(
        "{PATH}while [ -S {SOCKET} ]; do if {OURS} inspect --json {DISK_BDF} --control {SOCKET} >{LOOK}.new 2>/dev/null && \
         grep -q '\"interrupt_mode\": \"MSI-X\"' {LOOK}.new && grep -q '\"count\": [1-9]' {LOOK}.new; \
         then mv {LOOK}.new {LOOK}; break; fi; done"
    );
    l1.spawn(Launch {
        arguments: ["/bin/busybox", "sh", "-c", &line].map(str::to_owned).into(),
        user: None,
    })?;
    Ok(())
}

/// What was seen of the device in its guest.
fn looked(l1: &mut L1, report: &mut Report, progress: &Rc<Progress>) -> Result<(), Cause> {
    let seen = expect(l1, &format!("cat {LOOK}"), progress)?;
    let seen: serde_json::Value = serde_json::from_str(&seen.output).map_err(std::io::Error::from)?;
    let guest = &seen["guest"];
    let all = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let used = all(&guest["msix"]["entries"]).iter().filter(|entry| entry["masked"] == false).count();
    report.holds("the guest's MSI-X table is seen", used > 0, "unmasked entries", used.to_string());
    let came: u64 = all(&seen["interrupts"]).iter().filter_map(|one| one["count"].as_u64()).sum();
    report.holds("interrupts are counted by vector", came > 0, "some", came.to_string());
    let pieces = all(&guest["bars"]).into_iter().flat_map(|bar| all(&bar["pieces"]));
    let table = pieces.filter(|piece| piece["reason"] == "MSI-X table");
    let written: u64 = table.filter_map(|piece| piece["writes"].as_u64()).sum();
    report.holds("accesses are counted by piece", written > 0, "writes of the table", written.to_string());
    Ok(())
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
