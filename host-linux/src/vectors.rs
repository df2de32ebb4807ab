//! The interrupt vectors of a device as eventfds, made as they are first wanted.

mod kinds;

pub use kinds::DeviceIrqs;

use crate::device::Device;
use crate::irq::{IrqError, IrqKind};
use crate::sys::EventFd;
use std::sync::Arc;
use vfio_assign_core::VectorIndex;

/// The interrupt vectors of one kind of a device.
///
/// An event outlives its wiring: what it holds when interrupts are switched off is still to be delivered.
#[derive(Debug)]
pub struct IrqVectors {
    // Dropped in this order: the eventfds before the device.
    events: Vec<Option<EventFd>>,
    on: bool,
    kind: IrqKind,
    device: Arc<Device>,
}

impl IrqVectors {
    /// The vectors of this kind, as many as the device has, all off.
    pub fn new(device: Arc<Device>, kind: IrqKind) -> Self {
        let count = device.irq(kind).map_or(0, |irq| irq.count as usize);
        Self { events: (0..count).map(|_| None).collect(), on: false, kind, device }
    }

    /// How many vectors the device has.
    pub fn count(&self) -> usize {
        self.events.len()
    }

    /// How many vectors have an event.
    pub fn events(&self) -> usize {
        self.events.iter().flatten().count()
    }

    /// Whether the kind is on in the device.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// The event of a vector, if it has one.
    pub fn event(&self, vector: VectorIndex) -> Option<&EventFd> {
        self.events.get(vector.position())?.as_ref()
    }

    /// Switches the kind on with no vector that signals anything.
    ///
    /// # Errors
    ///
    /// The kind stays off.
    pub fn enable(&mut self) -> Result<(), IrqError> {
        self.device.irqs(self.kind).wire(0, &[None])?;
        self.on = true;
        Ok(())
    }

    /// Leads those vectors from `first` to `last` that `wanted` names to events, and takes the others of them
    /// off theirs, in one call to the kernel. Switches the kind on if it is off.
    ///
    /// # Errors
    ///
    /// None of the range is wired, and no event is left that was made for it.
    pub fn wire(
        &mut self,
        first: VectorIndex,
        last: VectorIndex,
        wanted: &dyn Fn(VectorIndex) -> bool,
    ) -> Result<(), IrqError> {
        let range = (first.get()..=last.get()).filter_map(VectorIndex::new);
        let chosen: Vec<_> = range.map(|vector| wanted(vector).then_some(vector)).collect();
        let missing = chosen.iter().flatten().filter(|vector| self.event(**vector).is_none());
        let missing: Vec<_> = missing.copied().collect();
        let wired = self.wire_chosen(first, &chosen, &missing);
        if wired.is_err() {
            let unwired = self.unwire(first, chosen.len());
            for vector in missing {
                if let Some(event) = self.events.get_mut(vector.position()) {
                    // It was never wired, so it holds nothing.
                    *event = None;
                }
            }
            // Worse than what went wrong first: the range may still signal.
            unwired?;
        }
        wired
    }

    /// Wires the vectors from `first` on that are chosen, having made an event for each of the `missing`.
    fn wire_chosen(
        &mut self,
        first: VectorIndex,
        chosen: &[Option<VectorIndex>],
        missing: &[VectorIndex],
    ) -> Result<(), IrqError> {
        for vector in missing {
            self.make_event(*vector)?;
        }
        let events: Vec<_> = chosen.iter().map(|vector| vector.and_then(|v| self.event(v))).collect();
        self.device.irqs(self.kind).wire(u32::from(first.get()), &events)?;
        self.on = true;
        Ok(())
    }

    /// Takes a range that could not be wired as a whole off its events.
    ///
    /// The kernel has done so up to the vector that failed; those after it are still on their old events.
    fn unwire(&self, first: VectorIndex, count: usize) -> Result<(), IrqError> {
        if !self.on {
            return Ok(());
        }
        self.device.irqs(self.kind).wire(u32::from(first.get()), &vec![None; count])
    }

