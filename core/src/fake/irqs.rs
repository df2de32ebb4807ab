//! All kinds of a fake device's interrupts: the kernel turns on one at a time, and the pin is a level.

use super::faults::FakeError;
use super::kernel::{Kernel, Raised};
use super::shape::Shape;
use crate::addr::VectorIndex;
use crate::host::{InterruptKind, Message};
use alloc::vec::Vec;

/// The kernel's interrupts of one device.
#[derive(Clone, Debug)]
pub(super) struct Irqs {
    kinds: [Kernel; 3],
    pin: Pin,
}

/// The interrupt pin, from the device to the guest.
#[derive(Clone, Copy, Debug)]
struct Pin {
    /// The device asserts it.
    asserted: bool,
    /// The kernel has masked it, as it does each time that it comes.
    masked: bool,
    /// The guest's line is asserted, until the guest ends the interrupt.
    line: bool,
    /// How often the guest's line was asserted.
    raised: u32,
    /// The host unmasks when the guest ends an interrupt, and nobody is told.
    resample: bool,
}

impl Irqs {
    pub(super) fn new(shape: &Shape) -> Self {
        let pin = Pin { asserted: false, masked: false, line: false, raised: 0, resample: shape.resample };
        Self { kinds: InterruptKind::ALL.map(|kind| Kernel::new(shape, kind)), pin }
    }

    pub(super) fn of(&self, kind: InterruptKind) -> &Kernel {
        let [intx, msi, msix] = &self.kinds;
        match kind {
            InterruptKind::Intx => intx,
            InterruptKind::Msi => msi,
            InterruptKind::Msix => msix,
        }
    }

    pub(super) fn of_mut(&mut self, kind: InterruptKind) -> &mut Kernel {
        let [intx, msi, msix] = &mut self.kinds;
        match kind {
            InterruptKind::Intx => intx,
            InterruptKind::Msi => msi,
            InterruptKind::Msix => msix,
        }
    }

    /// The kind that is on.
    pub(super) fn mode(&self) -> Option<InterruptKind> {
        InterruptKind::ALL.into_iter().find(|kind| self.of(*kind).is_on())
    }

    /// Any other kind must be off: the kernel says `EINVAL` otherwise.
    fn alone(&self, kind: InterruptKind) -> Result<(), FakeError> {
        match self.mode() {
            Some(other) if other != kind => Err(FakeError::OtherKind(other)),
            _ => Ok(()),
        }
    }

    pub(super) fn enable(&mut self, kind: InterruptKind) -> Result<(), FakeError> {
        self.alone(kind)?;
        self.of_mut(kind).enable()
    }

    pub(super) fn wire(
        &mut self,
        kind: InterruptKind,
        first: VectorIndex,
        last: VectorIndex,
        wanted: &dyn Fn(VectorIndex) -> bool,
    ) -> Result<(), FakeError> {
        self.alone(kind)?;
        let fresh = !self.of(kind).is_on();
        self.of_mut(kind).wire(first, last, wanted)?;
        if fresh && kind == InterruptKind::Intx {
            self.pin.masked = false;
        }
        Ok(())
    }

    pub(super) fn disable(&mut self, kind: InterruptKind) -> Result<(), FakeError> {
        self.of_mut(kind).disable()
    }

    /// The device sends the message of `vector`, as MSI-X or MSI, whichever is on.
    pub(super) fn raise(&mut self, vector: VectorIndex, can_signal: bool) -> Raised {
        match self.mode() {
            Some(InterruptKind::Msi) => {
                // As many as Multiple Message Enable says, which the kernel has written.
                let vectors = u16::try_from(self.of(InterruptKind::Msi).allocated()).unwrap_or(1).max(1);
                let vector = VectorIndex::new(vector.get() % vectors).unwrap_or_default();
                self.of_mut(InterruptKind::Msi).raise(vector, can_signal)
            }
            Some(InterruptKind::Msix) => self.of_mut(InterruptKind::Msix).raise(vector, can_signal),
            Some(InterruptKind::Intx) | None => Raised::Lost,
        }
    }

    pub(super) fn arm(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), FakeError> {
        let held = self.of_mut(kind).arm(vector)?;
        if held && kind == InterruptKind::Intx {
            self.raise_line();
        }
        Ok(())
    }

    pub(super) fn disarm(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), FakeError> {
        self.of_mut(kind).disarm(vector)?;
        if kind == InterruptKind::Intx {
            self.pin.line = false;
        }
        Ok(())
    }

    pub(super) fn signal(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), FakeError> {
        self.of_mut(kind).signal(vector)
    }

    pub(super) fn release(&mut self, kind: InterruptKind) {
        self.of_mut(kind).release();
        if kind == InterruptKind::Intx {
            self.pin.line = false;
        }
    }

