//! The library's own tests against a real kernel (`host-linux/tests/real_kernel`), run in L1 with devices to spare.

use super::{Cause, Failure, check_kernel_log_but, named};
use crate::bench::{Bench, REAL_KERNEL};
use crate::disk::Disk;
use crate::driver::{self, VFIO};
use crate::host::HostOptions;
use crate::l1::Watch;
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{Life, Monitor};
use crate::progress::Progress;
use crate::protocol::{End, Launch};
use crate::report::Report;
use std::rc::Rc;
use std::time::Duration;

/// More than L1's processors have, so that running out can be tried.
const VECTORS: u16 = 2048;
/// A device with MSI, INTx and a DMA engine.
const EDU_BDF: &str = "0000:00:05.0";
/// Two functions of one slot: without ACS they are one IOMMU group.
const GROUP_BDFS: [&str; 2] = ["0000:00:06.0", "0000:00:06.1"];
/// Two functions behind a port: they have no reset of their own, and one together.
const BUS_BDFS: [&str; 2] = ["0000:01:00.0", "0000:01:00.1"];
/// A PCI Express device with error reporting, behind a port that L1's kernel hears of errors by.
const ERRING_BDF: &str = "0000:02:00.0";
/// A disk that can have a virtual function.
const PHYSICAL_BDF: &str = "0000:03:00.0";
/// A device on a bus that the IOMMU does not stand before.
const UNGUARDED_BDF: &str = "0000:41:01.0";

/// What L1's kernel says of what tests do on purpose: a device that the IOMMU stops, one that errs, one that is given
/// to VFIO without an IOMMU. And of QEMU's virtual function, which has a pin.
const PROVOKED: &[&str] = &[
    "DMAR: [DMA",
    "DMAR: DRHD: handling fault status",
    "vfio-pci 0000:02:00.0: ",
    "vfio-pci 0000:41:01.0: probe with driver vfio-pci failed",
    "vfio-pci: probe of 0000:41:01.0 failed",
    "vfio-noiommu",
    "VF reports bogus INTx pin",
];

/// Which tests, on which host.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    host: HostOptions,
    /// Only tests with this in their names.
    filter: Option<String>,
}

/// Runs them; each is a check of the report.
pub(crate) fn run(options: &Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("test", carry_through(options, progress))
}

fn carry_through(options: &Options, progress: &Rc<Progress>) -> Result<Report, Cause> {
    let bench = Bench::on(&options.host, progress, false)?.with_tests()?;
    let disk = Disk::random()?;
    let machine = Machine::new()
        .steady()
        .nvme(&disk, Some(VECTORS))
        .device("edu,addr=5.0")
        .device("edu,addr=6.0,multifunction=on")
        .device("edu,addr=6.1")
        .device("pcie-root-port,id=behind,chassis=1,addr=7.0")
        .device("edu,bus=behind,addr=0.0,multifunction=on")
        .device("edu,bus=behind,addr=0.1")
        .device("pcie-root-port,id=hearing,chassis=2,addr=8.0")
        .device("e1000e,bus=hearing,romfile=")
        .device("pcie-root-port,id=parent,chassis=3,addr=9.0")
        .device("nvme-subsys,id=subsystem")
        .device(
            "nvme,bus=parent,serial=parent,subsys=subsystem,sriov_max_vfs=1,sriov_vq_flexible=2,\
            sriov_vi_flexible=1",
        )
        .device("pxb-pcie,id=unguarded,bus_nr=64,addr=a.0,bypass_iommu=on")
        .device("i82801b11-bridge,id=bare,bus=unguarded")
        .device("edu,bus=bare,addr=1.0");
    let mut l1 = bench.boot(&machine, Watch::steady(Duration::from_secs(1200)))?;
    for device in
        [DISK_BDF, EDU_BDF].into_iter().chain(GROUP_BDFS).chain(BUS_BDFS).chain([ERRING_BDF, PHYSICAL_BDF])
    {
        driver::bind(&mut l1, device, VFIO)?;
    }
    progress.step("running the tests in L1");
    let mut life = Life::start(&mut l1, &Monitor::Ours, launch(options), progress)?;
    let (_, end) = life.until_end(&mut l1)?;
    let log = l1.power_off()?;

    let mut report = Report::new("test");
    let lines: Vec<&str> = life.lines.iter().map(|(_, line)| line.as_str()).collect();
    for (name, passed) in outcomes(&lines) {
        report.holds(name, passed, "ok", said_of(name, &lines));
    }
    if let Some(filter) = &options.filter {
        let found = outcomes(&lines).len();
        report.holds("the filter names a test", found > 0, "1 or more", format!("{found} with {filter}"));
    }
    report.equal("the tests end well", format!("{:?}", End::Status(0)), format!("{end:?}"));
    report.holds("L1 lets KVM run", !life.stderr.contains("NOT RUN"), "every test run", &life.stderr);
    check_kernel_log_but(&mut report, &log, PROVOKED);
    for (name, value) in figures(&lines) {
        report.figure(name, value);
    }
    Ok(report)
}

