//! This host as its files show it: sysfs, proc and device files, below a folder that is normally `/`.
//!
//! Everything here only reads, and needs no root where the kernel asks for none. A test points it at a folder of its own.

mod holders;
mod ids;
mod named;
mod pci;
mod uses;

pub(crate) use holders::{Holder, holders};
pub(crate) use ids::{class_name, device_name};
pub(crate) use named::named;
pub(crate) use pci::{PciFunction, functions};
pub(crate) use uses::{Use, Uses, uses};

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use vfio_assign_core::Bdf;
use vfio_assign_linux::{Errno, Sysfs};

use crate::help::Help;

/// The files of a host.
#[derive(Clone, Debug)]
pub(crate) struct HostFiles {
    root: PathBuf,
}

/// A file that is there and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {}: {errno}", path.display())]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) errno: Errno,
}

impl Help for Unreadable {
    fn help(&self) -> Option<String> {
        match self.errno {
            Errno::EACCES | Errno::EPERM => Some("be root for this".into()),
            Errno::ENOENT => Some("are sysfs, proc and the device files at /sys, /proc and /dev?".into()),
            _ => None,
        }
    }
}

impl HostFiles {
    /// The host whose files are below `root`.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a file of the host is. `path` is as the host has it, with a leading slash.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The part of it that the library knows.
    pub(crate) fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.path("/sys"))
    }

    /// What a file says, without white space around it; none where there is no such file.
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>, Unreadable> {
        let text = present(&self.path(path), |path| fs::read(path))?;
        Ok(text.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// The bytes of a file; none where there is no such file.
    pub(crate) fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        present(&self.path(path), |path| fs::read(path))
    }

    /// What is in a folder, in order; none where there is no such folder.
    pub(crate) fn names(&self, path: &str) -> Result<Option<Vec<String>>, Unreadable> {
        present(&self.path(path), |path| {
            let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into()));
            let mut names = entries.collect::<io::Result<Vec<String>>>()?;
            names.sort();
            Ok(names)
        })
    }

    /// Where a link leads to; none where there is no link, but perhaps something else.
    pub(crate) fn link(&self, path: &str) -> Result<Option<PathBuf>, Unreadable> {
        present(&self.path(path), |path| match fs::read_link(path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            read => read.map(Some),
        })
        .map(Option::flatten)
    }

    /// Whether there is such a file or folder.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Who owns a file, which group, and who may do what with it; none where there is no such file.
    pub(crate) fn owner(&self, path: &str) -> Result<Option<(u32, u32, u32)>, Unreadable> {
        let found = present(&self.path(path), |path| fs::metadata(path))?;
        Ok(found.map(|file| (file.uid(), file.gid(), file.mode())))
    }

    /// Whether this process sees what a container shows it, and not all of the host.
    pub(crate) fn is_container(&self) -> bool {
        ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"].iter().any(|file| self.has(file))
    }

    /// The files by which a function that VFIO has is opened, of which one is enough: its own, and its group's.
    pub(crate) fn vfio_files(&self, function: &PciFunction) -> Result<Vec<String>, Unreadable> {
        let own = self.names(&format!("{}/vfio-dev", folder(function.bdf)))?.unwrap_or_default();
        let mut files: Vec<String> =
            own.into_iter().map(|name| format!("/dev/vfio/devices/{name}")).collect();
        files.extend(function.group.map(|group| format!("/dev/vfio/{group}")));
        Ok(files)
    }

    /// Whether this process may read and write a file, as the kernel says that it runs under; none where the files are
    /// those of another host.
    pub(crate) fn may_use(&self, path: &str) -> Option<bool> {
        let own = self.root == Path::new("/");
        own.then(|| access(self.path(path), Access::READ_OK | Access::WRITE_OK).is_ok())
    }

    /// Whether this process may open a function that VFIO has: by its group's file, or by its own.
    pub(crate) fn may_open_vfio(&self, function: &PciFunction) -> Result<bool, Unreadable> {
        let mut files = self.vfio_files(function)?;
        // That of VFIO's mode without IOMMU.
        files.extend(function.group.map(|group| format!("/dev/vfio/noiommu-{group}")));
        let usable = |path: &String| access(self.path(path), Access::READ_OK | Access::WRITE_OK).is_ok();
        Ok(files.iter().any(usable))
    }

    /// A device or block device in sysfs, with all links followed; none where there is none.
    pub(crate) fn real(&self, path: &str) -> Result<Option<PathBuf>, Unreadable> {
        present(&self.path(path), |path| fs::canonicalize(path))
    }
}

/// `None` where the file is absent.
fn present<T>(path: &Path, read: impl FnOnce(&Path) -> io::Result<T>) -> Result<Option<T>, Unreadable> {
    match read(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        // A device that has just gone.
        Err(error) if Errno::of(&error) == Some(Errno::ENODEV) => Ok(None),
        Err(error) => {
            let errno = Errno::of(&error).unwrap_or(Errno::EIO);
            Err(Unreadable { path: path.into(), errno })
        }
    }
}

/// The folder of a function.
pub(crate) fn folder(bdf: Bdf) -> String {
    format!("/sys/bus/pci/devices/{bdf}")
}
