//! L1 while it runs: the outer QEMU, the conversation with the agent in it, and the watch over both.
//!
//! Whatever L1 says comes through one channel, in order. Waiting for anything therefore always notices a
//! kernel panic, an L1 that ended, and silence. Its files are in `l1/files.rs`.

mod files;

use crate::machine::{BootFiles, Machine};
use crate::progress::{Console, Progress};
use crate::protocol::{Answer, Bytes, Event, Launch, Numbered, Refusal, Request};
use crate::qmp::Qmp;
use crate::wire::{Message, listen};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How many lines of a console an error shows; a kernel's last message is long and says the most in its first lines.
pub(crate) const LAST_LINES: usize = 60;
/// QEMU's socket in the folder of sockets.
const MONITOR: &str = "monitor";

/// How long L1 may be silent before it is nudged.
///
/// QEMU's emulation loses a timer interrupt now and then, and a processor that has nothing but its timer to wait for then
/// stands still until something else interrupts it: four minutes in the run that showed it, in which L1's clock
/// source found 240 s gone on one clock and 25 s on the other, and went on at the first thing it was asked.
const NUDGE: Duration = Duration::from_secs(1);

/// L1, up and answering.
pub(crate) struct L1 {
    qemu: Child,
    /// With QEMU's socket, and the agent's.
    folder: TempDir,
    agent: Option<UnixStream>,
    messages: Receiver<Message>,
    waiting: VecDeque<Event>,
    progress: Rc<Progress>,
    watch: Watch,
    /// When something last came that was more than the kernel's murmur: a machine that is stuck may complain for ever.
    last_progress: Instant,
    last_words: VecDeque<String>,
    numbers: u64,
    processes: u32,
    /// L1's kernel log: level and text of each record.
    pub(crate) kernel_log: Vec<(u8, String)>,
    /// From the start of QEMU to the agent's first word.
    pub(crate) boot: Duration,
}

/// How long L1 may take, and how long it may say nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    silence: Duration,
    deadline: Option<Instant>,
}

impl Watch {
    /// For a scenario that takes less than `total` even on a slow machine.
    pub(crate) fn total(total: Duration) -> Self {
        Self { silence: Duration::from_secs(90), deadline: Some(Instant::now() + total) }
    }

    /// For a [steady](Machine::steady) machine, which is slow, and slower beside others.
    pub(crate) fn steady(total: Duration) -> Self {
        Self { silence: Duration::from_secs(240), ..Self::total(total) }
    }

    /// For a person at the terminal.
    pub(crate) fn patient() -> Self {
        Self { silence: Duration::from_secs(30 * 24 * 3600), deadline: None }
    }
}

