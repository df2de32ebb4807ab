//! A VFIO device behind the core's [`AssignedFunction`]: what a monitor holds for each device of its guest.

use crate::bar::{MappedBars, RegisterPath};
use crate::device::{Device, RegionError};
use crate::errno::Errno;
use crate::events::DeviceEvents;
use crate::guest::GuestSide;
use crate::host_side::{Failure, HostSide};
use crate::irq::{IrqError, IrqKind};
use crate::lanes::Lanes;
use crate::passthrough::{AccessFailures, Passthrough};
use crate::steps::StepObserver;
use crate::traffic::{PieceAccesses, Pieces};
use crate::vectors::DeviceIrqs;
pub use interrupts::{MsixEntry, MsixState};
use plan::Plan;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_assign_core::host::InterruptKind;
use vfio_assign_core::{
    AssignedFunction, BarIndex, Bdf, Counters, DescriptionError, Explanation, Finding, Options, RestoreError,
    Vector, Window,
};

/// The machines of a function with their storage.
pub type Function = AssignedFunction<Box<[Vector]>, Box<[Window]>>;

/// What a function's [`explain`](Assigned::explain) shows.
pub type Explained<'a> = Explanation<'a, Box<[Vector]>, Box<[Window]>>;

/// A device as a guest sees it. vCPUs call it from their threads; register accesses that only pass through do
/// not wait for each other.
///
/// Dropping it takes the device out of the guest, switches its interrupts off and gives it back to the host.
pub struct Assigned<G: GuestSide> {
    // Dropped in this order: the guest's side before the BARs and the device.
    driven: Mutex<Driven<G>>,
    lanes: Arc<Lanes>,
    passthrough: Passthrough,
    events: DeviceEvents,
    plan: Plan,
    findings: Vec<Finding>,
    /// What the function says of itself, for vCPUs to look at between two runs.
    quarantined: AtomicBool,
    /// How many looks in a row the device has not answered.
    misses: AtomicU8,
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
    /// Who is to know of each step that is taken for the function.
    pub steps: Option<Arc<dyn StepObserver>>,
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
    /// The state that it is to go on with is none of its own.
    #[error("{bdf} cannot go on from this state: {error}")]
    State {
        /// The device.
        bdf: Bdf,
        /// Why.
        error: RestoreError,
    },
    /// Its pin could not be taken off what it led to in the process that had the device before.
    #[error("{bdf} cannot go on: {error}")]
    Pin {
        /// The device.
        bdf: Bdf,
        /// Why.
        error: IrqError,
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
        let assigned = Self::unattached(device, guest, options)?;
        assigned.drive(|function, host| function.attach(host));
        log::info!("{}: assigned", assigned.bdf());
        Ok(assigned)
    }

    /// Goes on with a device that this VM has [taken over](crate::Vm::take_over): its machines become what was
    /// [saved](Self::save), and hardware, which is as they left it, is not disturbed. What was pending is delivered.
    ///
    /// # Errors
    ///
    /// See [`AssignError`]. The device is closed.
    pub fn take_over(
        device: Device,
        guest: G,
        options: &AssignOptions<'_>,
        state: &[u8],
    ) -> Result<Self, AssignError> {
        switch_pin_off(&device).map_err(|error| AssignError::Pin { bdf: device.bdf(), error })?;
        let assigned = Self::unattached(device, guest, options)?;
        assigned.restore(state).map_err(|error| AssignError::State { bdf: assigned.bdf(), error })?;
        log::info!("{}: goes on", assigned.bdf());
        Ok(assigned)
    }

