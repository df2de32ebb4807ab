//! The system calls that this crate makes, by meaning, behind one trait.
//!
//! A test puts a model in the kernel's place and lets any call fail. Accesses through mappings and the
//! reading of sysfs do not go through here: the first are no calls, the second takes a folder.

use crate::errno::Errno;
use crate::sys::iommufd::{self, IovaLimits, IovaRange};
#[cfg(feature = "kvm")]
use crate::sys::kvm;
use crate::sys::vfio::{self, IrqSet};
use crate::sys::{EventFd, FilePart, HostRange, Mapping, Placement};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The host's kernel, and how often each of its calls was made. Clones share the counters.
#[derive(Clone)]
pub struct Host {
    kernel: Arc<dyn Kernel>,
    calls: Arc<[AtomicU64; Call::COUNT]>,
}

impl Host {
    /// The kernel that this program runs on.
    pub fn linux() -> Self {
        Self::over(Arc::new(RealKernel))
    }

    pub(crate) fn over(kernel: Arc<dyn Kernel>) -> Self {
        Self { kernel, calls: Arc::new([const { AtomicU64::new(0) }; Call::COUNT]) }
    }

    /// How often each call was made so far, by name; calls never made are left out.
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        let counted = Call::NAMES.iter().zip(self.calls.iter());
        counted
            .map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

/// States every call once: its counter's name, the trait's method, the real kernel's way to do it, and
/// [`Host`]'s method, which counts.
macro_rules! calls {
    ($(
        $(#[doc = $doc:literal])*
        $(#[cfg(feature = $feature:literal)])?
        $variant:ident $name:literal
        fn $method:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty = $real:expr;
    )*) => {
        /// One of the kernel's calls.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Call {
            $($(#[cfg(feature = $feature)])? $variant,)*
        }

        impl Call {
            pub(crate) const NAMES: &[&str] = &[$($(#[cfg(feature = $feature)])? $name,)*];
            const COUNT: usize = Self::NAMES.len();

            #[cfg(any(test, feature = "fake"))]
            pub(crate) fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }

        /// The kernel's side of this crate: the real one, where a method is not said otherwise.
        pub(crate) trait Kernel: Send + Sync {
            $(
                $(#[doc = $doc])*
                $(#[cfg(feature = $feature)])?
                fn $method(&self, $($argument: $type),*) -> Result<$result, Errno> {
                    $real
                }
            )*
        }

        impl Host {
            $(
            $(#[doc = $doc])*
            $(#[cfg(feature = $feature)])?
            pub(crate) fn $method(&self, $($argument: $type),*) -> Result<$result, Errno> {
                self.calls[Call::$variant as usize].fetch_add(1, Ordering::Relaxed);
                self.kernel.$method($($argument),*)
            })*
        }
    };
}

calls! {
    /// Opens a file for reading and writing.
    Open "open"
    fn open(path: &Path) -> OwnedFd = {
        Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
    };

    ApiVersion "vfio-get-api-version"
    fn api_version(container: BorrowedFd<'_>) -> u32 = vfio::api_version(container);
    CheckExtension "vfio-check-extension"
    fn check_extension(container: BorrowedFd<'_>, extension: u32) -> u32 = {
        vfio::check_extension(container, extension)
    };
    SetIommu "vfio-set-iommu"
    fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> () = vfio::set_iommu(container, kind);
    IommuInfo "vfio-iommu-get-info"
    fn iommu_info(container: BorrowedFd<'_>, info: &mut [u8]) -> () = vfio::iommu_info(container, info);
    MapDma "vfio-iommu-map-dma"
    fn map_dma(container: BorrowedFd<'_>, iova: u64, memory: HostRange) -> () = {
        vfio::map_dma(container, iova, memory)
    };
    /// Gives the number of bytes that were unmapped.
    UnmapDma "vfio-iommu-unmap-dma"
    fn unmap_dma(container: BorrowedFd<'_>, iova: u64, size: u64) -> u64 = {
        vfio::unmap_dma(container, iova, size)
    };

    /// Gives `VFIO_GROUP_FLAGS_*`.
    GroupStatus "vfio-group-get-status"
    fn group_status(group: BorrowedFd<'_>) -> u32 = vfio::group_status(group);
    SetContainer "vfio-group-set-container"
    fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> () = {
        vfio::set_container(group, container)
    };
    DeviceFd "vfio-group-get-device-fd"
    fn device_fd(group: BorrowedFd<'_>, name: &CStr) -> OwnedFd = vfio::device_fd(group, name);

    /// The major and the minor number of a device's file.
    DeviceNumber "fstat"
    fn device_number(file: BorrowedFd<'_>) -> (u32, u32) = {
        let number = rustix::fs::fstat(file)?.st_rdev;
        Ok((rustix::fs::major(number), rustix::fs::minor(number)))
    };
    /// Gives the device's id in the iommufd.
    BindIommufd "vfio-device-bind-iommufd"
    fn bind_iommufd(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> u32 = {
        iommufd::bind(device, iommufd)
    };
    AttachIoas "vfio-device-attach-iommufd-pt"
    fn attach_ioas(device: BorrowedFd<'_>, ioas: u32) -> () = iommufd::attach(device, ioas);
    DetachIoas "vfio-device-detach-iommufd-pt"
    fn detach_ioas(device: BorrowedFd<'_>) -> () = iommufd::detach(device);

    /// Gives the id of a new address space.
    IoasAlloc "iommu-ioas-alloc"
    fn ioas_alloc(iommufd: BorrowedFd<'_>) -> u32 = iommufd::ioas_alloc(iommufd);
    IoasIovaRanges "iommu-ioas-iova-ranges"
    fn ioas_iova_ranges(iommufd: BorrowedFd<'_>, ioas: u32, ranges: &mut [IovaRange]) -> IovaLimits = {
        iommufd::ioas_iova_ranges(iommufd, ioas, ranges)
    };
    IoasMap "iommu-ioas-map"
    fn ioas_map(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, memory: HostRange) -> () = {
        iommufd::ioas_map(iommufd, ioas, iova, memory)
    };
    IoasMapFile "iommu-ioas-map-file"
    fn ioas_map_file(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, part: FilePart<'_>) -> () = {
        iommufd::ioas_map_file(iommufd, ioas, iova, part)
    };
    /// Gives the number of bytes that were unmapped.
    IoasUnmap "iommu-ioas-unmap"
    fn ioas_unmap(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, size: u64) -> u64 = {
        iommufd::ioas_unmap(iommufd, ioas, iova, size)
    };
    IommuDestroy "iommu-destroy"
    fn iommu_destroy(iommufd: BorrowedFd<'_>, id: u32) -> () = iommufd::destroy(iommufd, id);

    DeviceInfo "vfio-device-get-info"
    fn device_info(device: BorrowedFd<'_>, info: &mut [u8]) -> () = vfio::device_info(device, info);
    RegionInfo "vfio-device-get-region-info"
    fn region_info(device: BorrowedFd<'_>, index: u32, info: &mut [u8]) -> () = {
        vfio::region_info(device, index, info)
    };
    IrqInfo "vfio-device-get-irq-info"
    fn irq_info(device: BorrowedFd<'_>, index: u32) -> vfio_bindings::bindings::vfio::vfio_irq_info = {
        vfio::irq_info(device, index)
    };
    /// Gives 0, or how many interrupts there are where more were asked for.
    SetIrqs "vfio-device-set-irqs"
    fn set_irqs(device: BorrowedFd<'_>, set: &IrqSet<'_>) -> u32 = vfio::set_irqs(device, set);
    Reset "vfio-device-reset"
    fn reset(device: BorrowedFd<'_>) -> () = vfio::reset(device);
    HotResetInfo "vfio-device-get-pci-hot-reset-info"
    fn hot_reset_info(device: BorrowedFd<'_>, info: &mut [u8]) -> () = vfio::hot_reset_info(device, info);
    /// The groups of all that is reset; none for a device that was opened by its own file.
    HotReset "vfio-device-pci-hot-reset"
    fn hot_reset(device: BorrowedFd<'_>, groups: &[BorrowedFd<'_>]) -> () = vfio::hot_reset(device, groups);
    /// Reads from a region at its offset in the device's file; gives how many bytes were read.
    RegionRead "pread"
    fn region_read(device: BorrowedFd<'_>, offset: u64, data: &mut [u8]) -> usize = {
        Ok(rustix::io::pread(device, data, offset)?)
    };
    /// Writes to a region at its offset in the device's file; gives how many bytes were written.
    RegionWrite "pwrite"
    fn region_write(device: BorrowedFd<'_>, offset: u64, data: &[u8]) -> usize = {
        Ok(rustix::io::pwrite(device, data, offset)?)
    };
    MapArea "mmap-area"
    fn map_area(device: BorrowedFd<'_>, area: MapArea) -> Mapping = {
        Mapping::new(device, area.offset, area.length, area.placement, area.writable)
    };

    NewEvent "eventfd"
    fn new_event() -> EventFd = EventFd::new();
    SignalEvent "eventfd-write"
    fn signal_event(event: &EventFd) -> () = event.signal();
    TakeEvent "eventfd-read"
    fn take_event(event: &EventFd) -> u64 = event.take();
    PollEvent "eventfd-poll"
    fn poll_event(event: &EventFd) -> bool = event.is_signalled();

    #[cfg(feature = "kvm")]
    KvmCheckExtension "kvm-check-extension"
    fn kvm_check_extension(vm: BorrowedFd<'_>, capability: u32) -> u32 = {
        kvm::check_extension(vm, capability)
    };
    #[cfg(feature = "kvm")]
    KvmSetMemoryRegion "kvm-set-user-memory-region"
    fn kvm_set_memory_region(vm: BorrowedFd<'_>, slot: &kvm::Slot) -> () = {
        kvm::set_memory_region(vm, slot)
    };
    #[cfg(feature = "kvm")]
    KvmSetGsiRouting "kvm-set-gsi-routing"
    fn kvm_set_gsi_routing(vm: BorrowedFd<'_>, routes: &[kvm::Route]) -> () = {
        kvm::set_gsi_routing(vm, routes)
    };
    #[cfg(feature = "kvm")]
    KvmAssignIrqfd "kvm-irqfd-assign"
    fn kvm_assign_irqfd(
        vm: BorrowedFd<'_>,
        gsi: u32,
        event: BorrowedFd<'_>,
        resample: Option<BorrowedFd<'_>>,
    ) -> () = kvm::assign_irqfd(vm, gsi, event, resample);
    #[cfg(feature = "kvm")]
    KvmDeassignIrqfd "kvm-irqfd-deassign"
    fn kvm_deassign_irqfd(vm: BorrowedFd<'_>, gsi: u32, event: BorrowedFd<'_>) -> () = {
        kvm::deassign_irqfd(vm, gsi, event)
    };
    #[cfg(feature = "kvm")]
    KvmCreateVfioDevice "kvm-create-device"
    fn kvm_create_vfio_device(vm: BorrowedFd<'_>) -> OwnedFd = kvm::create_vfio_device(vm);
    #[cfg(feature = "kvm")]
    KvmAddVfioFile "kvm-vfio-file-add"
    fn kvm_add_vfio_file(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> () = {
        kvm::add_vfio_file(device, file)
    };
    #[cfg(feature = "kvm")]
    KvmRemoveVfioFile "kvm-vfio-file-del"
    fn kvm_remove_vfio_file(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> () = {
        kvm::remove_vfio_file(device, file)
    };
}

/// The kernel that this program runs on.
struct RealKernel;

impl Kernel for RealKernel {}

/// An area of a device's file that the kernel offered for mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapArea {
    /// Its place in the device's file.
    pub(crate) offset: u64,
    pub(crate) length: usize,
    pub(crate) placement: Placement,
    pub(crate) writable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_name() {
        let host = Host::linux();
        let event = host.new_event().unwrap();
        host.signal_event(&event).unwrap();
        host.signal_event(&event).unwrap();
        assert_eq!(host.calls(), BTreeMap::from([("eventfd", 1), ("eventfd-write", 2)]));
    }

    #[test]
    fn failed_calls_count_too() {
        let host = Host::linux();
        assert_eq!(host.open(Path::new("/nowhere/at/all")).map(drop), Err(Errno::ENOENT));
        assert_eq!(host.calls(), BTreeMap::from([("open", 1)]));
    }
}
