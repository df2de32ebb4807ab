//! An open VFIO device: its regions, its interrupts, its reset.

use crate::dma::DmaError;
use crate::errno::Errno;
use crate::error::OpenError;
use crate::hot_reset::AffectedFunction;
use crate::info::{self, InfoError};
use crate::irq::{IrqInfo, IrqKind, Irqs};
use crate::kernel::{Host, MapArea};
use crate::manager::Claim;
use crate::opened::OpenedFile;
use crate::options::Backend;
use crate::region::{RegionIndex, RegionInfo};
use crate::retry::RetryPolicy;
use crate::sys::Mapping;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use vfio_assign_core::Bdf;
use vfio_bindings::bindings::vfio as v;

/// A PCI device that VFIO has opened for a VM. Closing it gives it back to the host.
#[derive(Debug)]
pub struct Device {
    // Dropped in this order: the device is closed, and may be assigned again last.
    fd: OpenedFile,
    host: Host,
    retry: RetryPolicy,
    resettable: bool,
    regions: [Option<RegionInfo>; RegionIndex::COUNT],
    irqs: [Option<IrqInfo>; IrqKind::ALL.len()],
    claim: Claim,
}

/// Why a region was not read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The device has no such region.
    #[error("there is no {region}")]
    Absent {
        /// The region.
        region: RegionIndex,
    },
    /// The bytes are not all in the region.
    #[error("{length} bytes at {offset:#x} are not all in {region}, {size:#x} bytes")]
    Outside {
        /// The region.
        region: RegionIndex,
        /// The first byte.
        offset: u64,
        /// How many bytes.
        length: usize,
        /// The region's size.
        size: u64,
    },
    /// The kernel refused; `EIO` where the device is gone, asleep, or does not decode.
    #[error("{region}: {length} bytes at {offset:#x}: {errno}")]
    Failed {
        /// The region.
        region: RegionIndex,
        /// The first byte.
        offset: u64,
        /// How many bytes.
        length: usize,
        /// What the kernel said.
        errno: Errno,
    },
    /// The mapping has nothing behind it (SIGBUS): the device is gone, asleep, or does not decode.
    #[error("{region}: {length} bytes at {offset:#x}: the device does not answer through its mapping")]
    Fault {
        /// The region.
        region: RegionIndex,
        /// The first byte.
        offset: u64,
        /// How many bytes.
        length: usize,
    },
    /// The kernel moved fewer bytes.
    #[error("{region}: {done} of {length} bytes at {offset:#x}")]
    Short {
        /// The region.
        region: RegionIndex,
        /// The first byte.
        offset: u64,
        /// How many bytes were asked for.
        length: usize,
        /// How many were moved.
        done: usize,
    },
}

/// Why a device was not reset.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// The kernel knows no way to reset this function alone.
    #[error("{bdf} has no function reset")]
    Unsupported {
        /// The device.
        bdf: Bdf,
    },
    /// It has no function reset, and the kernel cannot reset what it is on either.
    #[error("{bdf} has no function reset, and is on no bus or slot that the kernel can reset")]
    NoHotReset {
        /// The device.
        bdf: Bdf,
    },
    /// The reset failed, or was not tried.
    #[error("{bdf} was not reset: {errno}")]
    Failed {
        /// The device.
        bdf: Bdf,
        /// What the kernel said.
        errno: Errno,
    },
    /// It has no function reset, and the kernel does not tell what a hot reset would reset with it.
    #[error(
        "{bdf} was not reset: the kernel does not tell what a hot reset of it would reset with it: {error}"
    )]
    SetUnknown {
        /// The device.
        bdf: Bdf,
        /// Why.
        error: InfoError,
    },
    /// It has no function reset, and a hot reset would reset functions that this VM does not have.
    #[error(
        "{bdf} can be reset only together with functions that are not this VM's: {}; assign one of each \
        group to this VM, too",
        List(others)
    )]
    NotOurs {
        /// The device.
        bdf: Bdf,
        /// The functions that are not this VM's.
        others: Vec<AffectedFunction>,
    },
    /// It has no function reset, and a hot reset would reset functions of this VM that are in use.
    #[error("{bdf} can be reset only together with other functions of this VM: {}", List(others))]
    Together {
        /// The device.
        bdf: Bdf,
        /// The others.
        others: Vec<Bdf>,
    },
}

