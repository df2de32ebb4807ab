//! An open device's file, on either interface, with what must stay open longer than it.

use crate::cdev::Cdev;
use crate::group::Group;
use crate::options::Backend;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// An open device's file. Dropping it closes the device, and then what only it used.
#[derive(Debug)]
pub(crate) enum OpenedFile {
    /// Opened through its group.
    Grouped {
        // Dropped in this order: the device is closed before its group.
        fd: OwnedFd,
        group: Arc<Group>,
    },
    /// Opened by itself.
    Cdev(Cdev),
}

impl OpenedFile {
    pub(crate) fn backend(&self) -> Backend {
        match self {
            Self::Grouped { .. } => Backend::Group,
            Self::Cdev(_) => Backend::Cdev,
        }
    }

    /// The device's number in its iommufd.
    pub(crate) fn iommufd_id(&self) -> Option<u32> {
        match self {
            Self::Grouped { .. } => None,
            Self::Cdev(cdev) => Some(cdev.id()),
        }
    }

    /// The number of the device's IOMMU group.
    pub(crate) fn group_number(&self) -> u32 {
        match self {
            Self::Grouped { group, .. } => group.number(),
            Self::Cdev(cdev) => cdev.group(),
        }
    }
}

impl AsFd for OpenedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Grouped { fd, .. } => fd.as_fd(),
            Self::Cdev(cdev) => cdev.fd(),
        }
    }
}
