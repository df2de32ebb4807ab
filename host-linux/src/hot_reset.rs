//! Hot reset: of the bus or slot that a device is on, and with it of every function there.
//!
//! It is the only reset of many devices. The kernel makes it for whoever owns all that it resets: on the group
//! interface by showing every group, on the cdev interface by having all of it in one iommufd.

use crate::device::{Device, ResetError};
use crate::errno::Errno;
use crate::info::{InfoError, u32_at};
use std::collections::BTreeSet;
use std::fmt;
use vfio_assign_core::Bdf;
use vfio_bindings::bindings::vfio as v;

/// More functions than this are not on one bus and those behind it.
const MOST: usize = 0x1_0000;
/// `vfio_pci_hot_reset_info` without its devices.
const HEADER: usize = 12;
/// `vfio_pci_dependent_device`.
const ENTRY: usize = 8;
/// What the kernel says in place of a device's number in our iommufd where it is in none of ours.
const NOT_OWNED: u32 = v::VFIO_PCI_DEVID_NOT_OWNED.cast_unsigned();
/// Rounds until the kernel must have what it wants.
const ROUNDS: usize = 4;

/// A function that a hot reset resets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AffectedFunction {
    /// Its address on the host.
    pub bdf: Bdf,
    /// Whose it is.
    pub owner: AffectedOwner,
}

/// Whose a function is that a hot reset resets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AffectedOwner {
    /// That of whoever has this IOMMU group.
    Group(u32),
    /// This VM's: its iommufd has the function, or its group.
    Ours,
    /// Somebody else's.
    Stranger,
}

impl fmt::Display for AffectedFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.owner {
            AffectedOwner::Group(group) => write!(f, "{} of IOMMU group {group}", self.bdf),
            AffectedOwner::Ours | AffectedOwner::Stranger => write!(f, "{}", self.bdf),
        }
    }
}

/// Asks for the functions that are reset together. `ENODEV` where there is no such reset.
fn query(
    mut request: impl FnMut(&mut [u8]) -> Result<(), Errno>,
) -> Result<Vec<AffectedFunction>, InfoError> {
    let mut room = 1;
    for _ in 0..ROUNDS {
        let mut info = vec![0; HEADER + ENTRY * room];
        let answer = request(&mut info);
        let count = u32_at(&info, 8).unwrap_or(0) as usize;
        match answer {
            Ok(()) => return Ok(parse(&info)),
            Err(Errno::ENOSPC) if count > MOST => {
                return Err(InfoError::Endless(count.saturating_mul(ENTRY)));
            }
            // The kernel says how many there are.
            Err(Errno::ENOSPC) if count > room => room = count,
            Err(errno) => return Err(InfoError::Kernel(errno)),
        }
    }
    Err(InfoError::Endless(HEADER + ENTRY * room))
}

/// Reads a `vfio_pci_hot_reset_info`. Of the functions that it counts, those that are there.
fn parse(info: &[u8]) -> Vec<AffectedFunction> {
    let by_id = u32_at(info, 4).unwrap_or(0) & v::VFIO_PCI_HOT_RESET_FLAG_DEV_ID != 0;
    let count = u32_at(info, 8).unwrap_or(0) as usize;
    let entries = info.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).take(count);
    let function = |entry: &[u8]| {
        let [segment_low, segment_high, bus, devfn] = u32_at(entry, 4)?.to_ne_bytes();
        let segment = u16::from_ne_bytes([segment_low, segment_high]);
        let owner = match u32_at(entry, 0)? {
            group if !by_id => AffectedOwner::Group(group),
            NOT_OWNED => AffectedOwner::Stranger,
            _ => AffectedOwner::Ours,
        };
        Some(AffectedFunction { bdf: Bdf::new(segment, bus, devfn >> 3, devfn & 7)?, owner })
    };
    entries.filter_map(function).collect()
}

impl AffectedOwner {
    fn group(self) -> Option<u32> {
        match self {
            Self::Group(group) => Some(group),
            Self::Ours | Self::Stranger => None,
        }
    }
}

impl Device {
    /// The functions that a [hot reset](Self::hot_reset) of this one resets, itself among them.
    ///
    /// # Errors
    ///
    /// The kernel knows no such reset for it, or does not tell.
    pub fn hot_reset_set(&self) -> Result<Vec<AffectedFunction>, ResetError> {
        let bdf = self.bdf();
        query(|info| self.host().hot_reset_info(self.fd(), info)).map_err(|error| match error {
            InfoError::Kernel(Errno::ENODEV) => ResetError::NoHotReset { bdf },
            error => ResetError::SetUnknown { bdf, error },
        })
    }

    /// Resets the bus or slot that the device is on, under the VM's [`RetryPolicy`](crate::RetryPolicy). The kernel puts
    /// back the configuration of every function there.
    ///
    /// Interrupts and bus mastering of all of them should be off: see [`Assigned::reset_all`](crate::Assigned::reset_all).
    /// While memory is mapped in the background this waits for its end.
    ///
    /// # Errors
    ///
    /// There is no such reset, or it would reset functions that are not this VM's, or it failed.
    pub fn hot_reset(&self) -> Result<(), ResetError> {
        self.hot_reset_together(&self.hot_reset_set()?)
    }

    /// The same, of these functions.
    pub(crate) fn hot_reset_together(&self, set: &[AffectedFunction]) -> Result<(), ResetError> {
        let bdf = self.bdf();
        let ours = self.claim().groups();
        let held = |group| ours.iter().find(|ours| ours.number() == group);
        let is_ours = |function: &AffectedFunction| match function.owner {
            AffectedOwner::Group(group) => held(group).is_some(),
            AffectedOwner::Ours => true,
            AffectedOwner::Stranger => false,
        };
        let others: Vec<_> = set.iter().filter(|function| !is_ours(function)).copied().collect();
        if !others.is_empty() {
            return Err(ResetError::NotOurs { bdf, others });
        }
        // Each once: the kernel takes no more files than there are functions.
        let groups: BTreeSet<_> = set.iter().filter_map(|function| function.owner.group()).collect();
        let shown: Vec<_> = groups.into_iter().filter_map(held).map(|group| group.fd()).collect();
        let reset = self
            .retry()
            .run(&format_args!("hot reset of {bdf}"), || self.host().hot_reset(self.fd(), &shown));
        reset.map_err(|errno| ResetError::Failed { bdf, errno })
    }
}

#[cfg(test)]
mod tests;
