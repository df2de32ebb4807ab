//! One function's host, as the core asks for it: VFIO for the device, a [`GuestSide`] for the guest.

use crate::bar::MappedBars;
use crate::device::{RegionError, ResetError};
use crate::dma::DmaError;
use crate::guest::{GuestSide, LineEnd};
use crate::irq::IrqError;
use crate::lanes::Lanes;
use crate::region::RegionIndex;
use crate::steps::StepObserver;
use crate::vectors::DeviceIrqs;
use std::error::Error;
use std::sync::Arc;
use vfio_assign_core::host::{
    Events, GuestRange, GuestWindows, HostError, InterruptHost, InterruptKind, MappedWindow, Message,
    Outcome, PhysicalFunction, Step,
};
use vfio_assign_core::regs::header::{self, Command};
use vfio_assign_core::{BarIndex, ConfigOffset, Decoder, PhysBarOffset, VectorIndex, Width};

/// What drives an [`AssignedFunction`](vfio_assign_core::AssignedFunction)'s steps.
#[derive(Debug)]
pub(crate) struct HostSide<G: GuestSide> {
    // Dropped in this order: the guest loses windows and interrupts before the events and the device go.
    pub(crate) guest: G,
    pub(crate) irqs: DeviceIrqs,
    pub(crate) bars: Arc<MappedBars>,
    /// Where vCPUs read what the function decodes.
    pub(crate) lanes: Arc<Lanes>,
    /// How the reset went that has been made for this function beside others, for its own machines to hear of.
    pub(crate) reset_made: Option<Result<(), ResetError>>,
    /// Why the last reset failed.
    pub(crate) reset_error: Option<ResetError>,
    pub(crate) last_failure: Option<Failure<G::Error>>,
    pub(crate) steps: Option<Arc<dyn StepObserver>>,
    /// What the step under way has read, for whoever observes steps.
    pub(crate) read: u64,
}

/// A step that failed, and why.
#[derive(Clone, Debug)]
pub struct Failure<E: Error + 'static> {
    /// The step.
    pub step: Step,
    /// Why it failed.
    pub error: HostSideError<E>,
}

