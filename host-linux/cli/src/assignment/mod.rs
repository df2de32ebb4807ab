//! The devices of `--device`: opened through VFIO, put on the guest's PCI bus, described in the report.
//!
//! Everything that device assignment needs is in the libraries; this folder joins them to the monitor.

mod device;
mod report;

use std::panic::resume_unwind;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};

use device::AssignedDevice;
use vfio_assign_core::{Bdf, BdfError, GuestAddr, Span};
use vfio_assign_linux::kvm::{Gsi, IrqchipRoutes, KvmGuest, KvmVfio, Routes};
use vfio_assign_linux::{
    AssignError, AssignOptions, Assigned, Backend, Device, DmaError, Errno, LineEnd, MappingThread,
    MappingThreadError, OpenError, RegionIndex, Reservation, Vm, VmOptions,
};

use crate::help::Help;
use crate::machine::layout::intx_gsi;
use crate::machine::pci::{Attachment, FIRST_SLOT, PciFunction};
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

/// Opens devices and maps memory for them, each on a thread of its own: VFIO resets a device when it is opened, and
/// finds and pins all of the guest's memory, which together takes longer than the guest needs to look for it.
/// What can be wrong with the host's set-up is found before. Dropping it waits for the end of both.
pub(crate) struct Assignment {
    reserved: Option<Reserved>,
    opening: Option<JoinHandle<Result<(), AssignmentError>>>,
    mapping: Option<MappingThread>,
    /// Why memory was not mapped.
    unmapped: Arc<OnceLock<DmaError>>,
}

impl Assignment {
    /// Reserves `devices` by this interface, and starts to map memory for them, `first` first. No processor may have
    /// run yet: on Intel, KVM must know of a device whose DMA passes the caches by before the guest touches its memory.
    ///
    /// From here on a failure is told to `stops`.
    pub(crate) fn reserve(
        devices: Vec<Bdf>,
        backend: Option<Backend>,
        (machine, first): (ForDevices, Vec<Span<GuestAddr>>),
        stops: Sender<Stop>,
    ) -> Result<Self, AssignmentError> {
        let unmapped = Arc::default();
        if devices.is_empty() {
            return Ok(Self { reserved: None, opening: None, mapping: None, unmapped });
        }
        let refused = |errno| AssignmentError::Kvm { what: "tell its route limit", errno };
        let routes = Routes::new(machine.kvm.clone(), IrqchipRoutes::X86Full).map_err(refused)?;
        let files = Arc::new(KvmVfio::new(machine.kvm.clone()));
        let options = VmOptions { files: Some(files), backend, ..VmOptions::default() };
        let vm = Vm::new(machine.host.clone(), options);
        let devices = devices.into_iter().map(|bdf| vm.reserve(bdf)).collect::<Result<_, _>>()?;
        let (failure, told) = (Arc::clone(&unmapped), stops.clone());
        let done = move |result: Result<(), DmaError>| {
            if let Err(error) = result {
                // The first failure is the one to tell; nobody listens only when the machine is already gone.
                let _told_before = failure.set(error);
                drop(told.send(Stop::NoDevices));
            }
        };
        // Before there is a device: once there is, the guest can turn bus mastering on, which waits for a mapping
        // that has begun.
        let mapping = vm.add_memory_in_background(machine.ram.clone(), first, done)?;
        let reserved = Some(Reserved { devices, routes: Arc::new(routes), machine, stops });
        Ok(Self { reserved, opening: None, mapping: Some(mapping), unmapped })
    }

    /// Starts to open the devices, once; they then appear at `place`. It takes of the host's time what loading and
    /// starting the guest then lack, so that comes before.
    pub(crate) fn open(&mut self, place: Attachment) -> Result<(), AssignmentError> {
        let Some(reserved) = self.reserved.take() else { return Ok(()) };
        let thread = Builder::new().name("devices".into()).spawn(|| reserved.open(place));
        self.opening = Some(thread.map_err(|source| AssignmentError::Thread { source })?);
        Ok(())
    }

    /// Why the guest cannot have its devices; none if it can. Waits until that is known.
    pub(crate) fn failure(&mut self) -> Option<AssignmentError> {
        let opened = self.opening.take()?.join().unwrap_or_else(|panic| resume_unwind(panic));
        drop(self.mapping.take());
        opened.err().or_else(|| self.unmapped.get().cloned().map(AssignmentError::Memory))
    }
}

impl Drop for Assignment {
    fn drop(&mut self) {
        if let Some(thread) = self.opening.take()
            && thread.join().is_err()
        {
            log::error!("the thread that opens the devices ended by a panic");
        }
    }
}

/// Devices that are to be opened, and what they are opened with.
struct Reserved {
    devices: Vec<Reservation>,
    routes: Arc<Routes>,
    machine: ForDevices,
    stops: Sender<Stop>,
}

impl Reserved {
    fn open(self, place: Attachment) -> Result<(), AssignmentError> {
        let Self { devices, routes, machine, stops } = self;
        let open = |(slot, device)| open(device, slot, &routes, &machine);
        let opened = (FIRST_SLOT..).zip(devices).map(open).collect::<Result<_, _>>();
        let result = opened.map(|functions| place.attach(functions));
        if result.is_err() {
            // Nobody listens only when the machine is already gone.
            drop(stops.send(Stop::NoDevices));
        }
        result
    }
}

/// Opens a device and connects it to the machine, in this slot of the bus.
fn open(
    device: Reservation,
    slot: u8,
    routes: &Arc<Routes>,
    machine: &ForDevices,
) -> Result<Box<dyn PciFunction>, AssignmentError> {
    let ForDevices { host, kvm, slots, .. } = machine;
    let device = device.open()?;
    let mut guest = KvmGuest::new(kvm.clone(), slots.clone(), routes.clone());
    if let Some(pin) = interrupt_pin(&device)? {
        guest = guest.with_line(Gsi(intx_gsi(slot, pin)), LineEnd::Resampled);
    }
    let assigned = Assigned::new(device, guest, &AssignOptions::default())?;
    Ok(Box::new(AssignedDevice::new(assigned, host.clone())))
}

/// Interrupt Pin: PCI Local Bus 3.0, 6.2.4.
const INTERRUPT_PIN: u64 = 0x3d;

/// The device's interrupt pin, 0 for INTA; none if it has none.
fn interrupt_pin(device: &Device) -> Result<Option<u8>, AssignmentError> {
    let mut pin = [0];
    let read = device.read(RegionIndex::CONFIG, INTERRUPT_PIN, &mut pin);
    read.map_err(|error| AssignError::Config { bdf: device.bdf(), error })?;
    let [pin] = pin;
    Ok((1..=4).contains(&pin).then(|| pin - 1))
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
