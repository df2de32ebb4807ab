//! The files that the kernel lends, and what it does when they are closed.
//!
//! Each is the writing end of a pipe whose reading end the kernel keeps: it hangs up with the last descriptor.

use super::Model;
use super::kvm::KvmModel;
use crate::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{BorrowedFd, OwnedFd};

/// A file that was lent.
pub(super) struct File {
    end: OwnedFd,
    pub(super) kind: Kind,
}

/// What a file is, and what it has become. Other files are named by their inodes.
pub(super) enum Kind {
    Container {
        /// VFIO's number of what it has been given.
        iommu: Option<u32>,
        mapped: BTreeMap<u64, u64>,
    },
    Group {
        number: u32,
        container: Option<u64>,
    },
    Iommufd {
        spaces: BTreeMap<u32, BTreeMap<u64, u64>>,
    },
    /// A device that was opened through this group.
    Grouped {
        place: usize,
        group: u64,
    },
    Cdev {
        place: usize,
        bound: Option<u64>,
        attached: Option<u32>,
    },
    KvmVm(KvmModel),
    #[cfg_attr(not(feature = "kvm"), expect(dead_code, reason = "only KVM has it"))]
    KvmVfio {
        files: BTreeSet<u64>,
    },
}

impl File {
    fn is_closed(&self) -> bool {
        let mut poll = [PollFd::new(&self.end, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut poll, Some(&at_once))
            .is_ok_and(|_| poll[0].revents().contains(PollFlags::HUP))
    }

    /// What of it stands.
    pub(super) fn standing(&self) -> Vec<String> {
        match &self.kind {
            Kind::Container { mapped, .. } => {
                let mapped = mapped.iter().map(|(iova, size)| format!("container: DMA {iova:#x} {size:#x}"));
                [String::from("container")].into_iter().chain(mapped).collect()
            }
            Kind::Group { number, .. } => vec![format!("group {number}")],
            Kind::Iommufd { spaces } => {
                let mapped = spaces.values().flatten();
                let mapped = mapped.map(|(iova, size)| format!("address space: DMA {iova:#x} {size:#x}"));
                let iommufd = format!("iommufd: address spaces {}", spaces.len());
                [iommufd].into_iter().chain(mapped).collect()
            }
            Kind::Grouped { place, .. } => vec![format!("device {place} by its group")],
            Kind::Cdev { place, bound, attached } => {
                let (bound, attached) = (bound.is_some(), attached.is_some());
                vec![format!("device {place} by its own file: bound {bound}, attached {attached}")]
            }
            Kind::KvmVm(kvm) => kvm.standing(),
            Kind::KvmVfio { files } => files.iter().map(|_| "KVM: a VFIO file".to_owned()).collect(),
        }
    }
}

impl Model {
    /// Lends a file.
    pub(super) fn lend(&mut self, kind: Kind) -> Result<OwnedFd, Errno> {
        let (end, lent) = std::io::pipe().map_err(|error| Errno::of(&error).unwrap_or(Errno::EMFILE))?;
        let lent = OwnedFd::from(lent);
        let inode = rustix::fs::fstat(&lent)?.st_ino;
        self.files.insert(inode, File { end: end.into(), kind });
        Ok(lent)
    }

    /// The file that this descriptor names.
    pub(super) fn file(&mut self, fd: BorrowedFd<'_>) -> Result<(u64, &mut Kind), Errno> {
        let inode = rustix::fs::fstat(fd)?.st_ino;
        let file = self.files.get_mut(&inode).ok_or(Errno::ENOTTY)?;
        Ok((inode, &mut file.kind))
    }

    /// The place of the device that this descriptor names; a cdev must be bound.
    pub(super) fn device_at(&mut self, fd: BorrowedFd<'_>) -> Result<usize, Errno> {
        match self.file(fd)?.1 {
            Kind::Grouped { place, .. } | Kind::Cdev { place, bound: Some(_), .. } => Ok(*place),
            Kind::Cdev { .. } => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// Files whose last descriptor is closed, and which no other file keeps, are gone.
    pub(super) fn forget_closed(&mut self) {
        loop {
            let kept: BTreeSet<u64> = self.files.values().flat_map(|file| keeps(&file.kind)).collect();
            let closed = self.files.iter().find(|(inode, file)| !kept.contains(inode) && file.is_closed());
            let Some(inode) = closed.map(|(inode, _)| *inode) else {
                return;
            };
            if let Some(File { kind: Kind::Grouped { place, .. } | Kind::Cdev { place, .. }, .. }) =
                self.files.remove(&inode)
            {
                let still = |kind: &Kind| {
                    matches!(kind, Kind::Grouped { place: other, .. } if *other == place)
                        || matches!(kind, Kind::Cdev { place: other, .. } if *other == place)
                };
                if !self.files.values().any(|file| still(&file.kind)) {
                    self.devices[place].close();
                }
            }
        }
    }

    /// Whether a group is open, or a device of it is bound by its own file.
    pub(super) fn is_group_used(&self, number: u32) -> bool {
        self.files.values().any(|file| match &file.kind {
            Kind::Group { number: other, .. } => *other == number,
            Kind::Cdev { place, bound: Some(_), .. } => self.devices[*place].function.group == number,
            _ => false,
        })
    }
}

/// The files that this one keeps.
fn keeps(kind: &Kind) -> Vec<u64> {
    match kind {
        Kind::Grouped { group, .. } => vec![*group],
        Kind::Group { container, .. } => container.iter().copied().collect(),
        Kind::Cdev { bound, .. } => bound.iter().copied().collect(),
        Kind::KvmVfio { files } => files.iter().copied().collect(),
        _ => Vec::new(),
    }
}
