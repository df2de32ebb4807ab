//! Running a processor: entering the guest, giving its accesses to the bus, leaving when told.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, Builder, JoinHandle};

use kvm_ioctls::VcpuExit;
use rustix::io::Errno;
use serde::Serialize;
use vfio_assign_linux::kvm::RunPage;
use vmm_sys_util::errno::Error as KvmErrno;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::bus::Bus;
use super::power::Stop;
use super::run_loop::{Enter, Exit};
use super::vm::Processor;
use crate::help::Help;

/// Event types of KVM_EXIT_SYSTEM_EVENT.
const SYSTEM_SHUTDOWN: u32 = 1;
const SYSTEM_RESET: u32 = 2;

/// Why a processor cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VcpuError {
    /// KVM_RUN failed.
    #[error("processor {cpu}: KVM_RUN failed: {source}")]
    Run {
        /// The processor.
        cpu: u8,
        /// The kernel's answer.
        source: KvmErrno,
    },
    /// The guest touched memory that this process has mapped but cannot reach, and no device's death explains it.
    #[error("processor {cpu}: KVM_RUN failed: EFAULT, and no assigned device has died since the last time")]
    Memory {
        /// The processor.
        cpu: u8,
    },
    /// The processor refuses the guest's state.
    #[error(
        "processor {cpu} cannot enter the guest: hardware reason {reason:#x} on host processor {host_cpu}"
    )]
    Entry {
        /// The processor.
        cpu: u8,
        /// What the hardware says.
        reason: u64,
        /// Where.
        host_cpu: u32,
    },
    /// KVM gave up on an instruction, or left with something that this machine never asked for.
    #[error("processor {cpu} stopped at {rip:#x}: KVM said {exit}")]
    Exit {
        /// The processor.
        cpu: u8,
        /// Guest instruction pointer.
        rip: u64,
        /// The exit, as KVM names it.
        exit: String,
    },
    /// Its thread panicked.
    #[error("processor {cpu}: its thread ended by a panic")]
    Panic {
        /// The processor.
        cpu: u8,
    },
    /// Its thread could not be started.
    #[error("processor {cpu}: cannot start its thread: {source}")]
    Thread {
        /// The processor.
        cpu: u8,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The signal that stops it could not be installed.
    #[error("cannot install the signal that stops processors: {source}")]
    Signal {
        /// The kernel's answer.
        source: KvmErrno,
    },
}

impl Help for VcpuError {
    fn help(&self) -> Option<String> {
        Some(
            match self {
                Self::Memory { .. } => {
                    "the host may be out of memory, or a page of guest memory is broken; see `dmesg`"
                }
                Self::Entry { .. } => "see `dmesg` of the host; turning nested virtualisation off may help",
                Self::Thread { .. } => "raise the number of processes: `ulimit -u`",
                Self::Panic { .. } => "this is a fault of the monitor; please report it with the text above",
                Self::Exit { .. } => {
                "see `dmesg` of the host; KVM inside a virtual machine may not run every guest that KVM on hardware does"
            }
            Self::Run { .. } | Self::Signal { .. } => return None,
            }
            .into(),
        )
    }
}

/// How often the guest was left, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Exits {
    /// Reads of guest addresses without memory.
    pub(crate) mmio_read: u64,
    /// Writes to them.
    pub(crate) mmio_write: u64,
    /// Reads and writes of ports.
    pub(crate) pio: u64,
    /// Processors that halted outside of KVM.
    pub(crate) hlt: u64,
    /// Triple faults.
    pub(crate) shutdown: u64,
    /// Signals, and waits that ended without an exit.
    pub(crate) interrupted: u64,
    /// Faults on memory of this process.
    pub(crate) fault: u64,
    /// Everything else.
    pub(crate) other: u64,
}

impl AddAssign for Exits {
    fn add_assign(&mut self, more: Self) {
        self.mmio_read += more.mmio_read;
        self.mmio_write += more.mmio_write;
        self.pio += more.pio;
        self.hlt += more.hlt;
        self.shutdown += more.shutdown;
        self.interrupted += more.interrupted;
        self.fault += more.fault;
        self.other += more.other;
    }
}

