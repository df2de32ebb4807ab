//! Bad input: each must give an error that names its object and a way out, and must leave nothing behind.

use super::{Cause, Failure, check_kernel_log_but, named};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::driver::{self, VFIO};
use crate::guest::{self, Work};
use crate::l1::{L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{GUEST_INITRAMFS, GUEST_KERNEL, Life, Monitor, OURS};
use crate::progress::Progress;
use crate::protocol::{End, Launch};
use crate::report::Report;
use std::rc::Rc;
use std::time::Duration;

/// Two functions of one slot: without ACS they are one IOMMU group.
const GROUP_LENT: &str = "0000:00:06.1";
const GROUP_KEPT: &str = "0000:00:06.0";
/// The host bridge: a function with an ordinary header and no BAR at all.
const NO_BARS: &str = "0000:00:00.0";
const NOBODY: u32 = 65_534;
/// More than the guest's 512 MiB; a file with a hole takes no memory.
const HUGE: &str = "/tmp/huge";

/// Opens every group's file, which only works where no other process has it open.
const OPEN_GROUPS: &str = "for group in /dev/vfio/[0-9]*; do : <>$group; done";

/// What L1's kernel says when somebody may not lock as much memory as he tries to.
const PROVOKED: &str = "RLIMIT_MEMLOCK";

/// One wrong thing, and what the error about it must tell.
struct Case {
    name: &'static str,
    devices: &'static [&'static str],
    kernel: &'static str,
    initrd: &'static str,
    user: Option<u32>,
    /// Shell commands that make L1 wrong, and right again.
    wrong: &'static str,
    right: &'static str,
    /// Every one of these must be in the error.
    names: &'static [&'static str],
    /// One of these must be: what a person can do.
    remedies: &'static [&'static str],
}

/// A run in which nothing is wrong, for cases to differ from.
const FINE: Case = Case {
    name: "nothing",
    devices: &[DISK_BDF],
    kernel: GUEST_KERNEL,
    initrd: GUEST_INITRAMFS,
    user: None,
    wrong: "true",
    right: "true",
    names: &[],
    remedies: &[],
};

const CASES: &[Case] = &[
    Case {
        name: "no such device",
        devices: &["0000:00:1c.7"],
        names: &["0000:00:1c.7"],
        remedies: &["lspci"],
        ..FINE
    },
    Case {
        name: "device bound to another driver",
        devices: &[GROUP_KEPT],
        names: &[GROUP_KEPT, "nvme"],
        remedies: &["driver_override", "vfio-assign bind"],
        ..FINE
    },
    Case {
        name: "group not viable",
        devices: &[GROUP_LENT],
        names: &[GROUP_KEPT, "nvme", "group"],
        remedies: &["driver_override", "vfio-assign bind"],
        ..FINE
    },
    Case {
        name: "no /dev/vfio",
        wrong: "mv /dev/vfio /dev/vfio.away",
        right: "mv /dev/vfio.away /dev/vfio",
        names: &["/dev/vfio"],
        remedies: &["modprobe"],
        ..FINE
    },
    Case {
        name: "no /dev/kvm",
        wrong: "mv /dev/kvm /dev/kvm.away",
        right: "mv /dev/kvm.away /dev/kvm",
        names: &["/dev/kvm"],
        remedies: &["modprobe", "firmware"],
        ..FINE
    },
    Case {
        name: "no permission for /dev/kvm",
        user: Some(NOBODY),
        wrong: "chmod 666 /dev/vfio/*",
        right: "chmod 600 /dev/vfio/* && chmod 666 /dev/vfio/vfio",
        names: &["/dev/kvm"],
        remedies: &["group", "chown", "chmod", "root"],
        ..FINE
    },
    Case {
        name: "no permission for the group",
        user: Some(NOBODY),
        wrong: "chmod 666 /dev/kvm",
        right: "chmod 600 /dev/kvm",
        names: &["/dev/vfio/", "group"],
        remedies: &["chown", "chmod", "root"],
        ..FINE
    },
    Case {
        name: "not allowed to lock the guest's memory",
        user: Some(NOBODY),
        wrong: "chmod 666 /dev/kvm /dev/vfio/*",
        right: "chmod 600 /dev/kvm /dev/vfio/* && chmod 666 /dev/vfio/vfio",
        names: &["memory", "lock"],
        remedies: &["ulimit -l"],
        ..FINE
    },
    Case {
        name: "kernel file that is no kernel",
        kernel: GUEST_INITRAMFS,
        names: &[GUEST_INITRAMFS],
        remedies: &["bzImage"],
        ..FINE
    },
    Case {
        name: "kernel file that is not there",
        kernel: "/no/such/kernel",
        names: &["/no/such/kernel"],
        remedies: &["--kernel", "path"],
        ..FINE
    },
    Case {
        name: "initrd too large for memory",
        initrd: HUGE,
        wrong: "truncate -s 700M /tmp/huge",
        right: "rm /tmp/huge",
        names: &[HUGE],
        remedies: &["--memory"],
        ..FINE
    },
    Case {
        name: "device with no BARs",
        devices: &[NO_BARS],
        names: &[NO_BARS, "BAR"],
        remedies: &["lspci", "another", "other"],
        ..FINE
    },
    Case {
        name: "same device twice",
        devices: &[DISK_BDF, DISK_BDF],
        names: &[DISK_BDF],
        remedies: &["once", "only one"],
        ..FINE
    },
];

