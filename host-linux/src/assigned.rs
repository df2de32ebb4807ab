//! A VFIO device behind the core's [`AssignedFunction`]: what a monitor holds for each device of its guest.

use crate::bar::{MappedBars, RegisterPath};
use crate::device::{Device, RegionError, ResetError};
use crate::guest::GuestSide;
use crate::host_side::{Failure, HostSide};
use crate::irq::IrqKind;
use crate::passthrough::{AccessFailures, Passthrough};
use crate::region::RegionIndex;
use crate::vectors::DeviceIrqs;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use vfio_assign_core::host::{HostInterrupts, InterruptKind};
use vfio_assign_core::{
    Access, AssignedFunction, BarIndex, Bdf, Bytes, Decoded, Decoder, Description, DescriptionError, Finding,
    GuestAddr, GuestPort, Options, PageSize, Region, ResetOutcome, Target, Vector, Window,
};

/// Revision ID, Class Code, Cache Line Size, Latency Timer, Header Type and BIST: PCI Local Bus 3.0, 6.1.
const CLASS_TO_BIST: u64 = 0x08;

/// The machines of a function with their storage.
pub type Function = AssignedFunction<Box<[Vector]>, Box<[Window]>>;

/// A device as a guest sees it. vCPUs call it from their threads; register accesses that only pass through do
/// not wait for each other.
///
/// Dropping it takes the device out of the guest, switches its interrupts off and gives it back to the host.
pub struct Assigned<G: GuestSide> {
    // Dropped in this order: the guest's side before the BARs and the device.
    driven: Mutex<Driven<G>>,
    decoder: Arc<RwLock<Decoder>>,
    passthrough: Passthrough,
    findings: Vec<Finding>,
    /// What the function says of itself, for vCPUs to look at between two runs.
    quarantined: AtomicBool,
}

/// What a device is assigned with.
#[derive(Clone, Debug, Default)]
pub struct AssignOptions<'a> {
    /// How registers are accessed when a guest's access is trapped.
    pub registers: RegisterPath,
    /// BARs that are not mapped: all their registers are trapped.
    pub unmapped: Vec<BarIndex>,
    /// What of the device the guest sees, and where.
    pub function: Options<'a>,
}

/// Why a device that is open was not assigned.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssignError {
    /// Its configuration space could not be read.
    #[error("{bdf}: {error}")]
    Config {
        /// The device.
        bdf: Bdf,
        /// Why.
        error: RegionError,
    },
    /// It cannot be given to a guest.
    #[error("{bdf} cannot be given to a guest: {error}")]
    Description {
        /// The device.
        bdf: Bdf,
        /// Why.
        error: DescriptionError,
    },
    /// It has no registers that a guest's driver could reach.
    #[error(
        "{bdf} has no BARs, so no driver in a guest could reach it; `lspci -v` shows which other function has them"
    )]
    NoBars {
        /// The device.
        bdf: Bdf,
    },
    /// The host has a page size that BARs cannot be mapped by.
    #[error("host pages of {bytes} bytes are not supported")]
    PageSize {
        /// The host's page size.
        bytes: usize,
    },
}

/// What the guest reads into, or writes.
enum Data<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }
}

struct Driven<G: GuestSide> {
    function: Function,
    host: HostSide<G>,
}

