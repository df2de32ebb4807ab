//! iommufd's requests, and those that join a VFIO device to it, one function each.
//!
//! Linux `include/uapi/linux/iommufd.h`, which the bindings of VFIO do not have, so its structures are here; and
//! the part of `vfio.h` that is about device files of their own (`/dev/vfio/devices`). The sizes are filled in
//! here from the memory that is really there.

use super::ioctl::with_struct;
use super::memory::{FilePart, HostRange};
use crate::errno::Errno;
use rustix::ioctl::{Opcode, opcode};
use std::os::fd::{AsRawFd, BorrowedFd};
use vfio_bindings::bindings::vfio as v;

/// `_IO(IOMMUFD_TYPE, number)`: like VFIO, iommufd encodes neither size nor direction.
const fn request(number: u8) -> Opcode {
    opcode::none(b';', number)
}

const DESTROY: Opcode = request(0x80);
const IOAS_ALLOC: Opcode = request(0x81);
const IOAS_IOVA_RANGES: Opcode = request(0x84);
const IOAS_MAP: Opcode = request(0x85);
const IOAS_UNMAP: Opcode = request(0x86);
const IOAS_MAP_FILE: Opcode = request(0x8f);

/// `VFIO_BASE` + 18 to + 20.
const DEVICE_BIND_IOMMUFD: Opcode = request(118);
const DEVICE_ATTACH_IOMMUFD_PT: Opcode = request(119);
const DEVICE_DETACH_IOMMUFD_PT: Opcode = request(120);

/// `IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE`.
const MAP_FLAGS: u32 = 1 | 1 << 1 | 1 << 2;

/// `struct iommu_destroy`.
#[repr(C)]
pub(super) struct Destroy {
    size: u32,
    id: u32,
}

/// `struct iommu_ioas_alloc`.
#[repr(C)]
pub(super) struct IoasAlloc {
    size: u32,
    flags: u32,
    out_ioas_id: u32,
}

/// `struct iommu_iova_range`: `last` is part of it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct IovaRange {
    pub(crate) start: u64,
    pub(crate) last: u64,
}

/// `struct iommu_ioas_iova_ranges`.
#[repr(C)]
pub(super) struct IoasIovaRanges {
    size: u32,
    ioas_id: u32,
    num_iovas: u32,
    reserved: u32,
    allowed_iovas: u64,
    out_iova_alignment: u64,
}

/// `struct iommu_ioas_map`.
#[repr(C)]
pub(super) struct IoasMap {
    size: u32,
    flags: u32,
    ioas_id: u32,
    reserved: u32,
    user_va: u64,
    length: u64,
    iova: u64,
}

/// `struct iommu_ioas_map_file`.
#[repr(C)]
pub(super) struct IoasMapFile {
    size: u32,
    flags: u32,
    ioas_id: u32,
    fd: i32,
    start: u64,
    length: u64,
    iova: u64,
}

/// `struct iommu_ioas_unmap`.
#[repr(C)]
pub(super) struct IoasUnmap {
    size: u32,
    ioas_id: u32,
    iova: u64,
    length: u64,
}

mod layouts {
    use super::super::uapi::layout;

    // Literal figures of the kernel's header: there are no bindings to compare with.
    layout!(super::Destroy, 8, { size: 0, id: 4 });
    layout!(super::IoasAlloc, 12, { size: 0, flags: 4, out_ioas_id: 8 });
    layout!(super::IovaRange, 16, { start: 0, last: 8 });
    layout!(super::IoasIovaRanges, 32, {
        size: 0, ioas_id: 4, num_iovas: 8, reserved: 12, allowed_iovas: 16, out_iova_alignment: 24,
    });
    layout!(super::IoasMap, 40, {
        size: 0, flags: 4, ioas_id: 8, reserved: 12, user_va: 16, length: 24, iova: 32,
    });
    layout!(super::IoasMapFile, 40, {
        size: 0, flags: 4, ioas_id: 8, fd: 12, start: 16, length: 24, iova: 32,
    });
    layout!(super::IoasUnmap, 24, { size: 0, ioas_id: 4, iova: 8, length: 16 });
}

/// What an address space of iommufd can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IovaLimits {
    /// How many ranges there are, which may be more than there was room for.
    pub(crate) count: usize,
    /// What addresses and sizes must be multiples of.
    pub(crate) alignment: u64,
}

/// `IOMMU_DESTROY`.
pub(crate) fn destroy(iommufd: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
    let mut destroy = Destroy { size: struct_size::<Destroy>(), id };
    // SAFETY: the kernel reads the structure alone.
    unsafe { with_struct(iommufd, DESTROY, &mut destroy) }.map(drop)
}

/// `IOMMU_IOAS_ALLOC`: the id of a new address space.
pub(crate) fn ioas_alloc(iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut alloc = IoasAlloc { size: struct_size::<IoasAlloc>(), flags: 0, out_ioas_id: 0 };
    // SAFETY: the kernel reads and writes the structure alone.
    unsafe { with_struct(iommufd, IOAS_ALLOC, &mut alloc) }?;
    Ok(alloc.out_ioas_id)
}

