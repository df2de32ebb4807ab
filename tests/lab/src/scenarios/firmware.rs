//! The core without an operating system: builds the image of `tests/firmware`, boots it in QEMU by itself, without L1,
//! and holds what it says against the disks' files.

use super::{Cause, Failure, named};
use crate::bench::{BenchError, build_program};
use crate::disk::{hexadecimal, nameless, path_of};
use crate::l1::L1Error;
use crate::packages;
use crate::progress::{Console, Progress};
use crate::report::Report;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How cargo is asked for the image. Static, at addresses of its own; nothing of a C library.
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
    "link-args=-nostdlib -static -no-pie -Wl,--build-id=none -Ttests/firmware/image.ld",
];
/// The most bytes of the image's file.
const IMAGE_LIMIT: u64 = 128 << 10;
/// The most bytes of the core's state with 16 vectors and with 2,048, as `cargo nopanic` holds it to. What is between
/// is on a straight line.
const STATE_LIMITS: [(u64, u64); 2] = [(16, 3 << 10), (2048, 64 << 10)];
/// The most seconds that QEMU may run.
const RUN_LIMIT: f64 = 30.0;
/// When a machine that does not end is ended.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// What the image ends QEMU with.
const PASSED: i32 = 33;

/// A disk, and what its controller is like.
struct Disk {
    serial: &'static str,
    bytes: u64,
    /// The controller's MSI-X vectors: QEMU's ordinary number, and the most that there can be.
    vectors: u64,
    /// What QEMU is told of the controller.
    controller: &'static str,
}

const DISKS: [Disk; 2] = [
    Disk { serial: "few", bytes: 4 << 20, vectors: 65, controller: "addr=4.0" },
    Disk {
        serial: "many",
        bytes: 1 << 20,
        vectors: 2048,
        controller: "addr=6.0,msix_qsize=2048,max_ioqpairs=2047",
    },
];

/// Checks that the image must have come to, whatever else it says.
const NEEDED: [&str; 8] = [
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
    let files = DISKS.iter().map(|disk| random_disk(disk.bytes)).collect::<io::Result<Vec<_>>>()?;
    progress.step("the image boots");
    let machine = arguments(&image, &files, options);
    let started = Instant::now();
    let Run { lines, status, complaints } = boot(&qemu, &machine, progress)?;
    let seconds = started.elapsed().as_secs_f64();

    let mut report = Report::new("firmware");
    for (name, outcome) in checks(&lines) {
        report.holds(name, outcome == "ok", "ok", outcome);
    }
    for name in NEEDED {
        let found = checks(&lines).any(|(found, _)| found == name);
        report.holds(&format!("the image looks whether {name}"), found, "it does", "it does not");
    }
    let mistakes = mistakes(&lines).collect::<Vec<_>>();
    report.holds("every line for the lab parses", mistakes.is_empty(), "all", mistakes.join("; "));
    for (Disk { serial, bytes, vectors, .. }, (_, digest)) in DISKS.iter().zip(&files) {
        let read: Vec<_> = disks_read(&lines).filter(|read| read.serial == *serial).collect();
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
    check_sizes(&mut report, image_bytes, &lines);
    report.holds(
        "QEMU runs for less than half a minute",
        seconds < RUN_LIMIT,
        format!("< {RUN_LIMIT} s"),
        seconds,
    );
    report.figure("image_bytes", image_bytes);
    report.figure("run_seconds", seconds);
    report.figure("seed", options.seed);
    for (name, value) in figures(&lines) {
        report.figure(name, value);
    }
    progress.clear();
    print!("{}", table(image_bytes, seconds, &lines));
    Ok(report)
}

/// A file of random bytes without a name, and their SHA-256.
fn random_disk(bytes: u64) -> io::Result<(File, String)> {
    let mut content = Vec::new();
    File::open("/dev/urandom")?.take(bytes).read_to_end(&mut content)?;
    Ok((nameless(&content)?, hexadecimal(&Sha256::digest(&content))))
}

/// The machine: two NVMe controllers, one of them with as many vectors as there can be, and `edu`.
fn arguments(image: &Path, files: &[(File, String)], options: &Options) -> Vec<String> {
    let fixed = [
        "-M",
        "q35",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "64M",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
        "-device",
        "intel-iommu,intremap=off",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        "-device",
        "edu,addr=5.0",
    ];
    let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
    for (Disk { serial, controller, .. }, (file, _)) in DISKS.iter().zip(files) {
        let drive = format!("file={},if=none,id={serial},format=raw,readonly=on", path_of(file));
        let device = format!("nvme,drive={serial},serial={serial},{controller}");
        arguments.extend(["-drive".into(), drive, "-device".into(), device]);
    }
    let told = format!("seed={} steps={}", options.seed, options.steps);
    arguments.extend(["-kernel".into(), image.display().to_string(), "-append".into(), told]);
    arguments
}

/// What became of the image.
struct Run {
    /// What it has printed.
    lines: Vec<String>,
    /// How QEMU ended.
    status: ExitStatus,
    /// What QEMU had to say.
    complaints: String,
}

/// Runs QEMU to its end.
fn boot(qemu: &Path, arguments: &[String], progress: &Progress) -> Result<Run, Cause> {
    // Should the lab be killed, the kernel takes QEMU along.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(qemu).args(arguments);
    let mut complaints = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints.try_clone()?);
    let start = |source| L1Error::Start { program: qemu.display().to_string(), source };
    let mut child = command.spawn().map_err(start)?;
    let heard = listen(&mut child);
    let (mut lines, end) = (Vec::<String>::new(), Instant::now() + PATIENCE);
    loop {
        match heard.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let line = line?;
                progress.console(Console::L1, &line);
                lines.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => return Err(too_long(&mut child, &lines)?),
        }
    }
    // A console that is closed is not yet a QEMU that has ended.
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < end => std::thread::sleep(LOOK),
            None => return Err(too_long(&mut child, &lines)?),
        }
    };
    complaints.rewind()?;
    Ok(Run { lines, status, complaints: io::read_to_string(complaints)? })
}

