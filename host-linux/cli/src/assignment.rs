//! The devices of `--device`: opened through VFIO, put on the guest's PCI bus, described in the report.
//!
//! Everything that device assignment needs is in the libraries; this file joins them to the monitor.

use std::collections::BTreeMap;
use std::error::Error;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use serde::Serialize;
use vfio_assign_core::{BarIndex, BarPiece, Bdf, BdfError, GuestAddr, ResetOutcome};
use vfio_assign_linux::kvm::{IrqchipRoutes, KvmGuest, KvmVfio, Routes};
use vfio_assign_linux::{
    AssignError, AssignOptions, Assigned, DmaError, Errno, Host, MappingThread, MappingThreadError,
    OpenError, Vm, VmOptions,
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
/// Dropping it waits for the end of both.
pub(crate) struct Assignment {
    thread: Option<JoinHandle<Result<Option<MappingThread>, AssignmentError>>>,
    map: Option<SyncSender<()>>,
}

impl Assignment {
    /// Starts to open `devices`, which then appear at `place`. A failure is told to `stops`.
    pub(crate) fn start(
        devices: Vec<Bdf>,
        machine: ForDevices,
        place: Attachment,
        stops: Sender<Stop>,
    ) -> Result<Self, AssignmentError> {
        if devices.is_empty() {
            return Ok(Self { thread: None, map: None });
        }
        let (map, may_map) = sync_channel(1);
        let work = move || {
            let result = assign(&devices, &machine, place, &may_map, stops.clone());
            if result.is_err() {
                // Nobody listens only when the machine is already gone.
                drop(stops.send(Stop::NoDevices));
            }
            result
        };
        let thread = Builder::new().name("devices".into()).spawn(work);
        let thread = thread.map_err(|source| AssignmentError::Thread { source })?;
        Ok(Self { thread: Some(thread), map: Some(map) })
    }

    /// Lets memory be mapped. That holds the lock of this process's address space for long, and every new thread
    /// would wait for it; so this is said when all threads are there.
    pub(crate) fn map_memory(&mut self) {
        if let Some(map) = self.map.take() {
            // Nobody listens only where the devices could not be opened.
            let _sent = map.send(());
        }
    }

    /// Why the devices are not to be had, after [`Stop::NoDevices`].
    pub(crate) fn failure(&mut self) -> Option<AssignmentError> {
        self.thread.take()?.join().unwrap_or_else(|panic| resume_unwind(panic)).err()
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

fn assign(
    devices: &[Bdf],
    machine: &ForDevices,
    place: Attachment,
    may_map: &Receiver<()>,
    stops: Sender<Stop>,
) -> Result<Option<MappingThread>, AssignmentError> {
    let (vm, functions) = open(devices, machine)?;
    if may_map.recv().is_err() {
        // The machine is not even started.
        return Ok(None);
    }
    let done = move |result: Result<(), DmaError>| {
        if let Err(error) = result {
            // Nobody listens only when the machine is already gone.
            drop(stops.send(Stop::NoDma(error)));
        }
    };
    let mapping = vm.add_memory_in_background(machine.ram.clone(), done)?;
    // Not before: from here on the guest can turn bus mastering on, which waits for a mapping that has begun.
    place.attach(functions);
    Ok(Some(mapping))
}

fn open(devices: &[Bdf], machine: &ForDevices) -> Result<(Vm, Vec<Box<dyn PciFunction>>), AssignmentError> {
    let refused = |what| move |errno| AssignmentError::Kvm { what, errno };
    let ForDevices { host, kvm, slots, .. } = machine;
    let routes = Routes::new(kvm.clone(), IrqchipRoutes::X86Full).map_err(refused("tell its route limit"))?;
    let routes = Arc::new(routes);
    let files = Arc::new(KvmVfio::new(kvm.clone()));
    let vm = Vm::new(host.clone(), VmOptions { files: Some(files), ..VmOptions::default() });
    let mut functions: Vec<Box<dyn PciFunction>> = Vec::new();
    for bdf in devices {
        let device = vm.open(*bdf)?;
        let guest = KvmGuest::new(kvm.clone(), slots.clone(), routes.clone());
        let assigned = Assigned::new(device, guest, &AssignOptions::default())?;
        functions.push(Box::new(AssignedDevice { assigned, host: host.clone() }));
    }
    Ok((vm, functions))
}

/// An assigned device on the guest's PCI bus.
struct AssignedDevice {
    assigned: Assigned<KvmGuest>,
    host: Host,
}

/// The device was not reset.
#[derive(Debug, thiserror::Error)]
#[error("{bdf} has no reset that works; its bus mastering is off, the rest is as the guest left it")]
struct NotReset {
    bdf: Bdf,
}

impl PciFunction for AssignedDevice {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.assigned.config_read(u32::from(offset), data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.assigned.config_write(u32::from(offset), data);
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) -> bool {
        self.assigned.memory_read(GuestAddr::new(address), data)
    }

    fn memory_write(&self, address: u64, data: &[u8]) -> bool {
        self.assigned.memory_write(GuestAddr::new(address), data)
    }

    fn port_read(&self, port: u16, data: &mut [u8]) -> bool {
        self.assigned.port_read(port, data)
    }

    fn port_write(&self, port: u16, data: &[u8]) -> bool {
        self.assigned.port_write(port, data)
    }

    fn revoke_if_dead(&self) -> bool {
        !self.assigned.check_health()
    }

    fn reset(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        match self.assigned.reset() {
            ResetOutcome::Reset => Ok(()),
            ResetOutcome::NotReset => Err(NotReset { bdf: self.assigned.bdf() }.into()),
        }
    }

    fn report(&self) -> Option<serde_json::Value> {
        serde_json::to_value(self.describe()).ok()
    }
}

/// A device in the report.
#[derive(Serialize)]
struct DeviceReport {
    bdf: String,
    bars: Vec<BarReport>,
    vectors: VectorReport,
    counters: BTreeMap<&'static str, u64>,
    /// Calls to the kernel for all devices together, by name.
    host_calls: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct BarReport {
    index: u8,
    size: u64,
    pieces: Vec<PieceReport>,
}

#[derive(Serialize)]
struct PieceReport {
    first: u64,
    last: u64,
    treatment: String,
    reason: String,
}

#[derive(Serialize)]
struct VectorReport {
    offered: u16,
    wired: u16,
    armed: u16,
}

impl From<BarPiece> for PieceReport {
    fn from(piece: BarPiece) -> Self {
        Self {
            first: piece.span.first().get(),
            last: piece.span.last().get(),
            treatment: piece.treatment.to_string(),
            reason: piece.reason.to_string(),
        }
    }
}

impl AssignedDevice {
    fn describe(&self) -> DeviceReport {
        self.assigned.inspect(|function, _, _, _| {
            let bars = BarIndex::ALL.into_iter().filter_map(|index| {
                let bar = function.bars().get(index)?;
                let pieces = function.explain_bar(index).map(PieceReport::from).collect();
                Some(BarReport { index: index.get(), size: bar.size, pieces })
            });
            let counters = function.counters();
            let (wired, armed) = function.msix().map_or((0, 0), |msix| msix.live());
            DeviceReport {
                bdf: self.assigned.bdf().to_string(),
                bars: bars.collect(),
                vectors: VectorReport {
                    offered: function.msix().map_or(0, |msix| msix.count()),
                    wired,
                    armed,
                },
                counters: BTreeMap::from([
                    ("config_accesses", counters.config_accesses),
                    ("bar_accesses", counters.bar_accesses),
                    ("local_accesses", counters.local_accesses),
                    ("missed_bytes", counters.missed_bytes),
                    ("failed_reads", counters.failed_reads),
                    ("failed_forwards", counters.failed_forwards),
                    ("failed_revokes", counters.failed_revokes),
                    ("failed_establishes", counters.failed_establishes),
                ]),
                host_calls: self.host.calls(),
            }
        })
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
