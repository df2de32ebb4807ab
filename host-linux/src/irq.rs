//! The interrupts of a VFIO device: what it has, and the one request that changes them.

use crate::errno::Errno;
use crate::kernel::Host;
use crate::sys::EventFd;
use crate::sys::vfio::{IrqData, IrqSet};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use vfio_assign_core::host::InterruptKind;
use vfio_bindings::bindings::vfio as v;

/// A kind of interrupt: `VFIO_PCI_*_IRQ_INDEX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IrqKind {
    /// The interrupt pin.
    Intx,
    /// Message Signalled Interrupts.
    Msi,
    /// MSI-X.
    Msix,
    /// A PCI Express error that the kernel reports.
    Err,
    /// The host asks for the device back.
    Req,
}

impl IrqKind {
    /// All kinds, in VFIO's order.
    pub const ALL: [Self; 5] = [Self::Intx, Self::Msi, Self::Msix, Self::Err, Self::Req];

    /// VFIO's number for it.
    pub fn get(self) -> u32 {
        match self {
            Self::Intx => 0,
            Self::Msi => 1,
            Self::Msix => 2,
            Self::Err => 3,
            Self::Req => 4,
        }
    }

    pub(crate) fn position(self) -> usize {
        self.get() as usize
    }
}

impl From<InterruptKind> for IrqKind {
    fn from(kind: InterruptKind) -> Self {
        match kind {
            InterruptKind::Intx => Self::Intx,
            InterruptKind::Msi => Self::Msi,
            InterruptKind::Msix => Self::Msix,
        }
    }
}

impl fmt::Display for IrqKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intx => "INTx",
            Self::Msi => "MSI",
            Self::Msix => "MSI-X",
            Self::Err => "error interrupt",
            Self::Req => "release request",
        })
    }
}

/// What the kernel says of one kind of interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IrqInfo {
    /// How many there are, never 0.
    pub count: u32,
    /// Whether they can be masked by `SET_IRQS`; MSI and MSI-X never can.
    pub maskable: bool,
    /// Whether the kernel masks it by itself each time it comes.
    pub automasked: bool,
    /// Whether the number in use can only be changed by switching all of them off first.
    pub noresize: bool,
}

impl IrqInfo {
    /// Asks for a kind. One that the device does not have (`EINVAL`, or count 0) is `None`.
    pub(crate) fn query(host: &Host, device: BorrowedFd<'_>, kind: IrqKind) -> Result<Option<Self>, Errno> {
        let info = match host.irq_info(device, kind.get()) {
            Ok(info) => info,
            Err(Errno::EINVAL) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let usable = info.count > 0 && info.flags & v::VFIO_IRQ_INFO_EVENTFD != 0;
        Ok(usable.then_some(Self {
            count: info.count,
            maskable: info.flags & v::VFIO_IRQ_INFO_MASKABLE != 0,
            automasked: info.flags & v::VFIO_IRQ_INFO_AUTOMASKED != 0,
            noresize: info.flags & v::VFIO_IRQ_INFO_NORESIZE != 0,
        }))
    }
}

/// Why interrupts were not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IrqError {
    /// The kernel refused.
    #[error("{kind}: cannot {action} {count} from {start} on: {errno}{}", remedy(*errno))]
    Refused {
        /// The kind of interrupt.
        kind: IrqKind,
        /// What was to be done.
        action: IrqChange,
        /// The first interrupt it was about.
        start: u32,
        /// How many it was about.
        count: u32,
        /// What the kernel said.
        errno: Errno,
    },
    /// The host has fewer interrupts than were asked for, and gave none.
    #[error(
        "{kind}: the host has {available} interrupts for this device, {wanted} were asked for; none is on"
    )]
    Fewer {
        /// The kind of interrupt.
        kind: IrqKind,
        /// How many were asked for.
        wanted: u32,
        /// How many there are.
        available: u32,
    },
    /// No eventfd could be made.
    #[error("{kind}: no eventfd for interrupt {vector}: {errno}{}", remedy(*errno))]
    NoEvent {
        /// The kind of interrupt.
        kind: IrqKind,
        /// Which interrupt it was for.
        vector: u32,
        /// What the kernel said.
        errno: Errno,
    },
    /// No eventfd could be made or used that tells of a device that is gone.
    #[error("no eventfd tells of a device that is gone: {errno}{}", remedy(*errno))]
    NoGoneEvent {
        /// What the kernel said.
        errno: Errno,
    },
}