    /// The device with its machines, of which nothing stands in the host yet.
    fn unattached(device: Device, guest: G, options: &AssignOptions<'_>) -> Result<Self, AssignError> {
        let device = Arc::new(device);
        let bdf = device.bdf();
        let bars = Arc::new(MappedBars::map(device.clone(), options.registers, &options.unmapped));
        let irqs = DeviceIrqs::new(&device);
        let plan = Plan::new(&bars, &irqs, &guest)?;
        let AssignOptions { function: options, steps, .. } = options;
        let mut findings = Vec::new();
        let function = AssignedFunction::new(
            &plan.description(*options),
            vec![Vector::RESET; irqs.of(InterruptKind::Msix).count()].into_boxed_slice(),
            vec![Window::default(); plan.windows(options)].into_boxed_slice(),
            |finding| findings.push(finding),
        )
        .map_err(|error| AssignError::Description { bdf, error })?;
        if function.bars().iter().next().is_none() {
            return Err(AssignError::NoBars { bdf });
        }
        for finding in &findings {
            log::warn!("{bdf}: {finding}");
        }
        let lanes = Arc::new(Lanes::new(function.decoder(), Pieces::new(&function)));
        let host = HostSide {
            guest,
            irqs,
            bars: bars.clone(),
            lanes: lanes.clone(),
            reset_made: None,
            reset_error: None,
            last_failure: None,
            steps: steps.clone(),
            read: 0,
        };
        Ok(Self {
            driven: Mutex::new(Driven { function, host }),
            lanes,
            passthrough: Passthrough::new(bars, steps.clone()),
            events: DeviceEvents::new(&device),
            plan,
            findings,
            quarantined: AtomicBool::new(false),
            misses: AtomicU8::new(0),
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

    /// What the guest is given of the device, and why. `options` are those that it was assigned with.
    pub fn explain<T>(&self, options: &AssignOptions<'_>, look: impl FnOnce(&Explained<'_>) -> T) -> T {
        look(&self.lock().function.explain(&self.plan.description(options.function)))
    }

    /// What the host says of the device: that it has failed, that it is wanted back, and that it is gone.
    pub fn events(&self) -> &DeviceEvents {
        &self.events
    }

    /// How often what has happened in the function's machines, by accesses that did not just
    /// [pass through](Self::access_failures).
    pub fn counters(&self) -> Counters {
        *self.lock().function.counters()
    }

    /// How often the guest accessed what of each BAR, where that left guest mode. Takes no lock but, each for a
    /// moment, those of vCPUs' own counts: not to be called by a [`StepObserver`](crate::StepObserver).
    pub fn accesses(&self) -> impl Iterator<Item = PieceAccesses> {
        self.lanes.accesses()
    }

    /// Whether something could not be taken away from the guest. No vCPU may run on before a [reset](Self::reset)
    /// has ended this, or this value is dropped. Takes no lock: look at it before every run of a vCPU.
    pub fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Acquire)
    }

    /// How often passthrough accesses failed. What happened in the machines is in [`counters`](Self::counters).
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

    /// Every operation of the function goes through here, but a reset together with others.
    fn drive<T>(&self, operation: impl FnOnce(&mut Function, &mut HostSide<G>) -> T) -> T {
        let mut driven = self.lock();
        let Driven { function, host } = &mut *driven;
        let result = operation(function, host);
        self.publish_quarantine(&driven);
        result
    }

    /// What vCPUs look at is what the function says of itself, after an operation.
    fn publish_quarantine(&self, driven: &Driven<G>) {
        let quarantined = driven.function.is_quarantined();
        if self.quarantined.swap(quarantined, Ordering::AcqRel) == quarantined {
            return;
        }
        let bdf = self.bdf();
        if quarantined {
            let failure = driven.host.last_failure.as_ref();
            let why = failure.map(|Failure { step, error }| format!("{step:?}: {error}"));
            log::error!("{bdf}: quarantined, for the guest may still reach it: {}", why.unwrap_or_default());
        } else {
            log::warn!("{bdf}: no longer quarantined");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Driven<G>> {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pin that is still wired may be masked, by an interrupt that nobody ended; wiring it to another event leaves it so,
/// and an event that unmasks it cannot be replaced. What it asserts comes again when it is wired anew.
fn switch_pin_off(device: &Device) -> Result<(), IrqError> {
    if device.irq(IrqKind::Intx).is_none() {
        return Ok(());
    }
    match device.irqs(IrqKind::Intx).off() {
        // It was off.
        Err(IrqError::Refused { errno: Errno::EINVAL, .. }) => Ok(()),
        switched => switched,
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

pub use lifecycle::MISSES;

mod access;
mod interrupts;
mod lifecycle;
mod plan;
mod reset;
#[cfg(test)]
mod tests;