/// Why a step failed. `E` is the hypervisor's error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostSideError<E: Error + 'static> {
    /// The device did not answer.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The device was not reset.
    #[error(transparent)]
    Reset(#[from] ResetError),
    /// The device's interrupts were not changed.
    #[error(transparent)]
    Irq(#[from] IrqError),
    /// The device does not reach all of the guest's memory, so bus mastering stays off.
    #[error("bus mastering stays off: {0}")]
    Memory(#[from] DmaError),
    /// A window is not, or not wholly, in an area that is mapped in this process.
    #[error("{bar}: no mapped area holds all of {first:#x} to {last:#x}")]
    NoArea {
        /// The BAR.
        bar: BarIndex,
        /// The first byte.
        first: PhysBarOffset,
        /// The last byte.
        last: PhysBarOffset,
    },
    /// The vector has no event.
    #[error("vector {vector} has no event")]
    NoEvent {
        /// The vector.
        vector: VectorIndex,
    },
    /// The hypervisor.
    #[error(transparent)]
    Guest(E),
}

impl<G: GuestSide> HostError for HostSide<G> {
    type Error = HostSideError<G::Error>;
}

impl<G: GuestSide> PhysicalFunction for HostSide<G> {
    fn config_read(&mut self, offset: ConfigOffset, width: Width) -> Result<u32, Self::Error> {
        let mut data = [0; 4];
        let bytes = data.get_mut(..width.bytes()).unwrap_or_default();
        self.bars.device().read(RegionIndex::CONFIG, u64::from(offset.get()), bytes)?;
        let value = u32::from_le_bytes(data);
        self.read = value.into();
        Ok(value)
    }

    fn config_write(&mut self, offset: ConfigOffset, width: Width, value: u32) -> Result<(), Self::Error> {
        let data = value.to_le_bytes();
        let bytes = data.get(..width.bytes()).unwrap_or_default();
        if offset == header::COMMAND && value & u32::from(Command::BUS_MASTER.bits()) != 0 {
            self.bars.device().wait_for_memory()?;
        }
        Ok(self.bars.device().write(RegionIndex::CONFIG, u64::from(offset.get()), bytes)?)
    }

    fn bar_read(&mut self, bar: BarIndex, offset: PhysBarOffset, width: Width) -> Result<u64, Self::Error> {
        self.read = self.bars.read(bar, offset, width)?;
        Ok(self.read)
    }

    fn bar_write(
        &mut self,
        bar: BarIndex,
        offset: PhysBarOffset,
        width: Width,
        value: u64,
    ) -> Result<(), Self::Error> {
        Ok(self.bars.write(bar, offset, width, value)?)
    }

    fn reset(&mut self) -> Result<(), Self::Error> {
        let reset = self.reset_made.take().unwrap_or_else(|| self.bars.device().reset());
        self.reset_error = reset.clone().err();
        Ok(reset?)
    }
}

impl<G: GuestSide> GuestWindows for HostSide<G> {
    fn map(&mut self, window: MappedWindow) -> Result<(), Self::Error> {
        let MappedWindow { index, bar, device, guest } = window;
        let missing = HostSideError::NoArea { bar, first: device.first(), last: device.last() };
        let memory = self.bars.window(bar, device).ok_or(missing)?;
        self.guest.map(index, guest, memory).map_err(HostSideError::Guest)
    }

    fn unmap(&mut self, window: MappedWindow) -> Result<(), Self::Error> {
        self.guest.unmap(window.index).map_err(HostSideError::Guest)
    }

    fn trap(&mut self, _: BarIndex, _: GuestRange, decoder: &Decoder) -> Result<(), Self::Error> {
        self.lanes.publish(decoder);
        Ok(())
    }

    fn untrap(&mut self, _: BarIndex, _: GuestRange, decoder: &Decoder) -> Result<(), Self::Error> {
        self.lanes.publish(decoder);
        Ok(())
    }
}

impl<G: GuestSide> InterruptHost for HostSide<G> {
    fn fewer(error: &Self::Error) -> Option<u16> {
        match error {
            HostSideError::Irq(IrqError::Fewer { available, .. }) => u16::try_from(*available).ok(),
            _ => None,
        }
    }

    fn enable(&mut self, kind: InterruptKind) -> Result<(), Self::Error> {
        Ok(self.irqs.of_mut(kind).enable()?)
    }

    fn wire(
        &mut self,
        kind: InterruptKind,
        first: VectorIndex,
        last: VectorIndex,
        wanted: &dyn Fn(VectorIndex) -> bool,
    ) -> Result<(), Self::Error> {
        Ok(self.irqs.of_mut(kind).wire(first, last, wanted)?)
    }

    fn disable(&mut self, kind: InterruptKind) -> Result<(), Self::Error> {
        Ok(self.irqs.disable(kind)?)
    }

    fn release(&mut self, kind: InterruptKind) -> Result<(), Self::Error> {
        self.irqs.of_mut(kind).release();
        match kind {
            // A line has no routes.
            InterruptKind::Intx => Ok(()),
            InterruptKind::Msi | InterruptKind::Msix => {
                self.guest.release_routes().map_err(HostSideError::Guest)
            }
        }
    }

    fn route(&mut self, _: InterruptKind, vector: VectorIndex, message: Message) -> Result<(), Self::Error> {
        self.guest.route(vector, message).map_err(HostSideError::Guest)
    }

    fn commit_routes(&mut self) -> Result<(), Self::Error> {
        self.guest.commit_routes().map_err(HostSideError::Guest)
    }

    fn arm(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), Self::Error> {
        let resampled = kind == InterruptKind::Intx && self.guest.line() == Some(LineEnd::Resampled);
        if resampled {
            self.irqs.resample()?;
        }
        let event = self.irqs.of(kind).event(vector).ok_or(HostSideError::NoEvent { vector })?;
        let armed = match kind {
            InterruptKind::Intx => self.guest.arm_line(event, self.irqs.resample_event()),
            InterruptKind::Msi | InterruptKind::Msix => self.guest.arm(vector, event),
        };
        armed.map_err(HostSideError::Guest)
    }

    fn unmask_intx(&mut self) -> Result<(), Self::Error> {
        Ok(self.irqs.unmask()?)
    }

    fn disarm(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), Self::Error> {
        let event = self.irqs.of(kind).event(vector).ok_or(HostSideError::NoEvent { vector })?;
        let disarmed = match kind {
            InterruptKind::Intx => self.guest.disarm_line(event),
            InterruptKind::Msi | InterruptKind::Msix => self.guest.disarm(vector, event),
        };
        disarmed.map_err(HostSideError::Guest)
    }

    fn signal(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), Self::Error> {
        Ok(self.irqs.of(kind).signal(vector)?)
    }

    fn poll_pending(
        &mut self,
        kind: InterruptKind,
        first: VectorIndex,
        mask: u64,
    ) -> Result<u64, Self::Error> {
        self.read = self.irqs.of(kind).poll(first, mask)?;
        Ok(self.read)
    }

    fn take_pending(
        &mut self,
        kind: InterruptKind,
        first: VectorIndex,
        mask: u64,
    ) -> Result<u64, Self::Error> {
        self.read = self.irqs.of(kind).take(first, mask)?;
        Ok(self.read)
    }
}

impl<G: GuestSide> Events for HostSide<G> {
    fn step_failed(&mut self, step: Step, error: &Self::Error) {
        self.last_failure = Some(Failure { step, error: error.clone() });
        if let Some(steps) = &self.steps {
            steps.taken(step, Self::fewer(error).map_or(Outcome::Failed, Outcome::Fewer));
        }
    }

    fn step_done(&mut self, step: Step) {
        if let Some(steps) = &self.steps {
            let read = std::mem::take(&mut self.read);
            steps.taken(step, if reads(step) { Outcome::Value(read) } else { Outcome::Done });
        }
    }
}

/// Whether a step has something to tell besides that it is done.
fn reads(step: Step) -> bool {
    matches!(
        step,
        Step::ReadConfig { .. } | Step::ReadBar { .. } | Step::PollPending { .. } | Step::TakePending { .. }
    )
}
