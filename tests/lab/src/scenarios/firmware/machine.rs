//! The machine that the image boots in, and its run in QEMU from the first line to the last.

use super::super::Cause;
use crate::disk::{hexadecimal, nameless, path_of};
use crate::l1::L1Error;
use crate::progress::{Console, Progress};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// When a machine that does not end is ended.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// What every machine has.
const ALWAYS: &[&str] = &[
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
    "isa-debug-exit,iobase=0xf4,iosize=4",
];

/// A machine for the image.
pub(super) struct Machine {
    /// Whether it has an IOMMU, and `edu`.
    pub(super) iommu: bool,
    pub(super) edu: bool,
    pub(super) disks: Vec<Disk>,
    /// What the image is told.
    pub(super) command_line: String,
}

/// A disk behind an NVMe controller.
pub(super) struct Disk {
    pub(super) serial: &'static str,
    pub(super) bytes: u64,
    /// The controller's MSI-X vectors.
    pub(super) vectors: u64,
    /// What QEMU is told of the controller.
    controller: &'static str,
    file: File,
    /// SHA-256 of what is to be found there.
    pub(super) digest: String,
}

impl Machine {
    /// All that the image wants to see: `edu`, and two NVMe controllers with disks of random content, one of them with
    /// QEMU's ordinary number of vectors, the other with as many as there can be.
    pub(super) fn whole(bytes: [u64; 2], command_line: String) -> io::Result<Self> {
        let [few, many] = bytes;
        let disks = vec![
            Disk::random("few", few, 65, "addr=4.0")?,
            Disk::random("many", many, 2048, "addr=6.0,msix_qsize=2048,max_ioqpairs=2047")?,
        ];
        Ok(Self { iommu: true, edu: true, disks, command_line })
    }

    fn arguments(&self, image: &Path) -> Vec<String> {
        let mut arguments: Vec<String> = ALWAYS.iter().map(|word| (*word).to_owned()).collect();
        let mut device = |is_there: bool, device: &str| {
            arguments.extend(is_there.then(|| ["-device".into(), device.into()]).into_iter().flatten());
        };
        device(self.iommu, "intel-iommu,intremap=off");
        device(self.edu, "edu,addr=5.0");
        for Disk { serial, controller, file, .. } in &self.disks {
            let drive = format!("file={},if=none,id={serial},format=raw,readonly=on", path_of(file));
            let device = format!("nvme,drive={serial},serial={serial},{controller}");
            arguments.extend(["-drive".into(), drive, "-device".into(), device]);
        }
        let image = image.display().to_string();
        arguments.extend(["-kernel".into(), image, "-append".into(), self.command_line.clone()]);
        arguments
    }

    /// Runs it to its end.
    pub(super) fn run(&self, qemu: &Path, image: &Path, progress: &Progress) -> Result<Run, Cause> {
        let started = Instant::now();
        // Should the lab be killed, the kernel takes QEMU along.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(qemu).args(self.arguments(image));
        let mut complaints = tempfile::tempfile()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints.try_clone()?);
        let start = |source| L1Error::Start { program: qemu.display().to_string(), source };
        let mut child = command.spawn().map_err(start)?;
        let heard = listen(&mut child);
        let (mut lines, end) = (Vec::<String>::new(), started + PATIENCE);
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
        let complaints = io::read_to_string(complaints)?;
        Ok(Run { lines, status, complaints, seconds: started.elapsed().as_secs_f64() })
    }
}

impl Disk {
    /// Random content in a file without a name.
    fn random(serial: &'static str, bytes: u64, vectors: u64, controller: &'static str) -> io::Result<Self> {
        let mut content = Vec::new();
        File::open("/dev/urandom")?.take(bytes).read_to_end(&mut content)?;
        let digest = hexadecimal(&Sha256::digest(&content));
        Ok(Self { serial, bytes, vectors, controller, file: nameless(&content)?, digest })
    }

    /// Other content than whoever asks for its digest expects.
    pub(super) fn swap_content(&mut self) -> io::Result<()> {
        let other = Self::random(self.serial, self.bytes, self.vectors, self.controller)?;
        self.file = other.file;
        Ok(())
    }
}

/// What became of the image.
pub(super) struct Run {
    /// What it has printed.
    pub(super) lines: Vec<String>,
    /// How QEMU ended.
    pub(super) status: ExitStatus,
    /// What QEMU had to say.
    pub(super) complaints: String,
    pub(super) seconds: f64,
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
