//! A region of a VFIO device: a BAR, the ROM, configuration space, and what the kernel lets us map of it.

use crate::info::{self, ChainFinding, InfoError};
use crate::kernel::Host;
use std::fmt;
use std::os::fd::BorrowedFd;
use vfio_assign_core::{BarIndex, MmapArea};
use vfio_bindings::bindings::vfio as v;

/// The number of a region that every PCI device has, present or not: `VFIO_PCI_*_REGION_INDEX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionIndex(u32);

impl RegionIndex {
    /// Configuration space.
    pub const CONFIG: Self = Self(7);

    /// BARs 0 to 5, the ROM, configuration space, and the legacy VGA ranges.
    pub(crate) const COUNT: usize = 9;

    /// The region of a BAR or of the ROM.
    pub fn bar(bar: BarIndex) -> Self {
        Self(u32::from(bar.get()))
    }

    /// VFIO's number for it.
    pub fn get(self) -> u32 {
        self.0
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u32).map(Self)
    }

    pub(crate) fn position(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for RegionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..=5 => write!(f, "BAR{}", self.0),
            6 => f.write_str("ROM"),
            7 => f.write_str("configuration space"),
            8 => f.write_str("VGA"),
            other => write!(f, "region {other}"),
        }
    }
}

impl fmt::Debug for RegionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the kernel says of a region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegionInfo {
    /// Which region it is.
    pub index: RegionIndex,
    /// Its size in bytes, never 0.
    pub size: u64,
    /// Where it lies in the device's file.
    pub offset: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether mapping the MSI-X table is allowed, too (`VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`).
    pub msix_mappable: bool,
    /// What can be mapped, exactly as the kernel offered it: perhaps unsorted, overlapping, or empty.
    pub areas: Vec<MmapArea>,
    /// What is wrong with the kernel's answer; the capabilities behind it are not known.
    pub finding: Option<ChainFinding>,
}

