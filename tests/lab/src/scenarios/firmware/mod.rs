//! The core without an operating system: builds the image of `tests/firmware`, boots it in QEMU by itself, without L1,
//! and holds what it says against the disks' files. Then it boots machines that lack something: each must be seen.

mod machine;
mod mistakes;
mod said;

use super::{Cause, Failure, named};
use crate::bench::{BenchError, build_program};
use crate::packages;
use crate::progress::Progress;
use crate::report::Report;
use machine::{Disk, Machine, Run};
use said::{checks, disks_read, figures, mistakes as unparsed, table};
use std::rc::Rc;

/// How cargo is asked for the image. Static, at addresses of its own; nothing of a C library. Its file is not mapped but
/// read, so the parts of it need not begin at pages.
const IMAGE: &[&str] = &[
    "rustc",
    "--profile",
    "firmware",
    "--package",
    "vfio-assign-firmware",
    "--bin",
    "firmware",
    "--features",
    "image",
    "--",
    "-C",
    "relocation-model=static",
    "-C",
    "link-args=-nostdlib -static -no-pie -Wl,--build-id=none,-z,max-page-size=64 -Ttests/firmware/image.ld",
];
/// The most bytes of the image's file.
const IMAGE_LIMIT: u64 = 128 << 10;
/// The most bytes of the core's state with 16 vectors and with 2,048, as `cargo nopanic` holds it to. What is between
/// is on a straight line.
const STATE_LIMITS: [(u64, u64); 2] = [(16, 3 << 10), (2048, 64 << 10)];
/// The most seconds that QEMU may run.
const RUN_LIMIT: f64 = 30.0;
/// What the image ends QEMU with.
const PASSED: i32 = 33;
/// Bytes of the disks.
const SIZES: [u64; 2] = [4 << 20, 1 << 20];

/// Checks that the image must have come to, whatever else it says.
const NEEDED: [&str; 11] = [
    "no page is below a stack, and neither code nor constants are written",
    "the timer is measured",
    "devices are confined",
    "one edu and two disks are there",
    "edu: BAR sized and moved, MSI on and off, a factorial, DMA",
    "edu: no step failed",
    "edu is taken back",
    "disk 1: taken back from the hostile guest",
    "disk 1: the next guest finds it as it was",
    "disk 2: taken back from the hostile guest",
    "disk 2: the next guest finds it as it was",
];

/// What the hostile guest does.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// What its accesses are made up from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many things it does with each disk's controller.
    #[arg(long, default_value_t = 3000)]
    steps: u64,
}

/// Runs the scenario.
pub(crate) fn run(options: &Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("firmware", carry_through(options, progress))
}

fn carry_through(options: &Options, progress: &Rc<Progress>) -> Result<Report, Cause> {
    let qemu = packages::qemu(progress).map_err(BenchError::Package)?;
    let image = build_program("the image", IMAGE, progress)?;
    let image_bytes = std::fs::metadata(&image)?.len();
    let machine = Machine::whole(SIZES, format!("seed={} steps={}", options.seed, options.steps))?;
    progress.step("the image boots");
    let run = machine.run(&qemu, &image, progress)?;

    let mut report = Report::new("firmware");
    judge(&mut report, &machine, &run);
    check_sizes(&mut report, image_bytes, &machine, &run.lines);
    report.holds(
        "QEMU runs for less than half a minute",
        run.seconds < RUN_LIMIT,
        format!("< {RUN_LIMIT} s"),
        run.seconds,
    );
    mistakes::check(&mut report, |machine| machine.run(&qemu, &image, progress), progress)?;
    report.figure("image_bytes", image_bytes);
    report.figure("run_seconds", run.seconds);
    report.figure("seed", options.seed);
    for (name, value) in figures(&run.lines) {
        report.figure(name, value);
    }
    progress.clear();
    print!("{}", table(image_bytes, run.seconds, &run.lines));
    Ok(report)
}

/// Holds what the image has said against what its machine is.
fn judge(report: &mut Report, machine: &Machine, run: &Run) {
    let Run { lines, status, complaints, .. } = run;
    for (name, outcome) in checks(lines) {
        report.holds(name, outcome == "ok", "ok", outcome);
    }
    for name in NEEDED {
        let found = checks(lines).any(|(found, _)| found == name);
        report.holds(&format!("the image looks whether {name}"), found, "it does", "it does not");
    }
    let unparsed = unparsed(lines).collect::<Vec<_>>();
    report.holds("every line for the lab parses", unparsed.is_empty(), "all", unparsed.join("; "));
    for Disk { serial, bytes, vectors, digest, .. } in &machine.disks {
        let read: Vec<_> = disks_read(lines).filter(|read| read.serial == *serial).collect();
        report.equal(&format!("disk '{serial}' is read twice"), 2, read.len());
        for (guest, read) in ["the first guest", "the guest after the hostile one"].iter().zip(read) {
            report.equal(&format!("{guest} reads what is on disk '{serial}'"), digest, read.digest);
            report.equal(&format!("{guest} reads all of disk '{serial}'"), bytes, read.bytes);
            report.equal(&format!("{guest} of disk '{serial}' has {vectors} vectors"), vectors, read.vectors);
        }
    }
    // What QEMU says of a device that the IOMMU has stopped is of interest if the image does not come to its end.
    let name = "the image says that all is well";
    let ended = format!("{status}; QEMU said: {}", complaints.trim_end());
    report.holds(name, status.code() == Some(PASSED), format!("exit status: {PASSED}"), ended);
}

/// Holds the image and the core's state to their limits.
fn check_sizes(report: &mut Report, image: u64, machine: &Machine, lines: &[String]) {
    report.holds("the image is small", image <= IMAGE_LIMIT, format!("at most {IMAGE_LIMIT} bytes"), image);
    for (place, Disk { serial, vectors, .. }) in machine.disks.iter().enumerate() {
        let limit = state_limit(*vectors);
        let live = format!("nvme_{}_core_bytes", place + 1);
        for (what, wanted) in [
            (format!("the core's state with {vectors} vectors"), format!("core_bytes_{vectors}_vectors")),
            (format!("the core's state of disk '{serial}', with its vectors' storage,"), live),
        ] {
            let found = figures(lines).find(|(name, _)| *name == wanted).map_or(u64::MAX, |(_, bytes)| bytes);
            report.holds(
                &format!("{what} is small"),
                found <= limit,
                format!("at most {limit} bytes"),
                found,
            );
        }
    }
}

/// The most bytes with so many vectors.
fn state_limit(vectors: u64) -> u64 {
    let [(few, least), (many, most)] = STATE_LIMITS;
    least + (vectors - few) * (most - least) / (many - few)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_state_are_those_of_the_core_at_both_ends() {
        assert_eq!([16, 2048].map(state_limit), [3 << 10, 64 << 10]);
    }
}
