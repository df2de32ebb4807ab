//! A VFIO container: one IOMMU address space, on the legacy interface.

use crate::errno::Errno;
use crate::error::ContainerError;
use crate::info::InfoError;
use crate::iommu::IommuInfo;
use crate::kernel::Host;
use crate::sys::HostRange;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use vfio_bindings::bindings::vfio as v;

/// What stands between a container's devices and the host's memory, by VFIO's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Guard {
    /// An IOMMU, as Type1v2.
    Iommu,
    /// Nothing: VFIO's no-IOMMU mode. Nothing can be mapped for its devices.
    None,
}

impl Guard {
    fn kind(self) -> u32 {
        match self {
            Self::Iommu => v::VFIO_TYPE1v2_IOMMU,
            Self::None => v::VFIO_NOIOMMU_IOMMU,
        }
    }

    /// The name of a group's file.
    pub(crate) fn group_file(self, number: u32) -> String {
        match self {
            Self::Iommu => number.to_string(),
            Self::None => format!("noiommu-{number}"),
        }
    }
}

/// An open container. Closing it, after its groups, unmaps everything in it.
#[derive(Debug)]
pub(crate) struct Container {
    host: Host,
    fd: Arc<OwnedFd>,
    guard: Guard,
}

impl Container {
    /// Takes the container that was handed in, or opens `vfio` in VFIO's folder of device files, and sees that it
    /// can be used.
    pub(crate) fn open(
        host: &Host,
        folder: &Path,
        given: Option<&Arc<OwnedFd>>,
        guard: Guard,
    ) -> Result<Self, ContainerError> {
        let path = folder.join("vfio");
        let fd = match given {
            Some(given) => given.clone(),
            None => {
                let opened = host.open(&path);
                Arc::new(opened.map_err(|errno| ContainerError::Open { path: path.clone(), errno })?)
            }
        };
        let stranger = |errno| ContainerError::NotVfio { path, errno };
        let version = host.api_version(fd.as_fd()).map_err(stranger.clone())?;
        if version != v::VFIO_API_VERSION {
            return Err(ContainerError::Version { found: version });
        }
        if host.check_extension(fd.as_fd(), guard.kind()).map_err(stranger)? == 0 {
            return Err(match guard {
                Guard::Iommu => ContainerError::NoType1v2,
                Guard::None => ContainerError::NoUnguarded,
            });
        }
        Ok(Self { host: host.clone(), fd, guard })
    }

    /// A container that another process has opened and given its IOMMU.
    pub(crate) fn handed(host: &Host, fd: OwnedFd) -> Self {
        Self { host: host.clone(), fd: Arc::new(fd), guard: Guard::Iommu }
    }

    /// Gives the container its IOMMU, or none; it must have a group by now.
    pub(crate) fn set_iommu(&self) -> Result<(), Errno> {
        self.host.set_iommu(self.fd(), self.guard.kind())
    }

    pub(crate) fn info(&self) -> Result<IommuInfo, InfoError> {
        IommuInfo::query(&self.host, self.fd())
    }

    /// Maps `memory`, which the caller keeps until it has unmapped it or dropped the container.
    pub(crate) fn map(&self, iova: u64, memory: HostRange) -> Result<(), Errno> {
        self.host.map_dma(self.fd(), iova, memory)
    }

    /// Unmaps; gives the number of bytes that were mapped.
    pub(crate) fn unmap(&self, iova: u64, size: u64) -> Result<u64, Errno> {
        self.host.unmap_dma(self.fd(), iova, size)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
