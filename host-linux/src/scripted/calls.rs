//! The system calls as the scripted kernel answers them.

use super::dma::{map, unmap};
use super::event::KernelEvent;
use super::files::Kind;
use super::function::{BAR_OFFSET, BAR_SIZE, CONFIG_OFFSET, CONFIG_SIZE};
use super::{CallFault, ScriptedKernel};
use crate::errno::Errno;
use crate::kernel::{Call, Kernel, MapArea};
use crate::sys::iommufd::{IovaLimits, IovaRange};
#[cfg(feature = "kvm")]
use crate::sys::kvm;
use crate::sys::vfio::IrqSet;
use crate::sys::{EventFd, FilePart, HostRange, Mapping};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use vfio_bindings::bindings::vfio as v;

/// The most messages that the routing table has room for, and the most memory slots.
#[cfg(feature = "kvm")]
const KVM_LIMIT: u32 = 4096;

fn put(info: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = info.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

impl Kernel for ScriptedKernel {
    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.call(Call::Open, |model| model.open(path))
    }

    fn api_version(&self, container: BorrowedFd<'_>) -> Result<u32, Errno> {
        self.number(Call::ApiVersion, |model| match model.file(container)?.1 {
            Kind::Container { .. } => Ok(v::VFIO_API_VERSION),
            _ => Err(Errno::ENOTTY),
        })
    }

    fn check_extension(&self, _: BorrowedFd<'_>, extension: u32) -> Result<u32, Errno> {
        self.number(Call::CheckExtension, |model| {
            // The unsafe mode is on where a device is without an IOMMU.
            let unsafe_mode = model.devices.iter().any(|device| !device.function.guarded);
            let known = match extension {
                v::VFIO_TYPE1v2_IOMMU => true,
                v::VFIO_NOIOMMU_IOMMU => unsafe_mode,
                _ => false,
            };
            Ok(u32::from(known))
        })
    }

    fn set_iommu(&self, container: BorrowedFd<'_>, kind: u32) -> Result<(), Errno> {
        self.call(Call::SetIommu, |model| model.set_iommu(container, kind))
    }

    fn iommu_info(&self, container: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
        self.call(Call::IommuInfo, |model| {
            model.container(container)?;
            put(info, 0, &24u32.to_ne_bytes());
            put(info, 4, &v::VFIO_IOMMU_INFO_PGSIZES.to_ne_bytes());
            put(info, 8, &0x1000u64.to_ne_bytes());
            Ok(())
        })
    }

    fn map_dma(&self, container: BorrowedFd<'_>, iova: u64, memory: HostRange) -> Result<(), Errno> {
        self.call(Call::MapDma, |model| map(model.container(container)?, iova, memory.length() as u64))
    }

    fn unmap_dma(&self, container: BorrowedFd<'_>, iova: u64, size: u64) -> Result<u64, Errno> {
        self.number(Call::UnmapDma, |model| unmap(model.container(container)?, iova, size))
    }

    fn group_status(&self, group: BorrowedFd<'_>) -> Result<u32, Errno> {
        self.number(Call::GroupStatus, |model| {
            let (number, joined) = model.group(group)?;
            let viable = if model.is_viable(number) { v::VFIO_GROUP_FLAGS_VIABLE } else { 0 };
            Ok(viable | if joined { v::VFIO_GROUP_FLAGS_CONTAINER_SET } else { 0 })
        })
    }

    fn set_container(&self, group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<(), Errno> {
        self.call(Call::SetContainer, |model| model.set_container(group, container))
    }

    fn device_fd(&self, group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
        let name = name.to_str().map_err(|_| Errno::ENODEV)?;
        self.call(Call::DeviceFd, |model| model.device_fd(group, name))
    }

    fn device_number(&self, file: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
        self.call(Call::DeviceNumber, |model| match model.file(file)?.1 {
            Kind::Cdev { place, .. } => Ok((511, *place as u32)),
            _ => Ok((0, 0)),
        })
    }

    fn bind_iommufd(&self, device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
        self.call(Call::BindIommufd, |model| model.bind(device, iommufd))
    }

    fn attach_ioas(&self, device: BorrowedFd<'_>, ioas: u32) -> Result<(), Errno> {
        self.call(Call::AttachIoas, |model| model.attach(device, ioas))
    }

    fn detach_ioas(&self, device: BorrowedFd<'_>) -> Result<(), Errno> {
        self.call(Call::DetachIoas, |model| model.detach(device))
    }

    fn ioas_alloc(&self, iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
        self.call(Call::IoasAlloc, |model| model.ioas_alloc(iommufd))
    }

    fn ioas_iova_ranges(
        &self,
        iommufd: BorrowedFd<'_>,
        ioas: u32,
        ranges: &mut [IovaRange],
    ) -> Result<IovaLimits, Errno> {
        self.call(Call::IoasIovaRanges, |model| {
            model.ioas(iommufd, ioas)?;
            if let Some(first) = ranges.first_mut() {
                *first = IovaRange { start: 0, last: u64::MAX };
            }
            Ok(IovaLimits { count: 1, alignment: 0x1000 })
        })
    }

    fn ioas_map(
        &self,
        iommufd: BorrowedFd<'_>,
        ioas: u32,
        iova: u64,
        memory: HostRange,
    ) -> Result<(), Errno> {
        self.call(Call::IoasMap, |model| map(model.ioas(iommufd, ioas)?, iova, memory.length() as u64))
    }

    fn ioas_map_file(
        &self,
        iommufd: BorrowedFd<'_>,
        ioas: u32,
        iova: u64,
        part: FilePart<'_>,
    ) -> Result<(), Errno> {
        self.call(Call::IoasMapFile, |model| match model.maps_files {
            true => map(model.ioas(iommufd, ioas)?, iova, part.length()),
            false => Err(Errno::ENOTTY),
        })
    }

    fn ioas_unmap(&self, iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, size: u64) -> Result<u64, Errno> {
        self.number(Call::IoasUnmap, |model| match unmap(model.ioas(iommufd, ioas)?, iova, size)? {
            0 => Err(Errno::ENOENT),
            size => Ok(size),
        })
    }

    fn iommu_destroy(&self, iommufd: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
        self.call(Call::IommuDestroy, |model| model.ioas_destroy(iommufd, id))
    }

    fn device_info(&self, device: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
        self.call(Call::DeviceInfo, |model| {
            let place = model.device_at(device)?;
            let reset = if model.devices[place].function.resettable { v::VFIO_DEVICE_FLAGS_RESET } else { 0 };
            let fields = [24, v::VFIO_DEVICE_FLAGS_PCI | reset, 9, 5];
            fields.iter().zip(0..).for_each(|(field, n)| put(info, 4 * n, &u32::to_ne_bytes(*field)));
            Ok(())
        })
    }

    fn region_info(&self, device: BorrowedFd<'_>, index: u32, info: &mut [u8]) -> Result<(), Errno> {
        self.call(Call::RegionInfo, |model| {
            model.device_at(device)?;
            // Readable, writable, can be mapped.
            let (flags, size, offset) = match index {
                0 => (7u32, BAR_SIZE, BAR_OFFSET),
                7 => (3, CONFIG_SIZE, CONFIG_OFFSET),
                1..=6 => (0, 0, 0),
                _ => return Err(Errno::EINVAL),
            };
            put(info, 4, &flags.to_ne_bytes());
            put(info, 16, &size.to_ne_bytes());
            put(info, 24, &offset.to_ne_bytes());
            Ok(())
        })
    }

    fn irq_info(&self, device: BorrowedFd<'_>, index: u32) -> Result<v::vfio_irq_info, Errno> {
        self.call(Call::IrqInfo, |model| {
            let place = model.device_at(device)?;
            let function = &model.devices[place].function;
            let flags = match index {
                0 => v::VFIO_IRQ_INFO_MASKABLE | v::VFIO_IRQ_INFO_AUTOMASKED,
                1 => v::VFIO_IRQ_INFO_NORESIZE,
                2 if function.noresize => v::VFIO_IRQ_INFO_NORESIZE,
                2..=4 => 0,
                _ => return Err(Errno::EINVAL),
            };
            let (flags, count) = (flags | v::VFIO_IRQ_INFO_EVENTFD, function.irqs(index));
            Ok(v::vfio_irq_info { argsz: 16, flags, index, count })
        })
    }

    fn set_irqs(&self, device: BorrowedFd<'_>, set: &IrqSet<'_>) -> Result<u32, Errno> {
        let (mut model, fault) = self.enter(Call::SetIrqs);
        let place = model.device_at(device)?;
        let device = &mut model.devices[place];
        match fault {
            None => device.set_irqs(set, None),
            Some(CallFault::Halfway(errno)) => device.set_irqs(set, Some(errno)),
            Some(CallFault::Late(errno)) => device.set_irqs(set, None).and(Err(errno)),
            Some(CallFault::Errno(errno)) => Err(errno),
            Some(CallFault::Answer(available)) => Ok(available),
            Some(CallFault::Short) => panic!("{} moves no bytes", Call::SetIrqs.name()),
        }
    }

    fn reset(&self, device: BorrowedFd<'_>) -> Result<(), Errno> {
        self.call(Call::Reset, |model| {
            let place = model.device_at(device)?;
            let device = &mut model.devices[place];
            if !device.function.resettable {
                return Err(Errno::ENOTTY);
            }
            device.reset();
            Ok(())
        })
    }

    fn hot_reset_info(&self, device: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
        self.call(Call::HotResetInfo, |model| model.hot_reset_info(device, info))
    }

    fn hot_reset(&self, device: BorrowedFd<'_>, groups: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.call(Call::HotReset, |model| model.hot_reset(device, groups))
    }

    fn region_read(&self, device: BorrowedFd<'_>, offset: u64, data: &mut [u8]) -> Result<usize, Errno> {
        self.transfer(Call::RegionRead, data.len(), |model, length| {
            let place = model.device_at(device)?;
            model.devices[place].read(offset, &mut data[..length])
        })
    }

    fn region_write(&self, device: BorrowedFd<'_>, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.transfer(Call::RegionWrite, data.len(), |model, length| {
            let place = model.device_at(device)?;
            model.devices[place].write(offset, &data[..length])
        })
    }

    fn map_area(&self, device: BorrowedFd<'_>, area: MapArea) -> Result<Mapping, Errno> {
        self.call(Call::MapArea, |model| {
            let place = model.device_at(device)?;
            let bar = model.devices[place].bar()?;
            Mapping::new(bar, area.offset, area.length, area.placement, area.writable)
        })
    }

    fn new_event(&self) -> Result<EventFd, Errno> {
        self.call(Call::NewEvent, |model| {
            let event = EventFd::new()?;
            model.kvms().for_each(|kvm| kvm.forget_number(event.as_fd()));
            Ok(event)
        })
    }

    fn signal_event(&self, event: &EventFd) -> Result<(), Errno> {
        self.call(Call::SignalEvent, |model| {
            event.signal()?;
            model.inject(&KernelEvent::new(event.as_fd())?);
            Ok(())
        })
    }

    fn take_event(&self, event: &EventFd) -> Result<u64, Errno> {
        self.call(Call::TakeEvent, |_| event.take())
    }

    fn poll_event(&self, event: &EventFd) -> Result<bool, Errno> {
        self.call(Call::PollEvent, |_| event.is_signalled())
    }

    #[cfg(feature = "kvm")]
    fn kvm_check_extension(&self, _: BorrowedFd<'_>, _: u32) -> Result<u32, Errno> {
        self.number(Call::KvmCheckExtension, |_| Ok(KVM_LIMIT))
    }

    #[cfg(feature = "kvm")]
    fn kvm_set_memory_region(&self, vm: BorrowedFd<'_>, slot: &kvm::Slot) -> Result<(), Errno> {
        let size = slot.memory.map(|memory| memory.length() as u64);
        self.call(Call::KvmSetMemoryRegion, |model| model.kvm(vm)?.set_slot(slot.slot, slot.guest, size))
    }

    #[cfg(feature = "kvm")]
    fn kvm_set_gsi_routing(&self, vm: BorrowedFd<'_>, routes: &[kvm::Route]) -> Result<(), Errno> {
        let messages = routes.iter().filter_map(|route| match route.target {
            kvm::RouteTarget::Msi { address, data } => Some((route.gsi, (address, data))),
            kvm::RouteTarget::Irqchip { .. } => None,
        });
        self.call(Call::KvmSetGsiRouting, |model| match routes.len() > KVM_LIMIT as usize {
            true => Err(Errno::EINVAL),
            false => {
                model.kvm(vm)?.set_routes(messages.collect());
                Ok(())
            }
        })
    }

    #[cfg(feature = "kvm")]
    fn kvm_assign_irqfd(
        &self,
        vm: BorrowedFd<'_>,
        gsi: u32,
        event: BorrowedFd<'_>,
        resample: Option<BorrowedFd<'_>>,
    ) -> Result<(), Errno> {
        self.call(Call::KvmAssignIrqfd, |model| {
            let injected = model.kvm(vm)?.assign(gsi, event, resample)?;
            model.injections.extend(injected);
            Ok(())
        })
    }

    #[cfg(feature = "kvm")]
    fn kvm_deassign_irqfd(&self, vm: BorrowedFd<'_>, gsi: u32, event: BorrowedFd<'_>) -> Result<(), Errno> {
        self.call(Call::KvmDeassignIrqfd, |model| model.kvm(vm)?.deassign(gsi, event))
    }

    #[cfg(feature = "kvm")]
    fn kvm_create_vfio_device(&self, _: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        self.call(Call::KvmCreateVfioDevice, |model| model.lend(Kind::KvmVfio { files: Default::default() }))
    }

    #[cfg(feature = "kvm")]
    fn kvm_add_vfio_file(&self, device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.call(Call::KvmAddVfioFile, |model| {
            let (added, _) = model.file(file)?;
            match model.file(device)?.1 {
                Kind::KvmVfio { files } => files.insert(added).then_some(()).ok_or(Errno::EEXIST),
                _ => Err(Errno::ENOTTY),
            }
        })
    }

    #[cfg(feature = "kvm")]
    fn kvm_remove_vfio_file(&self, device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.call(Call::KvmRemoveVfioFile, |model| {
            let (removed, _) = model.file(file)?;
            match model.file(device)?.1 {
                Kind::KvmVfio { files } => files.remove(&removed).then_some(()).ok_or(Errno::ENOENT),
                _ => Err(Errno::ENOTTY),
            }
        })
    }
}