/// What all processors of a run share.
#[derive(Clone)]
pub(crate) struct Run {
    /// Where accesses go.
    pub(crate) bus: Arc<Bus>,
    /// Set when all may enter the guest.
    pub(crate) entering: Arc<AtomicBool>,
    /// Set when all are to leave.
    pub(crate) stopping: Arc<AtomicBool>,
    /// Who hears why.
    pub(crate) stops: Sender<Stop>,
}

/// A processor that runs on a thread of its own.
pub(crate) struct ProcessorThread {
    number: u8,
    page: Arc<RunPage>,
    thread: JoinHandle<(Processor, Exits)>,
}

/// The signal only has to be taken: that alone leaves the guest.
extern "C" fn kicked<I>(_signal: i32, _info: *mut I, _context: *mut std::ffi::c_void) {}

/// Lets [`ProcessorThread::kick`] reach processors; once for a process.
pub(crate) fn install_kick() -> Result<(), VcpuError> {
    register_signal_handler(SIGRTMIN(), kicked).map_err(|source| VcpuError::Signal { source })
}

impl ProcessorThread {
    /// Makes a thread that waits for [`Self::enter`], then starts the processor where its registers say.
    pub(crate) fn start(processor: Processor, run: Run) -> Result<Self, VcpuError> {
        let number = processor.number;
        let page = Arc::clone(processor.vcpu.page());
        let thread = Builder::new()
            .name(format!("vcpu{number}"))
            .spawn(move || run.processor(processor))
            .map_err(|source| VcpuError::Thread { cpu: number, source })?;
        Ok(Self { number, page, thread })
    }

    /// Makes the thread look at whether it may enter the guest.
    pub(crate) fn enter(&self) {
        self.thread.thread().unpark();
    }

    /// Makes the processor look at whether it is to leave, whatever it does.
    pub(crate) fn kick(&self) {
        // In this order: whether the processor is about to enter the guest or in it, one of the two stops it.
        self.page.set_immediate_exit(true);
        if let Err(errno) = self.thread.kill(SIGRTMIN()) {
            log::debug!("processor {} is gone before its kick: {errno}", self.number);
        }
    }

    /// Waits until the processor has left.
    pub(crate) fn join(self) -> Result<(Processor, Exits), VcpuError> {
        self.thread.join().map_err(|_| VcpuError::Panic { cpu: self.number })
    }
}

impl Run {
    fn processor(&self, processor: Processor) -> (Processor, Exits) {
        let Processor { mut vcpu, power_on, number } = processor;
        let _guard = PanicGuard { stops: &self.stops, cpu: number };
        while !self.entering.load(Ordering::SeqCst) {
            thread::park();
        }
        let mut exits = Exits::default();
        let stop = self.until_stop(number, &mut vcpu, &mut exits);
        let stops = stop.is_some();
        // Nobody listens only when the machine is already gone.
        let tell = |stop| drop(self.stops.send(stop));
        stop.into_iter().for_each(tell);
        // One that fails has said so.
        self.finish(number, &mut vcpu, &mut exits).into_iter().filter(|_| !stops).for_each(tell);
        (Processor { vcpu, power_on, number }, exits)
    }

    /// Runs until the machine stops (none) or this processor has a reason to stop it.
    fn until_stop(&self, cpu: u8, vcpu: &mut impl Enter, exits: &mut Exits) -> Option<Stop> {
        let mut deaths = Deaths::default();
        loop {
            // In this order: a kick that comes in between makes the next entry return at once.
            vcpu.forget_kick();
            if self.stopping.load(Ordering::SeqCst) {
                return None;
            }
            // Before each entry: what the guest still has of a device that it must not have may be memory.
            if let Some(quarantine) = self.bus.pci().quarantine() {
                return Some(Stop::Quarantined(quarantine));
            }
            if let Turn::Stop(stop) = self.turn(cpu, vcpu, exits, &mut deaths) {
                return Some(stop);
            }
        }
    }

