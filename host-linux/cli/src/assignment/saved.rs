//! A device that another process goes on with: what is in the file, and the descriptors that are handed over with it.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use vfio_assign_core::{Bdf, SaveError};
use vfio_assign_linux::{Errno, HandedDevice, HandedWay};

use super::AssignmentError;
use super::devices::Member;
use crate::help::Help;

/// A device in the file of a saved run.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedDevice {
    device: String,
    /// Its slot in the guest.
    pub(crate) slot: u8,
    /// What the guest sees of it, as the library saves it.
    state: Vec<u8>,
    group: u32,
    space: u32,
    /// Its number in its iommufd; none where it was opened by its group.
    iommufd_id: Option<u32>,
}

/// Why a device cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotHandedOn {
    /// Its state.
    #[error("{bdf}: {error}")]
    State {
        /// The device.
        bdf: Bdf,
        /// Why.
        error: SaveError,
    },
    /// Its descriptors.
    #[error("{bdf}: its descriptors cannot be duplicated: {errno}")]
    Files {
        /// The device.
        bdf: Bdf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// It was opened in a way that is not known here.
    #[error("{bdf}: it is open in a way that cannot be handed over")]
    Way {
        /// The device.
        bdf: Bdf,
    },
}

impl Help for NotHandedOn {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::State { error: SaveError::Lost, .. } => {
                "save again: a device that has died leaves a paused run by itself, but one that was saved before only \
                 when it goes on; resume that, and pause it again"
                    .into()
            }
            Self::Files { .. } => "raise the number of open files: `ulimit -n`".into(),
            _ => "resume the run, remove the device, and pause the run again".into(),
        })
    }
}

impl SavedDevice {
    /// A stopped device, and what goes with it.
    pub(super) fn of(Member { slot, device }: &Member) -> Result<(Self, Vec<OwnedFd>), NotHandedOn> {
        let bdf = device.bdf();
        let state = device.assigned.save().map_err(|error| NotHandedOn::State { bdf, error })?;
        let handed = device.assigned.device().hand_on();
        let HandedDevice { group, space, file, way, .. } =
            handed.map_err(|errno| NotHandedOn::Files { bdf, errno })?;
        let (iommufd_id, files) = match way {
            HandedWay::Group { group, container } => (None, vec![file, group, container]),
            HandedWay::Cdev { iommufd, id } => (Some(id), vec![file, iommufd]),
            _ => return Err(NotHandedOn::Way { bdf }),
        };
        Ok((Self { device: bdf.to_string(), slot: *slot, state, group, space, iommufd_id }, files))
    }

    /// The device again, of the next of `files`, and its state; none where there are too few.
    pub(super) fn handed(
        self,
        files: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<Option<(HandedDevice, Vec<u8>)>, AssignmentError> {
        let bdf = super::address(&self.device)?;
        let mut made = || {
            let file = files.next()?;
            let way = match self.iommufd_id {
                None => HandedWay::Group { group: files.next()?, container: files.next()? },
                Some(id) => HandedWay::Cdev { iommufd: files.next()?, id },
            };
            Some(HandedDevice { bdf, group: self.group, space: self.space, file, way })
        };
        Ok(made().map(|handed| (handed, self.state)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::bdf;
    use super::*;

    #[test]
    fn a_device_that_has_died_is_said_to_leave_by_itself() {
        let lost = NotHandedOn::State { bdf: bdf(), error: SaveError::Lost };
        assert!(lost.help().unwrap().contains("leaves a paused run by itself"));
    }
}
