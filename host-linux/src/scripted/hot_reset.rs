//! Hot reset of the scripted host: of a slot, by whoever owns all of its functions.

use super::Model;
use super::device::DeviceModel;
use super::dma::device_number;
use super::files::Kind;
use crate::errno::Errno;
use std::os::fd::BorrowedFd;
use vfio_bindings::bindings::vfio as v;

impl Model {
    /// The places of the functions that are reset together with one.
    fn slot(&self, place: usize) -> Vec<usize> {
        let at = |device: &DeviceModel| (device.function.bdf.bus(), device.function.bdf.device());
        let slot = at(&self.devices[place]);
        (0..self.devices.len()).filter(|other| at(&self.devices[*other]) == slot).collect()
    }

    /// The iommufd that a device's own file is bound to.
    fn iommufd(&mut self, device: BorrowedFd<'_>) -> Result<Option<u64>, Errno> {
        Ok(match self.file(device)?.1 {
            Kind::Cdev { bound, .. } => *bound,
            _ => None,
        })
    }

    /// Whether the function, or one of its group, is bound to this iommufd.
    fn is_in(&self, iommufd: u64, place: usize) -> bool {
        let group = self.devices[place].function.group;
        self.files.values().any(|file| {
            matches!(file.kind, Kind::Cdev { place: other, bound: Some(bound), .. }
                if bound == iommufd && self.devices[other].function.group == group)
        })
    }

    pub(super) fn hot_reset_info(&mut self, device: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
        let place = self.device_at(device)?;
        let iommufd = self.iommufd(device)?;
        let slot = self.slot(place);
        let flags = match iommufd {
            Some(_) => v::VFIO_PCI_HOT_RESET_FLAG_DEV_ID | v::VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED,
            None => 0,
        };
        info[4..8].copy_from_slice(&flags.to_ne_bytes());
        info[8..12].copy_from_slice(&(slot.len() as u32).to_ne_bytes());
        if info.len() < 12 + 8 * slot.len() {
            return Err(Errno::ENOSPC);
        }
        for (entry, other) in info[12..].chunks_exact_mut(8).zip(slot) {
            let function = &self.devices[other].function;
            let owner = match iommufd {
                Some(iommufd) if self.is_in(iommufd, other) => device_number(other),
                Some(_) => v::VFIO_PCI_DEVID_NOT_OWNED.cast_unsigned(),
                None => function.group,
            };
            let bdf = function.bdf;
            entry[..4].copy_from_slice(&owner.to_ne_bytes());
            entry[4..6].copy_from_slice(&bdf.segment().to_ne_bytes());
            entry[6..].copy_from_slice(&[bdf.bus(), bdf.device() << 3 | bdf.function()]);
        }
        Ok(())
    }

    /// `EPERM` or `EINVAL` where the caller does not show that it owns the whole slot.
    pub(super) fn hot_reset(
        &mut self,
        device: BorrowedFd<'_>,
        groups: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let place = self.device_at(device)?;
        let iommufd = self.iommufd(device)?;
        let slot = self.slot(place);
        let mut shown = Vec::new();
        for group in groups {
            match self.file(*group)?.1 {
                Kind::Group { number, .. } => shown.push(*number),
                _ => return Err(Errno::EINVAL),
            }
        }
        let owned = |other: &usize| match iommufd {
            Some(iommufd) => self.is_in(iommufd, *other),
            None => shown.contains(&self.devices[*other].function.group),
        };
        if !slot.iter().all(owned) {
            return Err(if groups.is_empty() { Errno::EPERM } else { Errno::EINVAL });
        }
        slot.into_iter().for_each(|other| self.devices[other].reset());
        Ok(())
    }
}
