//! Our monitor without a device: a guest comes up and switches itself off.

use super::{Cause, Failure, check_kernel_log, named, seconds};
use crate::bench::Bench;
use crate::guest::Work;
use crate::l1::Watch;
use crate::machine::Machine;
use crate::monitor::{Life, Monitor};
use crate::progress::Progress;
use crate::protocol::End;
use crate::report::Report;
use std::rc::Rc;
use std::time::Duration;

/// Runs the scenario.
pub(crate) fn run(progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("boot", carry_through(progress))
}

fn carry_through(progress: &Rc<Progress>) -> Result<Report, Cause> {
    let bench = Bench::prepare(progress, true)?;
    let mut l1 = bench.boot(&Machine::new(), Watch::total(Duration::from_secs(200)))?;
    let monitor = Monitor::Ours;
    progress.step("vfio-assign boots the guest");
    let mut life = Life::start(&mut l1, &monitor, monitor.launch(None, Work::Hello), progress)?;
    let up = life.until(&mut l1, "up")?;
    let (life_time, end) = life.until_end(&mut l1)?;
    let log = l1.power_off()?;
    let mut report = Report::new("boot");
    let first_line = life.first_kernel_line();
    let said = if first_line.is_some() { "'Linux version'" } else { "silence" };
    report.equal("the guest's kernel speaks", "'Linux version'", said);
    report.equal("the monitor ends with the guest", format!("{:?}", End::Status(0)), format!("{end:?}"));
    check_kernel_log(&mut report, &log);
    report.figure("first_guest_line_seconds", first_line.map(seconds));
    report.figure("up_seconds", seconds(up.at));
    report.figure("life_seconds", seconds(life_time));
    Ok(report)
}
