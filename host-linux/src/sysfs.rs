//! PCI functions as the host's sysfs shows them: their drivers, their IOMMU groups, and moving a function from
//! one driver to another.
//!
//! Everything is looked up below a folder that is normally `/sys`, so that a test can use one of its own.

use crate::errno::Errno;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use vfio_assign_core::Bdf;

/// A host's sysfs.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

/// Why sysfs did not give or take something.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysfsError {
    /// There is no such function.
    #[error("there is no PCI function {bdf} on this host; `lspci -D` lists those there are")]
    NoFunction {
        /// The function that was asked for.
        bdf: Bdf,
    },
    /// A file could not be read, or has no useful content.
    #[error("cannot read {}: {errno}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said; `EINVAL` where the content is not what belongs there.
        errno: Errno,
    },
    /// A file could not be written.
    #[error("cannot write {value:?} to {}: {errno}{}", path.display(), write_remedy(*errno))]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: Box<str>,
        /// What the kernel said.
        errno: Errno,
    },
}

fn write_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EACCES | Errno::EPERM => "; only root may change drivers",
        _ => "",
    }
}

/// A PCI function of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostFunction {
    /// Its address.
    pub bdf: Bdf,
    /// The driver that is bound to it.
    pub driver: Option<Box<str>>,
    /// Whether that driver is one of VFIO's.
    pub vfio: bool,
    /// The number of its IOMMU group; none where the host has no IOMMU, or it is switched off.
    pub group: Option<u32>,
}

/// What VFIO made of a function, `vfio-dev` in sysfs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VfioDevice {
    /// Its name, which is that of its own file in `/dev/vfio/devices`.
    pub name: Box<str>,
    /// The major and minor number of that file; none where the kernel makes no such files.
    pub number: Option<(u32, u32)>,
}

/// A device of an IOMMU group: a PCI function, or what else sits behind the same IOMMU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupMember {
    /// Its name in sysfs; of a PCI function, its address.
    pub name: Box<str>,
    /// The driver that is bound to it.
    pub driver: Option<Box<str>>,
    /// Whether that driver keeps the group from being given to a guest.
    pub in_the_way: bool,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/sys")
    }
}

impl Sysfs {
    /// The sysfs that is mounted, or imitated, at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Looks a function up.
    ///
    /// # Errors
    ///
    /// There is none, or its entry cannot be read.
    pub fn function(&self, bdf: Bdf) -> Result<HostFunction, SysfsError> {
        let folder = self.function_folder(bdf);
        if !folder.is_dir() {
            return Err(SysfsError::NoFunction { bdf });
        }
        let driver = link_name(&folder.join("driver"))?;
        let vfio = driver.as_deref().is_some_and(|driver| self.is_vfio(&folder, driver));
        let group = folder.join("iommu_group");
        let group = match link_name(&group)? {
            None => None,
            Some(number) => Some(number.parse().map_err(|_| malformed(&group))?),
        };
        Ok(HostFunction { bdf, driver, vfio, group })
    }

