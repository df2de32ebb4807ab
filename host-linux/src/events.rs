//! What the host has to say of a device that is not the guest's: that it has failed, that it is wanted back, and that it
//! is gone.

use crate::device::Device;
use crate::irq::{IrqError, IrqKind};
use crate::sys::EventFd;
use crate::vectors::IrqVectors;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use vfio_assign_core::VectorIndex;

/// Something that the host says of a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeviceEvent {
    /// PCI Express Advanced Error Reporting has found an error that the device may not get over: the guest is to be
    /// stopped, or the device to be taken from it.
    Error,
    /// Somebody on the host wants the device, to unbind its driver or to remove it, and waits until it is closed. Comes
    /// again every few seconds.
    ReleaseRequest,
    /// The device does not answer any more: it was pulled, or its link is down. Comes once, from whoever finds it out:
    /// the kernel has no such event, see [`Assigned::watch`](crate::Assigned::watch).
    Gone,
}

impl DeviceEvent {
    /// Every event.
    pub const ALL: [Self; 3] = [Self::Error, Self::ReleaseRequest, Self::Gone];
}

impl fmt::Display for DeviceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "the device reports an error",
            Self::ReleaseRequest => "the host asks for the device back",
            Self::Gone => "the device is gone",
        })
    }
}

/// The events of one device, each a file descriptor to wait for and a way to take it.
///
/// Dropping it takes the events off the device.
#[derive(Debug)]
pub struct DeviceEvents {
    /// Error and release request, of which the kernel tells.
    kinds: [IrqVectors; 2],
    gone: Option<EventFd>,
    device: Arc<Device>,
    refused: Vec<IrqError>,
}

impl DeviceEvents {
    /// The events of the device, from now on.
    ///
    /// One that the device does not have is [not there](Self::fd): functions without PCI Express error reporting have no
    /// [`DeviceEvent::Error`]. One that the kernel has and refuses is among the [refused](Self::refused).
    pub fn new(device: &Arc<Device>) -> Self {
        let mut refused = Vec::new();
        let kinds = [IrqKind::Err, IrqKind::Req].map(|kind| {
            let mut vectors = IrqVectors::new(device.clone(), kind);
            if vectors.count() > 0
                && let Err(error) = vectors.wire(ONLY, ONLY, &|_| true)
            {
                log::warn!("{}: {error}", device.bdf());
                refused.push(error);
            }
            vectors
        });
        let gone = device.host().new_event().map_err(|errno| {
            let error = IrqError::NoGoneEvent { errno };
            log::warn!("{}: {error}", device.bdf());
            refused.push(error);
        });
        Self { kinds, gone: gone.ok(), device: device.clone(), refused }
    }

    /// What becomes readable when the event comes, for `poll` and the like; none where there is no such event.
    pub fn fd(&self, event: DeviceEvent) -> Option<BorrowedFd<'_>> {
        let event = match event {
            DeviceEvent::Error => self.error().event(ONLY),
            DeviceEvent::ReleaseRequest => self.release().event(ONLY),
            DeviceEvent::Gone => self.gone.as_ref(),
        };
        event.map(AsFd::as_fd)
    }

    /// Whether the event has come since it was last taken.
    ///
    /// # Errors
    ///
    /// The file descriptor cannot be read.
    pub fn take(&self, event: DeviceEvent) -> Result<bool, IrqError> {
        match event {
            DeviceEvent::Error => Ok(self.error().take(ONLY, 1)? != 0),
            DeviceEvent::ReleaseRequest => Ok(self.release().take(ONLY, 1)? != 0),
            DeviceEvent::Gone => {
                let taken = self.gone.as_ref().map_or(Ok(0), |gone| self.device.host().take_event(gone));
                Ok(taken.map_err(|errno| IrqError::NoGoneEvent { errno })? != 0)
            }
        }
    }

    /// Why events that the device has are not there.
    pub fn refused(&self) -> &[IrqError] {
        &self.refused
    }

    /// The device has been found gone.
    pub(crate) fn tell_gone(&self) {
        let told = self.gone.as_ref().map_or(Ok(()), |gone| self.device.host().signal_event(gone));
        if let Err(errno) = told {
            log::warn!("{}: {}", self.device.bdf(), IrqError::NoGoneEvent { errno });
        }
    }

    fn error(&self) -> &IrqVectors {
        &self.kinds[0]
    }

    fn release(&self) -> &IrqVectors {
        &self.kinds[1]
    }
}