    /// The kernel unmasks the pin; what the device still asserts comes again.
    pub(super) fn unmask(&mut self, allowed: bool) -> Result<(), FakeError> {
        if !self.of(InterruptKind::Intx).is_on() {
            return Err(FakeError::NotOn);
        }
        self.pin.masked = false;
        self.sample(allowed);
        Ok(())
    }

    /// The device asserts its pin, or no longer does. `allowed` is whether it may: Interrupt Disable is clear.
    pub(super) fn assert_pin(&mut self, asserted: bool, allowed: bool) {
        self.pin.asserted = asserted;
        self.sample(allowed);
    }

    /// The kernel looks at the pin: if it is asserted, it is masked and its event signalled.
    pub(super) fn sample(&mut self, allowed: bool) {
        let intx = self.of(InterruptKind::Intx).is_on();
        if !(intx && allowed && self.pin.asserted && !self.pin.masked) {
            return;
        }
        self.pin.masked = true;
        if self.of_mut(InterruptKind::Intx).raise(VectorIndex::default(), true) == Raised::Delivered {
            self.raise_line();
        }
    }

    fn raise_line(&mut self) {
        self.pin.raised += u32::from(!self.pin.line);
        self.pin.line = true;
    }

    /// The guest ends the interrupt of its line; whether the embedder is to tell the core of it.
    pub(super) fn end_interrupt(&mut self, allowed: bool) -> bool {
        self.pin.line = false;
        if self.pin.resample && self.of(InterruptKind::Intx).is_on() {
            self.pin.masked = false;
            self.sample(allowed);
        }
        !self.pin.resample
    }

    /// Whether the device asserts its pin.
    pub(super) fn is_asserted(&self) -> bool {
        self.pin.asserted
    }

    /// Whether the guest's line is asserted, and how often it was.
    pub(super) fn line(&self) -> (bool, u32) {
        (self.pin.line, self.pin.raised)
    }

    /// The device was reset: it wants to signal nothing.
    pub(super) fn device_was_reset(&mut self) {
        self.kinds.iter_mut().for_each(Kernel::device_was_reset);
        self.pin.asserted = false;
    }

    /// The device may signal again.
    pub(super) fn signalling_again(&mut self) {
        self.kinds.iter_mut().for_each(Kernel::signalling_again);
    }

    pub(super) fn commit(&mut self) {
        self.kinds.iter_mut().for_each(Kernel::commit);
    }

    /// The messages that reached the guest, MSI's first.
    pub(super) fn delivered(&self) -> Vec<(VectorIndex, Message)> {
        self.kinds.iter().flat_map(|kind| kind.delivered().iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn irqs(shape: &Shape) -> Irqs {
        let mut irqs = Irqs::new(shape);
        irqs.wire(InterruptKind::Intx, VectorIndex::default(), VectorIndex::default(), &|_| true).unwrap();
        irqs
    }

    #[test]
    fn a_second_kind_is_refused_until_the_first_is_off() {
        let mut irqs = irqs(&Shape::new());
        let refused = irqs.enable(InterruptKind::Msix);
        irqs.disable(InterruptKind::Intx).unwrap();
        assert_eq!(
            (refused, irqs.enable(InterruptKind::Msix)),
            (Err(FakeError::OtherKind(InterruptKind::Intx)), Ok(()))
        );
    }

    #[test]
    fn an_asserted_pin_is_masked_until_it_is_unmasked() {
        let mut irqs = irqs(&Shape::new());
        irqs.arm(InterruptKind::Intx, VectorIndex::default()).unwrap();
        irqs.assert_pin(true, true);
        irqs.end_interrupt(true);
        let silent = irqs.line();
        irqs.unmask(true).unwrap();
        assert_eq!((silent, irqs.line()), ((false, 1), (true, 2)));
    }

    #[test]
    fn a_host_that_resamples_unmasks_by_itself() {
        let mut shape = Shape::new();
        shape.resample = true;
        let mut irqs = irqs(&shape);
        irqs.arm(InterruptKind::Intx, VectorIndex::default()).unwrap();
        irqs.assert_pin(true, true);
        assert!(!irqs.end_interrupt(true));
        assert_eq!(irqs.line(), (true, 2));
    }

    #[test]
    fn a_pin_that_is_off_is_not_unmasked() {
        assert_eq!(Irqs::new(&Shape::new()).unmask(true), Err(FakeError::NotOn));
    }

    #[test]
    fn msi_cannot_be_added_to() {
        let mut irqs = Irqs::new(&Shape::new());
        irqs.enable(InterruptKind::Msi).unwrap();
        let first = VectorIndex::new(1).unwrap();
        let grown = irqs.wire(InterruptKind::Msi, first, first, &|_| true);
        assert_eq!(grown, Err(FakeError::NotResizable(first)));
    }
}
