//! A device's own file (`/dev/vfio/devices/vfioN`, its "cdev"): how a device is opened without its group, and
//! led into an address space of iommufd.
//!
//! The kernel's order: KVM hears of the file, the file is bound to the iommufd, which resets the device, and only
//! then is it attached; and all of that backwards.

use crate::errno::Errno;
use crate::group::VfioFiles;
use crate::kernel::Host;
use crate::retry::RetryPolicy;
use crate::space::AddressSpace;
use crate::sysfs::VfioDevice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vfio_assign_core::Bdf;

/// An open device file of which KVM knows. VFIO does nothing with it before it is bound.
#[derive(Debug)]
pub(crate) struct CdevFile {
    host: Host,
    bdf: Bdf,
    group: u32,
    fd: OwnedFd,
    files: Option<Arc<dyn VfioFiles>>,
}

/// A device that is bound to the iommufd of its address space and, if all went well, attached to it.
#[derive(Debug)]
pub(crate) struct Cdev {
    // Dropped in this order: the device is closed before its address space.
    file: CdevFile,
    id: u32,
    attached: bool,
    space: Arc<AddressSpace>,
}

/// Why a device's own file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CdevError {
    /// The kernel makes no such files, or none for a device without an IOMMU.
    #[error(
        "VFIO has no file for {bdf} alone: the kernel is older than Linux 6.6, or was built without \
        CONFIG_VFIO_DEVICE_CDEV, or the device has no IOMMU; use the group interface"
    )]
    Missing {
        /// The device.
        bdf: Bdf,
    },
    /// The file could not be opened.
    #[error("cannot open {} for {bdf}: {errno}{}", path.display(), open_remedy(*errno))]
    Open {
        /// The device.
        bdf: Bdf,
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The file that was handed in is no file, or that of another device.
    #[error(
        "the file that was handed in for {bdf} has the device number {}, not {}; hand in /dev/vfio/devices/{name}",
        Number(*found), Number(*expected)
    )]
    OtherDevice {
        /// The device.
        bdf: Bdf,
        /// The name of its file.
        name: Box<str>,
        /// The file's major and minor number.
        found: (u32, u32),
        /// The device's.
        expected: (u32, u32),
    },
    /// A VF token was given, which iommufd does not take.
    #[error("{bdf}: a VF token can be given on the group interface only; choose that one")]
    Token {
        /// The device.
        bdf: Bdf,
    },
    /// KVM does not take the file.
    #[error("KVM does not take the file of {bdf}: {errno}")]
    TellKvm {
        /// The device.
        bdf: Bdf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel does not open the device by its file.
    #[error("VFIO does not open {bdf}, IOMMU group {group}, by its own file: {errno}{}", bind_remedy(*errno))]
    Bind {
        /// The device.
        bdf: Bdf,
        /// Its IOMMU group.
        group: u32,
        /// What the kernel said.
        errno: Errno,
    },
    /// The device's DMA cannot be led into the VM's address space.
    #[error("{bdf} cannot join the VM's address space: {errno}{}", attach_remedy(*errno))]
    Attach {
        /// The device.
        bdf: Bdf,
        /// What the kernel said.
        errno: Errno,
    },
}

fn open_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT => "; udev has not made it (`mknod` can), or this process does not see it",
        Errno::EACCES | Errno::EPERM => "; be root, or be given this file and /dev/iommu",
        Errno::ENODEV => "; the device is being taken from its driver",
        Errno::EMFILE => "; raise RLIMIT_NOFILE (`ulimit -n`)",
        _ => "",
    }
}

fn bind_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EAGAIN => "; its reset was held up each time it was tried",
        Errno::EINVAL => "; another VM or process has it open by the same file, or /dev/iommu is no iommufd",
        Errno::EPERM => {
            "; another VM or process uses a device of its group, or the platform has no interrupt remapping"
        }
        Errno::EIO => "; the device does not answer",
        Errno::ENODEV => "; it is not bound to a VFIO driver any more, or gone",
        _ => "",
    }
}

fn attach_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EADDRINUSE => "; guest memory lies where the host reserves addresses of this device",
        Errno::ENOMEM => "; raise RLIMIT_MEMLOCK (`ulimit -l`), by which the guest's memory is locked",
        Errno::EINVAL => "; another device of its IOMMU group is in another address space",
        Errno::EPERM => "; the platform has no interrupt remapping",
        _ => "",
    }
}