/// Ends a machine that does not end by itself.
fn too_long(child: &mut Child, lines: &[String]) -> io::Result<Cause> {
    child.kill()?;
    child.wait()?;
    let step = "the image runs".to_owned();
    Ok(L1Error::TooLong { step, console: lines.join("\n") }.into())
}

/// The lines of the machine's console, until it is closed or cannot be read. What is no text in them is replaced.
fn listen(child: &mut Child) -> Receiver<io::Result<String>> {
    let (sender, heard) = channel();
    if let Some(console) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n') {
                let line = line.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
                let is_last = line.is_err();
                if sender.send(line).is_err() || is_last {
                    return;
                }
            }
        });
    }
    heard
}

/// Holds the image and the core's state to their limits.
fn check_sizes(report: &mut Report, image: u64, lines: &[String]) {
    report.holds("the image is small", image <= IMAGE_LIMIT, format!("at most {IMAGE_LIMIT} bytes"), image);
    for (place, Disk { serial, vectors, .. }) in DISKS.iter().enumerate() {
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

/// `check NAME: OUTCOME`.
fn checks(lines: &[String]) -> impl Iterator<Item = (&str, &str)> {
    lines.iter().filter_map(|line| check(line))
}

fn check(line: &str) -> Option<(&str, &str)> {
    let said = line.strip_prefix("check ")?;
    // A name may have a colon, too.
    said.strip_suffix(": ok").map(|name| (name, "ok")).or_else(|| said.split_once(": FAILED: "))
}

/// `figure NAME NUMBER`.
fn figures(lines: &[String]) -> impl Iterator<Item = (&str, u64)> {
    lines.iter().filter_map(|line| figure(line))
}

fn figure(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.strip_prefix("figure ")?.split_once(' ')?;
    Some((name, value.parse().ok()?))
}

/// Lines that are meant for the lab and are none of the above: a check that nobody hears of would hold.
fn mistakes(lines: &[String]) -> impl Iterator<Item = &str> {
    let wrong = |line: &&String| {
        line.starts_with("check ") && check(line).is_none()
            || line.starts_with("figure ") && figure(line).is_none()
    };
    lines.iter().filter(wrong).map(String::as_str)
}

/// What a guest has read of a disk.
struct DiskRead<'a> {
    serial: &'a str,
    vectors: &'a str,
    bytes: &'a str,
    digest: &'a str,
}

/// `disk SERIAL vectors NUMBER bytes NUMBER sha256 DIGEST`.
fn disks_read(lines: &[String]) -> impl Iterator<Item = DiskRead<'_>> {
    lines.iter().filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["disk", serial, "vectors", vectors, "bytes", bytes, "sha256", digest] => {
            Some(DiskRead { serial, vectors, bytes, digest })
        }
        _ => None,
    })
}

/// Sizes, and a row for each guest.
fn table(image: u64, seconds: f64, lines: &[String]) -> String {
    const COLUMNS: [&str; 6] = [
        "registers_direct",
        "registers_trapped",
        "interrupts_forwarded",
        "steps_establish",
        "steps_failed",
        "dma_stopped",
    ];
    let value = |wanted: &str| figures(lines).find(|(name, _)| *name == wanted).map_or(0, |(_, value)| value);
    let mut text = format!("\n  {:<26}{image} bytes, ran {seconds:.1} s\n", "image");
    for vectors in [65, 2048] {
        let bytes = value(&format!("core_bytes_{vectors}_vectors"));
        text += &format!("  {:<26}{bytes} bytes\n", format!("core, {vectors} vectors"));
    }
    let head = ["direct", "trapped", "interrupts", "established", "failed steps", "DMA stopped"];
    text += &format!("\n  {:<14}{}\n", "guest", head.map(|name| format!("{name:>14}")).concat());
    let guests = figures(lines).filter_map(|(name, _)| name.strip_suffix("_registers_direct"));
    for guest in guests {
        let row = COLUMNS.map(|column| format!("{:>14}", value(&format!("{guest}_{column}"))));
        text += &format!("  {guest:<14}{}\n", row.concat());
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_check_has_a_name_with_a_colon_and_an_outcome() {
        let said = lines("check disk 1: reset: ok\ncheck edu: DMA: FAILED: qword 3: 4\nsomething else");
        let found: Vec<_> = checks(&said).collect();
        assert_eq!(found, [("disk 1: reset", "ok"), ("edu: DMA", "qword 3: 4")]);
    }

    #[test]
    fn what_a_guest_read_is_found() {
        let said = lines("disk few vectors 65 bytes 8192 sha256 00ff");
        let found: Vec<_> =
            disks_read(&said).map(|read| (read.serial, read.vectors, read.bytes, read.digest)).collect();
        assert_eq!(found, [("few", "65", "8192", "00ff")]);
    }

    #[test]
    fn a_line_that_does_not_parse_is_a_mistake() {
        let said = lines("check edu: o\nfigure seconds 4x\nfigure a 1\ncheck b: ok\nsomething else");
        assert_eq!(mistakes(&said).collect::<Vec<_>>(), ["check edu: o", "figure seconds 4x"]);
    }

    #[test]
    fn limits_of_the_state_are_those_of_the_core_at_both_ends() {
        assert_eq!([16, 2048].map(state_limit), [3 << 10, 64 << 10]);
    }
}
