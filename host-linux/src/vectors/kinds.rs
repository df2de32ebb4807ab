//! The interrupts of a device, kind by kind.

use super::IrqVectors;
use crate::device::Device;
use crate::irq::{IrqError, IrqKind};
use crate::sys::EventFd;
use std::sync::Arc;
use vfio_assign_core::VectorIndex;
use vfio_assign_core::host::InterruptKind;

/// The interrupts of a device, of every kind that the core has a machine for.
#[derive(Debug)]
pub struct DeviceIrqs {
    kinds: [IrqVectors; 3],
    /// By which the kernel unmasks the pin: there while INTx is on and the hypervisor resamples.
    resample: Option<EventFd>,
}

impl DeviceIrqs {
    /// The interrupts of the device, all off.
    pub fn new(device: &Arc<Device>) -> Self {
        let kinds = InterruptKind::ALL.map(|kind| IrqVectors::new(device.clone(), kind.into()));
        Self { kinds, resample: None }
    }

    /// The vectors of one kind.
    pub fn of(&self, kind: InterruptKind) -> &IrqVectors {
        let [intx, msi, msix] = &self.kinds;
        match kind {
            InterruptKind::Intx => intx,
            InterruptKind::Msi => msi,
            InterruptKind::Msix => msix,
        }
    }

    /// The vectors of one kind, to change.
    pub(crate) fn of_mut(&mut self, kind: InterruptKind) -> &mut IrqVectors {
        let [intx, msi, msix] = &mut self.kinds;
        match kind {
            InterruptKind::Intx => intx,
            InterruptKind::Msi => msi,
            InterruptKind::Msix => msix,
        }
    }

    /// Switches a kind off; events are kept, with what they hold.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub(crate) fn disable(&mut self, kind: InterruptKind) -> Result<(), IrqError> {
        self.of_mut(kind).disable()?;
        if kind == InterruptKind::Intx {
            // The kernel has forgotten it with the rest.
            self.resample = None;
        }
        Ok(())
    }

    /// Makes the event that unmasks the pin, and tells the kernel of it, if that is yet to be done.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(crate) fn resample(&mut self) -> Result<(), IrqError> {
        if self.resample.is_none() {
            let intx = self.of(InterruptKind::Intx);
            let event = intx.device.host().new_event();
            let event = event.map_err(|errno| intx.no_event(VectorIndex::default(), errno))?;
            intx.device.irqs(IrqKind::Intx).unmask_on(&event)?;
            self.resample = Some(event);
        }
        Ok(())
    }

    /// The event that unmasks the pin, if there is one.
    pub(crate) fn resample_event(&self) -> Option<&EventFd> {
        self.resample.as_ref()
    }

    /// Unmasks the pin.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub(crate) fn unmask(&self) -> Result<(), IrqError> {
        self.of(InterruptKind::Intx).device.irqs(IrqKind::Intx).unmask()
    }
}