    /// What VFIO made of a function; none where the function is not VFIO's, or the kernel older than Linux 6.1.
    ///
    /// # Errors
    ///
    /// Its entry cannot be read.
    pub fn vfio_device(&self, bdf: Bdf) -> Result<Option<VfioDevice>, SysfsError> {
        let folder = self.function_folder(bdf).join("vfio-dev");
        let entry = match fs::read_dir(&folder) {
            Ok(mut entries) => entries.next(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(read_error(&folder, &error)),
        };
        let Some(entry) = entry else {
            return Ok(None);
        };
        let entry = entry.map_err(|error| read_error(&folder, &error))?;
        let path = entry.path().join("dev");
        let number = match fs::read_to_string(&path) {
            Ok(text) => Some(device_number(&text).ok_or_else(|| malformed(&path))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(read_error(&path, &error)),
        };
        Ok(Some(VfioDevice { name: entry.file_name().to_string_lossy().into(), number }))
    }

    /// The devices of a group, in order of their names.
    ///
    /// # Errors
    ///
    /// The group's folder, or a driver's link, cannot be read.
    pub fn group_members(&self, group: u32) -> Result<Vec<GroupMember>, SysfsError> {
        let folder = self.group_folder(group).join("devices");
        let unreadable = |error| read_error(&folder, &error);
        let mut members = Vec::new();
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let device = entry.map_err(unreadable)?;
            let driver = link_name(&device.path().join("driver"))?;
            let in_the_way =
                driver.as_deref().is_some_and(|driver| !self.leaves_dma_alone(&device.path(), driver));
            let name = device.file_name().to_string_lossy().into();
            members.push(GroupMember { name, driver, in_the_way });
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(members)
    }

    /// Whether a group was only made up by VFIO for devices without an IOMMU.
    ///
    /// # Errors
    ///
    /// The group's name is there and cannot be read.
    pub fn is_no_iommu(&self, group: u32) -> Result<bool, SysfsError> {
        let path = self.group_folder(group).join("name");
        match fs::read_to_string(&path) {
            Ok(name) => Ok(name.trim() == "vfio-noiommu"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(read_error(&path, &error)),
        }
    }

    /// Says which driver alone may bind to a function; none lets any.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn set_driver_override(&self, bdf: Bdf, driver: Option<&str>) -> Result<(), SysfsError> {
        // An empty line takes the override away.
        write(self.function_folder(bdf).join("driver_override"), driver.unwrap_or("\n"))
    }

    /// Takes a function away from its driver; one without a driver stays so.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn unbind(&self, bdf: Bdf) -> Result<(), SysfsError> {
        let driver = self.function_folder(bdf).join("driver");
        if link_name(&driver)?.is_none() {
            return Ok(());
        }
        write(driver.join("unbind"), &bdf.to_string())
    }

    /// Lets the kernel look for a driver for a function.
    ///
    /// # Errors
    ///
    /// The kernel refused. Finding no driver is no error.
    pub fn probe(&self, bdf: Bdf) -> Result<(), SysfsError> {
        write(self.root.join("bus/pci/drivers_probe"), &bdf.to_string())
    }

    fn function_folder(&self, bdf: Bdf) -> PathBuf {
        self.root.join("bus/pci/devices").join(bdf.to_string())
    }

    fn group_folder(&self, group: u32) -> PathBuf {
        self.root.join("kernel/iommu_groups").join(group.to_string())
    }

    /// A driver of VFIO's has made a `vfio-dev` entry since Linux 6.1; before, names are all there is.
    fn is_vfio(&self, device: &Path, driver: &str) -> bool {
        device.join("vfio-dev").is_dir()
            || driver == "vfio-pci"
            || driver.ends_with("-vfio-pci")
            || driver.ends_with("_vfio_pci")
    }

    /// The drivers beside VFIO's that the kernel lets stay in a viable group: they start no DMA.
    fn leaves_dma_alone(&self, device: &Path, driver: &str) -> bool {
        matches!(driver, "pci-stub" | "pcieport") || self.is_vfio(device, driver)
    }
}

/// A device number as sysfs writes it, `major:minor`.
fn device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The last part of what a link leads to; none where there is no link.
fn link_name(path: &Path) -> Result<Option<Box<str>>, SysfsError> {
    match fs::read_link(path) {
        Ok(target) => match target.file_name() {
            Some(name) => Ok(Some(name.to_string_lossy().into())),
            None => Err(malformed(path)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(read_error(path, &error)),
    }
}

fn write(path: PathBuf, value: &str) -> Result<(), SysfsError> {
    // sysfs takes a value in one write, and has no files to create.
    let written = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| {
        let count = file.write(value.as_bytes())?;
        if count == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    });
    written.map_err(|error| {
        let errno = Errno::of(&error).unwrap_or(Errno::EIO);
        SysfsError::Write { path, value: value.trim().into(), errno }
    })
}

fn read_error(path: &Path, error: &io::Error) -> SysfsError {
    SysfsError::Read { path: path.into(), errno: Errno::of(error).unwrap_or(Errno::EIO) }
}

fn malformed(path: &Path) -> SysfsError {
    SysfsError::Read { path: path.into(), errno: Errno::EINVAL }
}

#[cfg(test)]
pub(crate) mod tests;