/// What a change of interrupts does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IrqChange {
    /// Leads interrupts to eventfds.
    Wire,
    /// Takes interrupts off their eventfds.
    Unwire,
    /// Switches the kind off.
    Off,
    /// Unmasks the pin, now or whenever an eventfd says so.
    Unmask,
}

impl fmt::Display for IrqChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wire => "wire",
            Self::Unwire => "unwire",
            Self::Off => "switch off",
            Self::Unmask => "unmask",
        })
    }
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSPC => "; the host has run out of interrupt vectors",
        Errno::EMFILE => "; raise RLIMIT_NOFILE (`ulimit -n`)",
        Errno::EBUSY => "; the line is shared with another host device, whose driver must be unbound",
        _ => "",
    }
}

/// The interrupts of one device.
pub(crate) struct Irqs<'a> {
    pub(crate) host: &'a Host,
    pub(crate) device: BorrowedFd<'a>,
    pub(crate) kind: IrqKind,
}

impl Irqs<'_> {
    /// Leads the interrupts from `start` on to `events`; none takes that one off its event.
    ///
    /// The first call for a kind switches it on. A call that fails midway has taken every interrupt from
    /// `start` on off its event.
    pub(crate) fn wire(&self, start: u32, events: &[Option<&EventFd>]) -> Result<(), IrqError> {
        let fds: Vec<_> = events.iter().map(|event| event.map(AsFd::as_fd)).collect();
        let change = if fds.iter().any(Option::is_some) { IrqChange::Wire } else { IrqChange::Unwire };
        self.set(change, start, IrqData::EventFds(&fds), fds.len() as u32)
    }

    /// Switches the kind off. `EINVAL` where it is not on.
    pub(crate) fn off(&self) -> Result<(), IrqError> {
        // With a count above 0 this very request would fire that many interrupts.
        self.set(IrqChange::Off, 0, IrqData::None { count: 0 }, 0)
    }

    /// Unmasks the pin.
    pub(crate) fn unmask(&self) -> Result<(), IrqError> {
        self.set(IrqChange::Unmask, 0, IrqData::Unmask, 1)
    }

    /// The pin is unmasked each time that `event` is signalled, until INTx is switched off.
    pub(crate) fn unmask_on(&self, event: &EventFd) -> Result<(), IrqError> {
        self.set(IrqChange::Unmask, 0, IrqData::UnmaskOn(event.as_fd()), 1)
    }

    fn set(&self, action: IrqChange, start: u32, data: IrqData<'_>, count: u32) -> Result<(), IrqError> {
        let kind = self.kind;
        let set = IrqSet { index: kind.get(), start, data };
        match self.host.set_irqs(self.device, &set) {
            Ok(0) => Ok(()),
            Ok(available) => Err(IrqError::Fewer { kind, wanted: count, available }),
            Err(errno) => Err(IrqError::Refused { kind, action, start, count, errno }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_names_kind_range_and_errno() {
        let error = IrqError::Refused {
            kind: IrqKind::Msix,
            action: IrqChange::Wire,
            start: 3,
            count: 5,
            errno: Errno::ENOSPC,
        };
        let text = "MSI-X: cannot wire 5 from 3 on: ENOSPC, No space left on device; \
            the host has run out of interrupt vectors";
        assert_eq!(error.to_string(), text);
    }
}