/// The tests, told what they may use.
fn launch(options: &Options) -> Launch {
    let variable = |name: &str, value: &str| format!("VFIO_ASSIGN_TEST_{name}={value}");
    let mut arguments = vec![
        "/bin/busybox".into(),
        "env".into(),
        "RUST_BACKTRACE=1".into(),
        variable("NVME", DISK_BDF),
        variable("EDU", EDU_BDF),
        variable("GROUP", &GROUP_BDFS.join(",")),
        variable("BUS", &BUS_BDFS.join(",")),
        variable("ERRING", ERRING_BDF),
        variable("PHYSICAL", PHYSICAL_BDF),
        variable("UNGUARDED", UNGUARDED_BDF),
        variable("BACKEND", options.host.backend().word()),
        REAL_KERNEL.into(),
        // They share the devices, and count what the whole process has open.
        "--test-threads=1".into(),
        "--show-output".into(),
    ];
    arguments.extend(options.filter.clone());
    Launch { arguments, user: None }
}

/// The tests by name, and whether each passed: `test irqs::growth ... ok`.
fn outcomes<'a>(lines: &[&'a str]) -> Vec<(&'a str, bool)> {
    let outcome = |line: &&'a str| {
        let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
        Some((name, outcome == "ok"))
    };
    lines.iter().filter_map(outcome).collect()
}

/// What a test printed, as the harness shows it at the end: `---- irqs::growth stdout ----`.
fn said_of(name: &str, lines: &[&str]) -> String {
    let head = format!("---- {name} stdout ----");
    let own = lines.iter().skip_while(|line| **line != head).skip(1);
    let own = own.take_while(|line| !line.starts_with("---- ") && **line != "failures:");
    own.copied().collect::<Vec<_>>().join("\n")
}

/// `figure msix_cycles 10000`: something that a test measured.
fn figures<'a>(lines: &[&'a str]) -> Vec<(&'a str, f64)> {
    let figure = |line: &&'a str| {
        let (name, value) = line.strip_prefix("figure ")?.split_once(' ')?;
        Some((name, value.parse().ok()?))
    };
    lines.iter().filter_map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: [&str; 9] = [
        "test irqs::growth ... FAILED",
        "test memory::overlap ... ok",
        "successes:",
        "---- memory::overlap stdout ----",
        "figure maps 3",
        "failures:",
        "---- irqs::growth stdout ----",
        "thread panicked: 1 is not 2",
        "failures:",
    ];

    #[test]
    fn each_test_has_an_outcome() {
        assert_eq!(outcomes(&OUTPUT), [("irqs::growth", false), ("memory::overlap", true)]);
    }

    #[test]
    fn what_a_failed_test_said_is_found() {
        assert_eq!(said_of("irqs::growth", &OUTPUT), "thread panicked: 1 is not 2");
    }

    #[test]
    fn a_figure_is_read() {
        assert_eq!(figures(&OUTPUT), [("maps", 3.0)]);
    }
}
