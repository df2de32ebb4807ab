//! The devices of `--device`: opened through VFIO, put on the guest's PCI bus, described in the report.
//!
//! Everything that device assignment needs is in the libraries; this folder joins them to the monitor.

mod device;
mod devices;
mod keeper;
mod opener;
mod record;
mod report;
mod saved;
mod tap;
#[cfg(test)]
mod testing;

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};

use keeper::Keeper;
use opener::Opener;
use vfio_assign_core::{Bdf, BdfError, GuestAddr, Span};
use vfio_assign_linux::{
    AssignError, Backend, DmaError, Errno, FaultHandlerError, MappingObserver, MappingThread,
    MappingThreadError, OpenError, Reservation, Sysfs,
};

use crate::help::Help;
use crate::machine::event::Event;
use crate::machine::pci::{Arrival, PciBus};
use crate::machine::power::Stop;
use crate::machine::vm::ForDevices;

pub(crate) use devices::Devices;
pub(crate) use keeper::Control;
pub(crate) use record::Recording;
pub(crate) use saved::{NotHandedOn, SavedDevice};
pub(crate) use tap::GuestError;

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
    /// There is nowhere to put it.
    #[error("{bdf} cannot be added: the guest has no free slot for hot-plug")]
    NoFreeSlot {
        /// The device.
        bdf: Bdf,
    },
    /// It is none of the machine's.
    #[error("{bdf} is not in the guest")]
    NotHere {
        /// The device.
        bdf: Bdf,
    },
    /// The guest cannot be asked for it.
    #[error("{bdf} cannot be removed: it is on the guest's root bus, not in a slot for hot-plug")]
    NotHotPlug {
        /// The device.
        bdf: Bdf,
    },
    /// Fewer files than devices.
    #[error("the other run has handed over fewer files than its devices have")]
    FilesMissing,
    /// No processor runs that could answer.
    #[error("the machine is paused, and its guest can neither find a device nor give one up")]
    Paused,
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
    /// The process cannot handle faults of mapped registers.
    #[error(transparent)]
    Faults(#[from] FaultHandlerError),
    /// Nobody can write its interrupts down.
    #[error("cannot start the thread that records interrupts: {source}")]
    Recorder {
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A device is open and cannot be given to a guest.
    #[error(transparent)]
    Assign(#[from] AssignError),
}

impl Help for AssignmentError {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Address { .. } => "give the address as `lspci -D` prints it, such as 0000:00:04.0".into(),
            Self::NoFreeSlot { .. } | Self::NotHotPlug { .. } => "start the run with --slots".into(),
            Self::NotHere { .. } => "ask for its status to see which are".into(),
            Self::FilesMissing => "save the run again, and go on from that".into(),
            Self::Paused => "resume it first".into(),
            Self::Twice { .. } => "give each --device once".into(),
            Self::Kvm { .. } => "raise the number of open files (`ulimit -n`) if it says EMFILE".into(),
            Self::Memory(_) => "give the guest less with --memory, or do what the message says".into(),
            Self::Thread { .. } | Self::Recorder { .. } => {
                "raise the number of processes: `ulimit -u`".into()
            }
            // The message names the way out itself: it knows the group, the members and their drivers.
            Self::Open(_) | Self::Mapping(_) | Self::Faults(_) => return None,
            Self::Assign(_) => {
                "this device cannot be assigned as it is; `lspci -vvv` shows what it has".into()
            }
        })
    }
}

/// How devices are found and opened, whether what is done to them is recorded, and who wants to know how far memory is
/// pinned.
#[derive(Default)]
pub(crate) struct Means {
    pub(crate) sysfs: Sysfs,
    pub(crate) backend: Option<Backend>,
    pub(crate) recording: Option<Recording>,
    pub(crate) observer: Option<Arc<dyn MappingObserver>>,
}

/// An address that a person has given.
fn address(text: &str) -> Result<Bdf, AssignmentError> {
    text.parse().map_err(|error| AssignmentError::Address { text: text.to_owned(), error })
}

