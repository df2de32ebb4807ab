//! What the host says of a device while a guest has it: that PCI Express has found an error of it, and that it is
//! wanted back. L1's kernel is told of the one, and QEMU takes the device out of L1 for the other.

use super::control::Events;
use super::{Stage, leave};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::driver::{self, VFIO};
use crate::l1::{L1, Watch};
use crate::machine::Machine;
use crate::protocol::{Bytes, Request};
use crate::qmp::Qmp;
use crate::report::Report;
use crate::scenarios::{Cause, check_kernel_log_of};
use std::time::Duration;

/// The ports in L1, and QEMU's names of what is behind them.
const PORTS: [&str; 2] = ["0000:00:04.0", "0000:00:05.0"];
const DISK: &str = "disk";
const CARD: &str = "card";
/// Uncorrectable Error Status, Completion Timeout: not fatal, so Linux does not reset the link.
const COMPLETION_TIMEOUT: u32 = 1 << 14;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let bench = Bench::on(&stage.options.host, stage.progress, true)?.with_guest(&["nvme", "e1000e"])?;
    let mut disk = Disk::small()?;
    let machine = Machine::new()
        .steady()
        .device("pcie-root-port,id=p0,chassis=1,addr=4.0")
        .drive("b0", &disk)
        .device(&format!("nvme,id={DISK},drive=b0,serial=lab,bus=p0"))
        .device("pcie-root-port,id=p1,chassis=2,addr=5.0")
        .device(&format!("e1000e,id={CARD},romfile=,bus=p1"));
    let mut l1 = bench.boot(&machine, Watch::steady(Duration::from_secs(900)))?;
    let mut devices = Vec::new();
    for port in PORTS {
        let device = driver::behind(&mut l1, port)?;
        driver::bind(&mut l1, &device, VFIO)?;
        devices.push(device);
    }
    let mut qemu = l1.qemu_monitor()?;
    let mut told = stage.serve_told(&mut l1, &devices, &["--slots", "2"])?;
    let mut events = Events::listen(&mut l1)?;

    stage.progress.step("a device errs");
    inject(&mut l1, &devices[1], COMPLETION_TIMEOUT)?;
    let event = format!("{{\"event\":\"device-error\",\"device\":\"{}\"}}", devices[1]);
    let heard = events.until(&mut l1, &event)?;
    report.holds("ask: an error of the device is told", heard, &event, events.told());
    report.detail(events.told());
    let done = told.guest.order(&mut l1, "look 1")?;
    report.equal("ask: the guest goes on after it", disk.digest()?, done.value("looked", "sha256"));

    stage.progress.step("L1 wants the disk back, in a slot for hot-plug");
    asked_back(report, "ask: in a slot", (&mut l1, &mut qemu, &mut events), (DISK, &devices[0]), true)?;
    leave(report, "ask: in a slot", &mut told.guest, &mut l1)?;

    stage.progress.step("L1 wants the card back, on the guest's root bus");
    let mut told = stage.serve_told(&mut l1, &devices[1..], &[])?;
    let mut events = Events::listen(&mut l1)?;
    asked_back(
        report,
        "ask: on the root bus",
        (&mut l1, &mut qemu, &mut events),
        (CARD, &devices[1]),
        false,
    )?;
    leave(report, "ask: on the root bus", &mut told.guest, &mut l1)?;

    let log = l1.power_off()?;
    // Of the error, and each time that it asks for what has not come back yet.
    let provoked = ["vfio-pci", "AER: ", "pcieport"];
    check_kernel_log_of(report, "ask: L1's kernel has nothing to complain about", &log, &provoked);
    Ok(())
}

/// Has L1's kernel find an error of the device, as if its port had told of one: `drivers/pci/pcie/aer_inject.c` of Linux.
fn inject(l1: &mut L1, device: &str, uncorrectable: u32) -> Result<(), Cause> {
    let bus = device.get(5..7).and_then(|bus| u8::from_str_radix(bus, 16).ok()).unwrap_or_default();
    let mut error = vec![0; 32];
    error[0] = bus;
    error[4..8].copy_from_slice(&uncorrectable.to_le_bytes());
    let request = Request::Write { path: "/dev/aer_inject".into(), bytes: Bytes(error) };
    Ok(l1.ask(request).map(|_done| ())?)
}

/// QEMU takes a device out of L1, which asks the run for it. Whether the guest is asked, or it is taken at once.
fn asked_back(
    report: &mut Report,
    what: &str,
    (l1, qemu, events): (&mut L1, &mut Qmp, &mut Events),
    (id, device): (&str, &str),
    given_up: bool,
) -> Result<(), Cause> {
    qemu.delete_device(id)?;
    for (title, event) in [
        (
            "the run tells that it is wanted back",
            format!("{{\"event\":\"release-request\",\"device\":\"{device}\"}}"),
        ),
        (
            "the run tells that it has left",
            format!("{{\"event\":\"removed\",\"device\":\"{device}\",\"given_up\":{given_up}}}"),
        ),
    ] {
        let heard = events.until(l1, &event)?;
        report.holds(&format!("{what}: {title}"), heard, event, events.told());
    }
    qemu.until_deleted(id)?;
    let there = l1.list("/sys/bus/pci/devices")?.iter().any(|name| name == device);
    report.equal(&format!("{what}: then L1 has it no more"), false, there);
    Ok(())
}
