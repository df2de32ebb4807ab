//! How the kernel leads devices into address spaces: groups in containers, device files in iommufds, mappings in both.

use super::Model;
use super::device::DeviceModel;
use super::files::Kind;
use crate::errno::Errno;
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use vfio_bindings::bindings::vfio as v;

impl Model {
    /// Opens a device file by its name: `vfio`, a group's number, `vfioN` in `devices`, `iommu`.
    pub(super) fn open(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(Errno::ENOENT)?;
        if path.parent().is_some_and(|folder| folder.ends_with("devices")) {
            let named = |device: &DeviceModel| {
                device.is_lent() && device.function.guarded && device.function.cdev_name() == name
            };
            let place = self.devices.iter().position(named);
            let place = place.ok_or(Errno::ENOENT)?;
            return self.lend(Kind::Cdev { place, bound: None, attached: None });
        }
        match name {
            "vfio" => self.lend(Kind::Container { iommu: None, mapped: BTreeMap::new() }),
            "iommu" => self.lend(Kind::Iommufd { spaces: BTreeMap::new() }),
            name => {
                let (number, guarded) = match name.strip_prefix("noiommu-") {
                    Some(number) => (number, false),
                    None => (name, true),
                };
                let number = number.parse().map_err(|_| Errno::ENOENT)?;
                let of_group = |device: &DeviceModel| {
                    device.is_lent() && device.function.group == number && device.function.guarded == guarded
                };
                if !self.devices.iter().any(of_group) {
                    return Err(Errno::ENOENT);
                }
                // A group opens once, and not beside its devices' own files.
                if self.is_group_used(number) {
                    return Err(Errno::EBUSY);
                }
                self.lend(Kind::Group { number, container: None })
            }
        }
    }

    /// The group's number, and whether it has a container.
    pub(super) fn group(&mut self, group: BorrowedFd<'_>) -> Result<(u32, bool), Errno> {
        match self.file(group)?.1 {
            Kind::Group { number, container } => Ok((*number, container.is_some())),
            _ => Err(Errno::ENOTTY),
        }
    }

    pub(super) fn set_container(
        &mut self,
        group: BorrowedFd<'_>,
        container: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let (joined, Kind::Container { .. }) = self.file(container)? else {
            return Err(Errno::EINVAL);
        };
        let Kind::Group { number, container: None } = self.file(group)?.1 else {
            return Err(Errno::EINVAL);
        };
        let number = *number;
        let guarded = self.is_guarded(number);
        let others = self.files.values().filter_map(|file| match file.kind {
            Kind::Group { number, container: Some(container) } if container == joined => Some(number),
            _ => None,
        });
        // Groups with and without an IOMMU do not go together.
        if others.into_iter().any(|other| self.is_guarded(other) != guarded) {
            return Err(Errno::EPERM);
        }
        // Somebody else does DMA there.
        if !self.is_viable(number) {
            return Err(Errno::EPERM);
        }
        if let Kind::Group { container, .. } = self.file(group)?.1 {
            *container = Some(joined);
        }
        Ok(())
    }

    /// Whether an IOMMU stands behind the group.
    fn is_guarded(&self, number: u32) -> bool {
        self.devices.iter().any(|device| device.function.group == number && device.function.guarded)
    }

    /// Whether no driver of the host's has a device of the group.
    pub(super) fn is_viable(&self, number: u32) -> bool {
        self.devices.iter().all(|device| device.function.group != number || device.is_lent())
    }

    pub(super) fn set_iommu(&mut self, container: BorrowedFd<'_>, kind: u32) -> Result<(), Errno> {
        let (inode, _) = self.file(container)?;
        let group = self.files.values().find_map(|file| match file.kind {
            Kind::Group { number, container: Some(container) } if container == inode => Some(number),
            _ => None,
        });
        let fits = group.map(|group| kind == self.iommu_of(group));
        match (self.file(container)?.1, fits) {
            (Kind::Container { iommu: iommu @ None, .. }, Some(true)) => {
                *iommu = Some(kind);
                Ok(())
            }
            (Kind::Container { iommu: None, .. }, Some(false)) => Err(Errno::ENODEV),
            // Not without a group, and not twice.
            _ => Err(Errno::EINVAL),
        }
    }

