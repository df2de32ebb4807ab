//! The devices of `--device`: opened through VFIO, put on the guest's PCI bus, described in the report.
//!
//! Everything that device assignment needs is in the libraries; this folder joins them to the monitor.

mod device;
mod report;

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};

use device::AssignedDevice;
use vfio_assign_core::{Bdf, BdfError};
use vfio_assign_linux::kvm::{IrqchipRoutes, KvmGuest, KvmVfio, Routes};
use vfio_assign_linux::{
    AssignError, AssignOptions, Assigned, Backend, DmaError, Errno, MappingThread, MappingThreadError,
    OpenError, Reservation, Vm, VmOptions,
};

use crate::help::Help;
use crate::machine::pci::{Attachment, PciFunction};
use crate::machine::power::Stop;
use crate::machine::vm::ForDevices;

/// Why the devices were not assigned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssignmentError {
    /// An address is none.
    #[error("{text:?} is no PCI address: {error}")]
    Address {
        /// What was given.
        text: String,
        /// What is wrong with it.
        error: BdfError,
    },
    /// A device was given twice.
    #[error("{bdf} was given twice with --device")]
    Twice {
        /// The device.
        bdf: Bdf,
    },
    /// KVM's side of the assignment.
    #[error("KVM does not {what}: {errno}")]
    Kvm {
        /// What it was asked for.
        what: &'static str,
        /// Its answer.
        errno: Errno,
    },
    /// The guest's memory.
    #[error("guest memory cannot be mapped for devices: {0}")]
    Memory(#[from] DmaError),
    /// The thread that maps it.
    #[error(transparent)]
    Mapping(#[from] MappingThreadError),
    /// The thread that opens devices.
    #[error("cannot start the thread that opens devices: {source}")]
    Thread {
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// VFIO did not open a device.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A device is open and cannot be given to a guest.
    #[error(transparent)]
    Assign(#[from] AssignError),
}

impl Help for AssignmentError {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Address { .. } => "give the address as `lspci -D` prints it, such as 0000:00:04.0".into(),
            Self::Twice { .. } => "give each --device once".into(),
            Self::Kvm { .. } => "raise the number of open files (`ulimit -n`) if it says EMFILE".into(),
            Self::Memory(_) => "give the guest less with --memory, or do what the message says".into(),
            Self::Thread { .. } => "raise the number of processes: `ulimit -u`".into(),
            // The message names the way out itself: it knows the group, the members and their drivers.
            Self::Open(_) | Self::Mapping(_) => return None,
            Self::Assign(_) => {
                "this device cannot be assigned as it is; `lspci -vvv` shows what it has".into()
            }
        })
    }
}

/// The addresses of `--device`, each once.
pub(crate) fn addresses(texts: &[String]) -> Result<Vec<Bdf>, AssignmentError> {
    let mut found = Vec::new();
    for text in texts {
        let bdf: Bdf =
            text.parse().map_err(|error| AssignmentError::Address { text: text.clone(), error })?;
        if found.contains(&bdf) {
            return Err(AssignmentError::Twice { bdf });
        }
        found.push(bdf);
    }
    Ok(found)
}

/// Opens devices and maps memory for them, on a thread of its own: VFIO resets a device when it is opened, and
/// finds and pins all of the guest's memory, which together takes longer than the guest needs to look for it.
/// What can be wrong with the host's set-up is found before. Dropping it waits for the end of both.
pub(crate) struct Assignment {
    thread: Option<JoinHandle<Result<Option<MappingThread>, AssignmentError>>>,
    map: Option<SyncSender<()>>,
    /// Why memory was not mapped.
    unmapped: Arc<OnceLock<DmaError>>,
}

