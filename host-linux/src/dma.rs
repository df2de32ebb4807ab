//! The guest's memory as its devices see it: every region at the address it has in the guest.

use crate::container::Container;
use crate::errno::Errno;
use crate::iommu::IommuInfo;
use crate::sys::GuestMemory;
use rustix::process::{Resource, getrlimit};
use std::sync::{Mutex, PoisonError};
use vfio_assign_core::Span;
use vfio_assign_core::{GuestAddr, Iova};

/// A part of some memory, and where the guest sees it.
#[derive(Clone, Debug)]
pub struct GuestRegion {
    /// Where the guest sees it.
    pub guest: Span<GuestAddr>,
    /// The memory.
    pub memory: GuestMemory,
    /// The first byte of it, from the memory's start.
    pub offset: u64,
}

/// Why memory was not mapped for devices, or not unmapped. A mapping that fails leaves nothing of it behind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmaError {
    /// The region is longer than the memory it is to show.
    #[error("region {span} is longer than the memory behind it: {size:#x} bytes from {offset:#x} on")]
    NoMemory {
        /// The region.
        span: Span<Iova>,
        /// The first byte of the memory.
        offset: u64,
        /// The memory's size.
        size: u64,
    },
    /// An end of the region lies within a page of the IOMMU.
    #[error("region {span} does not start and end at pages of the IOMMU, {page:#x} bytes")]
    Unaligned {
        /// The region.
        span: Span<Iova>,
        /// The smallest page in bytes.
        page: u64,
    },
    /// Devices cannot reach the region: it is beyond the IOMMU's address width, or the host reserves it.
    #[error("the IOMMU does not reach all of {span}; it reaches {}", List(ranges))]
    Unreachable {
        /// The region.
        span: Span<Iova>,
        /// What can be reached.
        ranges: Vec<Span<Iova>>,
    },
    /// The region overlaps another (`EEXIST`).
    #[error("region {span} overlaps one that is mapped already")]
    Overlap {
        /// The region.
        span: Span<Iova>,
    },
    /// The process may not lock so much memory (`ENOMEM`).
    #[error("region {span} would lock more memory than allowed, {}; raise RLIMIT_MEMLOCK (`ulimit -l`)",
        Limit(*limit))]
    LockedMemory {
        /// The region.
        span: Span<Iova>,
        /// The limit in bytes; none is no limit.
        limit: Option<u64>,
    },
    /// The kernel allows no more mappings (`ENOSPC`).
    #[error("region {span} is one mapping too many; raise vfio_iommu_type1's parameter dma_entry_limit")]
    TooMany {
        /// The region.
        span: Span<Iova>,
    },
    /// The kernel refused for another reason.
    #[error("the kernel does not map {span}: {errno}{}", map_remedy(*errno))]
    Refused {
        /// The region.
        span: Span<Iova>,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel does not tell what the IOMMU can do.
    #[error("VFIO does not tell what the IOMMU can do: {0}")]
    Info(#[from] crate::info::InfoError),
    /// The thread that mapped it in the background came to a bad end, which it has printed.
    #[error("the thread that maps guest memory for devices has panicked")]
    Panicked,
    /// No such region is mapped.
    #[error("no region {span} is mapped")]
    NotMapped {
        /// The region.
        span: Span<Iova>,
    },
    /// The kernel did not unmap.
    #[error("the kernel does not unmap {span}: {errno}")]
    NotUnmapped {
        /// The region.
        span: Span<Iova>,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel unmapped another number of bytes.
    #[error("the kernel unmapped {unmapped:#x} bytes of {span}")]
    HalfUnmapped {
        /// The region.
        span: Span<Iova>,
        /// How many bytes it unmapped.
        unmapped: u64,
    },
}

fn map_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EINVAL => "; it may be beyond the IOMMU's address width, or reserved by the host",
        Errno::EFAULT => "; the host memory behind it is not mapped, or not writable",
        _ => "",
    }
}

struct List<'a>(&'a [Span<Iova>]);

impl std::fmt::Display for List<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (n, span) in self.0.iter().enumerate() {
            write!(f, "{}{span}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

struct Limit(Option<u64>);

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{} KiB", bytes / 1024),
            None => f.write_str("which should not be, there is no limit"),
        }
    }
}

impl GuestRegion {
    pub(crate) fn iova(&self) -> Span<Iova> {
        Self::iova_of(self.guest)
    }

    /// Devices see memory where the guest does.
    pub(crate) fn iova_of(guest: Span<GuestAddr>) -> Span<Iova> {
        guest.moved_to(Iova::new(guest.first().get())).expect("the same numbers fit the same space")
    }
}