impl<G: GuestSide> Assigned<G> {
    /// Maps the device's BARs and sets its machines up. The guest has not found it yet.
    ///
    /// # Errors
    ///
    /// See [`AssignError`]. The device is closed.
    pub fn new(device: Device, guest: G, options: &AssignOptions<'_>) -> Result<Self, AssignError> {
        let device = Arc::new(device);
        let bdf = device.bdf();
        let config = device.read_config().map_err(|error| AssignError::Config { bdf, error })?;
        let bars = Arc::new(MappedBars::map(device.clone(), options.registers, &options.unmapped));
        let bytes = rustix::param::page_size();
        let page_size = PageSize::new(bytes as u64).ok_or(AssignError::PageSize { bytes })?;
        let irqs = DeviceIrqs::new(&device);
        let areas = BarIndex::ALL.map(|bar| bars.areas(bar));
        let mut regions = [Region::default(); 7];
        for ((region, bar), areas) in regions.iter_mut().zip(BarIndex::ALL).zip(&areas) {
            if let Some(found) = device.region(RegionIndex::bar(bar)) {
                *region = Region { size: found.size, areas, msix_mappable: found.msix_mappable };
            }
        }
        let count = |kind| u16::try_from(irqs.of(kind).count()).unwrap_or(u16::MAX);
        let interrupts = HostInterrupts {
            intx: count(InterruptKind::Intx) != 0 && guest.line().is_some(),
            msi: count(InterruptKind::Msi),
            msix: count(InterruptKind::Msix),
            resizable: device.irq(IrqKind::Msix).is_some_and(|irq| !irq.noresize),
        };
        let description =
            Description { config: &config, regions, page_size, interrupts, options: options.function };
        // Each hole cuts an area in two: the MSI-X table and the Pending Bit Array, where the device has them and
        // where the guest sees them, and what is excluded.
        let holes = 4 + options.function.unmapped.len();
        let windows = (1 + holes) * areas.iter().map(Vec::len).sum::<usize>();
        let mut findings = Vec::new();
        let function = AssignedFunction::new(
            &description,
            vec![Vector::RESET; irqs.of(InterruptKind::Msix).count()].into_boxed_slice(),
            vec![Window::default(); windows].into_boxed_slice(),
            |finding| findings.push(finding),
        )
        .map_err(|error| AssignError::Description { bdf, error })?;
        if function.bars().iter().next().is_none() {
            return Err(AssignError::NoBars { bdf });
        }
        for finding in &findings {
            log::warn!("{bdf}: {finding}");
        }
        let decoder = Arc::new(RwLock::new(*function.decoder()));
        let host = HostSide {
            guest,
            irqs,
            bars: bars.clone(),
            decoder: decoder.clone(),
            reset_error: None,
            last_failure: None,
        };
        let assigned = Self {
            driven: Mutex::new(Driven { function, host }),
            decoder,
            passthrough: Passthrough::new(bars),
            findings,
            quarantined: AtomicBool::new(false),
        };
        assigned.drive(|function, host| function.attach(host));
        log::info!("{bdf}: assigned");
        Ok(assigned)
    }

    /// The guest reads configuration space from byte `offset` on.
    pub fn config_read(&self, offset: u32, data: &mut [u8]) {
        self.access(Target::Config(offset), Data::Read(data));
    }

    /// The guest writes configuration space from byte `offset` on.
    pub fn config_write(&self, offset: u32, data: &[u8]) {
        self.access(Target::Config(offset), Data::Write(data));
    }

    /// The guest reads memory; `false` where this function does not decode the address.
    pub fn memory_read(&self, address: GuestAddr, data: &mut [u8]) -> bool {
        self.memory(address, Data::Read(data))
    }

    /// The guest writes memory; `false` where this function does not decode the address.
    pub fn memory_write(&self, address: GuestAddr, data: &[u8]) -> bool {
        self.memory(address, Data::Write(data))
    }

    /// The guest reads I/O ports; `false` where this function does not decode them.
    pub fn port_read(&self, port: u16, data: &mut [u8]) -> bool {
        self.port(port, Data::Read(data))
    }

    /// The guest writes I/O ports; `false` where this function does not decode them.
    pub fn port_write(&self, port: u16, data: &[u8]) -> bool {
        self.port(port, Data::Write(data))
    }

    /// The virtual machine is reset: interrupts off, windows out, registers as after power-on, bus mastering
    /// off in hardware, and the device reset, if it can be; why it was not is in [`Self::reset_error`].
    ///
    /// A quarantined function is detached first, which may end its quarantine.
    pub fn reset(&self) -> ResetOutcome {
        self.drive(|function, host| {
            host.reset_error = None;
            if function.is_quarantined() {
                // A new guest must not find the old one's device at work in its memory.
                function.detach(host);
            }
            function.reset(host)
        })
    }

    /// Why the last [reset](Self::reset) did not reset the device. None where it did, and where the device was not
    /// asked: it is gone, or the function is still quarantined.
    pub fn reset_error(&self) -> Option<ResetError> {
        self.lock().host.reset_error
    }

    /// The guest has ended an interrupt of the function's pin, where the guest's line is one that the monitor is
    /// [told](crate::LineEnd::Told) of.
    pub fn handle_intx_eoi(&self) {
        self.drive(|function, host| {
            function.handle_intx_eoi();
            function.settle(host);
        });
    }

    /// Whether the device still answers. One that is gone loses its windows here and decodes nothing from now on:
    /// call this when `KVM_RUN` fails with `EFAULT`, and run the vCPU again if any function was gone.
    pub fn check_health(&self) -> bool {
        self.drive(|function, host| {
            if function.is_gone() {
                return false;
            }
            // The kernel answers for the ids by itself; these bytes come from the device, and no function has
            // all of them set.
            let mut class_to_bist = [0xff; 8];
            let read = self.device().read(RegionIndex::CONFIG, CLASS_TO_BIST, &mut class_to_bist);
            if read.is_ok() && class_to_bist != [0xff; 8] {
                return true;
            }
            log::error!("{}: the device is gone", self.bdf());
            function.handle_gone();
            function.settle(host);
            false
        })
    }

    /// The device's address on the host.
    pub fn bdf(&self) -> Bdf {
        self.device().bdf()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.bars().device()
    }

    /// The device's BARs in this process.
    pub fn bars(&self) -> &MappedBars {
        self.passthrough.bars()
    }

