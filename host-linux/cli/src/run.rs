//! `vfio-assign run`: puts a machine together, runs it to its end, and reports.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, Builder};
use std::time::Instant;

use crate::arguments::RunArguments;
use crate::assignment::{Assignment, Control, Means, Recording, addresses};
use crate::control::{Answer, Ask, MachineLine, Server, Wish};
use crate::help::Problem;
use crate::machine::Machine;
use crate::machine::boot::{BootError, BootImages};
use crate::machine::console::Console;
use crate::machine::output::{NoOutput, Output};
use crate::machine::pci::{PciBus, SlotPlan};
use crate::machine::power::Stop;
use crate::machine::serial::SerialPort;
use crate::machine::vcpu::Exits;
use crate::machine::vm::Vm;
use crate::report::{Report, ReportFile, Times};
use crate::stats;

/// How a run came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The guest powered off.
    PoweredOff,
    /// The person left.
    Left,
    /// A signal ended it.
    Signal(i32),
}

/// Runs a guest to its end. Times are counted from `start`.
pub(crate) fn run(arguments: &RunArguments, start: Instant) -> Result<Ending, Problem> {
    let report = arguments.report.as_deref().map(ReportFile::create).transpose()?;
    let mut times = Times { ready: None, first_guest_output: None, life: 0.0 };
    let mut seen = Seen::default();
    let result = run_machine(arguments, start, &mut times, &mut seen);
    times.life = Times::between(start, Instant::now());
    if arguments.stats {
        let exits = serde_json::to_value(seen.exits).unwrap_or_default();
        // The guest's console is on standard output.
        anstream::eprint!("{}", stats::text(&exits, &seen.devices));
    }
    if let Some(file) = report {
        let ended = match &result {
            Ok(Ending::PoweredOff) => "power-off",
            Ok(Ending::Left) => "left",
            Ok(Ending::Signal(_)) => "signal",
            Err(_) => "failed",
        };
        let Seen { devices, exits, reboots } = seen;
        let written = file.write(&Report { devices, ended, reboots, exits, milliseconds: times });
        // The failure of the run says more than one of its report.
        if result.is_ok() {
            written?;
        }
    }
    result
}

/// What a run leaves for its report, however it ends.
#[derive(Default)]
struct Seen {
    devices: Vec<serde_json::Value>,
    exits: Exits,
    reboots: u64,
}

fn run_machine(
    arguments: &RunArguments,
    start: Instant,
    times: &mut Times,
    seen: &mut Seen,
) -> Result<Ending, Problem> {
    let mut images = BootImages::open(&arguments.kernel, arguments.initrd.as_deref(), &arguments.append)?;
    let devices = addresses(&arguments.devices)?;
    let recording = arguments.record.as_deref();
    let recording = recording.map(|path| Recording::create(path, devices.len())).transpose()?;
    let control = arguments.control.as_deref().map(Server::listen).transpose()?;
    let stops = channel();
    let (console_stop, control_stop) = (stops.0.clone(), stops.0.clone());
    let vm = Vm::new(arguments.memory, arguments.cpus)?;
    let slots = SlotPlan { devices: devices.len(), hot_plug: arguments.slots.into() };
    let (pci, arrival) = PciBus::new(slots, vm.port_interrupts())?;
    // What cannot boot is refused before memory is pinned for it.
    let plan = images.plan(vm.layout())?;
    let (mut assignment, entry) = thread::scope(|scope| -> Result<_, Problem> {
        let load = || images.load(vm.ram(), vm.layout());
        let loading = Builder::new().name("load".into()).spawn_scoped(scope, load);
        let loading = loading.map_err(|source| BootError::Thread { source })?;
        let means = Means { backend: arguments.backend.into(), recording };
        let with = (vm.for_devices(), plan.starts_in());
        let assignment = Assignment::reserve(Arc::clone(&pci), devices, means, with, stops.0.clone())?;
        Ok((assignment, loading.join().unwrap_or_else(|panic| resume_unwind(panic))?))
    })?;
    let stdout = rustix::io::dup(io::stdout()).map_err(|errno| NoOutput { source: errno.into() })?;
    let (output, writer) = Output::start(stdout).map_err(|source| NoOutput { source })?;
    let serial = Arc::new(SerialPort::new(vm.fd(), output.clone())?);
    let boot = (images, entry);
    let mut machine = Machine::new(vm, arguments.cpus, boot, Arc::clone(&serial), pci, stops)?;
    let console = Console::start(serial, console_stop)?;
    times.ready = Some(Times::between(start, Instant::now()));
    let (asks, inbox) = channel();
    let line = MachineLine { asks, stops: control_stop };
    assignment.open(arrival, control.map(|server| Control::new(server, line)))?;
    let reboots = &mut seen.reboots;
    let life =
        Life { machine: &mut machine, assignment: &mut assignment, asks: inbox, reboots, paused: false };
    let mut result = life.run();
    // The last output comes before the terminal is given back, and before any error. What follows may take long,
    // and signals have their effect again.
    writer.finish();
    drop(console);
    if let Ok(Ending::PoweredOff) = result
        && let Some(error) = assignment.failure()
    {
        // A guest that was done before its devices were there has not had what it was started with.
        result = Err(error.into());
    }
    times.first_guest_output = output.first().map(|first| Times::between(start, first));
    seen.exits = machine.exits();
    seen.devices = assignment.devices().reports();
    assignment.devices().complaints().iter().for_each(|line| log::warn!("{line}"));
    // Nobody listens to the devices any more when they go, with the machine.
    drop(assignment);
    result
}

/// A machine over all its reboots and pauses.
struct Life<'a> {
    machine: &'a mut Machine,
    assignment: &'a mut Assignment,
    asks: Receiver<Ask>,
    reboots: &'a mut u64,
    paused: bool,
}

impl Life<'_> {
    /// Runs to the end.
    fn run(mut self) -> Result<Ending, Problem> {
        loop {
            let stop = if self.paused { self.machine.wait() } else { self.machine.run()? };
            match stop {
                Stop::Attend => {}
                Stop::Reset => {
                    *self.reboots += 1;
                    log::info!("the guest resets the machine");
                    self.assignment.devices().reset();
                    self.machine.reset()?;
                }
                Stop::PowerOff => return Ok(Ending::PoweredOff),
                Stop::Left => return Ok(Ending::Left),
                Stop::Signal(signal) => return Ok(Ending::Signal(signal)),
                Stop::NoDevices => {
                    if let Some(error) = self.assignment.failure() {
                        return Err(error.into());
                    }
                }
                Stop::Quarantined(quarantine) => return Err(quarantine.into()),
                Stop::Failed(error) => return Err(error.into()),
            }
            // Also after a reset: what was asked at that moment was not told by itself.
            while let Ok(Ask { wish, reply }) = self.asks.try_recv() {
                let quits = matches!(wish, Wish::Quit);
                self.fulfil(&wish);
                // Nobody waits only when the client has left.
                drop(reply.send(Answer::Done));
                if quits {
                    return Ok(Ending::Left);
                }
            }
        }
    }

    /// Does what was asked, where it is not so already.
    fn fulfil(&mut self, wish: &Wish) {
        match wish {
            Wish::Pause if !self.paused => {
                self.assignment.devices().stop();
                self.paused = true;
            }
            Wish::Resume if self.paused => {
                self.assignment.devices().start();
                self.paused = false;
            }
            Wish::Pause | Wish::Resume | Wish::Quit => {}
        }
    }
}