/// A device number as sysfs writes it.
struct Number((u32, u32));

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.0.0, self.0.1)
    }
}

/// Opens a device's file in VFIO's folder.
pub(crate) fn open(
    host: &Host,
    folder: &Path,
    bdf: Bdf,
    device: &VfioDevice,
    retry: &RetryPolicy,
) -> Result<OwnedFd, CdevError> {
    device.number.ok_or(CdevError::Missing { bdf })?;
    let path = folder.join("devices").join(&*device.name);
    retry.run(&bdf, || host.open(&path)).map_err(|errno| CdevError::Open { bdf, path, errno })
}

/// Sees that the file that was handed in is this device's.
pub(crate) fn check(host: &Host, bdf: Bdf, device: &VfioDevice, fd: OwnedFd) -> Result<OwnedFd, CdevError> {
    let expected = device.number.ok_or(CdevError::Missing { bdf })?;
    let unknown = |errno| CdevError::Open { bdf, path: "the file that was handed in".into(), errno };
    let found = host.device_number(fd.as_fd()).map_err(unknown)?;
    if found == expected {
        Ok(fd)
    } else {
        Err(CdevError::OtherDevice { bdf, name: device.name.clone(), found, expected })
    }
}

impl CdevFile {
    /// An open file; `files` hears of it.
    pub(crate) fn new(
        host: &Host,
        bdf: Bdf,
        group: u32,
        fd: OwnedFd,
        files: Option<Arc<dyn VfioFiles>>,
    ) -> Result<Self, CdevError> {
        // Before the device is bound: that is when it learns of its KVM.
        if let Some(files) = &files {
            files.add(fd.as_fd()).map_err(|errno| CdevError::TellKvm { bdf, errno })?;
        }
        Ok(Self { host: host.clone(), bdf, group, fd, files })
    }

    /// Binds the device to the iommufd of `space`; the kernel opens and resets it.
    pub(crate) fn bind(&self, space: &AddressSpace) -> Result<u32, Errno> {
        let iommufd = space.ioas().ok_or(Errno::EBADF)?.fd();
        self.host.bind_iommufd(self.fd.as_fd(), iommufd)
    }

    pub(crate) fn group(&self) -> u32 {
        self.group
    }
}

impl Drop for CdevFile {
    fn drop(&mut self) {
        let Some(files) = &self.files else {
            return;
        };
        // KVM finds the file by its descriptor, and keeps the device open until it has let go.
        if let Err(errno) = files.remove(self.fd.as_fd()) {
            log::error!("{}: KVM does not let go of its file: {errno}", self.bdf);
        }
    }
}

impl Cdev {
    /// A file that is bound under this id to the iommufd of `space`. It does no DMA yet.
    pub(crate) fn new(space: Arc<AddressSpace>, file: CdevFile, id: u32) -> Self {
        Self { file, id, attached: false, space }
    }

    /// A file that another process has bound under this id and attached to `space`.
    pub(crate) fn handed(space: Arc<AddressSpace>, file: CdevFile, id: u32) -> Self {
        Self { file, id, attached: true, space }
    }

    /// Leads the device's DMA into its address space.
    pub(crate) fn attach(&mut self) -> Result<(), CdevError> {
        let bdf = self.file.bdf;
        let refused = |errno| CdevError::Attach { bdf, errno };
        let ioas = self.space.ioas().ok_or(refused(Errno::EBADF))?.id();
        self.file.host.attach_ioas(self.fd(), ioas).map_err(refused)?;
        self.attached = true;
        Ok(())
    }

    pub(crate) fn space(&self) -> &AddressSpace {
        &self.space
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.fd.as_fd()
    }

    pub(crate) fn group(&self) -> u32 {
        self.file.group
    }

    /// The device's number in its iommufd.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Cdev {
    fn drop(&mut self) {
        if !self.attached {
            return;
        }
        // Closing the file would do it, but somebody may have lent it.
        if let Err(errno) = self.file.host.detach_ioas(self.fd()) {
            log::error!("{}: its DMA is not taken out of the VM's address space: {errno}", self.file.bdf);
        }
    }
}