/// `IOMMU_IOAS_IOVA_RANGES`: as many ranges as there is room for.
pub(crate) fn ioas_iova_ranges(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    ranges: &mut [IovaRange],
) -> Result<IovaLimits, Errno> {
    let mut query = IoasIovaRanges {
        size: struct_size::<IoasIovaRanges>(),
        ioas_id: ioas,
        num_iovas: u32::try_from(ranges.len()).map_err(|_| Errno::EINVAL)?,
        reserved: 0,
        allowed_iovas: ranges.as_mut_ptr().expose_provenance() as u64,
        out_iova_alignment: 0,
    };
    // SAFETY: the kernel writes at most `num_iovas` ranges to `allowed_iovas`, which is the slice's length, and any
    // bytes are a range; the slice is borrowed exclusively.
    let asked = unsafe { with_struct(iommufd, IOAS_IOVA_RANGES, &mut query) };
    match asked {
        // The structure is written before the kernel says that the room was too small.
        Ok(_) | Err(Errno::EMSGSIZE) => {
            Ok(IovaLimits { count: query.num_iovas as usize, alignment: query.out_iova_alignment })
        }
        Err(errno) => Err(errno),
    }
}

/// `IOMMU_IOAS_MAP`: lets devices read and write `memory` at `iova`.
///
/// The caller keeps `memory` mapped until it has unmapped `iova` or destroyed the address space.
pub(crate) fn ioas_map(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    iova: u64,
    memory: HostRange,
) -> Result<(), Errno> {
    let mut map = IoasMap {
        size: struct_size::<IoasMap>(),
        flags: MAP_FLAGS,
        ioas_id: ioas,
        reserved: 0,
        user_va: memory.address() as u64,
        length: memory.length() as u64,
        iova,
    };
    // SAFETY: the kernel reads and writes the structure; the memory it names is a `HostRange`, which is made for
    // access by devices and never lies under a Rust reference, and the kernel pins its pages.
    unsafe { with_struct(iommufd, IOAS_MAP, &mut map) }.map(drop)
}

/// `IOMMU_IOAS_MAP_FILE`, since Linux 6.13: the same with a file's pages, which the kernel keeps.
pub(crate) fn ioas_map_file(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    iova: u64,
    part: FilePart<'_>,
) -> Result<(), Errno> {
    let mut map = IoasMapFile {
        size: struct_size::<IoasMapFile>(),
        flags: MAP_FLAGS,
        ioas_id: ioas,
        fd: part.file().as_raw_fd(),
        start: part.start(),
        length: part.length(),
        iova,
    };
    // SAFETY: the kernel reads and writes the structure alone. Devices then write to the file, of which no mapping
    // lies under a Rust reference: a `FilePart` is made of guest memory only.
    unsafe { with_struct(iommufd, IOAS_MAP_FILE, &mut map) }.map(drop)
}

/// `IOMMU_IOAS_UNMAP`: the number of bytes that were unmapped.
pub(crate) fn ioas_unmap(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, length: u64) -> Result<u64, Errno> {
    let mut unmap = IoasUnmap { size: struct_size::<IoasUnmap>(), ioas_id: ioas, iova, length };
    // SAFETY: the kernel reads and writes the structure alone.
    unsafe { with_struct(iommufd, IOAS_UNMAP, &mut unmap) }?;
    Ok(unmap.length)
}

/// `VFIO_DEVICE_BIND_IOMMUFD`: gives the device's id in the iommufd. The kernel tries to reset the device.
pub(crate) fn bind(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut bind = v::vfio_device_bind_iommufd {
        argsz: struct_size::<v::vfio_device_bind_iommufd>(),
        flags: 0,
        iommufd: iommufd.as_raw_fd(),
        out_devid: 0,
        token_uuid_ptr: 0,
    };
    // SAFETY: without flags the kernel reads and writes the structure alone.
    unsafe { with_struct(device, DEVICE_BIND_IOMMUFD, &mut bind) }?;
    Ok(bind.out_devid)
}

/// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`: the device's DMA goes through this address space from now on.
pub(crate) fn attach(device: BorrowedFd<'_>, ioas: u32) -> Result<(), Errno> {
    let mut attach = v::vfio_device_attach_iommufd_pt {
        argsz: struct_size::<v::vfio_device_attach_iommufd_pt>(),
        flags: 0,
        pt_id: ioas,
        pasid: 0,
    };
    // SAFETY: the kernel reads and writes the structure alone.
    unsafe { with_struct(device, DEVICE_ATTACH_IOMMUFD_PT, &mut attach) }.map(drop)
}

/// `VFIO_DEVICE_DETACH_IOMMUFD_PT`: the device's DMA goes nowhere from now on.
pub(crate) fn detach(device: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut detach = v::vfio_device_detach_iommufd_pt {
        argsz: struct_size::<v::vfio_device_detach_iommufd_pt>(),
        flags: 0,
        pasid: 0,
    };
    // SAFETY: the kernel reads the structure alone.
    unsafe { with_struct(device, DEVICE_DETACH_IOMMUFD_PT, &mut detach) }.map(drop)
}

const fn struct_size<T>() -> u32 {
    // Every structure here is below 100 bytes.
    size_of::<T>() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn file_that_is_no_iommufd_says_so() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(ioas_alloc(file.as_fd()), Err(Errno::ENOTTY));
    }

    #[test]
    fn file_that_is_no_vfio_device_says_so() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(bind(file.as_fd(), file.as_fd()), Err(Errno::ENOTTY));
    }
}
