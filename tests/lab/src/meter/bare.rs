//! VFIO by its bare calls: a container, a group and a device. What the library's figures are held against.

#![expect(unsafe_code, reason = "requests that take memory need it, and there is no library between")]

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use std::ffi::{CString, c_void};
use std::fs::File;
use std::mem::size_of;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use vfio_assign_core::Bdf;
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_TYPE1v2_IOMMU, vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap, vfio_region_info,
};
use vm_memory::MmapRegion;

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`.
const fn request(number: Opcode) -> Opcode {
    0x3b64 + number
}
const SET_IOMMU: Opcode = request(2);
const SET_CONTAINER: Opcode = request(4);
const DEVICE_FD: Opcode = request(6);
const REGION_INFO: Opcode = request(8);
const MAP_DMA: Opcode = request(13);
const UNMAP_DMA: Opcode = request(14);

/// A container with one group's device open.
pub(crate) struct Bare {
    // Closed in this order.
    device: File,
    _group: File,
    container: File,
}

/// Why it is not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BareError {
    #[error("cannot open {path}: {source}")]
    Open { path: String, source: std::io::Error },
    #[error("the kernel does not {what}: {errno}")]
    Refused { what: &'static str, errno: Errno },
}

struct Request {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: the opcode and the argument are those that whoever made the request has vouched for.
unsafe impl Ioctl for Request {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(output)
    }
}

fn call(what: &'static str, fd: impl AsFd, opcode: Opcode, argument: *mut c_void) -> Result<i32, BareError> {
    let request = Request { opcode, argument };
    // SAFETY: every caller is in this file, and gives the request the argument that vfio.h says it takes.
    let answer = unsafe { ioctl(fd, request) };
    answer.map_err(|errno| BareError::Refused { what, errno })
}

fn open(path: String) -> Result<File, BareError> {
    let opened = File::options().read(true).write(true).open(&path);
    opened.map_err(|source| BareError::Open { path, source })
}

impl Bare {
    /// Opens a device that is alone in its group.
    pub(crate) fn open(bdf: Bdf) -> Result<Self, BareError> {
        let link = format!("/sys/bus/pci/devices/{bdf}/iommu_group");
        let group = std::fs::read_link(&link).map_err(|source| BareError::Open { path: link, source })?;
        let number = group.file_name().unwrap_or_default().to_string_lossy();
        let container = open("/dev/vfio/vfio".into())?;
        let group = open(format!("/dev/vfio/{number}"))?;
        let mut file = std::os::fd::AsRawFd::as_raw_fd(&container);
        call("put the group into a container", &group, SET_CONTAINER, (&raw mut file).cast())?;
        let kind = std::ptr::without_provenance_mut(VFIO_TYPE1v2_IOMMU as usize);
        call("set the container's kind", &container, SET_IOMMU, kind)?;
        let name = CString::new(bdf.to_string()).unwrap_or_default();
        let device = call("open the device", &group, DEVICE_FD, name.as_ptr().cast_mut().cast())?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let device = unsafe { OwnedFd::from_raw_fd(device) };
        Ok(Self { device: device.into(), _group: group, container })
    }

    /// The device's file.
    pub(crate) fn device(&self) -> &File {
        &self.device
    }

    /// Where a region begins in the device's file, and its size.
    pub(crate) fn region(&self, index: u32) -> Result<(u64, u64), BareError> {
        let argsz = size_of::<vfio_region_info>() as u32;
        let mut info = vfio_region_info { argsz, index, ..Default::default() };
        call("tell of a region", &self.device, REGION_INFO, (&raw mut info).cast())?;
        Ok((info.offset, info.size))
    }

    /// Lets the device reach this memory, from an address on.
    pub(crate) fn map(&self, memory: &MmapRegion, iova: u64) -> Result<(), BareError> {
        let mut map = vfio_iommu_type1_dma_map {
            argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
            flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: memory.as_ptr().expose_provenance() as u64,
            iova,
            size: memory.size() as u64,
        };
        call("map memory", &self.container, MAP_DMA, (&raw mut map).cast())?;
        Ok(())
    }

    /// Takes it away.
    pub(crate) fn unmap(&self, memory: &MmapRegion, iova: u64) -> Result<(), BareError> {
        let argsz = size_of::<vfio_iommu_type1_dma_unmap>() as u32;
        let size = memory.size() as u64;
        let mut unmap = vfio_iommu_type1_dma_unmap { argsz, iova, size, ..Default::default() };
        call("unmap memory", &self.container, UNMAP_DMA, (&raw mut unmap).cast())?;
        Ok(())
    }
}
