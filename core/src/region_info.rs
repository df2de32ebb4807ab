//! What Linux VFIO says of a region: `struct vfio_region_info` and the chain of capabilities behind it, as bytes.
//!
//! The kernel links capabilities by offsets from the structure's start. They are not trusted: a driver of any quality
//! may stand behind the file. Nothing is copied; numbers are in the machine's own byte order, as the kernel's are.
//!
//! Source: Linux `include/uapi/linux/vfio.h`.

use crate::text::{count, say};
use crate::windows::MmapArea;
use core::fmt;

/// The size of `struct vfio_region_info`, behind which capabilities start.
pub const HEADER: usize = 32;
/// The region can be read: `VFIO_REGION_INFO_FLAG_READ`.
pub const FLAG_READ: u32 = 1 << 0;
/// The region can be written: `VFIO_REGION_INFO_FLAG_WRITE`.
pub const FLAG_WRITE: u32 = 1 << 1;
/// The region can be mapped: `VFIO_REGION_INFO_FLAG_MMAP`.
pub const FLAG_MMAP: u32 = 1 << 2;
/// There are capabilities: `VFIO_REGION_INFO_FLAG_CAPS`.
pub const FLAG_CAPS: u32 = 1 << 3;
/// A list of the parts that can be mapped: `VFIO_REGION_INFO_CAP_SPARSE_MMAP`.
pub const CAP_SPARSE_MMAP: u16 = 1;
/// The MSI-X table may be mapped, too: `VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`.
pub const CAP_MSIX_MAPPABLE: u16 = 3;

/// Why a capability chain ended before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainFinding {
    /// An offset leads into the structure that the chain follows.
    IntoHeader {
        /// The offset.
        offset: u32,
        /// The structure's size.
        header: usize,
    },
    /// An offset does not lead forward; the kernel only ever appends, so this is a loop or rubbish.
    NotForward {
        /// The offset.
        offset: u32,
        /// The capability it stands in.
        previous: u32,
    },
    /// A capability, or the list in it, passes the end of the answer.
    Truncated {
        /// Where the capability starts.
        offset: u32,
        /// The answer's size.
        size: usize,
    },
}

impl fmt::Display for ChainFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::IntoHeader { offset, header } => (
                    "capability offset %x leads into the structure's own %x bytes",
                    [u64::from(offset), count(header), 0],
                ),
                Self::NotForward { offset, previous } => (
                    "capability offset %x follows %x, which is not forward",
                    [u64::from(offset), u64::from(previous), 0],
                ),
                Self::Truncated { offset, size } => (
                    "capability at %x passes the end of the answer, %x bytes",
                    [u64::from(offset), count(size), 0],
                ),
            },
        )
    }
}

/// What the kernel says of a region that the device has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionInfo<'a> {
    /// Its size in bytes, never 0.
    pub size: u64,
    /// Where it lies in the device's file.
    pub offset: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether mapping the MSI-X table is allowed, too.
    pub msix_mappable: bool,
    /// What is wrong with the answer; the capabilities behind it are not known.
    pub finding: Option<ChainFinding>,
    areas: Areas<'a>,
}

/// What can be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Areas<'a> {
    Nothing,
    Whole,
    Listed(Pairs<'a>),
}

impl<'a> RegionInfo<'a> {
    /// Reads an answer. `None`: there is no such region, or the answer is shorter than its fixed part.
    pub fn parse(info: &'a [u8]) -> Option<Self> {
        let flags = u32_at(info, 4)?;
        let first = u32_at(info, 12)?;
        let size = u64_at(info, 16).filter(|size| *size != 0)?;
        let offset = u64_at(info, 24)?;
        let mut region = Self {
            size,
            offset,
            readable: flags & FLAG_READ != 0,
            writable: flags & FLAG_WRITE != 0,
            msix_mappable: false,
            finding: None,
            areas: Areas::Whole,
        };
        let first = if flags & FLAG_CAPS != 0 { first } else { 0 };
        region.finding = region.read_capabilities(InfoChain::new(info, HEADER, first)).err();
        let unknown = region.finding.is_some() && region.areas == Areas::Whole;
        // A list may have stood behind the finding; without it, nothing is known to be mappable.
        if flags & FLAG_MMAP == 0 || unknown {
            region.areas = Areas::Nothing;
        }
        Some(region)
    }

