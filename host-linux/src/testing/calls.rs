//! The calls of the kernel for unit tests: each is noted, and made of the scripted kernel unless the test intervenes.

use super::TestKernel;
use crate::errno::Errno;
use crate::kernel::{Kernel, MapArea};
use crate::sys::iommufd::{IovaLimits, IovaRange};
#[cfg(feature = "kvm")]
use crate::sys::kvm;
use crate::sys::vfio::{IrqData, IrqSet};
use crate::sys::{EventFd, FilePart, HostRange, Mapping};
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use vfio_bindings::bindings::vfio as v;

fn put(info: &mut [u8], offset: usize, bytes: &[u8]) {
    info[offset..][..bytes.len()].copy_from_slice(bytes);
}

impl Kernel for TestKernel {
    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.note(format!("open {}", path.file_name().unwrap().to_str().unwrap()))?;
        self.1.open(path)
    }

    fn device_number(&self, _: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
        self.note("device_number".into())?;
        Ok(self.0.lock().unwrap().number.unwrap_or((511, 0)))
    }

    fn bind_iommufd(&self, device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
        let answer = self.note("bind".into())?;
        answer.map_or_else(|| self.1.bind_iommufd(device, iommufd), Ok)
    }

    fn attach_ioas(&self, device: BorrowedFd<'_>, ioas: u32) -> Result<(), Errno> {
        self.note(format!("attach {ioas}"))?;
        self.1.attach_ioas(device, ioas)
    }

    fn detach_ioas(&self, device: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note("detach".into())?;
        self.1.detach_ioas(device)
    }

    fn ioas_alloc(&self, iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
        self.note("ioas_alloc".into())?;
        self.1.ioas_alloc(iommufd)
    }

    fn ioas_iova_ranges(
        &self,
        iommufd: BorrowedFd<'_>,
        ioas: u32,
        ranges: &mut [IovaRange],
    ) -> Result<IovaLimits, Errno> {
        self.note(format!("ioas_ranges {ioas} {}", ranges.len()))?;
        let limits = self.1.ioas_iova_ranges(iommufd, ioas, ranges)?;
        let all = self.0.lock().unwrap().ranges.clone();
        if all.is_empty() {
            return Ok(limits);
        }
        ranges.iter_mut().zip(&all).for_each(|(place, range)| *place = *range);
        Ok(IovaLimits { count: all.len(), ..limits })
    }

    fn ioas_map(
        &self,
        iommufd: BorrowedFd<'_>,
        ioas: u32,
        iova: u64,
        memory: HostRange,
    ) -> Result<(), Errno> {
        self.note(format!("ioas_map {ioas} {iova:#x} {:#x}", memory.length()))?;
        self.1.ioas_map(iommufd, ioas, iova, memory)
    }

    fn ioas_map_file(
        &self,
        iommufd: BorrowedFd<'_>,
        ioas: u32,
        iova: u64,
        part: FilePart<'_>,
    ) -> Result<(), Errno> {
        let (start, length) = (part.start(), part.length());
        self.note(format!("ioas_map_file {ioas} {iova:#x} {length:#x} from {start:#x}"))?;
        self.1.ioas_map_file(iommufd, ioas, iova, part)
    }

    fn ioas_unmap(&self, iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, size: u64) -> Result<u64, Errno> {
        let answer = self.note(format!("ioas_unmap {ioas} {iova:#x} {size:#x}"))?;
        answer.map_or_else(|| self.1.ioas_unmap(iommufd, ioas, iova, size), |size| Ok(size.into()))
    }

    fn iommu_destroy(&self, iommufd: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
        self.note(format!("destroy {id}"))?;
        self.1.iommu_destroy(iommufd, id)
    }

    fn api_version(&self, container: BorrowedFd<'_>) -> Result<u32, Errno> {
        let answer = self.note("api_version".into())?;
        answer.map_or_else(|| self.1.api_version(container), Ok)
    }

    fn check_extension(&self, container: BorrowedFd<'_>, extension: u32) -> Result<u32, Errno> {
        let answer = self.note(format!("check_extension {extension}"))?;
        answer.map_or_else(|| self.1.check_extension(container, extension), Ok)
    }

    fn set_iommu(&self, container: BorrowedFd<'_>, kind: u32) -> Result<(), Errno> {
        self.note(format!("set_iommu {kind}"))?;
        self.1.set_iommu(container, kind)
    }

    fn iommu_info(&self, container: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
        self.note("iommu_info".into())?;
        self.1.iommu_info(container, info)
    }

    fn map_dma(&self, container: BorrowedFd<'_>, iova: u64, memory: HostRange) -> Result<(), Errno> {
        self.note(format!("map_dma {iova:#x} {:#x}", memory.length()))?;
        self.1.map_dma(container, iova, memory)
    }

    fn unmap_dma(&self, container: BorrowedFd<'_>, iova: u64, size: u64) -> Result<u64, Errno> {
        let answer = self.note(format!("unmap_dma {iova:#x} {size:#x}"))?;
        answer.map_or_else(|| self.1.unmap_dma(container, iova, size), |size| Ok(size.into()))
    }

    fn group_status(&self, group: BorrowedFd<'_>) -> Result<u32, Errno> {
        let answer = self.note("group_status".into())?;
        answer.map_or_else(|| self.1.group_status(group), Ok)
    }

    fn set_container(&self, group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note("set_container".into())?;
        self.1.set_container(group, container)
    }

    fn device_fd(&self, group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
        self.note(format!("device_fd {}", name.to_str().unwrap()))?;
        self.1.device_fd(group, name)
    }

    fn device_info(&self, device: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
        let flags = self.note("device_info".into())?;
        self.1.device_info(device, info)?;
        if let Some(flags) = flags {
            put(info, 4, &flags.to_ne_bytes());
        }
        Ok(())
    }

    fn region_info(&self, device: BorrowedFd<'_>, index: u32, info: &mut [u8]) -> Result<(), Errno> {
        self.note(format!("region_info {index}"))?;
        self.1.region_info(device, index, info)
    }

    fn irq_info(&self, device: BorrowedFd<'_>, index: u32) -> Result<v::vfio_irq_info, Errno> {
        self.note(format!("irq_info {index}"))?;
        self.1.irq_info(device, index)
    }

    fn set_irqs(&self, device: BorrowedFd<'_>, set: &IrqSet<'_>) -> Result<u32, Errno> {
        let data = match set.data {
            IrqData::None { count } => format!("none {count}"),
            IrqData::Unmask => "unmask".into(),
            IrqData::UnmaskOn(_) => "unmask_on".into(),
            IrqData::EventFds(fds) => {
                let wired: String = fds.iter().map(|fd| if fd.is_some() { '1' } else { '-' }).collect();
                format!("fds {wired}")
            }
        };
        let answer = self.note(format!("set_irqs {} {} {data}", set.index, set.start))?;
        answer.map_or_else(|| self.1.set_irqs(device, set), Ok)
    }

    fn reset(&self, device: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note("reset".into())?;
        self.1.reset(device)
    }

    /// What the test has said, else that there is no such reset.
    fn hot_reset_info(&self, _: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
        self.note("hot_reset_info".into())?;
        let (flags, functions) = self.0.lock().unwrap().hot_reset.clone().ok_or(Errno::ENODEV)?;
        put(info, 4, &flags.to_ne_bytes());
        put(info, 8, &(functions.len() as u32).to_ne_bytes());
        if info.len() < 12 + 8 * functions.len() {
            return Err(Errno::ENOSPC);
        }
        for (place, (id, bdf)) in functions.into_iter().enumerate() {
            put(info, 12 + 8 * place, &id.to_ne_bytes());
            put(info, 16 + 8 * place, &bdf.segment().to_ne_bytes());
            put(info, 18 + 8 * place, &[bdf.bus(), bdf.device() << 3 | bdf.function()]);
        }
        Ok(())
    }

    fn hot_reset(&self, _: BorrowedFd<'_>, groups: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.note(format!("hot_reset {}", groups.len())).map(drop)
    }

    fn region_read(&self, device: BorrowedFd<'_>, offset: u64, data: &mut [u8]) -> Result<usize, Errno> {
        let moved = self.note(format!("pread {offset:#x} {}", data.len()))?;
        let read = self.1.region_read(device, offset, data)?;
        Ok(moved.map_or(read, |moved| moved as usize))
    }

    fn region_write(&self, device: BorrowedFd<'_>, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let moved = self.note(format!("pwrite {offset:#x} {data:02x?}"))?;
        let written = self.1.region_write(device, offset, data)?;
        Ok(moved.map_or(written, |moved| moved as usize))
    }

    fn map_area(&self, device: BorrowedFd<'_>, area: MapArea) -> Result<Mapping, Errno> {
        self.note(format!("map_area {:#x}", area.offset))?;
        self.1.map_area(device, area)
    }

    fn new_event(&self) -> Result<EventFd, Errno> {
        self.note("new_event".into())?;
        self.1.new_event()
    }

    #[cfg(feature = "kvm")]
    fn kvm_check_extension(&self, _: BorrowedFd<'_>, capability: u32) -> Result<u32, Errno> {
        Ok(self.note(format!("kvm_check_extension {capability}"))?.unwrap_or(44))
    }

    #[cfg(feature = "kvm")]
    fn kvm_set_memory_region(&self, vm: BorrowedFd<'_>, slot: &kvm::Slot) -> Result<(), Errno> {
        let size = slot.memory.map_or(0, HostRange::length);
        let access = if slot.read_only { "ro" } else { "rw" };
        self.note(format!("slot {} {:#x} {size:#x} {access}", slot.slot, slot.guest))?;
        self.1.kvm_set_memory_region(vm, slot)
    }

    #[cfg(feature = "kvm")]
    fn kvm_set_gsi_routing(&self, vm: BorrowedFd<'_>, routes: &[kvm::Route]) -> Result<(), Errno> {
        let messages = routes.iter().filter_map(|route| match route.target {
            kvm::RouteTarget::Msi { address, data } => Some(format!(" {}:{address:#x}:{data:#x}", route.gsi)),
            kvm::RouteTarget::Irqchip { .. } => None,
        });
        let messages: String = messages.collect();
        self.note(format!("routing {}{messages}", routes.len()))?;
        self.1.kvm_set_gsi_routing(vm, routes)
    }

    #[cfg(feature = "kvm")]
    fn kvm_assign_irqfd(
        &self,
        vm: BorrowedFd<'_>,
        gsi: u32,
        event: BorrowedFd<'_>,
        resample: Option<BorrowedFd<'_>>,
    ) -> Result<(), Errno> {
        let resampled = if resample.is_some() { " resample" } else { "" };
        self.note(format!("assign_irqfd {gsi}{resampled}"))?;
        self.1.kvm_assign_irqfd(vm, gsi, event, resample)
    }

    #[cfg(feature = "kvm")]
    fn kvm_deassign_irqfd(&self, vm: BorrowedFd<'_>, gsi: u32, event: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note(format!("deassign_irqfd {gsi}"))?;
        self.1.kvm_deassign_irqfd(vm, gsi, event)
    }

    #[cfg(feature = "kvm")]
    fn kvm_create_vfio_device(&self, vm: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        self.note("create_vfio_device".into())?;
        self.1.kvm_create_vfio_device(vm)
    }

    #[cfg(feature = "kvm")]
    fn kvm_add_vfio_file(&self, device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note("add_vfio_file".into())?;
        self.1.kvm_add_vfio_file(device, file)
    }

    #[cfg(feature = "kvm")]
    fn kvm_remove_vfio_file(&self, device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note("remove_vfio_file".into())?;
        self.1.kvm_remove_vfio_file(device, file)
    }
}