/// An IOMMU address space and what is mapped in it.
#[derive(Debug)]
pub(crate) struct AddressSpace {
    // Dropped in this order: the container, which unmaps everything, before the memory.
    container: Container,
    mapped: Mutex<Vec<GuestRegion>>,
}

impl AddressSpace {
    /// The address space of a container that has its IOMMU.
    pub(crate) fn new(container: Container) -> Self {
        Self { container, mapped: Mutex::default() }
    }

    pub(crate) fn container(&self) -> &Container {
        &self.container
    }

    pub(crate) fn info(&self) -> Result<IommuInfo, DmaError> {
        Ok(self.container.info()?)
    }

    /// Maps all of `regions`, or none; `threads` find pages for them.
    pub(crate) fn map(&self, regions: &[GuestRegion], threads: usize) -> Result<(), DmaError> {
        let info = self.info()?;
        for (earlier, region) in regions.iter().enumerate() {
            check(&info, region)?;
            if info.mappings_left.is_some_and(|left| left as usize <= earlier) {
                return Err(DmaError::TooMany { span: region.iova() });
            }
        }
        for region in regions {
            // Only for speed: what is missing or impossible is found out, and said, by the mapping.
            if let Err(errno) = region.memory.prefault(region.offset, region.guest.size(), threads) {
                log::debug!("{} is not prefaulted: {errno}", region.guest);
            }
        }
        for (done, region) in regions.iter().enumerate() {
            if let Err(error) = self.map_one(region) {
                self.roll_back(&regions[..done]);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Unmaps what was mapped as one region.
    pub(crate) fn unmap(&self, span: Span<Iova>) -> Result<(), DmaError> {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        let place = mapped.iter().position(|region| region.iova() == span);
        let place = place.ok_or(DmaError::NotMapped { span })?;
        let unmapped = self.container.unmap(span.first().get(), span.size());
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
        self.container.map(span.first().get(), memory).map_err(|errno| match errno {
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

/// Refuses beforehand what the kernel would refuse later with less to say.
fn check(info: &IommuInfo, region: &GuestRegion) -> Result<(), DmaError> {
    let span = region.iova();
    if region.memory.range(region.offset, span.size()).is_none() {
        return Err(no_memory(region));
    }
    if let Some(page) = info.smallest_page()
        && (!span.first().get().is_multiple_of(page) || !span.size().is_multiple_of(page))
    {
        return Err(DmaError::Unaligned { span, page });
    }
    if !info.reaches(span) {
        let ranges = info.ranges.clone().unwrap_or_default();
        return Err(DmaError::Unreachable { span, ranges });
    }
    Ok(())
}

fn no_memory(region: &GuestRegion) -> DmaError {
    DmaError::NoMemory { span: region.iova(), offset: region.offset, size: region.memory.size() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::MemoryBacking;

    fn region(first: u64, size: u64) -> GuestRegion {
        GuestRegion {
            guest: Span::from_size(GuestAddr::new(first), size).unwrap(),
            memory: GuestMemory::new(0x4000, MemoryBacking::Anonymous).unwrap(),
            offset: 0,
        }
    }

    fn span(first: u64, last: u64) -> Span<Iova> {
        Span::new(Iova::new(first), Iova::new(last)).unwrap()
    }

    fn info() -> IommuInfo {
        let ranges = Some(vec![span(0, 0xfedf_ffff), span(0xfef0_0000, 0x7f_ffff_ffff)]);
        IommuInfo { ranges, page_sizes: 0x1000, mappings_left: Some(9), finding: None }
    }

    #[test]
    fn region_in_reach_is_fine() {
        assert_eq!(check(&info(), &region(0x1000, 0x4000)), Ok(()));
    }

    #[test]
    fn region_over_the_reserved_range_is_named() {
        let error = check(&info(), &region(0xfedf_f000, 0x4000)).unwrap_err();
        let text = "the IOMMU does not reach all of 0xfedff000..=0xfee02fff; \
            it reaches 0x0..=0xfedfffff, 0xfef00000..=0x7fffffffff";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn region_longer_than_its_memory_is_refused() {
        let error = DmaError::NoMemory { span: span(0, 0x4fff), offset: 0, size: 0x4000 };
        assert_eq!(check(&info(), &region(0, 0x5000)), Err(error));
    }

    #[test]
    fn region_within_a_page_is_refused() {
        let error = DmaError::Unaligned { span: span(0x800, 0x17ff), page: 0x1000 };
        assert_eq!(check(&info(), &region(0x800, 0x1000)), Err(error));
    }
}