    fn read_capabilities(&mut self, chain: InfoChain<'a>) -> Result<(), ChainFinding> {
        for capability in chain {
            let capability = capability?;
            match capability.id {
                CAP_SPARSE_MMAP => self.areas = Areas::Listed(capability.pairs()?),
                CAP_MSIX_MAPPABLE => self.msix_mappable = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// What can be mapped, exactly as the kernel offered it: perhaps unsorted, overlapping, empty, or outside.
    pub fn areas(&self) -> impl Iterator<Item = MmapArea> + use<'a> {
        let whole = MmapArea { offset: 0, size: self.size };
        let (whole, listed) = match self.areas {
            Areas::Nothing => (None, Pairs(&[])),
            Areas::Whole => (Some(whole), Pairs(&[])),
            Areas::Listed(pairs) => (None, pairs),
        };
        whole.into_iter().chain(listed.map(|(offset, size)| MmapArea { offset, size }))
    }
}

/// One capability of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InfoCapability<'a> {
    /// What it is about.
    pub id: u16,
    /// Where it starts in the answer.
    pub offset: u32,
    /// From the capability's header to the end of the whole answer: headers hold no length.
    bytes: &'a [u8],
}

impl<'a> InfoCapability<'a> {
    fn truncated(self) -> ChainFinding {
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX);
        ChainFinding::Truncated { offset: self.offset, size: offset.saturating_add(self.bytes.len()) }
    }

    /// The 32-bit number at byte `at` of the capability.
    ///
    /// # Errors
    ///
    /// The answer ends before it.
    pub fn u32_at(self, at: usize) -> Result<u32, ChainFinding> {
        u32_at(self.bytes, at).ok_or(self.truncated())
    }

    /// The pairs of 64-bit numbers that the capability lists from byte 16 on, as many as byte 8 says: sparse areas and
    /// ranges of IOVAs both look so.
    ///
    /// # Errors
    ///
    /// The answer ends before the list does.
    #[inline(never)]
    pub fn pairs(self) -> Result<Pairs<'a>, ChainFinding> {
        let count = usize::try_from(self.u32_at(8)?).unwrap_or(usize::MAX);
        let list = self.bytes.get(16..).and_then(|list| list.get(..count.checked_mul(16)?));
        list.map(Pairs).ok_or(self.truncated())
    }
}

/// Pairs of numbers in an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pairs<'a>(&'a [u8]);

impl Iterator for Pairs<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let (first, rest) = self.0.split_first_chunk::<16>()?;
        self.0 = rest;
        Some((u64_at(first, 0)?, u64_at(first, 8)?))
    }
}

/// The capabilities of an answer; a finding is the last item.
#[derive(Clone, Debug)]
pub struct InfoChain<'a> {
    info: &'a [u8],
    header: usize,
    next: u32,
    previous: u32,
}

impl<'a> InfoChain<'a> {
    /// The chain of an answer whose fixed structure has `header` bytes and names `first` as the offset of the first
    /// capability. 0 ends a chain.
    pub fn new(info: &'a [u8], header: usize, first: u32) -> Self {
        Self { info, header, next: first, previous: 0 }
    }
}

impl<'a> Iterator for InfoChain<'a> {
    type Item = Result<InfoCapability<'a>, ChainFinding>;

    /// Offsets only grow, so that the walk ends.
    // One copy of it: the core is to be small.
    #[inline(never)]
    fn next(&mut self) -> Option<Self::Item> {
        let (offset, previous) = (self.next, self.previous);
        if offset == 0 {
            return None;
        }
        self.next = 0;
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if at < self.header {
            return Some(Err(ChainFinding::IntoHeader { offset, header: self.header }));
        }
        if offset <= previous {
            return Some(Err(ChainFinding::NotForward { offset, previous }));
        }
        let bytes = self.info.get(at..).unwrap_or(&[]);
        let (Some(id), Some(link)) = (u32_at(bytes, 0), u32_at(bytes, 4)) else {
            return Some(Err(ChainFinding::Truncated { offset, size: self.info.len() }));
        };
        (self.previous, self.next) = (offset, link);
        // The id, then the version.
        let [a, b, ..] = id.to_ne_bytes();
        Some(Ok(InfoCapability { id: u16::from_ne_bytes([a, b]), offset, bytes }))
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