/// The addresses of `--device`, each once.
pub(crate) fn addresses(texts: &[String]) -> Result<Vec<Bdf>, AssignmentError> {
    let mut found = Vec::new();
    for text in texts {
        let bdf = address(text)?;
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
    bus: Arc<PciBus>,
    devices: Arc<Devices>,
    reserved: Vec<Reservation>,
    opener: Option<Opener>,
    keeping: Option<Keeping>,
    mapping: Option<MappingThread>,
    /// Why memory was not mapped.
    unmapped: Arc<OnceLock<DmaError>>,
    stops: Sender<Stop>,
}

/// The thread that opens devices, and then looks after them.
struct Keeping {
    thread: JoinHandle<()>,
    opened: Receiver<Result<(), AssignmentError>>,
    quit: Arc<Event>,
}

impl Assignment {
    /// Reserves `wanted` by these means, and starts to map memory for them, `first` first. No processor may have
    /// run yet: on Intel, KVM must know of a device whose DMA passes the caches by before the guest touches its memory.
    ///
    /// From here on a failure is told to `stops`.
    pub(crate) fn reserve(
        bus: Arc<PciBus>,
        wanted: Vec<Bdf>,
        means: Means,
        (machine, first): (ForDevices, Vec<Span<GuestAddr>>),
        stops: Sender<Stop>,
    ) -> Result<Self, AssignmentError> {
        let mut assignment = Self::none(bus, stops);
        if wanted.is_empty() && !assignment.bus.has_ports() {
            return Ok(assignment);
        }
        let ram = machine.ram.clone();
        let opener = Opener::new(machine, means, assignment.bus.has_ports())?;
        let reserve = |bdf| opener.vm.reserve(bdf);
        assignment.reserved = wanted.into_iter().map(reserve).collect::<Result<_, _>>()?;
        let (failure, told) = (Arc::clone(&assignment.unmapped), assignment.stops.clone());
        let done = move |result: Result<(), DmaError>| {
            if let Err(error) = result {
                // The first failure is the one to tell; nobody listens only when the machine is already gone.
                let _told_before = failure.set(error);
                drop(told.send(Stop::NoDevices));
            }
        };
        // Before there is a device: once there is, the guest can turn bus mastering on, which waits for a mapping
        // that has begun.
        assignment.mapping = Some(opener.vm.add_memory_in_background(ram, first, done)?);
        assignment.opener = Some(opener);
        Ok(assignment)
    }

    /// Goes on with devices that another process had, with these of its files.
    pub(crate) fn take_over(
        bus: Arc<PciBus>,
        saved: Vec<SavedDevice>,
        files: &mut impl Iterator<Item = OwnedFd>,
        machine: ForDevices,
        stops: Sender<Stop>,
    ) -> Result<Self, AssignmentError> {
        let mut assignment = Self::none(bus, stops);
        if saved.is_empty() && !assignment.bus.has_ports() {
            return Ok(assignment);
        }
        let ram = machine.ram.clone();
        let opener = Opener::new(machine, Means::default(), assignment.bus.has_ports())?;
        opener.vm.add_memory(&ram)?;
        let opening = assignment.devices.opening();
        for device in saved {
            let slot = device.slot;
            let (handed, state) = device.handed(files)?.ok_or(AssignmentError::FilesMissing)?;
            opening.put(slot, opener.take_over(handed, slot, &state)?);
        }
        drop(opening);
        assignment.opener = Some(opener);
        Ok(assignment)
    }

    fn none(bus: Arc<PciBus>, stops: Sender<Stop>) -> Self {
        let devices = Arc::new(Devices::new(Arc::clone(&bus)));
        Self {
            bus,
            devices,
            reserved: Vec::new(),
            opener: None,
            keeping: None,
            mapping: None,
            unmapped: Arc::default(),
            stops,
        }
    }

    /// Ends without closing any device or taking anything from one: another process goes on with them. This one is to
    /// end soon.
    pub(crate) fn vanish(mut self) {
        self.end_keeping();
        self.devices.hand_over();
        std::mem::forget(self);
    }

    /// The devices.
    pub(crate) fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Starts to open the devices, once; they are there when `arrival` is dropped. It takes of the host's time what
    /// loading and starting the guest then lack, so that comes before. From then on somebody looks after the devices,
    /// and listens to `control`.
    pub(crate) fn open(&mut self, arrival: Arrival, control: Option<Control>) -> Result<(), AssignmentError> {
        if self.opener.is_none() && control.is_none() {
            return Ok(());
        }
        let refused = |source| AssignmentError::Thread { source };
        let quit = Arc::new(Event::new().map_err(refused)?);
        let keeper = Keeper {
            bus: Arc::clone(&self.bus),
            devices: Arc::clone(&self.devices),
            opener: self.opener.take(),
            control,
            quit: Arc::clone(&quit),
        };
        let (reserved, stops) = (std::mem::take(&mut self.reserved), self.stops.clone());
        let (tell, opened) = channel();
        let work = move || {
            let result = keeper.open(reserved);
            if result.is_err() {
                // Nobody listens only when the machine is already gone.
                drop(stops.send(Stop::NoDevices));
            }
            drop((arrival, tell.send(result)));
            keeper.run();
        };
        let thread = Builder::new().name("devices".into()).spawn(work).map_err(refused)?;
        self.keeping = Some(Keeping { thread, opened, quit });
        Ok(())
    }

    /// Why the guest cannot have its devices; none if it can. Waits until that is known.
    pub(crate) fn failure(&mut self) -> Option<AssignmentError> {
        // A thread that has panicked says nothing, and neither does one that was asked before.
        let opened = self.keeping.as_ref()?.opened.recv().unwrap_or(Ok(()));
        drop(self.mapping.take());
        opened.err().or_else(|| self.unmapped.get().cloned().map(AssignmentError::Memory))
    }
}

impl Drop for Assignment {
    fn drop(&mut self) {
        self.end_keeping();
    }
}

impl Assignment {
    fn end_keeping(&mut self) {
        if let Some(Keeping { thread, quit, .. }) = self.keeping.take() {
            quit.raise();
            if thread.join().is_err() {
                log::error!("the thread that looks after the devices ended by a panic");
            }
        }
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
