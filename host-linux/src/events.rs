//! What the host has to say of a device that is not the guest's: that it has failed, and that it is wanted back.

use crate::device::Device;
use crate::irq::{IrqError, IrqKind};
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
}

impl DeviceEvent {
    /// Every event.
    pub const ALL: [Self; 2] = [Self::Error, Self::ReleaseRequest];

    fn kind(self) -> IrqKind {
        match self {
            Self::Error => IrqKind::Err,
            Self::ReleaseRequest => IrqKind::Req,
        }
    }
}

impl fmt::Display for DeviceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "the device reports an error",
            Self::ReleaseRequest => "the host asks for the device back",
        })
    }
}

/// The events of one device, each a file descriptor to wait for and a way to take it.
///
/// Dropping it takes the events off the device.
#[derive(Debug)]
pub struct DeviceEvents {
    kinds: [IrqVectors; 2],
    refused: Vec<IrqError>,
}

impl DeviceEvents {
    /// The events of the device, from now on.
    ///
    /// One that the device does not have is [not there](Self::fd): functions without PCI Express error reporting have no
    /// [`DeviceEvent::Error`]. One that the kernel has and refuses is among the [refused](Self::refused).
    pub fn new(device: &Arc<Device>) -> Self {
        let mut refused = Vec::new();
        let kinds = DeviceEvent::ALL.map(|event| {
            let mut vectors = IrqVectors::new(device.clone(), event.kind());
            if vectors.count() > 0
                && let Err(error) = vectors.wire(ONLY, ONLY, &|_| true)
            {
                log::warn!("{}: {error}", device.bdf());
                refused.push(error);
            }
            vectors
        });
        Self { kinds, refused }
    }

    /// What becomes readable when the event comes, for `poll` and the like; none where there is no such event.
    pub fn fd(&self, event: DeviceEvent) -> Option<BorrowedFd<'_>> {
        self.of(event).event(ONLY).map(AsFd::as_fd)
    }

    /// Whether the event has come since it was last taken.
    ///
    /// # Errors
    ///
    /// The file descriptor cannot be read.
    pub fn take(&self, event: DeviceEvent) -> Result<bool, IrqError> {
        Ok(self.of(event).take(ONLY, 1)? != 0)
    }

    /// Why events that the device has are not there.
    pub fn refused(&self) -> &[IrqError] {
        &self.refused
    }

    fn of(&self, event: DeviceEvent) -> &IrqVectors {
        let [error, release] = &self.kinds;
        match event {
            DeviceEvent::Error => error,
            DeviceEvent::ReleaseRequest => release,
        }
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
        let expected = ["new_event", "set_irqs 3 0 fds 1", "new_event", "set_irqs 4 0 fds 1"];
        assert_eq!(kernel.calls(), expected);
    }

    #[test]
    fn i4_event_is_taken_once() {
        let (_kernel, events, _test) = events();
        events.of(DeviceEvent::ReleaseRequest).signal(ONLY).unwrap();
        let take = || DeviceEvent::ALL.map(|event| events.take(event).unwrap());
        assert_eq!((take(), take()), ([false, true], [false, false]));
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
        events.of(DeviceEvent::Error).signal(ONLY).unwrap();
        assert_eq!((before, readable()), (false, true));
    }

    #[test]
    fn i4_device_without_error_reporting_has_no_error_event() {
        let test = device(&[IrqKind::Req]);
        let events = DeviceEvents::new(&test.device);
        assert_eq!(test.kernel.calls(), ["new_event", "set_irqs 4 0 fds 1"]);
        assert!(events.fd(DeviceEvent::Error).is_none() && events.refused().is_empty());
        assert_eq!(events.take(DeviceEvent::Error), Ok(false));
    }

    #[test]
    fn i4_event_that_the_kernel_refuses_is_told_and_the_other_is_there() {
        let test = device(&[IrqKind::Err, IrqKind::Req]);
        test.kernel.fail("set_irqs 3", Errno::ENODEV);
        let events = DeviceEvents::new(&test.device);
        let there = DeviceEvent::ALL.map(|event| events.fd(event).is_some());
        assert_eq!((there, events.refused().len()), ([false, true], 1));
    }

    #[test]
    fn i4_drop_takes_both_off_the_device() {
        let (kernel, events, _test) = events();
        kernel.calls();
        drop(events);
        assert_eq!(kernel.calls(), ["set_irqs 3 0 none 0", "set_irqs 4 0 none 0"]);
    }
}