    /// VFIO's number of what a container of this group can be given.
    fn iommu_of(&self, group: u32) -> u32 {
        if self.is_guarded(group) { v::VFIO_TYPE1v2_IOMMU } else { v::VFIO_NOIOMMU_IOMMU }
    }

    /// A device of the group, which must be in a container that has its IOMMU. A token may stand behind its name.
    pub(super) fn device_fd(&mut self, group: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
        let (inode, Kind::Group { number, container }) = self.file(group)? else {
            return Err(Errno::ENOTTY);
        };
        let (number, container) = (*number, container.ok_or(Errno::EINVAL)?);
        let (name, token) = match name.split_once(" vf_token=") {
            Some((name, token)) => (name, Some(token)),
            None => (name, None),
        };
        if !matches!(
            self.files.get(&container).map(|file| &file.kind),
            Some(Kind::Container { iommu: Some(_), .. })
        ) {
            return Err(Errno::EINVAL);
        }
        let place = self.devices.iter().position(|device| {
            device.is_lent() && device.function.group == number && device.function.bdf.to_string() == name
        });
        let place = place.ok_or(Errno::ENODEV)?;
        match (&self.devices[place].function.vf_token, token) {
            (None, None) => {}
            (Some(expected), Some(given)) if **expected == *given => {}
            (Some(_), _) => return Err(Errno::EACCES),
            (None, Some(_)) => return Err(Errno::EINVAL),
        }
        self.devices[place].open();
        self.lend(Kind::Grouped { place, group: inode })
    }

    /// What is mapped in a container that has its IOMMU.
    pub(super) fn container(&mut self, container: BorrowedFd<'_>) -> Result<&mut BTreeMap<u64, u64>, Errno> {
        match self.file(container)?.1 {
            Kind::Container { iommu: Some(v::VFIO_TYPE1v2_IOMMU), mapped } => Ok(mapped),
            Kind::Container { iommu: None, .. } => Err(Errno::EINVAL),
            // Nothing can be mapped without an IOMMU.
            _ => Err(Errno::ENOTTY),
        }
    }

    pub(super) fn bind(&mut self, device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
        let (inode, Kind::Iommufd { .. }) = self.file(iommufd)? else {
            return Err(Errno::EBADF);
        };
        let (own, Kind::Cdev { place, bound: None, .. }) = self.file(device)? else {
            return Err(Errno::EINVAL);
        };
        let place = *place;
        let number = self.devices[place].function.group;
        let by_group = self
            .files
            .values()
            .any(|file| matches!(file.kind, Kind::Group { number: other, .. } if other == number));
        let elsewhere = self.files.iter().any(|(other, file)| {
            *other != own
                && matches!(file.kind, Kind::Cdev { place: same, bound: Some(_), .. } if same == place)
        });
        if by_group {
            return Err(Errno::EBUSY);
        }
        if elsewhere {
            return Err(Errno::EINVAL);
        }
        // A group is one driver's, or one iommufd's.
        let other_iommufd = self.bound_in(number).any(|(bound, _)| bound != inode);
        if other_iommufd || !self.is_viable(number) {
            return Err(Errno::EPERM);
        }
        if let Kind::Cdev { bound, .. } = self.file(device)?.1 {
            *bound = Some(inode);
        }
        self.devices[place].open();
        Ok(device_number(place))
    }

