//! A VFIO group: the devices that an IOMMU cannot tell apart, and so go to one VM together.

use crate::container::{Container, Guard};
use crate::errno::Errno;
use crate::error::{GroupAction, GroupError};
use crate::kernel::Host;
use crate::retry::RetryPolicy;
use crate::space::AddressSpace;
use crate::sysfs::Sysfs;
use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use vfio_bindings::bindings::vfio as v;

/// Whoever must know which VFIO files a VM uses: KVM, for its KVM-VFIO device.
///
/// KVM learns from it that devices may do DMA past the CPU's caches, and that the group is in use.
pub trait VfioFiles: Send + Sync + fmt::Debug {
    /// This file is about to be used.
    ///
    /// # Errors
    ///
    /// What the kernel said; the device is then not opened.
    fn add(&self, file: BorrowedFd<'_>) -> Result<(), Errno>;

    /// This file, once added, is no longer used.
    ///
    /// # Errors
    ///
    /// What the kernel said; it is logged.
    fn remove(&self, file: BorrowedFd<'_>) -> Result<(), Errno>;
}

/// An open group that has no address space yet.
#[derive(Debug)]
pub(crate) struct LooseGroup {
    host: Host,
    number: u32,
    fd: OwnedFd,
}

/// A group in an address space. Its devices keep it; it keeps the address space.
#[derive(Debug)]
pub(crate) struct Group {
    // Dropped in this order: the group is closed before the container.
    loose: LooseGroup,
    files: Option<Arc<dyn VfioFiles>>,
    space: Arc<AddressSpace>,
}

impl LooseGroup {
    /// Opens a group, or takes the one that was handed in, and sees that all of it can be given to a guest.
    pub(crate) fn open(
        host: &Host,
        sysfs: &Sysfs,
        folder: &Path,
        guard: Guard,
        number: u32,
        retry: &RetryPolicy,
        given: Option<OwnedFd>,
    ) -> Result<Self, GroupError> {
        let path = folder.join(guard.group_file(number));
        let fd = match given {
            Some(fd) => fd,
            None => {
                let opened = retry.run(&format_args!("IOMMU group {number}"), || host.open(&path));
                opened.map_err(|errno| match errno {
                    Errno::EBUSY => GroupError::InUse { group: number, path },
                    errno => GroupError::Open { group: number, path, errno },
                })?
            }
        };
        let status = host.group_status(fd.as_fd()).map_err(|errno| GroupError::Refused {
            group: number,
            action: GroupAction::Status,
            errno,
        })?;
        if status & v::VFIO_GROUP_FLAGS_VIABLE == 0 {
            // A list that cannot be read must not hide what is wrong with the group.
            let members = sysfs.group_members(number).unwrap_or_else(|error| {
                log::warn!("IOMMU group {number}: {error}");
                Vec::new()
            });
            return Err(GroupError::NotViable { group: number, members });
        }
        if status & v::VFIO_GROUP_FLAGS_CONTAINER_SET != 0 {
            return Err(GroupError::HasContainer { group: number });
        }
        Ok(Self { host: host.clone(), number, fd })
    }

    /// A group that another process has opened and put into its container.
    pub(crate) fn handed(host: &Host, number: u32, fd: OwnedFd) -> Self {
        Self { host: host.clone(), number, fd }
    }

    /// Joins a container; `false` where the kernel says that the two do not go together.
    pub(crate) fn join(&self, container: &Container) -> Result<bool, GroupError> {
        match self.host.set_container(self.fd.as_fd(), container.fd()) {
            Ok(()) => Ok(true),
            Err(Errno::EINVAL) => Ok(false),
            Err(errno) => Err(self.refused(GroupAction::SetContainer, errno)),
        }
    }

    pub(crate) fn refused(&self, action: GroupAction, errno: Errno) -> GroupError {
        GroupError::Refused { group: self.number, action, errno }
    }
}

impl Group {
    /// The group, now that it is in `space`'s container; `files` hears of it.
    ///
    /// Arguments go in the order in which they are to live: on failure the group is closed first.
    pub(crate) fn new(
        space: Arc<AddressSpace>,
        files: Option<Arc<dyn VfioFiles>>,
        loose: LooseGroup,
    ) -> Result<Self, GroupError> {
        if let Some(files) = &files {
            files.add(loose.fd.as_fd()).map_err(|errno| loose.refused(GroupAction::TellKvm, errno))?;
        }
        Ok(Self { loose, files, space })
    }

    pub(crate) fn number(&self) -> u32 {
        self.loose.number
    }

    /// The address space of its devices.
    pub(crate) fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// The group's file, by which the kernel sees that it is ours.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.loose.fd.as_fd()
    }

    /// Opens a device of the group. The kernel tries to reset it.
    pub(crate) fn device(&self, name: &CStr) -> Result<OwnedFd, Errno> {
        self.loose.host.device_fd(self.loose.fd.as_fd(), name)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(files) = &self.files else {
            return;
        };
        if let Err(errno) = files.remove(self.loose.fd.as_fd()) {
            log::error!("IOMMU group {}: KVM does not let go of it: {errno}", self.loose.number);
        }
    }
}
