//! VFIO's requests, one function each: containers and their IOMMU, groups, devices.
//!
//! Linux `include/uapi/linux/vfio.h`. The `argsz` of every structure is filled in here from the memory that
//! is really there, so that no caller can make the kernel write past it.

use super::ioctl::{with_struct, with_value};
use super::range::HostRange;
use super::uapi;
use crate::errno::Errno;
use rustix::ioctl::{Opcode, opcode};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use vfio_bindings::bindings::vfio as v;

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`: VFIO encodes neither size nor direction.
const fn request(number: u8) -> Opcode {
    opcode::none(b';', 100 + number)
}

const GET_API_VERSION: Opcode = request(0);
const CHECK_EXTENSION: Opcode = request(1);
const SET_IOMMU: Opcode = request(2);
const GROUP_GET_STATUS: Opcode = request(3);
const GROUP_SET_CONTAINER: Opcode = request(4);
const GROUP_GET_DEVICE_FD: Opcode = request(6);
const DEVICE_GET_INFO: Opcode = request(7);
const DEVICE_GET_REGION_INFO: Opcode = request(8);
const DEVICE_GET_IRQ_INFO: Opcode = request(9);
const DEVICE_SET_IRQS: Opcode = request(10);
const DEVICE_RESET: Opcode = request(11);
const DEVICE_GET_PCI_HOT_RESET_INFO: Opcode = request(12);
const DEVICE_PCI_HOT_RESET: Opcode = request(13);
// The IOMMU's requests have numbers of their own, which are also those of a device's.
const IOMMU_GET_INFO: Opcode = request(12);
const IOMMU_MAP_DMA: Opcode = request(13);
const IOMMU_UNMAP_DMA: Opcode = request(14);

/// What triggers interrupts of one kind: `VFIO_DEVICE_SET_IRQS` with `VFIO_IRQ_SET_ACTION_TRIGGER`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IrqSet<'a> {
    /// `VFIO_PCI_*_IRQ_INDEX`.
    pub(crate) index: u32,
    /// The first interrupt it is about.
    pub(crate) start: u32,
    pub(crate) data: IrqData<'a>,
}

/// The `VFIO_IRQ_SET_DATA_*` flag and its data.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IrqData<'a> {
    /// Triggers this many interrupts; none switches the kind off.
    None { count: u32 },
    /// The eventfd for each interrupt from `start` on; none detaches that one.
    EventFds(&'a [Option<BorrowedFd<'a>>]),
    /// Unmasks the interrupt at `start`, which only INTx has.
    Unmask,
    /// The eventfd by which the interrupt at `start` is unmasked from now on.
    UnmaskOn(BorrowedFd<'a>),
}

/// `VFIO_GET_API_VERSION`.
pub(crate) fn api_version(container: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: the request has no argument.
    unsafe { with_value(container, GET_API_VERSION, 0) }
}

/// `VFIO_CHECK_EXTENSION`: 0 is no.
pub(crate) fn check_extension(container: BorrowedFd<'_>, extension: u32) -> Result<u32, Errno> {
    // SAFETY: the argument is the extension's number.
    unsafe { with_value(container, CHECK_EXTENSION, extension as usize) }
}

/// `VFIO_SET_IOMMU`.
pub(crate) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> Result<(), Errno> {
    // SAFETY: the argument is the number of a kind of IOMMU.
    unsafe { with_value(container, SET_IOMMU, kind as usize) }.map(drop)
}

/// `VFIO_IOMMU_GET_INFO` into `info`, a `vfio_iommu_type1_info` and room for its capabilities.
pub(crate) fn iommu_info(container: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
    put_argsz(info, size_of::<v::vfio_iommu_type1_info>())?;
    // SAFETY: the kernel writes at most `argsz` bytes, which is the slice's length.
    unsafe { with_struct(container, IOMMU_GET_INFO, info) }.map(drop)
}

/// `VFIO_IOMMU_MAP_DMA`: lets devices read and write `memory` at `iova`.
///
/// The caller keeps `memory` mapped until it has unmapped `iova` or closed the container.
pub(crate) fn map_dma(container: BorrowedFd<'_>, iova: u64, memory: HostRange) -> Result<(), Errno> {
    let mut map = v::vfio_iommu_type1_dma_map {
        argsz: struct_size::<v::vfio_iommu_type1_dma_map>(),
        flags: v::VFIO_DMA_MAP_FLAG_READ | v::VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: memory.address() as u64,
        iova,
        size: memory.length() as u64,
    };
    // SAFETY: the kernel reads the structure; the memory it names is a `HostRange`, which is made for
    // access by devices and never lies under a Rust reference, and the kernel pins its pages.
    unsafe { with_struct(container, IOMMU_MAP_DMA, &mut map) }.map(drop)
}

/// `VFIO_IOMMU_UNMAP_DMA`: the number of bytes that were unmapped, which the kernel may make fewer.
pub(crate) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, size: u64) -> Result<u64, Errno> {
    let mut unmap = v::vfio_iommu_type1_dma_unmap {
        argsz: struct_size::<v::vfio_iommu_type1_dma_unmap>(),
        flags: 0,
        iova,
        size,
        ..Default::default()
    };
    // SAFETY: without flags the kernel reads and writes the structure alone.
    unsafe { with_struct(container, IOMMU_UNMAP_DMA, &mut unmap) }?;
    Ok(unmap.size)
}

/// `VFIO_GROUP_GET_STATUS`: `VFIO_GROUP_FLAGS_*`.
pub(crate) fn group_status(group: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut status = v::vfio_group_status { argsz: struct_size::<v::vfio_group_status>(), flags: 0 };
    // SAFETY: the kernel reads and writes the structure alone.
    unsafe { with_struct(group, GROUP_GET_STATUS, &mut status) }?;
    Ok(status.flags)
}

/// `VFIO_GROUP_SET_CONTAINER`.
pub(crate) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut fd = container.as_raw_fd();
    // SAFETY: the kernel reads one int.
    unsafe { with_struct(group, GROUP_SET_CONTAINER, &mut fd) }.map(drop)
}

/// `VFIO_GROUP_GET_DEVICE_FD`: opens the device of this name in the group.
pub(crate) fn device_fd(group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let mut name = name.to_bytes_with_nul().to_vec();
    // SAFETY: the kernel reads up to the terminating zero, which `CStr` guarantees, and writes nothing.
    let fd = unsafe { with_struct(group, GROUP_GET_DEVICE_FD, name.as_mut_slice()) }?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the request made this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `VFIO_DEVICE_GET_INFO` into `info`, a `vfio_device_info` and room for its capabilities.
pub(crate) fn device_info(device: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
    put_argsz(info, size_of::<v::vfio_device_info>())?;
    // SAFETY: the kernel writes at most `argsz` bytes, which is the slice's length.
    unsafe { with_struct(device, DEVICE_GET_INFO, info) }.map(drop)
}

/// `VFIO_DEVICE_GET_REGION_INFO` into `info`, a `vfio_region_info` and room for its capabilities.
pub(crate) fn region_info(device: BorrowedFd<'_>, index: u32, info: &mut [u8]) -> Result<(), Errno> {
    put_argsz(info, size_of::<v::vfio_region_info>())?;
    info[uapi::REGION_INFO_INDEX..][..4].copy_from_slice(&index.to_ne_bytes());
    // SAFETY: the kernel writes at most `argsz` bytes, which is the slice's length.
    unsafe { with_struct(device, DEVICE_GET_REGION_INFO, info) }.map(drop)
}

/// `VFIO_DEVICE_GET_IRQ_INFO`.
pub(crate) fn irq_info(device: BorrowedFd<'_>, index: u32) -> Result<v::vfio_irq_info, Errno> {
    let mut info = v::vfio_irq_info { argsz: struct_size::<v::vfio_irq_info>(), flags: 0, index, count: 0 };
    // SAFETY: the kernel reads and writes the structure alone.
    unsafe { with_struct(device, DEVICE_GET_IRQ_INFO, &mut info) }?;
    Ok(info)
}

/// `VFIO_DEVICE_SET_IRQS`: a positive result is how many interrupts there are, where too many were asked.
pub(crate) fn set_irqs(device: BorrowedFd<'_>, set: &IrqSet<'_>) -> Result<u32, Errno> {
    let mut argument = encode_irq_set(set)?;
    // SAFETY: the kernel reads `argsz` bytes, which is the buffer's length.
    unsafe { with_struct(device, DEVICE_SET_IRQS, argument.as_mut_slice()) }
}

/// `VFIO_DEVICE_RESET`.
pub(crate) fn reset(device: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the request has no argument.
    unsafe { with_value(device, DEVICE_RESET, 0) }.map(drop)
}

/// `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO` into `info`, a `vfio_pci_hot_reset_info` and room for its devices.
///
/// `ENOSPC` where that is not enough; `count` then says how many there are.
pub(crate) fn hot_reset_info(device: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
    put_argsz(info, size_of::<v::vfio_pci_hot_reset_info>())?;
    // SAFETY: the kernel writes at most `argsz` bytes, which is the slice's length.
    unsafe { with_struct(device, DEVICE_GET_PCI_HOT_RESET_INFO, info) }.map(drop)
}

/// `VFIO_DEVICE_PCI_HOT_RESET`.
pub(crate) fn hot_reset(device: BorrowedFd<'_>, groups: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut argument = encode_hot_reset(groups)?;
    // SAFETY: the kernel reads `argsz` bytes, which is the buffer's length.
    unsafe { with_struct(device, DEVICE_PCI_HOT_RESET, argument.as_mut_slice()) }.map(drop)
}

/// A `vfio_pci_hot_reset` with its file descriptors.
fn encode_hot_reset(groups: &[BorrowedFd<'_>]) -> Result<Vec<u8>, Errno> {
    let size = size_of::<v::vfio_pci_hot_reset>() + size_of::<i32>() * groups.len();
    let number = |length| u32::try_from(length).map_err(|_| Errno::EINVAL);
    let mut bytes = Vec::with_capacity(size);
    for field in [number(size)?, 0, number(groups.len())?] {
        bytes.extend_from_slice(&field.to_ne_bytes());
    }
    for group in groups {
        bytes.extend_from_slice(&group.as_raw_fd().to_ne_bytes());
    }
    Ok(bytes)
}

/// A `vfio_irq_set` with its data.
fn encode_irq_set(set: &IrqSet<'_>) -> Result<Vec<u8>, Errno> {
    let one;
    let (data, count, fds) = match set.data {
        IrqData::None { count } => (v::VFIO_IRQ_SET_DATA_NONE, count, &[][..]),
        IrqData::Unmask => (v::VFIO_IRQ_SET_DATA_NONE, 1, &[][..]),
        IrqData::UnmaskOn(fd) => {
            one = [Some(fd)];
            (v::VFIO_IRQ_SET_DATA_EVENTFD, 1, &one[..])
        }
        IrqData::EventFds(fds) => {
            let count = u32::try_from(fds.len()).map_err(|_| Errno::EINVAL)?;
            (v::VFIO_IRQ_SET_DATA_EVENTFD, count, fds)
        }
    };
    let action = match set.data {
        IrqData::None { .. } | IrqData::EventFds(_) => v::VFIO_IRQ_SET_ACTION_TRIGGER,
        IrqData::Unmask | IrqData::UnmaskOn(_) => v::VFIO_IRQ_SET_ACTION_UNMASK,
    };
    let size = size_of::<v::vfio_irq_set>() + size_of::<i32>() * fds.len();
    let argsz = u32::try_from(size).map_err(|_| Errno::EINVAL)?;
    let mut bytes = Vec::with_capacity(size);
    for field in [argsz, data | action, set.index, set.start, count] {
        bytes.extend_from_slice(&field.to_ne_bytes());
    }
    for fd in fds {
        let raw = fd.map_or(-1, |fd| fd.as_raw_fd());
        bytes.extend_from_slice(&raw.to_ne_bytes());
    }
    Ok(bytes)
}

/// Writes the slice's length to the front of it, where `argsz` is; a slice below `least` is refused.
fn put_argsz(info: &mut [u8], least: usize) -> Result<(), Errno> {
    let argsz = u32::try_from(info.len()).map_err(|_| Errno::EINVAL)?;
    if info.len() < least {
        return Err(Errno::EINVAL);
    }
    info[..4].copy_from_slice(&argsz.to_ne_bytes());
    Ok(())
}

const fn struct_size<T>() -> u32 {
    // Every structure here is below 100 bytes.
    size_of::<T>() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn words(bytes: &[u8]) -> Vec<i32> {
        bytes.chunks(4).map(|word| i32::from_ne_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn fd_list_has_minus_one_for_none() {
        let event = super::super::EventFd::new().unwrap();
        let fds = [None, Some(event.as_fd())];
        let set = IrqSet { index: 2, start: 7, data: IrqData::EventFds(&fds) };
        let raw = event.as_fd().as_raw_fd();
        assert_eq!(words(&encode_irq_set(&set).unwrap()), [28, 0x24, 2, 7, 2, -1, raw]);
    }

    #[test]
    fn switching_off_is_a_trigger_of_none() {
        let set = IrqSet { index: 2, start: 0, data: IrqData::None { count: 0 } };
        assert_eq!(words(&encode_irq_set(&set).unwrap()), [20, 0x21, 2, 0, 0]);
    }

    #[test]
    fn unmasking_is_an_action_of_its_own() {
        let set = IrqSet { index: 0, start: 0, data: IrqData::Unmask };
        assert_eq!(words(&encode_irq_set(&set).unwrap()), [20, 0x11, 0, 0, 1]);
    }

    #[test]
    fn unmasking_by_an_event_names_it() {
        let event = crate::EventFd::new().unwrap();
        let set = IrqSet { index: 0, start: 0, data: IrqData::UnmaskOn(event.as_fd()) };
        let raw = event.as_fd().as_raw_fd();
        assert_eq!(words(&encode_irq_set(&set).unwrap()), [24, 0x14, 0, 0, 1, raw]);
    }

    #[test]
    fn hot_reset_names_its_groups() {
        let group = tempfile::tempfile().unwrap();
        let raw = group.as_raw_fd();
        assert_eq!(words(&encode_hot_reset(&[group.as_fd()]).unwrap()), [16, 0, 1, raw]);
    }

    #[test]
    fn hot_reset_without_groups_has_an_empty_list() {
        assert_eq!(words(&encode_hot_reset(&[]).unwrap()), [12, 0, 0]);
    }

    #[test]
    fn info_below_its_structure_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(region_info(file.as_fd(), 0, &mut [0; 31]), Err(Errno::EINVAL));
    }

    #[test]
    fn file_that_is_no_vfio_says_so() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(api_version(file.as_fd()), Err(Errno::ENOTTY));
    }
}