    /// Completes the instruction that the guest was left for; a reason to stop, if that has one.
    ///
    /// One instruction may be several accesses: KVM leaves for each 8 bytes, and for each repetition of a string
    /// instruction. The guest goes on behind it after a pause, so none may be lost. Registers that are set before the
    /// last would be overwritten by it.
    fn finish(&self, cpu: u8, vcpu: &mut impl Enter, exits: &mut Exits) -> Option<Stop> {
        let mut deaths = Deaths::default();
        vcpu.keep_out();
        loop {
            match self.turn(cpu, vcpu, exits, &mut deaths) {
                Turn::Served => {}
                Turn::Interrupted => return None,
                Turn::Stop(stop) => return Some(stop),
            }
        }
    }

    /// Enters the guest once and serves what it was left for.
    fn turn(&self, cpu: u8, vcpu: &mut impl Enter, exits: &mut Exits, deaths: &mut Deaths) -> Turn {
        match vcpu.run() {
            Ok(Exit::PortWrite { port, width, data }) => {
                exits.pio += 1;
                data.chunks(width).for_each(|item| self.bus.port_write(port, item));
            }
            Ok(Exit::PortRead { port, width, data }) => {
                exits.pio += 1;
                data.chunks_mut(width).for_each(|item| self.bus.port_read(port, item));
            }
            Ok(Exit::Other(VcpuExit::MmioRead(address, data))) => {
                exits.mmio_read += 1;
                self.bus.memory_read(address, data);
            }
            Ok(Exit::Other(VcpuExit::MmioWrite(address, data))) => {
                exits.mmio_write += 1;
                self.bus.memory_write(address, data);
            }
            Ok(Exit::Other(VcpuExit::Hlt)) => exits.hlt += 1,
            Ok(Exit::Other(VcpuExit::Intr)) => exits.interrupted += 1,
            Ok(Exit::Other(VcpuExit::Shutdown)) => {
                exits.shutdown += 1;
                return Turn::Stop(Stop::Reset);
            }
            Ok(Exit::Other(VcpuExit::SystemEvent(SYSTEM_RESET, _))) => return Turn::Stop(Stop::Reset),
            Ok(Exit::Other(VcpuExit::SystemEvent(SYSTEM_SHUTDOWN, _))) => return Turn::Stop(Stop::PowerOff),
            Ok(Exit::Fault) => {
                exits.fault += 1;
                if !deaths.explain_a_fault(self.bus.pci().revoke_dead()) {
                    return Turn::Stop(Stop::Failed(VcpuError::Memory { cpu }));
                }
            }
            Ok(Exit::Other(VcpuExit::FailEntry(reason, host_cpu))) => {
                return Turn::Stop(Stop::Failed(VcpuError::Entry { cpu, reason, host_cpu }));
            }
            Ok(Exit::Other(exit)) => {
                exits.other += 1;
                let exit = format!("{exit:?}");
                let rip = vcpu.instruction();
                return Turn::Stop(Stop::Failed(VcpuError::Exit { cpu, rip, exit }));
            }
            Err(source) => match Errno::from_raw_os_error(source.errno()) {
                Errno::INTR | Errno::AGAIN => {
                    exits.interrupted += 1;
                    return Turn::Interrupted;
                }
                _ => return Turn::Stop(Stop::Failed(VcpuError::Run { cpu, source })),
            },
        }
        Turn::Served
    }
}

/// What came of one entry.
enum Turn {
    /// What the guest was left for is done.
    Served,
    /// The guest needs nothing.
    Interrupted,
    /// A reason to stop.
    Stop(Stop),
}

/// How many functions a processor knows to be dead.
#[derive(Default)]
struct Deaths(usize);

impl Deaths {
    /// Whether functions have died since the last fault, of which `dead` are dead by now; if so, none of their
    /// memory is in the guest any more, and the processor may go on. A dead function alone explains nothing: it
    /// stays dead, and a fault that its memory did not cause comes back for ever.
    fn explain_a_fault(&mut self, dead: usize) -> bool {
        let before = std::mem::replace(&mut self.0, dead);
        dead > before
    }
}

/// Tells the machine of a processor whose thread panics; without, everybody would wait for ever.
struct PanicGuard<'a> {
    stops: &'a Sender<Stop>,
    cpu: u8,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            drop(self.stops.send(Stop::Failed(VcpuError::Panic { cpu: self.cpu })));
        }
    }
}

#[cfg(test)]
mod tests;
