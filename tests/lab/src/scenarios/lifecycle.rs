//! Endings and new beginnings: a guest that reboots, and a monitor that is killed while its guest reads.

use super::{Cause, Choice, Failure, check_kernel_log, named, read_in_l1};
use crate::account::{Account, Device};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::driver::{self, VFIO};
use crate::guest::{Mark, Work};
use crate::l1::{L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{Life, Monitor, REPORT};
use crate::progress::Progress;
use crate::protocol::{End, Request};
use crate::report::Report;
use std::rc::Rc;
use std::time::Duration;

/// Whose endings.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Which monitor runs the guest.
    #[arg(long, value_enum, default_value_t = Choice::Ours)]
    monitor: Choice,
}

const SIGKILL: i32 = 9;
/// The call, as our monitor counts it, by which it resets a device; opening one resets it without.
const RESET: &str = "vfio-device-reset";
/// Ctrl-A x.
const LEAVE: &[u8] = b"\x01x";

/// Runs the scenario.
pub(crate) fn run(options: &Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("lifecycle", carry_through(options, progress))
}

fn carry_through(options: &Options, progress: &Rc<Progress>) -> Result<Report, Cause> {
    let bench = Bench::prepare(progress, options.monitor == Choice::Ours)?;
    let mut disk = Disk::random()?;
    let expected = disk.digest()?;
    let (monitor, machine) = options.monitor.monitor(&bench, Machine::new().nvme(&disk, None));
    let mut l1 = bench.boot(&machine, Watch::total(Duration::from_secs(500)))?;
    driver::bind(&mut l1, DISK_BDF, VFIO)?;
    let mut report = Report::new("lifecycle");
    reboot(&mut report, &mut l1, &monitor, &expected, progress)?;
    kill(&mut report, &mut l1, &monitor, &expected, progress)?;
    progress.step("L1 takes the disk back and reads it");
    let in_l1 = read_in_l1(&mut l1)?;
    report.equal("L1's own driver reads the disk after all that", &expected, in_l1);
    let log = l1.power_off()?;
    check_kernel_log(&mut report, &log);
    Ok(report)
}

/// The guest reads, reboots, reads again and switches itself off, all in one life of the monitor.
fn reboot(
    report: &mut Report,
    l1: &mut L1,
    monitor: &Monitor,
    expected: &str,
    progress: &Rc<Progress>,
) -> Result<(), Cause> {
    progress.step("a guest boots and reads");
    let mut life = Life::start(l1, monitor, monitor.launch(DISK_BDF, Work::Obey), progress)?;
    let first = read(&mut life, l1)?;
    progress.step("it reboots and reads again");
    life.type_line(l1, "reboot")?;
    life.until(l1, "rebooting")?;
    let second = read(&mut life, l1)?;
    life.type_line(l1, "leave")?;
    let (_, end) = life.until_end(l1)?;
    report.equal("the guest reads the disk", expected, digest(&first));
    report.equal("it reads the disk again after a reboot", expected, digest(&second));
    report.equal("the monitor ends with the guest", format!("{:?}", End::Status(0)), format!("{end:?}"));
    no_faults(report, "the guest that rebooted met no fault", &life);
    if *monitor == Monitor::Ours {
        let account: Account = serde_json::from_str(&l1.read(REPORT)?).unwrap_or_default();
        let calls = |device: &Device| device.host_calls.get(RESET).copied().unwrap_or_default();
        report.equal("the reboot reset the device, once", 1, account.devices.iter().map(calls).sum::<u64>());
    }
    Ok(())
}

/// The monitor is killed while the guest reads; a second one must find everything free.
fn kill(
    report: &mut Report,
    l1: &mut L1,
    monitor: &Monitor,
    expected: &str,
    progress: &Rc<Progress>,
) -> Result<(), Cause> {
    progress.step("a guest reads without end");
    let mut killed = Life::start(l1, monitor, monitor.launch(DISK_BDF, Work::Obey), progress)?;
    killed.until(l1, "ready")?;
    killed.type_line(l1, "endless")?;
    killed.until(l1, "round")?;
    progress.step("its monitor is killed");
    l1.ask(Request::Kill { process: killed.process() })?;
    let (_, end) = killed.until_end(l1)?;
    report.equal("SIGKILL ends the monitor", format!("{:?}", End::Signal(SIGKILL)), format!("{end:?}"));
    let driver = driver::driver_of(l1, DISK_BDF)?.unwrap_or_default();
    report.equal("the device is still lent to user space", VFIO, driver);

    progress.step("a second monitor boots a guest");
    let mut second = Life::start(l1, monitor, monitor.launch(DISK_BDF, Work::Obey), progress)?;
    let read = read(&mut second, l1)?;
    let ending = match monitor {
        Monitor::Ours => {
            second.press(l1, LEAVE)?;
            "Ctrl-A x leaves the second monitor"
        }
        Monitor::Qemu(_) | Monitor::LeanQemu(_) => {
            second.type_line(l1, "leave")?;
            "the second monitor ends with its guest"
        }
    };
    let (_, end) = second.until_end(l1)?;
    report.equal("after the kill a second guest reads the disk", expected, digest(&read));
    report.equal(ending, format!("{:?}", End::Status(0)), format!("{end:?}"));
    no_faults(report, "the second guest met no fault", &second);
    Ok(())
}

/// Waits for a guest that takes orders, and has it read the disk.
fn read(life: &mut Life, l1: &mut L1) -> Result<Mark, Cause> {
    life.until(l1, "ready")?;
    life.type_line(l1, "read")?;
    Ok(life.until(l1, "read")?)
}

fn digest(mark: &Mark) -> &str {
    mark.value("sha256").unwrap_or("nothing")
}

fn no_faults(report: &mut Report, name: &str, life: &Life) {
    let faults: Vec<&str> = life.said("fault").map(|fault| fault.rest.as_str()).collect();
    report.holds(name, faults.is_empty(), "none", faults.join("; "));
}
