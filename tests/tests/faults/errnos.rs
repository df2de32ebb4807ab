//! In which ways the kernel may fail each call.

use vfio_assign_linux::Errno;
use vfio_assign_linux::scripted::CallFault::{self, Answer, Halfway, Late, Short};

const fn plain(errno: Errno) -> CallFault {
    CallFault::Errno(errno)
}

const EPERM: CallFault = plain(Errno::EPERM);
const ENOENT: CallFault = plain(Errno::ENOENT);
const EIO: CallFault = plain(Errno::EIO);
const E2BIG: CallFault = plain(Errno::E2BIG);
const EBADF: CallFault = plain(Errno::EBADF);
const EAGAIN: CallFault = plain(Errno::EAGAIN);
const ENOMEM: CallFault = plain(Errno::ENOMEM);
const EACCES: CallFault = plain(Errno::EACCES);
const EFAULT: CallFault = plain(Errno::EFAULT);
const EBUSY: CallFault = plain(Errno::EBUSY);
const EEXIST: CallFault = plain(Errno::EEXIST);
const ENODEV: CallFault = plain(Errno::ENODEV);
const EINVAL: CallFault = plain(Errno::EINVAL);
const EMFILE: CallFault = plain(Errno::EMFILE);
const ENOTTY: CallFault = plain(Errno::ENOTTY);
const ENOSPC: CallFault = plain(Errno::ENOSPC);
const EMSGSIZE: CallFault = plain(Errno::EMSGSIZE);
const EADDRINUSE: CallFault = plain(Errno::EADDRINUSE);

/// By the calls' names. What a number means that a call answers stands beside it.
pub(crate) const TABLE: &[(&str, &[CallFault])] = &[
    ("open", &[ENOENT, EACCES, EPERM, EBUSY, EMFILE, ENODEV, ENOMEM]),
    // Another version.
    ("vfio-get-api-version", &[ENOTTY, Answer(1)]),
    // No Type1v2.
    ("vfio-check-extension", &[ENOTTY, Answer(0)]),
    ("vfio-set-iommu", &[EINVAL, EPERM, ENODEV, ENOMEM, EBUSY]),
    ("vfio-iommu-get-info", &[EINVAL, EFAULT, ENOMEM]),
    ("vfio-iommu-map-dma", &[ENOMEM, EFAULT, EINVAL, ENOSPC, EEXIST, E2BIG, EIO]),
    // Nothing was unmapped. What one call has mapped goes as a whole, and this library unmaps no more in one.
    ("vfio-iommu-unmap-dma", &[EINVAL, EFAULT, Answer(0)]),
    // Not viable; in a container.
    ("vfio-group-get-status", &[EFAULT, ENODEV, Answer(0), Answer(3)]),
    ("vfio-group-set-container", &[EINVAL, EPERM, EBUSY, ENODEV, ENOMEM]),
    ("vfio-group-get-device-fd", &[EAGAIN, EBUSY, EACCES, EINVAL, EIO, ENODEV, EMFILE, ENOMEM]),
    ("fstat", &[EBADF, EIO]),
    ("vfio-device-bind-iommufd", &[EAGAIN, EBUSY, EINVAL, EPERM, EIO, ENODEV, ENOMEM]),
    ("vfio-device-attach-iommufd-pt", &[EADDRINUSE, ENOMEM, EINVAL, EPERM, EBUSY]),
    ("vfio-device-detach-iommufd-pt", &[EINVAL, EIO]),
    ("iommu-ioas-alloc", &[ENOTTY, ENOMEM, EFAULT]),
    ("iommu-ioas-iova-ranges", &[ENOENT, EMSGSIZE, EFAULT]),
    ("iommu-ioas-map", &[ENOMEM, EFAULT, EINVAL, EEXIST, EADDRINUSE, EIO]),
    ("iommu-ioas-map-file", &[ENOTTY, ENOMEM, EBADF, EINVAL, EFAULT, EEXIST]),
    // The same.
    ("iommu-ioas-unmap", &[ENOENT, EBUSY, EINVAL, Answer(0)]),
    ("iommu-destroy", &[EBUSY, ENOENT]),
    ("vfio-device-get-info", &[EFAULT, ENODEV, EIO]),
    // EINVAL says that there is no such region, or no such kind of interrupt.
    ("vfio-device-get-region-info", &[EFAULT, ENODEV, EIO, ENOMEM]),
    ("vfio-device-get-irq-info", &[EFAULT, ENODEV, EIO]),
    // The host has one vector.
    (
        "vfio-device-set-irqs",
        &[EINVAL, ENOSPC, ENOMEM, EBUSY, EIO, ENODEV, Halfway(Errno::ENOMEM), Answer(1)],
    ),
    ("vfio-device-reset", &[EAGAIN, EBUSY, ENOTTY, EIO, ENODEV]),
    ("vfio-device-get-pci-hot-reset-info", &[ENODEV, EFAULT, ENOMEM]),
    ("vfio-device-pci-hot-reset", &[EPERM, EINVAL, EBUSY, EAGAIN, EIO, ENODEV]),
    // Not one byte; some, which are in the buffer or the device.
    ("pread", &[EIO, ENODEV, EFAULT, Answer(0), Short]),
    ("pwrite", &[EIO, ENODEV, EFAULT, Answer(0), Short]),
    ("mmap-area", &[ENOMEM, EINVAL, EAGAIN, ENODEV, EACCES]),
    ("eventfd", &[EMFILE, ENOMEM, ENODEV]),
    ("eventfd-write", &[EBADF, EIO]),
    ("eventfd-read", &[EBADF, EIO]),
    ("eventfd-poll", &[ENOMEM, EFAULT]),
    ("kvm-check-extension", &[ENOTTY, EBADF]),
    ("kvm-set-user-memory-region", &[ENOMEM, EEXIST, EINVAL, EFAULT]),
    ("kvm-set-gsi-routing", &[ENOMEM, EINVAL, EFAULT]),
    ("kvm-irqfd-assign", &[EBUSY, EINVAL, ENOMEM, EBADF]),
    ("kvm-irqfd-deassign", &[EINVAL, EBADF, ENOMEM]),
    ("kvm-create-device", &[EBUSY, ENODEV, ENOMEM, EMFILE]),
    ("kvm-vfio-file-add", &[EBADF, EEXIST, EINVAL, ENOMEM]),
    // KVM does not have the file any more.
    ("kvm-vfio-file-del", &[Late(Errno::ENOENT)]),
];

/// The faults of a call.
pub(crate) fn faults(call: &str) -> &'static [CallFault] {
    let row = TABLE.iter().find(|(name, _)| *name == call);
    row.map(|(_, faults)| *faults).unwrap_or_else(|| panic!("{call} is not in the table"))
}