    /// What was odd about the device when it was assigned.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether something could not be taken away from the guest. No vCPU may run on before a [reset](Self::reset)
    /// has ended this, or this value is dropped. Takes no lock: look at it before every run of a vCPU.
    pub fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Acquire)
    }

    /// How often passthrough accesses failed. What happened in the machines is in their
    /// [`Counters`](vfio_assign_core::Counters).
    pub fn access_failures(&self) -> AccessFailures {
        self.passthrough.failures()
    }

    /// Looks at the machines, the vectors and the guest's side, and at the last step that failed.
    pub fn inspect<T>(
        &self,
        look: impl FnOnce(&Function, &DeviceIrqs, &G, Option<&Failure<G::Error>>) -> T,
    ) -> T {
        let driven = self.lock();
        look(&driven.function, &driven.host.irqs, &driven.host.guest, driven.host.last_failure.as_ref())
    }

    fn memory(&self, address: GuestAddr, data: Data<'_>) -> bool {
        let decoder = self.decoder.read().unwrap_or_else(PoisonError::into_inner);
        match decoder.memory(address, data.len() as u64) {
            Decoded::Miss => return false,
            // The device is accessed with the decoder held, so that the BAR stays where it is.
            Decoded::Passthrough { bar, offset } => match data {
                Data::Read(data) => self.passthrough.read(bar, offset, data),
                Data::Write(data) => self.passthrough.write(bar, offset, data),
            },
            Decoded::Function => {
                drop(decoder);
                self.access(Target::Memory(address), data);
            }
        }
        true
    }

    fn port(&self, port: u16, data: Data<'_>) -> bool {
        let port = GuestPort::new(u64::from(port));
        let decoder = self.decoder.read().unwrap_or_else(PoisonError::into_inner);
        let hit = decoder.ports(port, data.len() as u64) != Decoded::Miss;
        drop(decoder);
        if hit {
            self.access(Target::Port(port), data);
        }
        hit
    }

    /// The function is accessed, piece by piece.
    fn access(&self, target: Target, data: Data<'_>) {
        let steps = Steps::from(target);
        match data {
            Data::Read(data) => {
                for (piece, target) in data.chunks_mut(Bytes::LIMIT).zip(steps) {
                    let access = Access::Read { target, size: piece.len() };
                    let bytes = self.drive(|function, host| function.access(access, host));
                    for (to, from) in piece.iter_mut().zip(bytes.as_slice()) {
                        *to = *from;
                    }
                }
            }
            Data::Write(data) => {
                for (piece, target) in data.chunks(Bytes::LIMIT).zip(steps) {
                    let access = Access::Write { target, data: Bytes::from_slice(piece) };
                    let _ = self.drive(|function, host| function.access(access, host));
                }
            }
        }
    }

    /// Every operation of the function goes through here.
    fn drive<T>(&self, operation: impl FnOnce(&mut Function, &mut HostSide<G>) -> T) -> T {
        let mut driven = self.lock();
        let Driven { function, host } = &mut *driven;
        let result = operation(function, host);
        let quarantined = function.is_quarantined();
        if self.quarantined.swap(quarantined, Ordering::AcqRel) != quarantined {
            let bdf = self.bdf();
            let failure = host.last_failure.as_ref();
            if quarantined {
                let why = failure.map(|Failure { step, error }| format!("{step:?}: {error}"));
                log::error!(
                    "{bdf}: quarantined, for the guest may still reach it: {}",
                    why.unwrap_or_default()
                );
            } else {
                log::warn!("{bdf}: no longer quarantined");
            }
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Driven<G>> {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<G: GuestSide> Drop for Assigned<G> {
    fn drop(&mut self) {
        let driven = self.driven.get_mut().unwrap_or_else(PoisonError::into_inner);
        driven.function.detach(&mut driven.host);
        log::info!("{}: taken out of the guest", self.bdf());
    }
}

impl<G: GuestSide> fmt::Debug for Assigned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assigned").field("device", self.device()).finish_non_exhaustive()
    }
}

/// The targets of the pieces of a long access, one piece after the other.
struct Steps(Option<Target>);

impl From<Target> for Steps {
    fn from(target: Target) -> Self {
        Self(Some(target))
    }
}

impl Iterator for Steps {
    type Item = Target;

    fn next(&mut self) -> Option<Target> {
        let target = self.0?;
        let bytes = Bytes::LIMIT as u64;
        self.0 = match target {
            Target::Config(offset) => offset.checked_add(Bytes::LIMIT as u32).map(Target::Config),
            Target::Memory(address) => address.checked_add(bytes).map(Target::Memory),
            Target::Port(port) => port.checked_add(bytes).map(Target::Port),
        };
        Some(target)
    }
}

#[cfg(test)]
mod tests;
