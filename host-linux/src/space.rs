//! One IOMMU address space and what is mapped in it, whichever of the kernel's interfaces it is made with.

use crate::container::Container;
use crate::dma::{DmaError, GuestRegion, check, no_memory};
use crate::errno::Errno;
use crate::ioas::Ioas;
use crate::iommu::IommuInfo;
use crate::progress::Progress;
use rustix::process::{Resource, getrlimit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use vfio_assign_core::{Iova, Span};

/// An IOMMU address space and what is mapped in it.
#[derive(Debug)]
pub(crate) struct AddressSpace {
    // Dropped in this order: the mappings before the memory.
    backend: Backend,
    mapped: Mutex<Vec<GuestRegion>>,
    /// Whether a device has been in it: before, the kernel cannot say what can be reached.
    ready: AtomicBool,
    /// Its number in the process that made it, if that was another.
    handed: Option<u32>,
}

/// What the kernel calls it.
#[derive(Debug)]
enum Backend {
    Container(Container),
    Ioas(Ioas),
}

impl AddressSpace {
    /// The address space of a container that has its IOMMU, and so a group.
    pub(crate) fn of_container(container: Container) -> Self {
        let backend = Backend::Container(container);
        Self { backend, mapped: Mutex::default(), ready: AtomicBool::new(true), handed: None }
    }

    /// The address space of iommufd; no device is attached to it yet.
    pub(crate) fn of_ioas(ioas: Ioas) -> Self {
        let backend = Backend::Ioas(ioas);
        Self { backend, mapped: Mutex::default(), ready: AtomicBool::new(false), handed: None }
    }

    /// Made under this number by another process, in which all of `regions` are mapped.
    pub(crate) fn with_mapped(self, number: u32, regions: &[GuestRegion]) -> Self {
        let mapped = Mutex::new(regions.to_vec());
        Self { mapped, ready: AtomicBool::new(true), handed: Some(number), ..self }
    }

    /// Its number in the process that made it, if that was another.
    pub(crate) fn handed(&self) -> Option<u32> {
        self.handed
    }

    pub(crate) fn container(&self) -> Option<&Container> {
        match &self.backend {
            Backend::Container(container) => Some(container),
            Backend::Ioas(_) => None,
        }
    }

    pub(crate) fn ioas(&self) -> Option<&Ioas> {
        match &self.backend {
            Backend::Container(_) => None,
            Backend::Ioas(ioas) => Some(ioas),
        }
    }

    /// Whether it holds the VM's memory; an address space that no device has been in does not.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The first device is in it, and all of the VM's memory.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// What the devices in it can reach.
    pub(crate) fn info(&self) -> Result<IommuInfo, DmaError> {
        Ok(match &self.backend {
            Backend::Container(container) => container.info()?,
            Backend::Ioas(ioas) => ioas.info()?,
        })
    }

    /// Maps all of `regions`, or none.
    pub(crate) fn map(&self, regions: &[GuestRegion], progress: &Progress<'_>) -> Result<(), DmaError> {
        let info = self.info()?;
        for (earlier, region) in regions.iter().enumerate() {
            check(&info, region)?;
            if info.mappings_left.is_some_and(|left| left as usize <= earlier) {
                return Err(DmaError::TooMany { span: region.iova() });
            }
        }
        for (done, region) in regions.iter().enumerate() {
            if let Err(error) = self.map_one(region) {
                self.roll_back(&regions[..done]);
                return Err(error);
            }
            progress.mapped(region.guest.size());
        }
        Ok(())
    }

    /// Unmaps what was mapped as one region.
    pub(crate) fn unmap(&self, span: Span<Iova>) -> Result<(), DmaError> {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        let place = mapped.iter().position(|region| region.iova() == span);
        let place = place.ok_or(DmaError::NotMapped { span })?;
        let (iova, size) = (span.first().get(), span.size());
        let unmapped = match &self.backend {
            Backend::Container(container) => container.unmap(iova, size),
            Backend::Ioas(ioas) => ioas.unmap(iova, size),
        };
        match unmapped {
            Ok(size) if size == span.size() => {
                // Only now may the memory go.
                drop(mapped.swap_remove(place));
                Ok(())
            }
            Ok(unmapped) => Err(DmaError::HalfUnmapped { span, unmapped }),
            Err(errno) => Err(DmaError::NotUnmapped { span, errno }),
        }
    }

    fn map_one(&self, region: &GuestRegion) -> Result<(), DmaError> {
        let span = region.iova();
        let memory = region.memory.range(region.offset, span.size());
        let memory = memory.ok_or_else(|| no_memory(region))?;
        // Noted under the lock that the call is made under, so that the list is what the kernel has.
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        let iova = span.first().get();
        let result = match &self.backend {
            Backend::Container(container) => container.map(iova, memory),
            Backend::Ioas(ioas) => {
                ioas.map(iova, memory, region.memory.file_part(region.offset, span.size()))
            }
        };
        result.map_err(|errno| match errno {
            Errno::EEXIST => DmaError::Overlap { span },
            Errno::ENOMEM => DmaError::LockedMemory { span, limit: getrlimit(Resource::Memlock).current },
            Errno::ENOSPC => DmaError::TooMany { span },
            errno => DmaError::Refused { span, errno },
        })?;
        mapped.push(region.clone());
        Ok(())
    }

    /// What cannot be unmapped stays in the list, and so keeps its memory.
    pub(crate) fn roll_back(&self, regions: &[GuestRegion]) {
        for region in regions {
            if let Err(error) = self.unmap(region.iova()) {
                log::error!("a mapping for devices cannot be taken back: {error}");
            }
        }
    }
}
