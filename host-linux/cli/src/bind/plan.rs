//! What would be moved from which driver to which: decided before anything is touched.

use serde::{Deserialize, Serialize};
use vfio_assign_core::Bdf;

use super::{Others, Refused};
use crate::host::{HostFiles, PciFunction, Unreadable, Use, Uses, folder};

/// VFIO's driver for any device.
pub(super) const VFIO: &str = "vfio-pci";

/// Who drives a function, and who alone may.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Binding {
    pub(super) driver: Option<String>,
    #[serde(rename = "override")]
    pub(super) driver_override: Option<String>,
}

/// A function from one driver to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Move {
    pub(super) bdf: Bdf,
    /// Which function it is, whatever its address.
    pub(super) id: String,
    pub(super) from: Binding,
    /// Where the driver is not known, the kernel is to find one.
    pub(super) to: Target,
}

/// Whom a function is to go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// To this, which may be nobody.
    Known(Binding),
    /// To whom the kernel finds.
    Any,
}

/// A function, and all that decides whether it is moved.
pub(super) struct Device {
    pub(super) function: PciFunction,
    /// Vendor, device and subsystem.
    pub(super) id: String,
    pub(super) binding: Binding,
    /// Whether its driver keeps the group from a guest.
    pub(super) in_the_way: bool,
    pub(super) uses: Vec<Use>,
    /// What could not be looked at, so that there may be more.
    pub(super) unseen: Option<Unreadable>,
}

impl Device {
    pub(super) fn read(
        host: &HostFiles,
        function: PciFunction,
        in_the_way: bool,
        uses: &Uses,
    ) -> Result<Self, Unreadable> {
        let folder = folder(function.bdf);
        let mut id = Vec::new();
        for name in ["vendor", "device", "subsystem_vendor", "subsystem_device"] {
            id.push(host.text(&format!("{folder}/{name}"))?.unwrap_or_default());
        }
        let text = host.text(&format!("{folder}/driver_override"))?;
        let driver_override = text.filter(|text| !text.is_empty() && text != "(null)");
        let binding = Binding { driver: function.driver.clone(), driver_override };
        let (uses, unseen) = (uses.of(function.bdf).to_vec(), uses.unseen(function.bdf).next().cloned());
        Ok(Self { function, id: id.join(" "), binding, in_the_way, uses, unseen })
    }
}

impl Device {
    /// Whether it was left between VFIO and the driver that it had, by a command that was ended half way.
    pub(super) fn is_on_its_way(&self, had: &Binding) -> bool {
        let Binding { driver, driver_override } = &self.binding;
        self.binding != *had && (driver.is_none() || driver_override.as_deref() == Some(VFIO))
    }
}

/// What has to be moved for a guest to have the first of these, of which the others share its group.
pub(super) fn to_vfio(devices: &[Device], others: Others, force: bool) -> Result<Vec<Move>, Refused> {
    let Some((device, siblings)) = devices.split_first() else { return Ok(Vec::new()) };
    let bdf = device.function.bdf;
    if device.function.is_bridge() {
        return Err(Refused::Bridge { bdf });
    }
    if device.function.group.is_none() {
        return Err(Refused::NoGroup { bdf });
    }
    let in_the_way: Vec<&Device> = siblings.iter().filter(|other| other.in_the_way).collect();
    if others == Others::Refuse && !in_the_way.is_empty() {
        let name = |other: &&Device| {
            format!("{} ({})", other.function.bdf, other.binding.driver.as_deref().unwrap_or("no driver"))
        };
        return Err(Refused::Siblings { bdf, siblings: in_the_way.iter().map(name).collect() });
    }
    let mut moved = Vec::new();
    if !device.function.vfio {
        moved.push(device);
    }
    if others == Others::Too {
        moved.extend(in_the_way);
    }
    if let Some(needed) = moved.iter().find(|device| !device.uses.is_empty() && !force) {
        return Err(Refused::InUse { bdf: needed.function.bdf, uses: needed.uses.clone() });
    }
    for device in moved.iter().filter(|_| !force) {
        if let Some(unseen) = &device.unseen {
            return Err(Refused::Unseen { bdf: device.function.bdf, unseen: unseen.clone() });
        }
    }
    let vfio = Binding { driver: Some(VFIO.into()), driver_override: Some(VFIO.into()) };
    Ok(moved
        .into_iter()
        .map(|device| Move {
            bdf: device.function.bdf,
            id: device.id.clone(),
            from: device.binding.clone(),
            to: Target::Known(vfio.clone()),
        })
        .collect())
}