    /// Switches the kind off; events are kept, with what they hold.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn disable(&mut self) -> Result<(), IrqError> {
        if self.on {
            self.device.irqs(self.kind).off()?;
            self.on = false;
        }
        Ok(())
    }

    /// Closes every event.
    pub fn release(&mut self) {
        self.events.iter_mut().for_each(|event| *event = None);
    }

    /// Signals a vector's event once.
    ///
    /// # Errors
    ///
    /// It has none, or the kernel refused.
    pub fn signal(&self, vector: VectorIndex) -> Result<(), IrqError> {
        let signalled = self.existing(vector).and_then(|event| self.device.host().signal_event(event));
        signalled.map_err(|errno| self.no_event(vector, errno))
    }

    /// Which of the vectors `first` + n, for each bit n of `mask`, have a signalled event. Takes nothing.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn poll(&self, first: VectorIndex, mask: u64) -> Result<u64, IrqError> {
        self.collect(first, mask, |event| self.device.host().poll_event(event))
    }

    /// The same, and takes the signals.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn take(&self, first: VectorIndex, mask: u64) -> Result<u64, IrqError> {
        self.collect(first, mask, |event| Ok(self.device.host().take_event(event)? > 0))
    }

    fn collect(
        &self,
        first: VectorIndex,
        mask: u64,
        is_set: impl Fn(&EventFd) -> Result<bool, crate::Errno>,
    ) -> Result<u64, IrqError> {
        let mut found = 0;
        for bit in (0..64).filter(|bit| mask & (1 << bit) != 0) {
            let vector = first.get().checked_add(bit).and_then(VectorIndex::new);
            let Some((vector, event)) = vector.and_then(|v| Some((v, self.event(v)?))) else {
                continue;
            };
            if is_set(event).map_err(|errno| self.no_event(vector, errno))? {
                found |= 1 << bit;
            }
        }
        Ok(found)
    }

    fn make_event(&mut self, vector: VectorIndex) -> Result<(), IrqError> {
        let absent = self.no_event(vector, crate::Errno::EINVAL);
        let place = self.events.get_mut(vector.position()).ok_or(absent)?;
        let event = self.device.host().new_event();
        let (kind, vector) = (self.kind, u32::from(vector.get()));
        *place = Some(event.map_err(|errno| IrqError::NoEvent { kind, vector, errno })?);
        Ok(())
    }

    fn existing(&self, vector: VectorIndex) -> Result<&EventFd, crate::Errno> {
        self.event(vector).ok_or(crate::Errno::EINVAL)
    }

    fn no_event(&self, vector: VectorIndex, errno: crate::Errno) -> IrqError {
        IrqError::NoEvent { kind: self.kind, vector: u32::from(vector.get()), errno }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::Errno;
    use crate::irq::IrqChange;
    use crate::testing::{TestDevice, TestKernel};

    fn vectors() -> (TestKernel, IrqVectors, TestDevice) {
        let test = TestDevice::open();
        test.kernel.calls();
        (test.kernel.clone(), IrqVectors::new(test.device.clone(), IrqKind::Msix), test)
    }

    fn v(index: u16) -> VectorIndex {
        VectorIndex::new(index).unwrap()
    }

    #[test]
    fn enable_wires_nothing() {
        let (kernel, mut vectors, _test) = vectors();
        vectors.enable().unwrap();
        assert_eq!((kernel.calls(), vectors.events()), (vec!["set_irqs 2 0 fds -".into()], 0));
    }

    #[test]
    fn a_range_is_wired_in_one_call_with_holes() {
        let (kernel, mut vectors, _test) = vectors();
        vectors.wire(v(2), v(5), &|vector| vector != v(3)).unwrap();
        let calls = kernel.calls();
        assert_eq!(calls, ["new_event", "new_event", "new_event", "set_irqs 2 2 fds 1-11"]);
    }

    #[test]
    fn an_event_is_made_once() {
        let (kernel, mut vectors, _test) = vectors();
        vectors.wire(v(0), v(0), &|_| true).unwrap();
        kernel.calls();
        vectors.wire(v(0), v(1), &|_| true).unwrap();
        assert_eq!(kernel.calls(), ["new_event", "set_irqs 2 0 fds 11"]);
    }

    #[test]
    fn failed_wire_detaches_the_whole_range_and_keeps_only_old_events() {
        let (kernel, mut vectors, _test) = vectors();
        vectors.wire(v(0), v(0), &|_| true).unwrap();
        kernel.calls();
        kernel.fail("set_irqs", Errno::ENOSPC);
        vectors.wire(v(0), v(2), &|_| true).unwrap_err();
        let last = kernel.calls().pop();
        assert_eq!((last.as_deref(), vectors.events()), (Some("set_irqs 2 0 fds ---"), 1));
    }

    #[test]
    fn failed_wire_whose_range_stays_as_it_was_says_so() {
        let (kernel, mut vectors, _test) = vectors();
        vectors.wire(v(0), v(0), &|_| true).unwrap();
        kernel.fail("set_irqs", Errno::ENOSPC);
        kernel.fail("set_irqs 2 0 fds --", Errno::EIO);
        let (kind, action, start, count, errno) = (IrqKind::Msix, IrqChange::Unwire, 0, 2, Errno::EIO);
        let refused = IrqError::Refused { kind, action, start, count, errno };
        assert_eq!((vectors.wire(v(0), v(1), &|_| true), vectors.events()), (Err(refused), 1));
    }

    #[test]
    fn failed_first_wire_leaves_the_kind_off() {
        let (kernel, mut vectors, _test) = vectors();
        kernel.fail("set_irqs", Errno::ENOSPC);
        vectors.wire(v(0), v(2), &|_| true).unwrap_err();
        assert_eq!((vectors.is_on(), vectors.events()), (false, 0));
    }

    #[test]
    fn positive_result_is_a_failure_that_says_how_many_there_are() {
        let (kernel, mut vectors, _test) = vectors();
        kernel.answer("set_irqs", 2);
        let fewer = IrqError::Fewer { kind: IrqKind::Msix, wanted: 8, available: 2 };
        assert_eq!(vectors.wire(v(0), v(7), &|_| true), Err(fewer));
    }

    #[test]
    fn no_eventfd_leaves_none() {
        let (kernel, mut vectors, _test) = vectors();
        kernel.fail_after(1, "new_event", Errno::EMFILE);
        let none = IrqError::NoEvent { kind: IrqKind::Msix, vector: 1, errno: Errno::EMFILE };
        assert_eq!((vectors.wire(v(0), v(7), &|_| true), vectors.events()), (Err(none), 0));
    }

    #[test]
    fn off_is_a_trigger_of_none_and_keeps_events() {
        let (kernel, mut vectors, _test) = vectors();
        vectors.wire(v(0), v(0), &|_| true).unwrap();
        kernel.calls();
        vectors.disable().unwrap();
        assert_eq!((kernel.calls(), vectors.events()), (vec!["set_irqs 2 0 none 0".into()], 1));
    }

    #[test]
    fn off_twice_asks_the_kernel_once() {
        let (kernel, mut vectors, _test) = vectors();
        vectors.enable().unwrap();
        vectors.disable().unwrap();
        kernel.calls();
        vectors.disable().unwrap();
        assert_eq!(kernel.calls(), [""; 0]);
    }

    #[test]
    fn poll_takes_nothing_and_take_does() {
        let (_kernel, mut vectors, _test) = vectors();
        vectors.wire(v(0), v(7), &|vector| vector != v(6)).unwrap();
        vectors.signal(v(5)).unwrap();
        vectors.signal(v(7)).unwrap();
        assert_eq!(vectors.poll(v(0), !0), Ok(0xa0));
        assert_eq!(vectors.take(v(0), 0x7f), Ok(0x20));
        assert_eq!(vectors.take(v(0), !0), Ok(0x80));
    }

    #[test]
    fn vector_past_the_last_is_refused() {
        let (_kernel, mut vectors, _test) = vectors();
        let absent = IrqError::NoEvent { kind: IrqKind::Msix, vector: 8, errno: Errno::EINVAL };
        assert_eq!(vectors.wire(v(7), v(8), &|_| true), Err(absent));
    }
}
