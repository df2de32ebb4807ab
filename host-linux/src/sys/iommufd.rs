//! iommufd's requests, and those that join a VFIO device to it, one function each.
//!
//! Linux `include/uapi/linux/iommufd.h`, which the bindings of VFIO do not have, so its structures are here; and
//! the part of `vfio.h` that is about device files of their own (`/dev/vfio/devices`). The sizes are filled in
//! here from the memory that is really there.

use super::ioctl::with_struct;
use super::range::{FilePart, HostRange};
use crate::errno::Errno;
use rustix::ioctl::{Opcode, opcode};
use std::os::fd::{AsRawFd, BorrowedFd};

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

/// The kernel's structures, under the kernel's names: the layouts that `uapi.rs` states of them are compared with its
/// headers by name.
pub(super) mod raw {
    #[repr(C)]
    pub(crate) struct iommu_destroy {
        pub(crate) size: u32,
        pub(crate) id: u32,
    }

    #[repr(C)]
    pub(crate) struct iommu_ioas_alloc {
        pub(crate) size: u32,
        pub(crate) flags: u32,
        pub(crate) out_ioas_id: u32,
    }

    /// `last` is part of it.
    #[repr(C)]
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct iommu_iova_range {
        pub(crate) start: u64,
        pub(crate) last: u64,
    }

    #[repr(C)]
    pub(crate) struct iommu_ioas_iova_ranges {
        pub(crate) size: u32,
        pub(crate) ioas_id: u32,
        pub(crate) num_iovas: u32,
        pub(crate) reserved: u32,
        pub(crate) allowed_iovas: u64,
        pub(crate) out_iova_alignment: u64,
    }

    #[repr(C)]
    pub(crate) struct iommu_ioas_map {
        pub(crate) size: u32,
        pub(crate) flags: u32,
        pub(crate) ioas_id: u32,
        pub(crate) reserved: u32,
        pub(crate) user_va: u64,
        pub(crate) length: u64,
        pub(crate) iova: u64,
    }

    /// Since Linux 6.13.
    #[repr(C)]
    pub(crate) struct iommu_ioas_map_file {
        pub(crate) size: u32,
        pub(crate) flags: u32,
        pub(crate) ioas_id: u32,
        pub(crate) fd: i32,
        pub(crate) start: u64,
        pub(crate) length: u64,
        pub(crate) iova: u64,
    }

    #[repr(C)]
    pub(crate) struct iommu_ioas_unmap {
        pub(crate) size: u32,
        pub(crate) ioas_id: u32,
        pub(crate) iova: u64,
        pub(crate) length: u64,
    }

    /// As Linux 6.6 had it; fields that came later matter only with flags.
    #[repr(C)]
    pub(crate) struct vfio_device_bind_iommufd {
        pub(crate) argsz: u32,
        pub(crate) flags: u32,
        pub(crate) iommufd: i32,
        pub(crate) out_devid: u32,
    }

    /// As Linux 6.6 had it.
    #[repr(C)]
    pub(crate) struct vfio_device_attach_iommufd_pt {
        pub(crate) argsz: u32,
        pub(crate) flags: u32,
        pub(crate) pt_id: u32,
    }

    /// As Linux 6.6 had it.
    #[repr(C)]
    pub(crate) struct vfio_device_detach_iommufd_pt {
        pub(crate) argsz: u32,
        pub(crate) flags: u32,
    }
}

pub(crate) use raw::iommu_iova_range as IovaRange;

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
    let mut destroy = raw::iommu_destroy { size: struct_size::<raw::iommu_destroy>(), id };
    // SAFETY: the kernel reads the structure alone.
    unsafe { with_struct(iommufd, DESTROY, &mut destroy) }.map(drop)
}

/// `IOMMU_IOAS_ALLOC`: the id of a new address space.
pub(crate) fn ioas_alloc(iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut alloc =
        raw::iommu_ioas_alloc { size: struct_size::<raw::iommu_ioas_alloc>(), flags: 0, out_ioas_id: 0 };
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
    let mut query = raw::iommu_ioas_iova_ranges {
        size: struct_size::<raw::iommu_ioas_iova_ranges>(),
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
    let mut map = raw::iommu_ioas_map {
        size: struct_size::<raw::iommu_ioas_map>(),
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
    let mut map = raw::iommu_ioas_map_file {
        size: struct_size::<raw::iommu_ioas_map_file>(),
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
    let mut unmap =
        raw::iommu_ioas_unmap { size: struct_size::<raw::iommu_ioas_unmap>(), ioas_id: ioas, iova, length };
    // SAFETY: the kernel reads and writes the structure alone.
    unsafe { with_struct(iommufd, IOAS_UNMAP, &mut unmap) }?;
    Ok(unmap.length)
}

/// `VFIO_DEVICE_BIND_IOMMUFD`: gives the device's id in the iommufd. The kernel tries to reset the device.
pub(crate) fn bind(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut bind = raw::vfio_device_bind_iommufd {
        argsz: struct_size::<raw::vfio_device_bind_iommufd>(),
        flags: 0,
        iommufd: iommufd.as_raw_fd(),
        out_devid: 0,
    };
    // SAFETY: without flags the kernel reads and writes the structure alone.
    unsafe { with_struct(device, DEVICE_BIND_IOMMUFD, &mut bind) }?;
    Ok(bind.out_devid)
}

/// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`: the device's DMA goes through this address space from now on.
pub(crate) fn attach(device: BorrowedFd<'_>, ioas: u32) -> Result<(), Errno> {
    let mut attach = raw::vfio_device_attach_iommufd_pt {
        argsz: struct_size::<raw::vfio_device_attach_iommufd_pt>(),
        flags: 0,
        pt_id: ioas,
    };
    // SAFETY: the kernel reads and writes the structure alone.
    unsafe { with_struct(device, DEVICE_ATTACH_IOMMUFD_PT, &mut attach) }.map(drop)
}

/// `VFIO_DEVICE_DETACH_IOMMUFD_PT`: the device's DMA goes nowhere from now on.
pub(crate) fn detach(device: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut detach = raw::vfio_device_detach_iommufd_pt {
        argsz: struct_size::<raw::vfio_device_detach_iommufd_pt>(),
        flags: 0,
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
