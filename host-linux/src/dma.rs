//! The guest's memory as its devices see it: every region at the address it has in the guest.

use crate::errno::Errno;
use crate::iommu::IommuInfo;
use crate::sys::GuestMemory;
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
    #[error("the IOMMU does not reach all of {span}; memory can lie in {}", List(ranges))]
    Unreachable {
        /// The region.
        span: Span<Iova>,
        /// What can be reached.
        ranges: Vec<Span<Iova>>,
    },
    /// The region overlaps another (`EEXIST`).
    #[error(
        "region {span} overlaps one that is mapped already; remove that one first, or place this one elsewhere"
    )]
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
    /// It is a part of a region that is one mapping, of which the kernel cannot unmap parts.
    #[error("{span} is a part of region {region}, which was added as one, and goes as one")]
    Part {
        /// What was to be removed.
        span: Span<Iova>,
        /// The region.
        region: Span<Iova>,
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
    /// Both as one region, if `next` goes on where this one ends, in the guest and in the memory.
    fn with_neighbour(&self, next: &Self) -> Option<Self> {
        let adjoins = self.guest.last().get().checked_add(1) == Some(next.guest.first().get())
            && self.offset.checked_add(self.guest.size()) == Some(next.offset)
            && self.memory.is_same(&next.memory);
        let guest = Span::new(self.guest.first(), next.guest.last())?;
        // The whole address space has no size.
        (adjoins && guest.size() != 0).then(|| Self {
            guest,
            memory: self.memory.clone(),
            offset: self.offset,
        })
    }

    pub(crate) fn iova(&self) -> Span<Iova> {
        Self::iova_of(self.guest)
    }

    /// Devices see memory where the guest does.
    pub(crate) fn iova_of(guest: Span<GuestAddr>) -> Span<Iova> {
        guest.moved_to(Iova::new(guest.first().get())).expect("the same numbers fit the same space")
    }
}

/// Regions in the order of their addresses, those that adjoin in the guest and in one memory as one.
pub(crate) fn merge(regions: &[GuestRegion]) -> Vec<GuestRegion> {
    let mut sorted = regions.to_vec();
    sorted.sort_by_key(|region| region.guest.first());
    let mut merged: Vec<GuestRegion> = Vec::with_capacity(sorted.len());
    for region in sorted {
        let whole = merged.last().and_then(|last| last.with_neighbour(&region));
        match (whole, merged.last_mut()) {
            (Some(whole), Some(last)) => *last = whole,
            _ => merged.push(region),
        }
    }
    merged
}

/// The first of some sorted regions that overlaps the one before it, or one that is there.
pub(crate) fn overlapping(sorted: &[GuestRegion], there: &[GuestRegion]) -> Option<Span<Iova>> {
    let overlaps = |(place, region): (usize, &GuestRegion)| {
        let before = place.checked_sub(1).and_then(|before| sorted.get(before));
        let overlap = before.into_iter().chain(there).any(|other| other.guest.overlaps(region.guest));
        overlap.then(|| region.iova())
    };
    sorted.iter().enumerate().find_map(overlaps)
}

/// Refuses beforehand what the kernel would refuse later with less to say.
pub(crate) fn check(info: &IommuInfo, region: &GuestRegion) -> Result<(), DmaError> {
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

pub(crate) fn no_memory(region: &GuestRegion) -> DmaError {
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
            memory can lie in 0x0..=0xfedfffff, 0xfef00000..=0x7fffffffff";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn region_longer_than_its_memory_is_refused() {
        let error = DmaError::NoMemory { span: span(0, 0x4fff), offset: 0, size: 0x4000 };
        assert_eq!(check(&info(), &region(0, 0x5000)), Err(error));
    }

    /// Parts of one memory of 16 KiB, each with its place in the guest and in the memory.
    fn parts(parts: &[(u64, u64, u64)]) -> Vec<GuestRegion> {
        let memory = GuestMemory::new(0x4000, MemoryBacking::Anonymous).unwrap();
        let part = |(first, size, offset): &(u64, u64, u64)| GuestRegion {
            guest: Span::from_size(GuestAddr::new(*first), *size).unwrap(),
            memory: memory.clone(),
            offset: *offset,
        };
        parts.iter().map(part).collect()
    }

    fn merged(regions: &[GuestRegion]) -> Vec<(u64, u64, u64)> {
        let merged = merge(regions);
        merged.iter().map(|region| (region.guest.first().get(), region.guest.size(), region.offset)).collect()
    }

    #[test]
    fn neighbours_are_merged_whatever_their_order() {
        let parts = parts(&[(0x2000, 0x1000, 0x1000), (0x1000, 0x1000, 0), (0x3000, 0x2000, 0x2000)]);
        assert_eq!(merged(&parts), [(0x1000, 0x4000, 0)]);
    }

    #[test]
    fn hole_in_the_guest_keeps_regions_apart() {
        let parts = parts(&[(0, 0x1000, 0), (0x2000, 0x1000, 0x1000)]);
        assert_eq!(merged(&parts), [(0, 0x1000, 0), (0x2000, 0x1000, 0x1000)]);
    }

    #[test]
    fn hole_in_the_memory_keeps_regions_apart() {
        let parts = parts(&[(0, 0x1000, 0), (0x1000, 0x1000, 0x2000)]);
        assert_eq!(merged(&parts), [(0, 0x1000, 0), (0x1000, 0x1000, 0x2000)]);
    }

    #[test]
    fn regions_of_different_memory_stay_apart() {
        let mut regions = vec![region(0, 0x1000), region(0x1000, 0x1000)];
        regions[1].offset = 0x1000;
        assert_eq!(merged(&regions), [(0, 0x1000, 0), (0x1000, 0x1000, 0x1000)]);
    }

    #[test]
    fn region_over_one_that_is_there_is_found() {
        let there = [region(0, 0x2000)];
        assert_eq!(overlapping(&[region(0x1000, 0x1000)], &there), Some(span(0x1000, 0x1fff)));
        assert_eq!(overlapping(&[region(0x2000, 0x1000)], &there), None);
    }

    #[test]
    fn region_over_another_of_the_same_call_is_found() {
        let sorted = [region(0, 0x2000), region(0x1000, 0x1000)];
        assert_eq!(overlapping(&sorted, &[]), Some(span(0x1000, 0x1fff)));
    }

    #[test]
    fn region_within_a_page_is_refused() {
        let error = DmaError::Unaligned { span: span(0x800, 0x17ff), page: 0x1000 };
        assert_eq!(check(&info(), &region(0x800, 0x1000)), Err(error));
    }
}
