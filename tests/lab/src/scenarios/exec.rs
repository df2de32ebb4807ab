//! One command of your own in L1, with the disk lent to user space: for finding out what a scenario does not show.

use super::shell::converse;
use super::{Cause, Failure, named};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::driver::{self, VFIO};
use crate::host::HostOptions;
use crate::l1::Watch;
use crate::machine::{DISK_BDF, Machine};
use crate::progress::Progress;
use crate::protocol::{End, Launch};
use crate::report::Report;
use std::rc::Rc;

/// What to run, and where.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Run it among this machine's files, as L1 sees them under /host; ours are then in /tmp/lab and /tmp/guest.
    #[arg(long)]
    host_files: bool,
    #[command(flatten)]
    host: HostOptions,
    /// The command. In L1 there are /bin/busybox, /lab/vfio-assign, /guest/vmlinuz and /guest/initramfs.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command; the scenario passes if the command ends with status 0.
pub(crate) fn run(options: &Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("exec", carry_through(options, progress))
}

fn carry_through(options: &Options, progress: &Rc<Progress>) -> Result<Report, Cause> {
    let bench = Bench::on(&options.host, progress, true)?;
    let disk = Disk::random()?;
    let machine = Machine::new().nvme(&disk, None);
    let machine = if options.host_files { machine.host_files() } else { machine };
    let mut l1 = bench.boot(&machine, Watch::patient())?;
    driver::bind(&mut l1, DISK_BDF, VFIO)?;
    let root = ["/bin/busybox", "chroot", crate::protocol::HOST_ROOT].map(str::to_owned);
    let mut arguments = if options.host_files { root.into() } else { Vec::new() };
    arguments.extend(options.command.iter().cloned());
    progress.clear();
    let process = l1.spawn(Launch { arguments, user: None })?;
    let end = converse(&mut l1, process)?;
    l1.power_off()?;
    let mut report = Report::new("exec");
    report.equal("the command ends well", format!("{:?}", End::Status(0)), format!("{end:?}"));
    Ok(report)
}