impl RegionInfo {
    /// Asks for a region. A region that the device does not have (`EINVAL`, or size 0) is `None`; any other
    /// error is an error, since a BAR that is there must not be lost to a passing failure.
    pub(crate) fn query(
        host: &Host,
        device: BorrowedFd<'_>,
        index: RegionIndex,
    ) -> Result<Option<Self>, InfoError> {
        let size = size_of::<v::vfio_region_info>();
        match info::ask(size, |info| host.region_info(device, index.get(), info)) {
            Ok(info) => Ok(Self::parse(index, &info)),
            Err(InfoError::Kernel(crate::Errno::EINVAL)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a `vfio_region_info` and its capabilities.
    fn parse(index: RegionIndex, info: &[u8]) -> Option<Self> {
        let flags = info::u32_at(info, 4)?;
        let first = info::u32_at(info, 12)?;
        let size = info::u64_at(info, 16)?;
        let offset = info::u64_at(info, 24)?;
        if size == 0 {
            return None;
        }
        let mut region = Self {
            index,
            size,
            offset,
            readable: flags & v::VFIO_REGION_INFO_FLAG_READ != 0,
            writable: flags & v::VFIO_REGION_INFO_FLAG_WRITE != 0,
            msix_mappable: false,
            areas: Vec::new(),
            finding: None,
        };
        let first = if flags & v::VFIO_REGION_INFO_FLAG_CAPS != 0 { first } else { 0 };
        let mut sparse = None;
        region.finding = region.read_capabilities(info, first, &mut sparse).err();
        if flags & v::VFIO_REGION_INFO_FLAG_MMAP != 0 {
            region.areas = match (sparse, region.finding) {
                (Some(areas), _) => areas,
                (None, None) => vec![MmapArea { offset: 0, size }],
                // A list may have stood behind the finding; without it, nothing is known to be mappable.
                (None, Some(_)) => Vec::new(),
            };
        }
        Some(region)
    }

    fn read_capabilities(
        &mut self,
        info: &[u8],
        first: u32,
        sparse: &mut Option<Vec<MmapArea>>,
    ) -> Result<(), ChainFinding> {
        for capability in info::capabilities(info, size_of::<v::vfio_region_info>(), first) {
            let capability = capability?;
            match u32::from(capability.id) {
                v::VFIO_REGION_INFO_CAP_SPARSE_MMAP => {
                    let areas = info::pairs(capability, info.len())?;
                    let areas = areas.into_iter().map(|(offset, size)| MmapArea { offset, size });
                    *sparse = Some(areas.collect());
                }
                v::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE => self.msix_mappable = true,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u32 = v::VFIO_REGION_INFO_FLAG_READ;
    const MMAP: u32 = v::VFIO_REGION_INFO_FLAG_MMAP;
    const CAPS: u32 = v::VFIO_REGION_INFO_FLAG_CAPS;

    fn region_info(flags: u32, cap_offset: u32, size: u64, capabilities: &[u8]) -> Vec<u8> {
        let mut info = Vec::new();
        for field in [32 + capabilities.len() as u32, flags, 0, cap_offset] {
            info.extend_from_slice(&field.to_ne_bytes());
        }
        info.extend_from_slice(&size.to_ne_bytes());
        info.extend_from_slice(&0x1_0000u64.to_ne_bytes());
        info.extend_from_slice(capabilities);
        info
    }

    fn sparse(next: u32, claimed: u32, areas: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![1, 0, 1, 0];
        bytes.extend_from_slice(&next.to_ne_bytes());
        bytes.extend_from_slice(&claimed.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for (offset, size) in areas {
            bytes.extend_from_slice(&offset.to_ne_bytes());
            bytes.extend_from_slice(&size.to_ne_bytes());
        }
        bytes
    }

    fn parse(info: &[u8]) -> Option<RegionInfo> {
        RegionInfo::parse(RegionIndex(0), info)
    }

    #[test]
    fn size_zero_is_absent() {
        assert_eq!(parse(&region_info(READ, 0, 0, &[])), None);
    }

    #[test]
    fn without_a_list_the_whole_region_is_offered() {
        let region = parse(&region_info(READ | MMAP, 0, 0x4000, &[])).unwrap();
        assert_eq!(region.areas, [MmapArea { offset: 0, size: 0x4000 }]);
    }

    #[test]
    fn without_mmap_nothing_is_offered() {
        let region = parse(&region_info(READ | CAPS, 32, 0x4000, &sparse(0, 1, &[(0, 0x1000)]))).unwrap();
        assert_eq!(region.areas, []);
    }

    #[test]
    fn areas_are_kept_as_offered() {
        let list = sparse(0, 2, &[(0x3000, 0x1000), (0, 0)]);
        let region = parse(&region_info(MMAP | CAPS, 32, 0x4000, &list)).unwrap();
        let offered = [MmapArea { offset: 0x3000, size: 0x1000 }, MmapArea { offset: 0, size: 0 }];
        assert_eq!((region.areas.as_slice(), region.finding), (&offered[..], None));
    }

    #[test]
    fn capability_offset_without_the_flag_is_no_chain() {
        let region = parse(&region_info(MMAP, 32, 0x4000, &sparse(0, 9, &[]))).unwrap();
        assert_eq!(region.finding, None);
    }

    #[test]
    fn msix_mappable_behind_a_list() {
        let mut capabilities = sparse(64, 1, &[(0, 0x1000)]);
        capabilities.extend_from_slice(&[3, 0, 1, 0, 0, 0, 0, 0]);
        let region = parse(&region_info(MMAP | CAPS, 32, 0x4000, &capabilities)).unwrap();
        assert!(region.msix_mappable);
    }

    #[test]
    fn list_that_is_cut_off_offers_nothing() {
        let list = sparse(0, 3, &[(0, 0x1000)]);
        let region = parse(&region_info(MMAP | CAPS, 32, 0x4000, &list)).unwrap();
        let finding = ChainFinding::Truncated { offset: 32, size: 64 };
        assert_eq!((region.areas.len(), region.finding), (0, Some(finding)));
    }

    #[test]
    fn loop_behind_the_list_keeps_the_list() {
        let list = sparse(32, 1, &[(0, 0x1000)]);
        let region = parse(&region_info(MMAP | CAPS, 32, 0x4000, &list)).unwrap();
        let finding = ChainFinding::NotForward { offset: 32, previous: 32 };
        assert_eq!((region.areas.len(), region.finding), (1, Some(finding)));
    }
}
