//! The corpus of captures: each is taken of a device that QEMU emulates, through VFIO, and must be the one in
//! `tests/captures`.

use super::command::run_line;
use super::{Cause, Failure, named};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::l1::Watch;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::protocol::End;
use crate::report::Report;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// What to do with what was captured.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Write the captures into `tests/captures` instead of comparing them.
    #[arg(long)]
    write: bool,
}

/// The name of a capture, and the device as QEMU takes it. The first is in slot 4, the others behind it.
const DEVICES: [(&str, &str); 22] = [
    ("nvme-2048-vectors", "nvme,drive=disk,serial=lab,msix_qsize=2048,max_ioqpairs=2047"),
    ("nvme-controller-memory", "nvme,drive=other,serial=lab,cmb_size_mb=16"),
    ("e1000", "e1000"),
    ("e1000e-vfio", "e1000e"),
    ("rtl8139", "rtl8139"),
    ("vmxnet3", "vmxnet3"),
    ("i82559er", "i82559er"),
    ("pcnet", "pcnet"),
    ("virtio-net", "virtio-net-pci,disable-legacy=on"),
    ("virtio-net-transitional", "virtio-net-pci-transitional"),
    ("virtio-scsi", "virtio-scsi-pci,disable-legacy=on,num_queues=4"),
    ("virtio-gpu", "virtio-gpu-pci"),
    ("ahci", "ich9-ahci"),
    ("megasas", "megasas-gen2"),
    ("lsi53c895a", "lsi53c895a"),
    ("xhci", "qemu-xhci"),
    ("intel-hda", "intel-hda"),
    ("bochs-display", "bochs-display"),
    ("ac97", "AC97"),
    ("test-device-8-gib", "pci-testdev,membar=8G"),
    ("serial-four-ports", "pci-serial-4x"),
    ("watchdog", "i6300esb"),
];

const FIRST_SLOT: usize = 4;

/// Runs the scenario.
pub(crate) fn run(options: Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("captures", carry_through(options, progress))
}

fn carry_through(options: Options, progress: &Rc<Progress>) -> Result<Report, Cause> {
    let bench = Bench::prepare(progress, true)?;
    let (disk, other) = (Disk::random()?, Disk::random()?);
    let mut machine = Machine::new().drive("disk", &disk).drive("other", &other);
    for (place, (_, device)) in DEVICES.iter().enumerate() {
        machine = machine.device(&format!("{device},addr={:x}.0", FIRST_SLOT + place));
    }
    let mut l1 = bench.boot(&machine, Watch::total(Duration::from_secs(600)))?;
    let mut report = Report::new("captures");
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../captures"));
    for (place, (name, device)) in DEVICES.iter().enumerate() {
        progress.step(format!("capturing {name}"));
        let bdf = format!("0000:00:{:02x}.0", FIRST_SLOT + place);
        let line = format!("vfio-assign bind {bdf} >/dev/null; vfio-assign capture {bdf}");
        let ran = run_line(&mut l1, &line, progress)?;
        if ran.end != End::Status(0) {
            report.holds(name, false, "a capture", format!("{:?}: {}", ran.end, ran.errors));
            continue;
        }
        let text = ran.output.replacen('\n', &format!("\n# QEMU's `{device}`, as VFIO tells it.\n"), 1);
        let path = folder.join(format!("{name}.capture"));
        if options.write {
            fs::write(&path, &text)?;
        }
        report.equal(name, fs::read_to_string(&path).unwrap_or_default(), text);
    }
    l1.power_off()?;
    Ok(report)
}