impl Drop for DeviceEvents {
    fn drop(&mut self) {
        for vectors in &mut self.kinds {
            if let Err(error) = vectors.disable() {
                log::warn!("{error}");
            }
        }
    }
}

/// There is one interrupt of each of these kinds.
const ONLY: VectorIndex = VectorIndex::new(0).unwrap();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::Errno;
    use crate::testing::{TestDevice, TestKernel};

    /// The events of a device that has both kinds, the kernel's calls before them forgotten.
    fn events() -> (TestKernel, DeviceEvents, TestDevice) {
        let test = device(&[IrqKind::Err, IrqKind::Req]);
        let events = DeviceEvents::new(&test.device);
        (test.kernel.clone(), events, test)
    }

    fn device(kinds: &[IrqKind]) -> TestDevice {
        let test = TestDevice::open_with(|kernel| kinds.iter().for_each(|kind| kernel.offer(*kind, 1)));
        test.kernel.calls();
        test
    }

    #[test]
    fn i4_both_are_led_to_eventfds() {
        let (kernel, _events, _test) = events();
        let expected = ["new_event", "set_irqs 3 0 fds 1", "new_event", "set_irqs 4 0 fds 1", "new_event"];
        assert_eq!(kernel.calls(), expected);
    }

    #[test]
    fn i4_event_is_taken_once() {
        let (_kernel, events, _test) = events();
        events.release().signal(ONLY).unwrap();
        let take = || DeviceEvent::ALL.map(|event| events.take(event).unwrap());
        assert_eq!((take(), take()), ([false, true, false], [false; 3]));
    }

    #[test]
    fn i4_device_that_is_found_gone_is_told_once() {
        let (_kernel, events, _test) = events();
        events.tell_gone();
        let take = || DeviceEvent::ALL.map(|event| events.take(event).unwrap());
        assert_eq!((take(), take()), ([false, false, true], [false; 3]));
    }

    #[test]
    fn i4_no_event_for_a_device_that_is_gone_is_told() {
        let test = device(&[]);
        test.kernel.fail("new_event", Errno::EMFILE);
        let events = DeviceEvents::new(&test.device);
        let there = events.fd(DeviceEvent::Gone).is_some();
        assert_eq!((there, events.refused()), (false, &[IrqError::NoGoneEvent { errno: Errno::EMFILE }][..]));
    }

    #[test]
    fn i4_event_makes_its_descriptor_readable() {
        let (_kernel, events, _test) = events();
        let readable = || {
            let fd = events.fd(DeviceEvent::Error).unwrap();
            let mut poll = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
            let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut poll, Some(&at_once)).unwrap() == 1
        };
        let before = readable();
        events.error().signal(ONLY).unwrap();
        assert_eq!((before, readable()), (false, true));
    }

    #[test]
    fn i4_device_without_error_reporting_has_no_error_event() {
        let test = device(&[IrqKind::Req]);
        let events = DeviceEvents::new(&test.device);
        assert_eq!(test.kernel.calls(), ["new_event", "set_irqs 4 0 fds 1", "new_event"]);
        assert!(events.fd(DeviceEvent::Error).is_none() && events.refused().is_empty());
        assert_eq!(events.take(DeviceEvent::Error), Ok(false));
    }

    #[test]
    fn i4_event_that_the_kernel_refuses_is_told_and_the_other_is_there() {
        let test = device(&[IrqKind::Err, IrqKind::Req]);
        test.kernel.fail("set_irqs 3", Errno::ENODEV);
        let events = DeviceEvents::new(&test.device);
        let there = DeviceEvent::ALL.map(|event| events.fd(event).is_some());
        assert_eq!((there, events.refused().len()), ([false, true, true], 1));
    }

    #[test]
    fn i4_drop_takes_both_off_the_device() {
        let (kernel, events, _test) = events();
        kernel.calls();
        drop(events);
        assert_eq!(kernel.calls(), ["set_irqs 3 0 none 0", "set_irqs 4 0 none 0"]);
    }
}
