//! An address space of iommufd (IOAS): the newer interface's counterpart of a container.

use crate::errno::Errno;
use crate::info::InfoError;
use crate::iommu::IommuInfo;
use crate::kernel::Host;
use crate::sys::iommufd::IovaRange;
use crate::sys::{FilePart, HostRange};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Room for the ranges of every IOMMU there is; where it is too small it is asked again.
const RANGES: usize = 32;

/// An address space, and the iommufd that it is in. Dropping it unmaps everything in it.
#[derive(Debug)]
pub(crate) struct Ioas {
    host: Host,
    iommufd: Arc<OwnedFd>,
    id: u32,
    /// Whether the kernel can map files without a mapping in this process, as far as is known.
    by_file: AtomicBool,
}

/// Why there is no address space in iommufd.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IommufdError {
    /// The file could not be opened.
    #[error("cannot open {}: {errno}{}", path.display(), open_remedy(*errno))]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The file does not make one.
    #[error("{} gives no address space: {errno}{}", path.display(), alloc_remedy(*errno))]
    Alloc {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
}

fn open_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT | Errno::ENODEV => {
            "; iommufd is not loaded (`modprobe iommufd`), or this kernel has none: use the group interface"
        }
        Errno::EACCES | Errno::EPERM => "; be root, or be given this file and the device's",
        Errno::EMFILE => "; raise RLIMIT_NOFILE (`ulimit -n`)",
        _ => "",
    }
}

fn alloc_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOTTY => "; it is no iommufd",
        _ => "",
    }
}

impl Ioas {
    /// A new address space in `given`, or in an iommufd of its own.
    pub(crate) fn new(host: &Host, path: &Path, given: Option<&Arc<OwnedFd>>) -> Result<Self, IommufdError> {
        let iommufd = match given {
            Some(given) => given.clone(),
            None => {
                let opened = host.open(path);
                Arc::new(opened.map_err(|errno| IommufdError::Open { path: path.into(), errno })?)
            }
        };
        let allocated = host.ioas_alloc(iommufd.as_fd());
        let id = allocated.map_err(|errno| IommufdError::Alloc { path: path.into(), errno })?;
        Ok(Self { host: host.clone(), iommufd, id, by_file: AtomicBool::new(true) })
    }

    /// The address space of this number that another process has made in this iommufd.
    pub(crate) fn handed(host: &Host, iommufd: OwnedFd, id: u32) -> Self {
        Self { host: host.clone(), iommufd: Arc::new(iommufd), id, by_file: AtomicBool::new(true) }
    }

    /// What the devices that are attached can reach.
    pub(crate) fn info(&self) -> Result<IommuInfo, InfoError> {
        let mut ranges = vec![IovaRange::default(); RANGES];
        // A device that is attached meanwhile may cut a range in two; one more round finds room for that.
        for _ in 0..3 {
            let limits =
                self.host.ioas_iova_ranges(self.fd(), self.id, &mut ranges).map_err(InfoError::Kernel)?;
            if limits.count <= ranges.len() {
                ranges.truncate(limits.count);
                let pairs = ranges.iter().map(|range| (range.start, range.last));
                return Ok(IommuInfo::of_ioas(pairs, limits.alignment));
            }
            ranges = vec![IovaRange::default(); limits.count.min(IommuInfo::MOST_RANGES)];
        }
        Err(InfoError::Endless(size_of::<IovaRange>() * ranges.len()))
    }

    /// Maps `memory`, which the caller keeps until it has unmapped it or dropped the address space; through the
    /// `file` behind it where there is one and the kernel can.
    pub(crate) fn map(&self, iova: u64, memory: HostRange, file: Option<FilePart<'_>>) -> Result<(), Errno> {
        if let Some(file) = file
            && self.by_file.load(Ordering::Relaxed)
        {
            match self.host.ioas_map_file(self.fd(), self.id, iova, file) {
                // The request is unknown before Linux 6.13.
                Err(Errno::ENOTTY) => self.by_file.store(false, Ordering::Relaxed),
                result => return result,
            }
        }
        self.host.ioas_map(self.fd(), self.id, iova, memory)
    }

    /// Unmaps; gives the number of bytes that were mapped.
    pub(crate) fn unmap(&self, iova: u64, size: u64) -> Result<u64, Errno> {
        self.host.ioas_unmap(self.fd(), self.id, iova, size)
    }

    /// The iommufd.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.iommufd.as_fd()
    }

    /// The address space's number in the iommufd.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Ioas {
    fn drop(&mut self) {
        // Closing the iommufd would do it, but somebody may have lent it.
        if let Err(errno) = self.host.iommu_destroy(self.fd(), self.id) {
            log::error!("address space {} of iommufd is not given back: {errno}", self.id);
        }
    }
}