    /// The devices of a group that are bound by their own files: to which iommufd, and attached to which address space.
    fn bound_in(&self, group: u32) -> impl Iterator<Item = (u64, Option<u32>)> {
        self.files.values().filter_map(move |file| match file.kind {
            Kind::Cdev { place, bound: Some(bound), attached }
                if self.devices[place].function.group == group =>
            {
                Some((bound, attached))
            }
            _ => None,
        })
    }

    pub(super) fn attach(&mut self, device: BorrowedFd<'_>, space: u32) -> Result<(), Errno> {
        let (_, Kind::Cdev { place, bound: Some(iommufd), attached }) = self.file(device)? else {
            return Err(Errno::EINVAL);
        };
        let (place, iommufd, is_attached) = (*place, *iommufd, attached.is_some());
        match self.files.get(&iommufd).map(|file| &file.kind) {
            Some(Kind::Iommufd { spaces, .. }) if spaces.contains_key(&space) => {}
            _ => return Err(Errno::ENOENT),
        }
        // A group is in one address space.
        let number = self.devices[place].function.group;
        let elsewhere =
            self.bound_in(number).any(|(_, attached)| attached.is_some_and(|other| other != space));
        if elsewhere && !is_attached {
            return Err(Errno::EINVAL);
        }
        if let Kind::Cdev { attached, .. } = self.file(device)?.1 {
            *attached = Some(space);
        }
        Ok(())
    }

    pub(super) fn detach(&mut self, device: BorrowedFd<'_>) -> Result<(), Errno> {
        match self.file(device)?.1 {
            Kind::Cdev { bound: Some(_), attached, .. } => {
                *attached = None;
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn ioas_alloc(&mut self, iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
        let number = self.spaces + 1;
        match self.file(iommufd)?.1 {
            Kind::Iommufd { spaces } => {
                spaces.insert(number, BTreeMap::new());
            }
            _ => return Err(Errno::ENOTTY),
        }
        self.spaces = number;
        Ok(number)
    }

    pub(super) fn ioas_destroy(&mut self, iommufd: BorrowedFd<'_>, space: u32) -> Result<(), Errno> {
        let (inode, _) = self.file(iommufd)?;
        let used = self.files.values().any(|file| {
            matches!(file.kind, Kind::Cdev { bound: Some(bound), attached: Some(attached), .. }
                if bound == inode && attached == space)
        });
        match self.file(iommufd)?.1 {
            _ if used => Err(Errno::EBUSY),
            Kind::Iommufd { spaces, .. } => spaces.remove(&space).map(drop).ok_or(Errno::ENOENT),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// What is mapped in an address space of iommufd.
    pub(super) fn ioas(
        &mut self,
        iommufd: BorrowedFd<'_>,
        space: u32,
    ) -> Result<&mut BTreeMap<u64, u64>, Errno> {
        match self.file(iommufd)?.1 {
            Kind::Iommufd { spaces, .. } => spaces.get_mut(&space).ok_or(Errno::ENOENT),
            _ => Err(Errno::ENOTTY),
        }
    }
}

/// The number of a device in its iommufd.
pub(super) fn device_number(place: usize) -> u32 {
    1 + place as u32
}

/// Maps, unless something is mapped there.
pub(super) fn map(mapped: &mut BTreeMap<u64, u64>, iova: u64, size: u64) -> Result<(), Errno> {
    let end = iova.checked_add(size).ok_or(Errno::EINVAL)?;
    if mapped.iter().any(|(start, length)| iova < start + length && *start < end) {
        return Err(Errno::EEXIST);
    }
    mapped.insert(iova, size);
    Ok(())
}

/// Unmaps what was mapped as one; how many bytes. A part of a mapping is not unmapped.
pub(super) fn unmap(mapped: &mut BTreeMap<u64, u64>, iova: u64, size: u64) -> Result<u64, Errno> {
    match mapped.get(&iova) {
        Some(length) if *length == size => mapped.remove(&iova).ok_or(Errno::ENOENT),
        Some(_) => Err(Errno::EINVAL),
        None => Ok(0),
    }
}
