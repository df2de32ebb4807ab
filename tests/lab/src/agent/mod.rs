//! The agent: this very program as process 1 of L1.
//!
//! It makes the machine usable (file systems, kernel modules), opens the serial port to the lab and then does what
//! it is asked, one thread a process for what the process prints. It knows nothing of scenarios. When the lab goes
//! away, the machine goes off.

mod answer;
mod boot;
mod device;
mod process;

use crate::protocol::{Answer, Event, Numbered, Refusal, Request};
use process::Processes;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// The agent's end of the serial port, shared by every thread that has something to report.
#[derive(Clone)]
pub(crate) struct Reporter {
    port: Arc<Mutex<File>>,
}

impl Reporter {
    /// Sends an event. A port that is gone means that the lab is gone, which the reading side notices.
    pub(crate) fn send(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = port.write_all(&line) {
            eprintln!("lab agent: the port to the lab failed: {error}");
        }
    }
}

/// Runs until the machine is switched off.
pub(crate) fn run() -> std::process::ExitCode {
    match boot::prepare() {
        Ok(port) => serve(port),
        Err(refusal) => eprintln!("lab agent: cannot start: {refusal}"),
    }
    power_off()
}

/// A KVM machine that nobody runs, kept as long as L1 lives.
///
/// With its first machine the kernel writes a scheduler hook into its own code, and takes it out with the last. QEMU's
/// emulation of two processors at times runs the half-written instruction, and L1 dies of an int3 in `__schedule`;
/// so that happens once, while L1 is idle, instead of at every guest's start and end.
fn keep_scheduler_hook() -> Option<kvm_ioctls::VmFd> {
    // An L1 without KVM is what some scenarios are about.
    kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm()).ok()
}

fn serve(port: File) {
    let _hook = keep_scheduler_hook();
    let reading = match port.try_clone() {
        Ok(clone) => clone,
        Err(error) => return eprintln!("lab agent: duplicating the port: {error}"),
    };
    let reporter = Reporter { port: Arc::new(Mutex::new(port)) };
    follow_kernel_log(reporter.clone());
    reporter.send(&Event::Ready { milliseconds: boot::uptime_milliseconds() });
    let mut processes = Processes::default();
    for line in BufReader::new(reading).lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str::<Numbered>(&line) {
            Ok(Numbered { request: Request::PowerOff, .. }) => break,
            Ok(Numbered { request: Request::Nudge, .. }) => {}
            Ok(Numbered { number, request }) => {
                let result = perform(request, &mut processes, &reporter);
                reporter.send(&Event::Answer { number, result });
            }
            Err(error) => eprintln!("lab agent: not a request: {error}: {line}"),
        }
    }
}

fn perform(request: Request, processes: &mut Processes, reporter: &Reporter) -> Result<Answer, Refusal> {
    match request {
        Request::Spawn { process, launch } => processes.start(process, &launch, reporter.clone()),
        Request::Input { process, bytes } => processes.input(process, &bytes.0),
        Request::Kill { process } => processes.kill(process),
        Request::StopDecoding { process } => device::stop_decoding(processes.pid(process)?),
        other => answer::about_files(other),
    }
}

/// Reports every record of the kernel's log, from the first one on.
fn follow_kernel_log(reporter: Reporter) {
    std::thread::spawn(move || {
        let mut log = match File::open("/dev/kmsg") {
            Ok(log) => log,
            Err(error) => return eprintln!("lab agent: /dev/kmsg: {error}"),
        };
        let mut record = vec![0; 16 * 1024];
        loop {
            match log.read(&mut record) {
                Ok(0) => return,
                Ok(length) => {
                    if let Some(event) = boot::kernel_record(&String::from_utf8_lossy(&record[..length])) {
                        reporter.send(&event);
                    }
                }
                // The kernel overwrote records before they were read; the next read goes on behind the gap.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                Err(error) => return eprintln!("lab agent: reading /dev/kmsg: {error}"),
            }
        }
    });
}

fn power_off() -> std::process::ExitCode {
    rustix::fs::sync();
    match rustix::system::reboot(rustix::system::RebootCommand::PowerOff) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab agent: switching off: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
