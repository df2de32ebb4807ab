//! `vfio-assign run`: puts a machine together, runs it to its end, and reports.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use crate::arguments::RunArguments;
use crate::assignment::{AssignmentError, addresses, assign, map_memory};
use crate::help::Help;
use crate::machine::boot::{BootError, BootImages};
use crate::machine::console::{Console, ConsoleError};
use crate::machine::output::{Output, OutputThread};
use crate::machine::pci::{NoSlot, PciBus};
use crate::machine::power::Stop;
use crate::machine::serial::SerialPort;
use crate::machine::vcpu::Exits;
use crate::machine::vm::{KvmError, Vm};
use crate::machine::{Machine, MachineError};
use crate::report::{Report, ReportError, ReportFile, Times};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Kernel or initial RAM disk.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The terminal.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Too many devices.
    #[error(transparent)]
    Slots(#[from] NoSlot),
    /// The devices.
    #[error(transparent)]
    Assignment(#[from] AssignmentError),
    /// The thread that loads the kernel.
    #[error("cannot start the thread that loads the kernel: {source}")]
    Thread {
        /// The kernel's answer.
        source: io::Error,
    },
    /// Standard output, or the thread that writes it.
    #[error("cannot write the guest's output: {source}")]
    Output {
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Help for RunError {
    fn help(&self) -> Option<String> {
        match self {
            Self::Boot(error) => error.help(),
            Self::Kvm(error) => error.help(),
            Self::Machine(error) => error.help(),
            Self::Console(error) => error.help(),
            Self::Report(error) => error.help(),
            Self::Slots(_) => Some("give fewer --device".into()),
            Self::Assignment(error) => error.help(),
            Self::Thread { .. } => Some("raise the number of processes: `ulimit -u`".into()),
            Self::Output { .. } => Some("give the command a standard output, such as `> /dev/null`".into()),
        }
    }
}

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
pub(crate) fn run(arguments: &RunArguments, start: Instant) -> Result<Ending, RunError> {
    let report = arguments.report.as_deref().map(ReportFile::create).transpose()?;
    let mut times = Times { ready: None, first_guest_output: None, life: 0.0 };
    let mut seen = Seen::default();
    let result = run_machine(arguments, start, &mut times, &mut seen);
    times.life = Times::between(start, Instant::now());
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
) -> Result<Ending, RunError> {
    let mut images = BootImages::open(&arguments.kernel, arguments.initrd.as_deref(), &arguments.append)?;
    let vm = Vm::new(arguments.memory, arguments.cpus)?;
    let devices = addresses(&arguments.devices)?;
    let (ram, layout) = (vm.ram(), vm.layout());
    let (assigned, loaded) = thread::scope(|scope| {
        // VFIO resets a device when it is opened, which takes longer than to load a kernel.
        let load =
            thread::Builder::new().name("load".into()).spawn_scoped(scope, || images.load(ram, layout));
        let assigned = (!devices.is_empty()).then(|| assign(&devices, &vm)).transpose();
        (assigned, load.map(ScopedJoinHandle::join))
    });
    let (vfio, functions) = assigned?.map_or((None, Vec::new()), |(vfio, functions)| (Some(vfio), functions));
    let loaded = loaded.map_err(|source| RunError::Thread { source })?;
    let entry = loaded.unwrap_or_else(|panic| resume_unwind(panic))?;
    let ram = ram.regions().to_vec();
    let stdout = rustix::io::dup(io::stdout()).map_err(|errno| RunError::Output { source: errno.into() })?;
    let (output, writer) = Output::start(stdout).map_err(|source| RunError::Output { source })?;
    let serial = Arc::new(SerialPort::new(vm.fd(), output.clone())?);
    let pci = PciBus::new(functions)?;
    let mut machine = Machine::new(vm, arguments.cpus, (images, entry), Arc::clone(&serial), pci)?;
    let console = Console::start(serial, machine.stop_sender())?;
    times.ready = Some(Times::between(start, Instant::now()));
    // The mapping holds the lock of this process's address space for long, which any new thread would wait for.
    let stop = machine.stop_sender();
    let mut mapping = None;
    let map_memory = || {
        mapping = vfio.map(|vfio| map_memory(&vfio, &ram, stop)).transpose()?;
        Ok(())
    };
    let result = until_end(&mut machine, map_memory, &mut seen.reboots);
    // The last output comes before the terminal is given back, and before any error.
    finish(writer, &result);
    drop((console, mapping));
    times.first_guest_output = output.first().map(|first| Times::between(start, first));
    seen.exits = machine.exits();
    seen.devices = machine.pci().reports();
    result
}

/// Runs the machine over all its reboots. `ready` is called before the guest is entered for the first time.
fn until_end(
    machine: &mut Machine,
    ready: impl FnOnce() -> Result<(), RunError>,
    reboots: &mut u64,
) -> Result<Ending, RunError> {
    let mut stop = machine.run(ready)?;
    loop {
        match stop {
            Stop::Reset => {
                *reboots += 1;
                log::info!("the guest resets the machine");
                machine.reset()?;
                stop = machine.run(|| Ok::<_, RunError>(()))?;
            }
            Stop::PowerOff => return Ok(Ending::PoweredOff),
            Stop::Left => return Ok(Ending::Left),
            Stop::Signal(signal) => return Ok(Ending::Signal(signal)),
            Stop::NoDma(error) => return Err(AssignmentError::Memory(error).into()),
            Stop::Failed(error) => return Err(MachineError::from(error).into()),
        }
    }
}

fn finish(writer: OutputThread, result: &Result<Ending, RunError>) {
    match result {
        // Who asks to leave does not wait for a reader of the output that may have stopped.
        Ok(Ending::Left | Ending::Signal(_)) => writer.abandon(),
        Ok(Ending::PoweredOff) | Err(_) => writer.finish(),
    }
}