/// Why L1 did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum L1Error {
    #[error("cannot start {program}: {source}")]
    Start { program: String, source: io::Error },
    #[error("cannot {operation}: {source}")]
    Channel { operation: &'static str, source: io::Error },
    #[error("L1 ended by itself ({status}) while {step}; its last words:\n{console}")]
    Ended { status: String, step: String, console: String },
    #[error("L1's kernel panicked while {step}:\n{console}")]
    Panic { step: String, console: String },
    #[error(
        "neither L1 nor the guest said anything for {seconds} s while {step}; L1's last words:\n{console}"
    )]
    Silence { seconds: u64, step: String, console: String },
    #[error("stopped by the lab's time limit while {step}; L1's last words:\n{console}")]
    TooLong { step: String, console: String },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("QEMU refuses {command}: {error}")]
    Qemu { command: &'static str, error: String },
    #[error("this is no message: {line}: {source}")]
    NoMessage { line: String, source: serde_json::Error },
    #[error("the agent answered a request for a {wanted} with {answer:?}")]
    WrongAnswer { wanted: &'static str, answer: Answer },
}

impl L1 {
    /// Starts the machine and waits until its agent is ready.
    pub(crate) fn boot(
        qemu: &Path,
        machine: &Machine,
        kernel: &Path,
        initramfs: &str,
        progress: &Rc<Progress>,
        watch: Watch,
    ) -> Result<Self, L1Error> {
        let started = Instant::now();
        let channel_error = |operation| move |source| L1Error::Channel { operation, source };
        progress.step("booting L1");
        let folder = tempfile::tempdir().map_err(channel_error("create a folder for sockets"))?;
        let socket = folder.path().join("agent");
        let listener = UnixListener::bind(&socket).map_err(channel_error("listen for the agent"))?;
        let monitor = folder.path().join(MONITOR);
        let files = BootFiles { kernel, initramfs, socket: &socket, monitor: &monitor };
        let arguments = machine.arguments(&files);
        // Should the lab be killed, the kernel takes QEMU along.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(qemu).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|source| L1Error::Start { program: qemu.display().to_string(), source })?;
        let messages = listen(&mut child, listener);
        let mut l1 = Self {
            qemu: child,
            folder,
            agent: None,
            messages,
            waiting: VecDeque::new(),
            progress: progress.clone(),
            watch,
            last_progress: started,
            last_words: VecDeque::new(),
            numbers: 0,
            processes: 0,
            kernel_log: Vec::new(),
            boot: Duration::ZERO,
        };
        while !matches!(l1.next()?, Event::Ready { .. }) {}
        l1.boot = started.elapsed();
        Ok(l1)
    }

    /// Starts a process in L1; its events carry the number returned.
    pub(crate) fn spawn(&mut self, launch: Launch) -> Result<u32, L1Error> {
        self.processes += 1;
        let process = self.processes;
        self.ask(Request::Spawn { process, launch })?;
        Ok(process)
    }

    /// Has the agent do something and waits for its answer.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Answer, L1Error> {
        self.numbers += 1;
        let number = self.numbers;
        self.send(&Numbered { number, request })?;
        let mut others = VecDeque::new();
        let result = loop {
            match self.next()? {
                Event::Answer { number: answered, result } if answered == number => break result,
                other => others.push_back(other),
            }
        };
        others.extend(self.waiting.drain(..));
        self.waiting = others;
        Ok(result?)
    }

    /// What one process does, in order; what others do meanwhile waits for who asks for it.
    pub(crate) fn next_of(&mut self, process: u32) -> Result<Event, L1Error> {
        loop {
            // Without an alarm there is an event or an error.
            if let Some(event) = self.next_of_before(process, None)? {
                return Ok(event);
            }
        }
    }

    /// The same, but for no longer than until then.
    pub(crate) fn next_of_before(
        &mut self,
        process: u32,
        alarm: Option<Instant>,
    ) -> Result<Option<Event>, L1Error> {
        let is_its = |event: &Event| match event {
            Event::Output { process: from, .. } | Event::Exited { process: from, .. } => *from == process,
            _ => false,
        };
        if let Some(at) = self.waiting.iter().position(is_its) {
            return Ok(self.waiting.remove(at));
        }
        loop {
            match self.hear(alarm)? {
                Some(event) if !is_its(&event) => self.waiting.push_back(event),
                its => return Ok(its),
            }
        }
    }

    /// What processes do, in order.
    pub(crate) fn next(&mut self) -> Result<Event, L1Error> {
        if let Some(event) = self.waiting.pop_front() {
            return Ok(event);
        }
        loop {
            if let Some(event) = self.hear(None)? {
                return Ok(event);
            }
        }
    }

    /// The next event that nobody has heard yet; none where the alarm goes first.
    fn hear(&mut self, alarm: Option<Instant>) -> Result<Option<Event>, L1Error> {
        loop {
            match self.next_message(alarm)? {
                None => return Ok(None),
                Some(Message::Connected(stream)) => self.agent = Some(stream),
                Some(Message::Agent(Event::Kernel { level, text })) => {
                    self.progress.console(Console::L1, &text);
                    self.kernel_log.push((level, text));
                }
                Some(Message::Agent(event)) => {
                    self.last_progress = Instant::now();
                    return Ok(Some(event));
                }
                Some(Message::Failed(error)) => return Err(error),
                Some(Message::Console(line)) => self.heard(line)?,
                Some(Message::Closed) => return Err(self.ended()),
            }
        }
    }

    /// Sends bytes to a process without waiting.
    pub(crate) fn input(&mut self, process: u32, bytes: Vec<u8>) -> Result<(), L1Error> {
        self.ask(Request::Input { process, bytes: Bytes(bytes) }).map(|_done| ())
    }

    /// Somebody to tell QEMU what to do to L1.
    pub(crate) fn qemu_monitor(&self) -> Result<Qmp, L1Error> {
        Qmp::connect(&self.folder.path().join(MONITOR))
    }

    /// A way to type to a process from another thread, while nothing else is asked of L1.
    pub(crate) fn keyboard(&self, process: u32) -> Result<Keyboard, L1Error> {
        let unconnected = || io::Error::from(io::ErrorKind::NotConnected);
        let agent = self.agent.as_ref().ok_or_else(unconnected).and_then(UnixStream::try_clone);
        let agent = agent
            .map_err(|source| L1Error::Channel { operation: "duplicate the line to the agent", source })?;
        Ok(Keyboard { agent, process })
    }

    /// Begins the count of silence anew: somebody wants to ask why it is silent.
    pub(crate) fn be_patient(&mut self) {
        self.last_progress = Instant::now();
    }

    /// Switches L1 off and waits until QEMU has ended.
    pub(crate) fn power_off(mut self) -> Result<Vec<(u8, String)>, L1Error> {
        self.progress.step("switching L1 off");
        self.send(&Numbered { number: 0, request: Request::PowerOff })?;
        loop {
            match self.next_message(None)? {
                Some(Message::Console(line)) => self.heard(line)?,
                Some(Message::Agent(Event::Kernel { level, text })) => self.kernel_log.push((level, text)),
                Some(Message::Closed) => break,
                None | Some(Message::Connected(_) | Message::Agent(_) | Message::Failed(_)) => {}
            }
        }
        let status =
            self.qemu.wait().map_err(|source| L1Error::Channel { operation: "wait for QEMU", source })?;
        if status.success() { Ok(std::mem::take(&mut self.kernel_log)) } else { Err(self.ended()) }
    }

    fn send(&mut self, message: &Numbered) -> Result<(), L1Error> {
        let mut line = serde_json::to_vec(message)
            .map_err(|source| L1Error::NoMessage { line: format!("{message:?}"), source })?;
        line.push(b'\n');
        let unconnected = || io::Error::from(io::ErrorKind::NotConnected);
        let result = self.agent.as_mut().ok_or_else(unconnected).and_then(|agent| agent.write_all(&line));
        result.map_err(|source| L1Error::Channel { operation: "speak to the agent", source })
    }

    /// The next message; none where the alarm goes first.
    fn next_message(&mut self, alarm: Option<Instant>) -> Result<Option<Message>, L1Error> {
        let now = Instant::now();
        let silent = self.last_progress + self.watch.silence;
        let limit = self.watch.deadline.map_or(silent, |deadline| deadline.min(silent));
        let wake = alarm.map_or(limit, |alarm| alarm.min(limit));
        let mut received = self.messages.recv_timeout(wake.saturating_duration_since(now).min(NUDGE));
        while matches!(received, Err(RecvTimeoutError::Timeout)) && Instant::now() < wake {
            self.nudge();
            let rest = wake.saturating_duration_since(Instant::now());
            received = self.messages.recv_timeout(rest.min(NUDGE));
        }
        match received {
            Ok(message) if now < limit => Ok(Some(message)),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) if wake < limit => Ok(None),
            _ if limit < silent => {
                Err(L1Error::TooLong { step: self.progress.doing(), console: self.last_words() })
            }
            _ => Err(L1Error::Silence {
                seconds: self.watch.silence.as_secs(),
                step: self.progress.doing(),
                console: self.last_words(),
            }),
        }
    }

    fn nudge(&mut self) {
        if self.agent.is_some() {
            // One that cannot be told anything will be found out by its silence, or has ended.
            drop(self.send(&Numbered { number: 0, request: Request::Nudge }));
        }
    }

    fn heard(&mut self, line: String) -> Result<(), L1Error> {
        self.progress.console(Console::L1, &line);
        let panicked = line.contains("Kernel panic");
        self.last_words.push_back(line);
        if self.last_words.len() > LAST_LINES {
            self.last_words.pop_front();
        }
        if panicked {
            Err(L1Error::Panic { step: self.progress.doing(), console: self.last_words() })
        } else {
            Ok(())
        }
    }

    fn ended(&mut self) -> L1Error {
        let status = match self.qemu.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        L1Error::Ended { status, step: self.progress.doing(), console: self.last_words() }
    }

    fn last_words(&self) -> String {
        self.last_words.iter().map(|line| format!("    {}\n", line.trim_end())).collect()
    }
}

impl Drop for L1 {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to end.
        let _ended = self.qemu.kill();
        let _status = self.qemu.wait();
    }
}

/// Sends keys to one process.
pub(crate) struct Keyboard {
    agent: UnixStream,
    process: u32,
}

impl Keyboard {
    /// Sends keys; the agent's answer carries number 0, for which nobody waits.
    pub(crate) fn press(&mut self, keys: &[u8]) -> io::Result<()> {
        let request = Request::Input { process: self.process, bytes: Bytes(keys.to_vec()) };
        let mut line = serde_json::to_vec(&Numbered { number: 0, request })?;
        line.push(b'\n');
        self.agent.write_all(&line)
    }
}

#[cfg(test)]
mod tests;