/// Things side by side.
struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if place > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl Device {
    /// Asks an open device for all that it has.
    ///
    /// Arguments go in the order in which they are to live: on failure the device is closed first.
    pub(crate) fn new(
        host: &Host,
        retry: &RetryPolicy,
        claim: Claim,
        fd: OpenedFile,
    ) -> Result<Self, OpenError> {
        let bdf = claim.bdf();
        let size = size_of::<v::vfio_device_info>();
        let info = info::ask(size, |info| host.device_info(fd.as_fd(), info))
            .map_err(|error| OpenError::DeviceInfo { bdf, error })?;
        let flags = info::u32_at(&info, 4).unwrap_or(0);
        let count = info::u32_at(&info, 8).unwrap_or(0);
        if flags & v::VFIO_DEVICE_FLAGS_PCI == 0 || count <= RegionIndex::CONFIG.get() {
            return Err(OpenError::NotPci { bdf, flags, regions: count });
        }
        let mut regions = [const { None }; RegionIndex::COUNT];
        for index in RegionIndex::all().filter(|index| index.get() < count) {
            let region = RegionInfo::query(host, fd.as_fd(), index);
            regions[index.position()] =
                region.map_err(|error: InfoError| OpenError::Region { bdf, region: index, error })?;
        }
        let count = info::u32_at(&info, 12).unwrap_or(0);
        let mut irqs = [None; IrqKind::ALL.len()];
        for kind in IrqKind::ALL.into_iter().filter(|kind| kind.get() < count) {
            let irq = IrqInfo::query(host, fd.as_fd(), kind);
            irqs[kind.position()] = irq.map_err(|errno| OpenError::Interrupts { bdf, kind, errno })?;
        }
        let config = regions[RegionIndex::CONFIG.position()].as_ref().map_or(0, |config| config.size);
        if config != 256 && config != 4096 {
            return Err(OpenError::ConfigSize { bdf, size: config });
        }
        let resettable = flags & v::VFIO_DEVICE_FLAGS_RESET != 0;
        let (host, retry) = (host.clone(), retry.clone());
        Ok(Self { fd, host, retry, resettable, regions, irqs, claim })
    }

    /// The device's address on the host.
    pub fn bdf(&self) -> Bdf {
        self.claim.bdf()
    }

    /// The number of its IOMMU group.
    pub fn group(&self) -> u32 {
        self.fd.group_number()
    }

    /// The interface that it is open on.
    pub fn backend(&self) -> Backend {
        self.fd.backend()
    }

    /// The device's number in the VM's iommufd, by which the kernel names it; none on the group interface.
    pub fn iommufd_id(&self) -> Option<u32> {
        self.fd.iommufd_id()
    }

    /// Whether the kernel can reset this function alone.
    pub fn is_resettable(&self) -> bool {
        self.resettable
    }

    /// A region, if the device has it.
    pub fn region(&self, index: RegionIndex) -> Option<&RegionInfo> {
        self.regions.get(index.position())?.as_ref()
    }

    /// All regions that the device has.
    pub fn regions(&self) -> impl Iterator<Item = &RegionInfo> {
        self.regions.iter().flatten()
    }

    /// A kind of interrupt, if the device has it.
    pub fn irq(&self, kind: IrqKind) -> Option<IrqInfo> {
        self.irqs[kind.position()]
    }

    /// Reads from a region, in one call to the kernel.
    ///
    /// # Errors
    ///
    /// There is no such region or no such bytes in it, or the device does not answer.
    pub fn read(&self, index: RegionIndex, offset: u64, data: &mut [u8]) -> Result<(), RegionError> {
        let place = self.locate(index, offset, data.len())?;
        let done = self.host.region_read(self.fd.as_fd(), place, data);
        check_moved(index, offset, data.len(), done)
    }

    /// Writes to a region, in one call to the kernel.
    ///
    /// # Errors
    ///
    /// There is no such region or no such bytes in it, or the device does not answer.
    pub fn write(&self, index: RegionIndex, offset: u64, data: &[u8]) -> Result<(), RegionError> {
        let place = self.locate(index, offset, data.len())?;
        let done = self.host.region_write(self.fd.as_fd(), place, data);
        check_moved(index, offset, data.len(), done)
    }

    /// The whole of configuration space as it is now.
    ///
    /// # Errors
    ///
    /// The device does not answer.
    pub fn read_config(&self) -> Result<Vec<u8>, RegionError> {
        let size = self.region(RegionIndex::CONFIG).map_or(0, |config| config.size);
        let mut config = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read(RegionIndex::CONFIG, 0, &mut config)?;
        Ok(config)
    }

    /// Resets the function alone, under the VM's [`RetryPolicy`]. Its Command register, BARs and MSI-X are put back by
    /// the kernel.
    ///
    /// # Errors
    ///
    /// It cannot be reset, or was not.
    pub fn reset(&self) -> Result<(), ResetError> {
        let bdf = self.bdf();
        if !self.resettable {
            return Err(ResetError::Unsupported { bdf });
        }
        let reset = self.retry.run(&format_args!("reset of {bdf}"), || self.host.reset(self.fd.as_fd()));
        reset.map_err(|errno| ResetError::Failed { bdf, errno })
    }

    /// Waits until the device reaches all of the guest's memory.
    ///
    /// # Errors
    ///
    /// It never will: the mapping has failed.
    pub fn wait_for_memory(&self) -> Result<(), DmaError> {
        self.claim.wait_for_memory()
    }

    pub(crate) fn opened(&self) -> &OpenedFile {
        &self.fd
    }

    pub(crate) fn irqs(&self, kind: IrqKind) -> Irqs<'_> {
        Irqs { host: &self.host, device: self.fd.as_fd(), kind }
    }

    /// The device's place among those of its VM.
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn map_area(&self, area: MapArea) -> Result<Mapping, Errno> {
        self.host.map_area(self.fd.as_fd(), area)
    }

    /// Where these bytes of a region are in the device's file.
    fn locate(&self, region: RegionIndex, offset: u64, length: usize) -> Result<u64, RegionError> {
        let found = self.region(region).ok_or(RegionError::Absent { region })?;
        let outside = RegionError::Outside { region, offset, length, size: found.size };
        let end = offset.checked_add(length as u64).ok_or(outside)?;
        if end > found.size {
            return Err(outside);
        }
        found.offset.checked_add(offset).ok_or(outside)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check_moved(
    region: RegionIndex,
    offset: u64,
    length: usize,
    done: Result<usize, Errno>,
) -> Result<(), RegionError> {
    match done {
        Ok(done) if done == length => Ok(()),
        Ok(done) => Err(RegionError::Short { region, offset, length, done }),
        Err(errno) => Err(RegionError::Failed { region, offset, length, errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDevice;

    #[test]
    fn c2_reset_under_contention_is_tried_again() {
        let test = TestDevice::open();
        test.kernel.calls();
        test.kernel.fail("reset", Errno::EAGAIN);
        assert_eq!(test.device.reset(), Ok(()));
        assert_eq!(test.kernel.calls(), ["reset", "wait", "reset"]);
    }

    #[test]
    fn reset_that_is_held_up_each_time_says_by_what() {
        let test = TestDevice::open();
        test.kernel.calls();
        for _ in 0..3 {
            test.kernel.fail("reset", Errno::EBUSY);
        }
        let bdf = test.device.bdf();
        assert_eq!(test.device.reset(), Err(ResetError::Failed { bdf, errno: Errno::EBUSY }));
        assert_eq!(test.kernel.calls(), ["reset", "wait", "reset", "wait", "reset"]);
    }

    #[test]
    fn short_read_is_an_error() {
        let region = RegionIndex::CONFIG;
        let short = RegionError::Short { region, offset: 4, length: 4, done: 3 };
        assert_eq!(check_moved(region, 4, 4, Ok(3)), Err(short));
    }

    #[test]
    fn errno_is_kept() {
        let region = RegionIndex::CONFIG;
        let error = check_moved(region, 4, 4, Err(Errno::EIO)).unwrap_err();
        assert_eq!(error.to_string(), "configuration space: 4 bytes at 0x4: EIO, Input/output error");
    }
}
