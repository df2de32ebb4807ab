//! A region of a VFIO device: a BAR, the ROM, configuration space, and what the kernel lets us map of it.

use crate::info::{self, InfoError};
use crate::kernel::Host;
use std::fmt;
use std::os::fd::BorrowedFd;
use vfio_assign_core::region_info::{self, ChainFinding};
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
        let found = region_info::RegionInfo::parse(info)?;
        Some(Self {
            index,
            size: found.size,
            offset: found.offset,
            readable: found.readable,
            writable: found.writable,
            msix_mappable: found.msix_mappable,
            areas: found.areas().collect(),
            finding: found.finding,
        })
    }
}
