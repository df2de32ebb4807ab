//! The layouts that this crate relies on, checked when it is compiled.
//!
//! The bindings come from another project; where bytes are read or written at offsets, those offsets are
//! stated here once and compared with the bindings' structures. Linux `include/uapi/linux/vfio.h`, `iommufd.h`,
//! `kvm.h`.

use super::iommufd::raw as i;
use vfio_bindings::bindings::vfio as v;

/// Offset of `vfio_region_info::index`.
pub(crate) const REGION_INFO_INDEX: usize = 8;

/// States the size of a structure and the offsets of its fields; a difference does not compile.
macro_rules! layout {
    ($name:path, $size:literal, { $($field:ident: $offset:literal),* $(,)? }) => {
        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(std::mem::offset_of!($name, $field) == $offset);)*
        };
    };
}

layout!(v::vfio_info_cap_header, 8, { id: 0, version: 2, next: 4 });
layout!(v::vfio_group_status, 8, { argsz: 0, flags: 4 });
layout!(v::vfio_device_info, 24, { argsz: 0, flags: 4, num_regions: 8, num_irqs: 12, cap_offset: 16 });
layout!(v::vfio_region_info, 32, { argsz: 0, flags: 4, index: 8, cap_offset: 12, size: 16, offset: 24 });
layout!(v::vfio_region_info_cap_sparse_mmap, 16, { header: 0, nr_areas: 8, areas: 16 });
layout!(v::vfio_region_sparse_mmap_area, 16, { offset: 0, size: 8 });
layout!(v::vfio_region_info_cap_type, 16, { header: 0, type_: 8, subtype: 12 });
layout!(v::vfio_irq_info, 16, { argsz: 0, flags: 4, index: 8, count: 12 });
layout!(v::vfio_irq_set, 20, { argsz: 0, flags: 4, index: 8, start: 12, count: 16, data: 20 });
layout!(v::vfio_pci_hot_reset_info, 12, { argsz: 0, flags: 4, count: 8, devices: 12 });
layout!(v::vfio_pci_dependent_device, 8, { __bindgen_anon_1: 0, segment: 4, bus: 6, devfn: 7 });
layout!(v::vfio_pci_hot_reset, 12, { argsz: 0, flags: 4, count: 8, group_fds: 12 });
layout!(v::vfio_iommu_type1_info, 24, { argsz: 0, flags: 4, iova_pgsizes: 8, cap_offset: 16 });
layout!(v::vfio_iommu_type1_info_cap_iova_range, 16, { header: 0, nr_iovas: 8, iova_ranges: 16 });
layout!(v::vfio_iova_range, 16, { start: 0, end: 8 });
layout!(v::vfio_iommu_type1_info_dma_avail, 12, { header: 0, avail: 8 });
layout!(v::vfio_iommu_type1_dma_map, 32, { argsz: 0, flags: 4, vaddr: 8, iova: 16, size: 24 });
layout!(v::vfio_iommu_type1_dma_unmap, 24, { argsz: 0, flags: 4, iova: 8, size: 16 });

layout!(i::iommu_destroy, 8, { size: 0, id: 4 });
layout!(i::iommu_ioas_alloc, 12, { size: 0, flags: 4, out_ioas_id: 8 });
layout!(i::iommu_iova_range, 16, { start: 0, last: 8 });
layout!(i::iommu_ioas_iova_ranges, 32, {
    size: 0, ioas_id: 4, num_iovas: 8, allowed_iovas: 16, out_iova_alignment: 24,
});
layout!(i::iommu_ioas_map, 40, { size: 0, flags: 4, ioas_id: 8, user_va: 16, length: 24, iova: 32 });
layout!(i::iommu_ioas_unmap, 24, { size: 0, ioas_id: 4, iova: 8, length: 16 });
layout!(i::vfio_device_bind_iommufd, 16, { argsz: 0, flags: 4, iommufd: 8, out_devid: 12 });
layout!(i::vfio_device_attach_iommufd_pt, 12, { argsz: 0, flags: 4, pt_id: 8 });
layout!(i::vfio_device_detach_iommufd_pt, 8, { argsz: 0, flags: 4 });

/// Linux 6.13 has it; the lab's headers do not.
const _: () = {
    use i::iommu_ioas_map_file as File;
    use std::mem::offset_of;
    assert!(size_of::<File>() == 40 && offset_of!(File, ioas_id) == 8 && offset_of!(File, fd) == 12);
    assert!(offset_of!(File, start) == 16 && offset_of!(File, length) == 24 && offset_of!(File, iova) == 32);
};

/// The bindings know later versions of these, which begin alike.
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(v::vfio_device_bind_iommufd, iommufd) == 8);
    assert!(offset_of!(v::vfio_device_bind_iommufd, out_devid) == 12);
    assert!(offset_of!(v::vfio_device_attach_iommufd_pt, pt_id) == 8);
    assert!(offset_of!(v::vfio_device_detach_iommufd_pt, flags) == 4);
};

/// The core has no bindings, and numbers of its own.
const _: () = {
    use vfio_assign_core::region_info as core;
    assert!(core::HEADER == size_of::<v::vfio_region_info>());
    assert!(core::FLAG_READ == v::VFIO_REGION_INFO_FLAG_READ);
    assert!(core::FLAG_WRITE == v::VFIO_REGION_INFO_FLAG_WRITE);
    assert!(core::FLAG_MMAP == v::VFIO_REGION_INFO_FLAG_MMAP);
    assert!(core::FLAG_CAPS == v::VFIO_REGION_INFO_FLAG_CAPS);
    assert!(core::CAP_SPARSE_MMAP as u32 == v::VFIO_REGION_INFO_CAP_SPARSE_MMAP);
    assert!(core::CAP_MSIX_MAPPABLE as u32 == v::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE);
};

#[cfg(feature = "kvm")]
mod kvm {
    use kvm_bindings as k;

    layout!(k::kvm_irq_routing, 8, { nr: 0, flags: 4, entries: 8 });
    layout!(k::kvm_irq_routing_entry, 48, { gsi: 0, type_: 4, flags: 8, u: 16 });
    layout!(k::kvm_irq_routing_irqchip, 8, { irqchip: 0, pin: 4 });
    layout!(k::kvm_irq_routing_msi, 16, { address_lo: 0, address_hi: 4, data: 8 });
    layout!(k::kvm_irqfd, 32, { fd: 0, gsi: 4, flags: 8, resamplefd: 12 });
    layout!(k::kvm_userspace_memory_region, 32, {
        slot: 0, flags: 4, guest_phys_addr: 8, memory_size: 16, userspace_addr: 24,
    });
    layout!(k::kvm_create_device, 12, { type_: 0, fd: 4, flags: 8 });
    layout!(k::kvm_device_attr, 24, { flags: 0, group: 4, attr: 8, addr: 16 });
}
