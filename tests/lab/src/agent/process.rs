//! The processes the agent started: what they print goes to the lab with the time since their start.

use super::Reporter;
use super::boot::io_refusal;
use crate::protocol::{Answer, Bytes, End, Event, Launch, Refusal, Stream};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Processes by the number that the lab gave them.
#[derive(Default)]
pub(super) struct Processes {
    running: HashMap<u32, Running>,
}

struct Running {
    input: ChildStdin,
    pid: rustix::process::Pid,
    /// Set once the process has been waited for: its pid may by then be somebody else's.
    ended: Arc<Mutex<bool>>,
}

impl Processes {
    /// Starts a process and the threads that report what becomes of it.
    pub(super) fn start(
        &mut self,
        process: u32,
        launch: &Launch,
        reporter: Reporter,
    ) -> Result<Answer, Refusal> {
        let object = launch.arguments.join(" ");
        let Some((program, arguments)) = launch.arguments.split_first() else {
            return Err(refusal("start", "a process", "no program was named"));
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/tmp")
            .env("TERM", "linux");
        if let Some(user) = launch.user {
            command.uid(user).gid(user);
        }
        let started = Instant::now();
        let mut child = command.spawn().map_err(|error| io_refusal("start", &object, &error))?;
        let (Some(input), Some(out), Some(err)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(refusal("start", &object, "its streams are not piped"));
        };
        let threads = vec![
            relay(process, Stream::Out, out, started, reporter.clone()),
            relay(process, Stream::Err, err, started, reporter.clone()),
        ];
        let ended = Arc::new(Mutex::new(false));
        let pid = rustix::process::Pid::from_child(&child);
        self.running.insert(process, Running { input, pid, ended: ended.clone() });
        std::thread::spawn(move || reap(process, child, ended, threads, started, &reporter));
        Ok(Answer::Done)
    }

    /// Writes to a process's standard input.
    pub(super) fn input(&mut self, process: u32, bytes: &[u8]) -> Result<Answer, Refusal> {
        let running = self.find(process)?;
        running
            .input
            .write_all(bytes)
            .map_err(|error| io_refusal("write to", &format!("process {process}"), &error))?;
        Ok(Answer::Done)
    }

    /// Kills a process, unless it has ended already.
    pub(super) fn kill(&mut self, process: u32) -> Result<Answer, Refusal> {
        let running = self.find(process)?;
        let ended = running.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return Err(refusal("kill", &format!("process {process}"), "it has ended already"));
        }
        rustix::process::kill_process(running.pid, rustix::process::Signal::KILL)
            .map_err(|error| super::boot::errno_refusal("kill", &format!("process {process}"), error))?;
        Ok(Answer::Done)
    }

    /// The id of a process.
    pub(super) fn pid(&mut self, process: u32) -> Result<rustix::process::Pid, Refusal> {
        Ok(self.find(process)?.pid)
    }

    fn find(&mut self, process: u32) -> Result<&mut Running, Refusal> {
        self.running
            .get_mut(&process)
            .ok_or_else(|| refusal("find", &format!("process {process}"), "never started"))
    }
}

fn relay(
    process: u32,
    stream: Stream,
    mut source: impl Read + Send + 'static,
    started: Instant,
    reporter: Reporter,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = source.read(&mut buffer) {
            let microseconds = microseconds_since(started);
            let bytes = Bytes(buffer[..length].to_vec());
            reporter.send(&Event::Output { process, microseconds, stream, bytes });
        }
    })
}

/// Waits for the process, then for what it printed, so that its end is the last thing reported of it.
fn reap(
    process: u32,
    mut child: Child,
    ended: Arc<Mutex<bool>>,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
    reporter: &Reporter,
) {
    let waiting = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child));
    // The process stays a zombie here, so its pid is still its own when the lock is taken.
    let seen = rustix::process::waitid(id, waiting);
    let microseconds = microseconds_since(started);
    let end = {
        let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended = true;
        match (seen, child.wait()) {
            (Ok(_), Ok(status)) => match (status.code(), status.signal()) {
                (Some(code), _) => End::Status(code),
                (None, signal) => End::Signal(signal.unwrap_or(0)),
            },
            (first, second) => {
                eprintln!("lab agent: waiting for process {process}: {first:?}, {second:?}");
                End::Signal(0)
            }
        }
    };
    for thread in threads {
        if thread.join().is_err() {
            eprintln!("lab agent: a thread that relayed process {process} failed");
        }
    }
    reporter.send(&Event::Exited { process, microseconds, end });
}

fn microseconds_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn refusal(operation: &str, object: &str, cause: &str) -> Refusal {
    Refusal { operation: operation.into(), object: object.into(), cause: cause.into(), errno: None }
}