impl Assignment {
    /// Reserves `devices` by this interface, and starts to open them; they then appear at `place`. No processor may have run yet: on
    /// Intel, KVM must know of a device whose DMA passes the caches by before the guest touches its memory.
    ///
    /// From here on a failure is told to `stops`.
    pub(crate) fn start(
        devices: Vec<Bdf>,
        backend: Option<Backend>,
        machine: ForDevices,
        place: Attachment,
        stops: Sender<Stop>,
    ) -> Result<Self, AssignmentError> {
        let unmapped = Arc::default();
        if devices.is_empty() {
            return Ok(Self { thread: None, map: None, unmapped });
        }
        let refused = |errno| AssignmentError::Kvm { what: "tell its route limit", errno };
        let routes = Routes::new(machine.kvm.clone(), IrqchipRoutes::X86Full).map_err(refused)?;
        let files = Arc::new(KvmVfio::new(machine.kvm.clone()));
        let options = VmOptions { files: Some(files), backend, ..VmOptions::default() };
        let vm = Vm::new(machine.host.clone(), options);
        let reserved = devices.into_iter().map(|bdf| vm.reserve(bdf)).collect::<Result<_, _>>()?;
        let (map, may_map) = sync_channel(1);
        let failure = Arc::clone(&unmapped);
        let work = move || {
            let opening = Opening { vm, routes: Arc::new(routes), machine, stops: stops.clone(), failure };
            let result = opening.assign(reserved, place, &may_map);
            if result.is_err() {
                // Nobody listens only when the machine is already gone.
                drop(stops.send(Stop::NoDevices));
            }
            result
        };
        let thread = Builder::new().name("devices".into()).spawn(work);
        let thread = thread.map_err(|source| AssignmentError::Thread { source })?;
        Ok(Self { thread: Some(thread), map: Some(map), unmapped })
    }

    /// Lets memory be mapped. That holds the lock of this process's address space for long, and every new thread
    /// would wait for it; so this is said when all threads are there.
    pub(crate) fn map_memory(&mut self) {
        if let Some(map) = self.map.take() {
            // Nobody listens only where the devices could not be opened.
            let _sent = map.send(());
        }
    }

    /// Why the guest cannot have its devices; none if it can. Waits until that is known.
    pub(crate) fn failure(&mut self) -> Option<AssignmentError> {
        // Who was not told to map by now will not be.
        self.map = None;
        let result = self.thread.take()?.join().unwrap_or_else(|panic| resume_unwind(panic));
        match result {
            Err(error) => Some(error),
            Ok(mapping) => {
                drop(mapping);
                self.unmapped.get().cloned().map(AssignmentError::Memory)
            }
        }
    }
}

impl Drop for Assignment {
    fn drop(&mut self) {
        self.map = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that opens the devices ended by a panic");
        }
    }
}

/// What the thread that opens devices works with.
struct Opening {
    vm: Vm,
    routes: Arc<Routes>,
    machine: ForDevices,
    stops: Sender<Stop>,
    failure: Arc<OnceLock<DmaError>>,
}

impl Opening {
    fn assign(
        self,
        reserved: Vec<Reservation>,
        place: Attachment,
        may_map: &Receiver<()>,
    ) -> Result<Option<MappingThread>, AssignmentError> {
        let functions = reserved.into_iter().map(|device| self.open(device)).collect::<Result<_, _>>()?;
        if may_map.recv().is_err() {
            // The machine is not even started.
            return Ok(None);
        }
        let Self { vm, machine, stops, failure, .. } = self;
        let done = move |result: Result<(), DmaError>| {
            if let Err(error) = result {
                // The first failure is the one to tell; nobody listens only when the machine is already gone.
                let _told_before = failure.set(error);
                drop(stops.send(Stop::NoDevices));
            }
        };
        let mapping = vm.add_memory_in_background(machine.ram, done)?;
        // Not before: from here on the guest can turn bus mastering on, which waits for a mapping that has begun.
        place.attach(functions);
        Ok(Some(mapping))
    }

    fn open(&self, device: Reservation) -> Result<Box<dyn PciFunction>, AssignmentError> {
        let ForDevices { host, kvm, slots, .. } = &self.machine;
        let guest = KvmGuest::new(kvm.clone(), slots.clone(), self.routes.clone());
        let assigned = Assigned::new(device.open()?, guest, &AssignOptions::default())?;
        Ok(Box::new(AssignedDevice::new(assigned, host.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_form_are_the_same_device() {
        let texts = ["0000:00:04.0".to_owned(), "00:04.0".to_owned()];
        assert!(matches!(addresses(&texts), Err(AssignmentError::Twice { .. })));
    }

    #[test]
    fn what_is_no_address_is_named() {
        let error = addresses(&["nvme0".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("nvme0"));
    }
}
