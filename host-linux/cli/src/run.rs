//! `vfio-assign run`: puts a machine together, runs it to its end, and reports.

use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Builder};
use std::time::Instant;

use crate::arguments::RunArguments;
use crate::assignment::{Assignment, Control, Means, Recording, addresses};
use crate::control::{MachineLine, Server, take_over};
use crate::help::Problem;
use crate::life::Life;
use crate::machine::boot::{BootError, BootImages};
use crate::machine::console::Console;
use crate::machine::output::{NoOutput, Output, OutputThread};
use crate::machine::pci::{Arrival, PciBus, SlotPlan};
use crate::machine::power::Stop;
use crate::machine::ram::Contents;
use crate::machine::serial::SerialPort;
use crate::machine::vcpu::Exits;
use crate::machine::vm::Vm;
use crate::machine::{Machine, Start as MachineStart};
use crate::progress::Progress;
use crate::report::{Report, ReportFile, Times};
use crate::saved::{SavedError, SavedRun, Shape};
use crate::stats;

/// How a run came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The guest powered off.
    PoweredOff,
    /// The person left.
    Left,
    /// Another process goes on with it.
    HandedOver,
    /// A signal ended it.
    Signal(i32),
}

/// Runs a guest to its end. Times are counted from `start`.
pub(crate) fn run(arguments: &RunArguments, start: Instant) -> Result<Ending, Problem> {
    let report = arguments.report.as_deref().map(ReportFile::create).transpose()?;
    let mut times = Times { ready: None, first_guest_output: None, life: 0.0 };
    let mut seen = Seen::default();
    let progress = Progress::new();
    let result = run_machine(arguments, start, (&mut times, &mut seen), &progress);
    progress.clear();
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
            Ok(Ending::HandedOver) => "handed-over",
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

/// A machine with its devices and its console's output, ready to run.
struct Made {
    machine: Machine,
    assignment: Assignment,
    arrival: Arrival,
    serial: Arc<SerialPort>,
    output: Output,
    writer: OutputThread,
}

/// A machine that boots.
fn boot(
    arguments: &RunArguments,
    stops: (Sender<Stop>, Receiver<Stop>),
    progress: &Progress,
) -> Result<Made, Problem> {
    progress.step(format!("loading {}", arguments.kernel.display()));
    let mut images = BootImages::open(&arguments.kernel, arguments.initrd.as_deref(), &arguments.append)?;
    let devices = addresses(&arguments.devices)?;
    let recording = arguments.record.as_deref();
    let recording = recording.map(|path| Recording::create(path, devices.len())).transpose()?;
    // Only files can be handed to another process.
    let contents = if arguments.control.is_some() { Contents::EmptyFiles } else { Contents::Empty };
    let vm = Vm::new(arguments.memory, arguments.cpus, contents)?;
    let slots = SlotPlan { devices: devices.len(), hot_plug: arguments.slots.into() };
    let (pci, arrival) = PciBus::new(slots, vm.port_interrupts())?;
    // What cannot boot is refused before memory is pinned for it.
    let plan = images.plan(vm.layout())?;
    let (assignment, entry) = thread::scope(|scope| -> Result<_, Problem> {
        let load = || images.load(vm.ram(), vm.layout());
        let loading = Builder::new().name("load".into()).spawn_scoped(scope, load);
        let loading = loading.map_err(|source| BootError::Thread { source })?;
        let observer = Arc::new(progress.clone());
        let backend = arguments.backend.into();
        let means = Means { backend, recording, observer: Some(observer), ..Means::default() };
        let with = (vm.for_devices(), plan.starts_in());
        let assignment = Assignment::reserve(Arc::clone(&pci), devices, means, with, stops.0.clone())?;
        Ok((assignment, loading.join().unwrap_or_else(|panic| resume_unwind(panic))?))
    })?;
    let (output, writer) = output(progress)?;
    let serial = Arc::new(SerialPort::new(vm.fd(), output.clone())?);
    let images = (images, MachineStart::At(entry));
    let machine = Machine::new(vm, arguments.cpus, images, Arc::clone(&serial), pci, stops)?;
    Ok(Made { machine, assignment, arrival, serial, output, writer })
}

/// A machine that goes on where another process has saved it, which ends.
fn go_on(
    arguments: &RunArguments,
    (state, from): (&Path, &Path),
    stops: (Sender<Stop>, Receiver<Stop>),
    progress: &Progress,
) -> Result<Made, Problem> {
    progress.step("taking the machine over");
    // What can be wrong is found out while the other process can still go on itself.
    let images = BootImages::open(&arguments.kernel, arguments.initrd.as_deref(), &arguments.append)?;
    let SavedRun { machine, devices, .. } = SavedRun::read(state, Shape::of(arguments))?;
    let mut files = take_over(from)?;
    let found = files.len();
    let mut files = files.drain(..);
    let vm = Vm::new(arguments.memory, arguments.cpus, Contents::Files(&mut files))?;
    let last = devices.iter().map(|device| usize::from(device.slot)).max();
    let slots = SlotPlan { devices: last.unwrap_or(0), hot_plug: arguments.slots.into() };
    let (pci, arrival) = PciBus::new(slots, vm.port_interrupts())?;
    let (output, writer) = output(progress)?;
    let serial = Arc::new(SerialPort::new(vm.fd(), output.clone())?);
    let (for_devices, told) = (vm.for_devices(), stops.0.clone());
    let images = (images, MachineStart::GoOn(Box::new(machine)));
    let machine = Machine::new(vm, arguments.cpus, images, Arc::clone(&serial), Arc::clone(&pci), stops)?;
    // Not before the interrupt controllers are what they were: what was pending is delivered.
    let assignment = Assignment::take_over(pci, devices, &mut files, for_devices, told)?;
    if files.next().is_some() {
        return Err(SavedError::Files { found }.into());
    }
    Ok(Made { machine, assignment, arrival, serial, output, writer })
}

fn output(progress: &Progress) -> Result<(Output, OutputThread), NoOutput> {
    let stdout = rustix::io::dup(io::stdout()).map_err(|errno| NoOutput { source: errno.into() })?;
    let line = progress.clone();
    // Both may be on one terminal.
    Output::start(stdout, move || line.clear()).map_err(|source| NoOutput { source })
}

fn run_machine(
    arguments: &RunArguments,
    start: Instant,
    (times, seen): (&mut Times, &mut Seen),
    progress: &Progress,
) -> Result<Ending, Problem> {
    let stops = channel();
    let (console_stop, control_stop) = (stops.0.clone(), stops.0.clone());
    let listen = || arguments.control.as_deref().map(Server::listen).transpose();
    let (made, control) = match arguments.restore.as_deref().zip(arguments.from.as_deref()) {
        Some(paths) => {
            let made = go_on(arguments, paths, stops, progress)?;
            // Not before the other process has ended, which may have listened there.
            (made, listen()?)
        }
        None => {
            let control = listen()?;
            (boot(arguments, stops, progress)?, control)
        }
    };
    let Made { mut machine, mut assignment, arrival, serial, output, writer } = made;
    let console = Console::start(serial, console_stop)?;
    times.ready = Some(Times::between(start, Instant::now()));
    let (asks, inbox) = channel();
    let line = MachineLine { asks, stops: control_stop };
    assignment.open(arrival, control.map(|server| Control::new(server, line)))?;
    let life = Life::new((&mut machine, &mut assignment), inbox, &mut seen.reboots, Shape::of(arguments));
    progress.step("booting");
    let mut result = life.run();
    progress.clear();
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
    if let Ok(Ending::HandedOver) = result {
        assignment.vanish();
        machine.vanish();
    } else {
        // Nobody listens to the devices any more when they go, with the machine.
        drop(assignment);
    }
    result
}
