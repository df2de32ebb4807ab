//! The machine: processors, memory, firmware tables and a bus, run until it stops, and started again at a reset.

pub(crate) mod acpi;
pub(crate) mod boot;
mod bus;
pub(crate) mod console;
mod cpuid;
mod descriptor;
pub(crate) mod event;
pub(crate) mod layout;
pub(crate) mod output;
pub(crate) mod pci;
pub(crate) mod power;
pub(crate) mod ram;
mod registers;
mod run_loop;
pub(crate) mod serial;
mod signals;
mod state;
mod terminal;
pub(crate) mod vcpu;
pub(crate) mod vm;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use acpi::Description;
use boot::{BootError, BootImages, EntryPoint};
use bus::{Bus, SavedBus};
use layout::ACPI_TABLES;
use pci::PciBus;
use power::{Power, Stop};
use serde::{Deserialize, Serialize};
use serial::SerialPort;
use vcpu::{Exits, ProcessorThread, Run};
use vm::{SavedVm, Vm, VmError};

use crate::help::Problem;

/// Where a machine's processors start.
pub(crate) enum Start {
    /// The first, at what was loaded; the others wait for it.
    At(EntryPoint),
    /// All where they were in another process.
    GoOn(Box<SavedMachine>),
}

/// A machine in a file, without its RAM and its assigned devices.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedMachine {
    vm: SavedVm,
    bus: SavedBus,
}

/// A machine with everything in it.
pub(crate) struct Machine {
    /// The bus goes first: its functions have memory slots and interrupts in the machine.
    bus: Arc<Bus>,
    vm: Vm,
    images: BootImages,
    acpi: Vec<u8>,
    sender: Sender<Stop>,
    stops: Receiver<Stop>,
    exits: Exits,
}

impl Machine {
    /// Puts a machine together. `images` are loaded in its RAM, or the guest goes on in it. Who wants it to stop says so
    /// through `stops`.
    pub(crate) fn new(
        vm: Vm,
        cpus: u8,
        (images, start): (BootImages, Start),
        serial: Arc<SerialPort>,
        pci: Arc<PciBus>,
        (sender, stops): (Sender<Stop>, Receiver<Stop>),
    ) -> Result<Self, Problem> {
        let acpi = acpi::tables(&Description {
            cpus,
            layout: vm.layout(),
            slots: pci.slots(),
            hot_plug: pci.has_ports(),
        })?;
        let power = Arc::new(Power::new(sender.clone()));
        let bus = Arc::new(Bus::new(serial, power, pci));
        vcpu::install_kick()?;
        let machine = Self { bus, vm, images, acpi, sender, stops, exits: Exits::default() };
        match start {
            Start::At(entry) => machine.enter(&entry)?,
            Start::GoOn(saved) => {
                let SavedMachine { vm, bus } = *saved;
                machine.bus.restore(bus)?;
                machine.vm.restore(vm)?;
            }
        }
        Ok(machine)
    }

    /// The machine for a file. It does not run, and its devices are stopped.
    pub(crate) fn save(&self) -> Result<SavedMachine, VmError> {
        Ok(SavedMachine { vm: self.vm.save()?, bus: self.bus.save() })
    }

    /// What its RAM is in; none where another process cannot have it.
    pub(crate) fn ram_files(&self) -> std::io::Result<Option<Vec<OwnedFd>>> {
        self.vm.ram().files()
    }

    /// Ends without taking anything from the guest: another process goes on with it. This one is to end soon.
    pub(crate) fn vanish(self) {
        std::mem::forget(self);
    }

    /// How often the guest was left so far.
    pub(crate) fn exits(&self) -> Exits {
        self.exits
    }

    /// Runs until something stops the machine.
    pub(crate) fn run(&mut self) -> Result<Stop, Problem> {
        let flag = || Arc::new(AtomicBool::new(false));
        let (entering, stopping) = (flag(), flag());
        let run = Run {
            bus: Arc::clone(&self.bus),
            entering: Arc::clone(&entering),
            stopping: Arc::clone(&stopping),
            stops: self.sender.clone(),
        };
        let mut threads = Vec::new();
        let mut failure = None;
        for processor in self.vm.take_processors() {
            match ProcessorThread::start(processor, run.clone()) {
                Ok(thread) => threads.push(thread),
                Err(error) => failure = Some(error),
            }
        }
        stopping.store(failure.is_some(), Ordering::SeqCst);
        entering.store(true, Ordering::SeqCst);
        threads.iter().for_each(ProcessorThread::enter);
        // The machine holds a sender itself, so that an answer always comes.
        let first = if failure.is_none() { self.stops.recv().ok() } else { None };
        stopping.store(true, Ordering::SeqCst);
        threads.iter().for_each(ProcessorThread::kick);
        let mut processors = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok((processor, exits)) => {
                    self.exits += exits;
                    processors.push(processor);
                }
                Err(error) => failure = Some(error),
            }
        }
        self.vm.return_processors(processors);
        if let Some(error) = failure {
            return Err(error.into());
        }
        // Several may have had a reason at once.
        let stop = first.into_iter().chain(self.stops.try_iter()).max_by_key(Stop::weight);
        match stop {
            Some(Stop::Failed(error)) => Err(error.into()),
            Some(stop) => Ok(stop),
            None => Ok(Stop::Reset),
        }
    }

    /// Waits, with no processor running, until there is a reason to do something.
    pub(crate) fn wait(&self) -> Stop {
        // The machine holds a sender itself, so that one always comes.
        self.stops.recv().unwrap_or(Stop::Attend)
    }

    /// Makes the machine what it was when it was turned on, but for assigned devices, and loads what it boots again.
    pub(crate) fn reset(&mut self) -> Result<(), Problem> {
        self.bus.reset();
        self.vm.reset()?;
        let entry = self.images.load(self.vm.ram(), self.vm.layout())?;
        self.enter(&entry)
    }

    /// The first processor is to start at `entry`, and finds the firmware's tables.
    fn enter(&self, entry: &EntryPoint) -> Result<(), Problem> {
        let acpi = self.vm.ram().write(ACPI_TABLES, &self.acpi);
        acpi.map_err(|source| BootError::Write { what: "the ACPI tables", source })?;
        self.vm.enter(entry)?;
        Ok(())
    }
}
