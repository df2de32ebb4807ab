//! The two monitors that can run the guest in L1, ours and QEMU, and a guest's life under one of them.

use crate::diagnosis;
use crate::guest::{self, Mark, Work};
use crate::l1::{L1, L1Error, LAST_LINES};
use crate::progress::{Console, Progress};
use crate::protocol::{End, Event, HOST_ROOT, Launch, Request, Stream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

/// Where our monitor leaves its report in L1.
pub(crate) const REPORT: &str = "/tmp/report.json";
/// Our monitor's place in L1.
pub(crate) const OURS: &str = "/lab/vfio-assign";
/// The guest's kernel and initial file system in L1.
pub(crate) const GUEST_KERNEL: &str = "/guest/vmlinuz";
/// See [`GUEST_KERNEL`].
pub(crate) const GUEST_INITRAMFS: &str = "/guest/initramfs";

/// Who runs the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Monitor {
    /// `vfio-assign run`, in L1's own files.
    Ours,
    /// The outer machine's QEMU, seen from L1 through 9p.
    Qemu(PathBuf),
    /// The same with no device but what the guest needs, which nobody who just starts QEMU gets.
    LeanQemu(PathBuf),
}

impl Monitor {
    /// As a person calls it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Monitor::Ours => "vfio-assign",
            Monitor::Qemu(_) => "QEMU",
            Monitor::LeanQemu(_) => "lean QEMU",
        }
    }

    /// The command line for a guest of 512 MiB and one processor, with this device if there is one.
    pub(crate) fn launch(&self, device: impl Into<Option<&'static str>>, work: Work) -> Launch {
        let device = device.into();
        let mut arguments = match self {
            Monitor::Ours => ours(1, REPORT),
            Monitor::Qemu(program) => qemu(program, "-nographic"),
            Monitor::LeanQemu(program) => qemu(program, "-M q35 -nodefaults -display none -serial stdio"),
        };
        arguments.push(guest::command_line(work));
        arguments.extend(device.map(|device| self.assign(device)).unwrap_or_default());
        Launch { arguments, user: None }
    }

    /// The command line of our monitor for a guest of 512 MiB that takes orders about these devices. Its report goes
    /// to this file, for there may be several monitors.
    pub(crate) fn serving(devices: &[String], cpus: u8, report: &str) -> Launch {
        let mut arguments = ours(cpus, report);
        arguments.push(guest::command_line(Work::Serve));
        arguments.extend(devices.iter().flat_map(|device| ["--device".to_owned(), device.clone()]));
        Launch { arguments, user: None }
    }

    /// A command that does nothing but get the program into L1's memory.
    pub(crate) fn warm_up(&self) -> Launch {
        let mut arguments = match self {
            Monitor::Ours => words(OURS),
            Monitor::Qemu(program) | Monitor::LeanQemu(program) => chrooted(program),
        };
        arguments.push("--version".into());
        Launch { arguments, user: None }
    }

    fn assign(&self, device: &str) -> Vec<String> {
        match self {
            Monitor::Ours => words(&format!("--device {device}")),
            Monitor::Qemu(_) | Monitor::LeanQemu(_) => words(&format!("-device vfio-pci,host={device}")),
        }
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Our command line up to the kernel's own.
fn ours(cpus: u8, report: &str) -> Vec<String> {
    let mut line = words(&format!("{OURS} run --memory 512M --cpus {cpus} --report {report}"));
    line.extend(words(&format!("--kernel {GUEST_KERNEL} --initrd {GUEST_INITRAMFS} --append")));
    line
}

/// QEMU's command line up to the kernel's own.
fn qemu(program: &Path, shape: &str) -> Vec<String> {
    let mut line = chrooted(program);
    line.extend(words("-accel kvm -cpu host -m 512M -smp 1"));
    line.extend(words(shape));
    line.extend(words(&format!("-kernel /tmp{GUEST_KERNEL} -initrd /tmp{GUEST_INITRAMFS} -append")));
    line
}

/// The beginning of a command line that runs a program of the outer machine in L1.
fn chrooted(program: &Path) -> Vec<String> {
    let mut line = words(&format!("/bin/busybox chroot {HOST_ROOT}"));
    line.push(program.display().to_string());
    line
}

/// Why a guest's life could not be followed to where the scenario wanted it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LifeError {
    #[error(transparent)]
    L1(#[from] L1Error),
    #[error(
        "{monitor} ended ({end:?}) before the guest said '{wanted}'\n  it complained:\n{stderr}\n  the guest's last words:\n{console}"
    )]
    EndedEarly { monitor: &'static str, end: End, wanted: String, stderr: String, console: String },
    #[error(
        "{source}  what KVM's counters and the monitors do: {doing}\n  the guest's last words under {monitor}:\n{console}"
    )]
    Stopped { monitor: &'static str, source: Box<L1Error>, console: String, doing: String },
    #[error(
        "a processor of the guest is stuck under {monitor}\n  what KVM's counters and the monitors do: {doing}\n  the guest's last words:\n{console}"
    )]
    Stuck { monitor: &'static str, console: String, doing: String },
    #[error(
        "the guest said '{said}' under {monitor} where '{wanted}' was to come; its last words:\n{console}"
    )]
    Unwanted { monitor: &'static str, said: String, wanted: String, console: String },
    #[error("the guest's kernel panicked under {monitor}; its last words:\n{console}")]
    Panic { monitor: &'static str, console: String },
}

/// A guest and all that its monitor has printed so far.
pub(crate) struct Life {
    process: u32,
    monitor: &'static str,
    progress: Rc<Progress>,
    partial: Vec<u8>,
    /// The line that was not complete when the monitor ended.
    torn: Vec<u8>,
    read_marks: usize,
    /// The guest's console, and when each line was complete, in microseconds since the monitor's start.
    pub(crate) lines: Vec<(u64, String)>,
    /// What the guest said of itself.
    pub(crate) marks: Vec<Mark>,
    /// The monitor's standard error.
    pub(crate) stderr: String,
    /// How and when the monitor ended.
    pub(crate) end: Option<(u64, End)>,
}

impl Life {
    /// Starts a monitor.
    pub(crate) fn start(
        l1: &mut L1,
        monitor: &Monitor,
        launch: Launch,
        progress: &Rc<Progress>,
    ) -> Result<Self, LifeError> {
        let process = l1.spawn(launch)?;
        Ok(Self {
            process,
            monitor: monitor.name(),
            progress: progress.clone(),
            partial: Vec::new(),
            torn: Vec::new(),
            read_marks: 0,
            lines: Vec::new(),
            marks: Vec::new(),
            stderr: String::new(),
            end: None,
        })
    }

    /// The same guest's life, with which another monitor goes on that has just been started.
    pub(crate) fn go_on_as(mut self, next: Self) -> Self {
        if !self.torn.trim_ascii().is_empty() {
            // The other one prints the rest of it.
            let torn = self.lines.pop().map_or_else(String::new, |(_, line)| line);
            self.marks.truncate(self.marks.len() - usize::from(Mark::parse(&torn, 0).is_some()));
        }
        let read_marks = self.read_marks.min(self.marks.len());
        Self { partial: self.torn, read_marks, lines: self.lines, marks: self.marks, ..next }
    }

    /// The number of the monitor's process.
    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// Waits until the guest says this, from where the last such wait ended.
    pub(crate) fn until(&mut self, l1: &mut L1, word: &str) -> Result<Mark, LifeError> {
        self.until_unless(l1, word, None)
    }

    /// The same, where the guest must not say something else before.
    pub(crate) fn until_unless(
        &mut self,
        l1: &mut L1,
        word: &str,
        unless: Option<&str>,
    ) -> Result<Mark, LifeError> {
        loop {
            while let Some(mark) = self.marks.get(self.read_marks) {
                self.read_marks += 1;
                if mark.word == word {
                    return Ok(mark.clone());
                }
                if unless == Some(mark.word.as_str()) {
                    return Err(LifeError::Unwanted {
                        monitor: self.monitor,
                        said: mark.word.clone(),
                        wanted: word.to_owned(),
                        console: self.last_words(),
                    });
                }
            }
            if let Some((_, end)) = self.end {
                return Err(self.ended_early(end, word));
            }
            self.listen(l1)?;
        }
    }

    /// Waits until the monitor has ended.
    pub(crate) fn until_end(&mut self, l1: &mut L1) -> Result<(u64, End), LifeError> {
        loop {
            match self.end {
                Some(end) => return Ok(end),
                None => self.listen(l1)?,
            }
        }
    }

    /// Waits until the monitor has complained of this.
    pub(crate) fn until_complaint(&mut self, l1: &mut L1, text: &str) -> Result<(), LifeError> {
        while !self.stderr.contains(text) {
            if let Some((_, end)) = self.end {
                return Err(self.ended_early(end, text));
            }
            self.listen(l1)?;
        }
        Ok(())
    }

    /// Lets the guest live until then; as soon as it takes orders it gets this one.
    pub(crate) fn live_until(&mut self, l1: &mut L1, then: Instant, order: &str) -> Result<(), LifeError> {
        let mut ordered = false;
        while self.end.is_none() && Instant::now() < then {
            if let Some(event) = l1.next_of_before(self.process, Some(then))? {
                self.take(l1, event)?;
            }
            if !ordered && self.said("ready").next().is_some() {
                ordered = true;
                self.type_line(l1, &format!("1 {order}"))?;
            }
        }
        Ok(())
    }

    /// Kills the monitor, if it still lives.
    pub(crate) fn kill(&mut self, l1: &mut L1) -> Result<(u64, End), LifeError> {
        if self.end.is_none() {
            l1.ask(Request::Kill { process: self.process })?;
        }
        self.until_end(l1)
    }

    /// Presses keys on the monitor's terminal.
    pub(crate) fn press(&self, l1: &mut L1, keys: &[u8]) -> Result<(), LifeError> {
        Ok(l1.input(self.process, keys.to_vec())?)
    }

    /// Types a line on the guest's console.
    pub(crate) fn type_line(&self, l1: &mut L1, line: &str) -> Result<(), LifeError> {
        self.press(l1, format!("{line}\n").as_bytes())
    }

    /// When the guest's kernel printed its first line, in microseconds since the monitor's start.
    pub(crate) fn first_kernel_line(&self) -> Option<u64> {
        self.lines.iter().find(|(_, line)| line.contains("Linux version ")).map(|(at, _)| *at)
    }

    /// Everything the guest said under this word.
    pub(crate) fn said(&self, word: &str) -> impl Iterator<Item = &Mark> {
        self.marks.iter().filter(move |mark| mark.word == word)
    }

    fn listen(&mut self, l1: &mut L1) -> Result<(), LifeError> {
        let event = match l1.next_of(self.process) {
            Ok(event) => event,
            Err(source) => return Err(self.stopped(l1, source)),
        };
        self.take(l1, event)
    }

    /// Takes an event of this process.
    fn take(&mut self, l1: &mut L1, event: Event) -> Result<(), LifeError> {
        match event {
            Event::Output { process, microseconds, stream, bytes } if process == self.process => match stream
            {
                Stream::Out if self.printed(microseconds, &bytes.0)? => Err(LifeError::Stuck {
                    monitor: self.monitor,
                    doing: diagnosis::of_silence(l1),
                    console: self.last_words(),
                }),
                Stream::Out => Ok(()),
                Stream::Err => {
                    self.complained(&bytes.0);
                    Ok(())
                }
            },
            Event::Exited { process, microseconds, end } if process == self.process => {
                self.torn = self.partial.clone();
                self.printed(microseconds, b"\n")?;
                self.end = Some((microseconds, end));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn stopped(&self, l1: &mut L1, source: L1Error) -> LifeError {
        let doing = match source {
            L1Error::Silence { .. } => {
                l1.be_patient();
                diagnosis::of_silence(l1)
            }
            _ => "not looked at".to_owned(),
        };
        LifeError::Stopped {
            monitor: self.monitor,
            source: Box::new(source),
            console: self.last_words(),
            doing,
        }
    }

    fn complained(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let start = self.stderr.rfind('\n').map_or(0, |last| last + 1);
        self.stderr.push_str(&text);
        let fresh = &self.stderr[start..];
        let whole = fresh.rfind('\n').map_or("", |last| &fresh[..last]);
        whole
            .lines()
            .for_each(|line| self.progress.console(Console::L2, &format!("({}) {line}", self.monitor)));
    }

    /// Takes what the guest printed; true if its kernel says that one of its processors is stuck.
    fn printed(&mut self, at: u64, bytes: &[u8]) -> Result<bool, LifeError> {
        let mut stuck = false;
        self.partial.extend_from_slice(bytes);
        let whole = self.partial.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let text = String::from_utf8_lossy(&self.partial[..whole]).into_owned();
        self.partial.drain(..whole);
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            self.progress.console(Console::L2, line);
            self.marks.extend(Mark::parse(line, at));
            self.lines.push((at, line.trim_end().to_owned()));
            if line.contains("Kernel panic - not syncing") {
                return Err(LifeError::Panic { monitor: self.monitor, console: self.last_words() });
            }
            stuck |= line.contains("BUG: soft lockup");
        }
        Ok(stuck)
    }

    fn ended_early(&self, end: End, wanted: &str) -> LifeError {
        LifeError::EndedEarly {
            monitor: self.monitor,
            end,
            wanted: wanted.to_owned(),
            stderr: indent(self.stderr.lines()),
            console: self.last_words(),
        }
    }

    fn last_words(&self) -> String {
        let from = self.lines.len().saturating_sub(LAST_LINES);
        indent(self.lines[from..].iter().map(|(_, line)| line.as_str()))
    }
}

fn indent<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(|line| format!("    {line}\n")).collect()
}