/// Runs every case.
pub(crate) fn run(progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("errors", carry_through(progress))
}

fn carry_through(progress: &Rc<Progress>) -> Result<Report, Cause> {
    let bench = Bench::prepare(progress, true)?;
    let (mut disk, first, second) = (Disk::random()?, Disk::random()?, Disk::random()?);
    let machine = Machine::new()
        .nvme(&disk, None)
        .drive("first", &first)
        .device("nvme,drive=first,serial=first,addr=6.0,multifunction=on")
        .drive("second", &second)
        .device("nvme,drive=second,serial=second,addr=6.1");
    let mut l1 = bench.boot(&machine, Watch::total(Duration::from_secs(400)))?;
    for device in [DISK_BDF, GROUP_LENT, NO_BARS] {
        driver::bind(&mut l1, device, VFIO)?;
    }
    let mut report = Report::new("errors");
    let groups = [GROUP_KEPT, GROUP_LENT].map(|device| driver::group_of(&mut l1, device));
    let [kept, lent] = groups;
    report.equal("the lab has two functions in one group", kept?, lent?);
    for case in CASES {
        progress.step(format!("trying: {}", case.name));
        try_case(&mut report, &mut l1, case, progress)?;
    }
    progress.step("trying: nothing wrong");
    let mut life = Life::start(&mut l1, &Monitor::Ours, launch(&FINE), progress)?;
    let (_, end) = life.until_end(&mut l1)?;
    let read = life.said("read").next().and_then(|mark| mark.value("sha256")).unwrap_or("nothing");
    let expected = format!("{} {:?}", disk.digest()?, End::Status(0));
    report.equal("after all these a guest reads the disk", expected, format!("{read} {end:?}"));
    let log = l1.power_off()?;
    check_kernel_log_but(&mut report, &log, &[PROVOKED]);
    Ok(report)
}

/// Runs one case.
fn try_case(report: &mut Report, l1: &mut L1, case: &Case, progress: &Rc<Progress>) -> Result<(), Cause> {
    shell(l1, case.wrong, progress)?;
    let before = drivers(l1)?;
    let mut life = Life::start(l1, &Monitor::Ours, launch(case), progress)?;
    let (_, end) = life.until_end(l1)?;
    let after = drivers(l1)?;
    shell(l1, case.right, progress)?;
    shell(l1, OPEN_GROUPS, progress)?;

    let said = life.stderr.trim().to_owned();
    let missing: Vec<&str> = case.names.iter().copied().filter(|name| !said.contains(name)).collect();
    let remedy = case.remedies.iter().any(|remedy| said.contains(remedy));
    let refused = matches!(end, End::Status(1 | 2));
    let expected = format!(
        "status 1 or 2, an error with {}, one of {} as a remedy, and the same drivers as before",
        case.names.join(" and "),
        case.remedies.join(" / ")
    );
    let got = format!(
        "{end:?}{}{}{}; it said: {said}",
        if missing.is_empty() { String::new() } else { format!(", not named: {}", missing.join(", ")) },
        if remedy { "" } else { ", no remedy" },
        if before == after { String::new() } else { format!(", drivers were {before:?} and are {after:?}") }
    );
    let passed = refused && missing.is_empty() && remedy && before == after;
    report.holds(case.name, passed, expected, got);
    report.detail(&said);
    Ok(())
}

/// The command line of a case.
fn launch(case: &Case) -> Launch {
    let append = guest::command_line(Work::Read);
    let mut arguments =
        vec![OURS, "run", "--kernel", case.kernel, "--initrd", case.initrd, "--append", &append];
    case.devices.iter().for_each(|device| arguments.extend(["--device", device]));
    Launch { arguments: arguments.into_iter().map(str::to_owned).collect(), user: case.user }
}

/// Which driver has each device of the scenario.
fn drivers(l1: &mut L1) -> Result<Vec<Option<String>>, Cause> {
    let devices = [DISK_BDF, GROUP_KEPT, GROUP_LENT, NO_BARS];
    devices.into_iter().map(|device| Ok(driver::driver_of(l1, device)?)).collect()
}

fn shell(l1: &mut L1, command: &str, progress: &Rc<Progress>) -> Result<(), Cause> {
    let arguments = ["/bin/busybox", "sh", "-e", "-c", command].map(str::to_owned).into();
    let mut life = Life::start(l1, &Monitor::Ours, Launch { arguments, user: None }, progress)?;
    match life.until_end(l1)? {
        (_, End::Status(0)) => Ok(()),
        (_, end) => Err(Cause::Shell { command: command.to_owned(), end, stderr: life.stderr }),
    }
}
