//! What an IOMMU can reach: the ranges, page sizes and limits that the kernel tells.

use crate::info::{self, InfoError};
use crate::kernel::Host;
use std::os::fd::BorrowedFd;
use vfio_assign_core::region_info::{ChainFinding, InfoChain};
use vfio_assign_core::{Iova, Span};
use vfio_bindings::bindings::vfio as v;

/// What the kernel says of the IOMMU behind an address space.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IommuInfo {
    /// The addresses that devices can reach, without the host's reserved ones. None: the kernel does not
    /// tell, and every mapping has to be tried.
    pub ranges: Option<Vec<Span<Iova>>>,
    /// The page sizes, one bit each, or on iommufd the smallest only; 0 where the kernel does not tell.
    pub page_sizes: u64,
    /// How many more mappings may be made; iommufd has no such limit.
    pub mappings_left: Option<u32>,
    /// What is wrong with the kernel's answer; the capabilities behind it are not known.
    pub finding: Option<ChainFinding>,
}

impl IommuInfo {
    /// More ranges than this are not asked for: no host reserves so many.
    pub(crate) const MOST_RANGES: usize = 0x1_0000;

    /// Bytes that the answers of the hosts there are fit into, so that they are asked once.
    const ROOM: usize = size_of::<v::vfio_iommu_type1_info>() + 1024;

    /// What an address space of iommufd says.
    pub(crate) fn of_ioas(ranges: impl Iterator<Item = (u64, u64)>, alignment: u64) -> Self {
        let spans = ranges.filter_map(|(start, last)| Span::new(Iova::new(start), Iova::new(last)));
        Self { ranges: Some(spans.collect()), page_sizes: alignment, ..Self::default() }
    }

    /// Asks a container that has an IOMMU.
    pub(crate) fn query(host: &Host, container: BorrowedFd<'_>) -> Result<Self, InfoError> {
        let info = info::ask(Self::ROOM, |info| host.iommu_info(container, info))?;
        Ok(Self::parse(&info))
    }

    /// Reads a `vfio_iommu_type1_info` and its capabilities.
    fn parse(info: &[u8]) -> Self {
        let flags = info::u32_at(info, 4).unwrap_or(0);
        let pages = info::u64_at(info, 8).unwrap_or(0);
        let first = info::u32_at(info, 16).unwrap_or(0);
        let mut parsed = Self {
            page_sizes: if flags & v::VFIO_IOMMU_INFO_PGSIZES != 0 { pages } else { 0 },
            ..Self::default()
        };
        if flags & v::VFIO_IOMMU_INFO_CAPS != 0 {
            parsed.finding = parsed.read_capabilities(info, first).err();
        }
        parsed
    }

    fn read_capabilities(&mut self, info: &[u8], first: u32) -> Result<(), ChainFinding> {
        for capability in InfoChain::new(info, size_of::<v::vfio_iommu_type1_info>(), first) {
            let capability = capability?;
            match u32::from(capability.id) {
                v::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                    let spans = capability
                        .pairs()?
                        .filter_map(|(start, end)| Span::new(Iova::new(start), Iova::new(end)));
                    self.ranges = Some(spans.collect());
                }
                v::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                    self.mappings_left = Some(capability.u32_at(8)?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether devices can reach all of `span`. Ranges that adjoin are one.
    pub fn reaches(&self, span: Span<Iova>) -> bool {
        let Some(ranges) = &self.ranges else {
            return true;
        };
        let mut rest = Some(span);
        // Each round takes one range off the front; a range helps at most once.
        for _ in 0..=ranges.len() {
            let Some(left) = rest else {
                return true;
            };
            let Some(range) = ranges.iter().find(|range| range.contains(left.first())) else {
                return false;
            };
            rest = left.subtract(*range).1;
        }
        rest.is_none()
    }

    /// The smallest page in bytes, if the kernel tells.
    pub fn smallest_page(&self) -> Option<u64> {
        (self.page_sizes != 0).then(|| 1 << self.page_sizes.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, last: u64) -> Span<Iova> {
        Span::new(Iova::new(first), Iova::new(last)).unwrap()
    }

    /// A `vfio_iommu_type1_info` with an IOVA range capability, then one that says how many mappings are left.
    fn answer(ranges: &[(u64, u64)], claimed: u32, left: u32) -> Vec<u8> {
        let mut info = vec![0; 8];
        info[4..8].copy_from_slice(&3u32.to_ne_bytes());
        info.extend_from_slice(&0x4020_1000u64.to_ne_bytes());
        info.extend_from_slice(&24u64.to_ne_bytes());
        let next = 24 + 16 + 16 * ranges.len() as u32;
        for field in [0x0001_0001, next, claimed, 0] {
            info.extend_from_slice(&field.to_ne_bytes());
        }
        for (start, end) in ranges {
            info.extend_from_slice(&start.to_ne_bytes());
            info.extend_from_slice(&end.to_ne_bytes());
        }
        for field in [0x0001_0003, 0, left] {
            info.extend_from_slice(&field.to_ne_bytes());
        }
        info
    }

    #[test]
    fn answer_of_an_x86_host() {
        let ranges = [(0, 0xfedf_ffff), (0xfef0_0000, 0xffff_ffff_ffff)];
        let expected = IommuInfo {
            ranges: Some(vec![span(0, 0xfedf_ffff), span(0xfef0_0000, 0xffff_ffff_ffff)]),
            page_sizes: 0x4020_1000,
            mappings_left: Some(65535),
            finding: None,
        };
        assert_eq!(IommuInfo::parse(&answer(&ranges, 2, 65535)), expected);
    }

    #[test]
    fn list_that_is_cut_off_is_a_finding() {
        let info = IommuInfo::parse(&answer(&[], 7, 1));
        assert_eq!(info.finding, Some(ChainFinding::Truncated { offset: 24, size: 52 }));
    }

    #[test]
    fn range_that_ends_before_it_starts_is_left_out() {
        let info = IommuInfo::parse(&answer(&[(5, 4), (8, 9)], 2, 1));
        assert_eq!(info.ranges, Some(vec![span(8, 9)]));
    }

    #[test]
    fn smallest_page_is_the_lowest_bit() {
        assert_eq!(IommuInfo::parse(&answer(&[], 0, 1)).smallest_page(), Some(0x1000));
    }

    fn reaching(ranges: &[(u64, u64)]) -> IommuInfo {
        let ranges = ranges.iter().map(|(first, last)| span(*first, *last)).collect();
        IommuInfo { ranges: Some(ranges), ..IommuInfo::default() }
    }

    #[test]
    fn hole_is_not_reached() {
        let info = reaching(&[(0, 0xfedf_ffff), (0xfef0_0000, u64::MAX)]);
        assert!(!info.reaches(span(0xfee0_0000, 0xfee0_0fff)));
    }

    #[test]
    fn span_over_a_hole_is_not_reached() {
        let info = reaching(&[(0, 0xfedf_ffff), (0xfef0_0000, u64::MAX)]);
        assert!(!info.reaches(span(0xfed0_0000, 0xfeff_ffff)));
    }

    #[test]
    fn span_over_adjoining_ranges_is_reached() {
        let info = reaching(&[(0x2000, 0x2fff), (0, 0x1fff)]);
        assert!(info.reaches(span(0x1000, 0x2fff)));
    }

    #[test]
    fn without_ranges_everything_may_be_tried() {
        assert!(IommuInfo::default().reaches(span(0, u64::MAX)));
    }
}
