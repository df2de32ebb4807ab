//! Why a device could not be opened, in words that say what to do about it.
//!
//! Errors of single operations stand beside those; here are the ones of opening, which puts them together.

use crate::cdev::CdevError;
use crate::device::RegionError;
use crate::dma::DmaError;
use crate::errno::Errno;
use crate::info::InfoError;
use crate::ioas::IommufdError;
use crate::irq::IrqKind;
use crate::region::RegionIndex;
use crate::sysfs::{GroupMember, SysfsError};
use std::fmt;
use std::path::PathBuf;
use vfio_assign_core::Bdf;

/// Why a device was not opened. Nothing is left behind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It could not be looked up.
    #[error(transparent)]
    Lookup(#[from] SysfsError),
    /// It has no driver, or one that is not VFIO's.
    #[error("{bdf} is bound to {}, not to a VFIO driver; give it to VFIO by: {}",
        driver.as_deref().unwrap_or("no driver"), Rebind(&bdf.to_string(), driver.is_some()))]
    NotVfio {
        /// The device.
        bdf: Bdf,
        /// Its driver.
        driver: Option<Box<str>>,
    },
    /// The host has no IOMMU for it.
    #[error(
        "{bdf} is in no IOMMU group: switch the IOMMU on in the firmware and with `intel_iommu=on` \
        (Intel) on the kernel's command line"
    )]
    NoIommu {
        /// The device.
        bdf: Bdf,
    },
    /// Its group was made up by VFIO for a host without an IOMMU.
    #[error(
        "{bdf} is bound in VFIO's no-IOMMU mode: nothing would keep the guest's device out of the \
        host's memory, so it is not assigned; switch the IOMMU on in the firmware and on the kernel's \
        command line"
    )]
    NoIommuMode {
        /// The device.
        bdf: Bdf,
    },
    /// This VM has it already.
    #[error("{bdf} is assigned to this VM already")]
    Twice {
        /// The device.
        bdf: Bdf,
    },
    /// The container could not be set up.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The group could not be set up.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// iommufd could not be set up.
    #[error(transparent)]
    Iommufd(#[from] IommufdError),
    /// The device's own file cannot be used.
    #[error(transparent)]
    Cdev(#[from] CdevError),
    /// The guest's memory could not be mapped for it.
    #[error("guest memory cannot be mapped for {bdf}: {error}")]
    Memory {
        /// The device.
        bdf: Bdf,
        /// Why.
        error: DmaError,
    },
    /// VFIO did not open it.
    #[error("VFIO does not open {bdf}: {errno}{}", device_remedy(*errno))]
    Device {
        /// The device.
        bdf: Bdf,
        /// What the kernel said.
        errno: Errno,
    },
    /// Whether it may start DMA could not be seen to.
    #[error("{bdf}: whether it may start DMA cannot be seen to, so it is closed again: {error}")]
    Command {
        /// The device.
        bdf: Bdf,
        /// Why.
        error: RegionError,
    },
    /// It could not be asked for what it is.
    #[error("{bdf}: no device information: {error}")]
    DeviceInfo {
        /// The device.
        bdf: Bdf,
        /// Why.
        error: InfoError,
    },
    /// It is no PCI device.
    #[error("{bdf} is no PCI device to VFIO (device flags {flags:#x}, {regions} regions)")]
    NotPci {
        /// The device.
        bdf: Bdf,
        /// `VFIO_DEVICE_FLAGS_*`.
        flags: u32,
        /// How many regions it says it has.
        regions: u32,
    },
    /// A region could not be asked for. It is not taken for absent.
    #[error("{bdf}: no information about {region}: {error}")]
    Region {
        /// The device.
        bdf: Bdf,
        /// The region.
        region: RegionIndex,
        /// Why.
        error: InfoError,
    },
    /// Configuration space is missing, or has another size than PCI gives it.
    #[error("{bdf}: configuration space has {size} bytes; 256 or 4096 were expected")]
    ConfigSize {
        /// The device.
        bdf: Bdf,
        /// Its size; 0 where there is none.
        size: u64,
    },
    /// A kind of interrupt could not be asked for. It is not taken for absent.
    #[error("{bdf}: no information about its {kind}: {errno}")]
    Interrupts {
        /// The device.
        bdf: Bdf,
        /// The kind of interrupt.
        kind: IrqKind,
        /// What the kernel said.
        errno: Errno,
    },
}

fn device_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EAGAIN => "; its reset was held up each time it was tried",
        Errno::EBUSY => "; another process has it open",
        Errno::EACCES => {
            "; its VF token is missing or wrong: give the one that its physical function was opened with"
        }
        Errno::EINVAL => "; it takes no VF token, if one was given",
        Errno::EIO => "; the device does not answer",
        Errno::ENODEV => "; it is not bound to a VFIO driver any more, or gone",
        _ => "",
    }
}

/// Why there is no container.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The file could not be opened.
    #[error("cannot open {}: {errno}{}", path.display(), container_remedy(*errno))]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The file does not answer as VFIO does.
    #[error("{} is no VFIO container: {errno}; the file there must be VFIO's own, which `modprobe vfio` makes", path.display())]
    NotVfio {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel speaks another version of the interface.
    #[error("VFIO's interface has version {found}; only version 0 is known")]
    Version {
        /// The kernel's version.
        found: u32,
    },
    /// The kernel has no Type1v2.
    #[error("VFIO has no Type1v2 IOMMU; load it with `modprobe vfio_iommu_type1`")]
    NoType1v2,
    /// The kernel does not open devices without an IOMMU, or not for this user.
    #[error(
        "VFIO opens no device without an IOMMU: as root, set its parameter enable_unsafe_noiommu_mode \
        (/sys/module/vfio/parameters)"
    )]
    NoUnguarded,
}

fn container_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT | Errno::ENODEV => "; VFIO is not loaded: `modprobe vfio-pci`",
        Errno::EACCES | Errno::EPERM => "; be root, or be given this file and the group's",
        _ => "",
    }
}

/// Why a group cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The file could not be opened.
    #[error("cannot open IOMMU group {group}, {}: {errno}{}", path.display(), group_remedy(*errno))]
    Open {
        /// The group.
        group: u32,
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// Somebody else has the group, or one of its devices by its own file.
    #[error("IOMMU group {group} is in use elsewhere (EBUSY), and can be used once only; \
        `fuser -v {}` shows by whom", path.display())]
    InUse {
        /// The group.
        group: u32,
        /// Its file.
        path: PathBuf,
    },
    /// Drivers of the host still use some of its devices.
    #[error(
        "IOMMU group {group} cannot be given to a guest while host drivers use its devices:{}",
        MemberList(members)
    )]
    NotViable {
        /// The group.
        group: u32,
        /// All its devices.
        members: Vec<GroupMember>,
    },
    /// The group that was handed in is in a container.
    #[error("IOMMU group {group} is in a container already; hand it in as it was opened")]
    HasContainer {
        /// The group.
        group: u32,
    },
    /// The group did not do what it was asked.
    #[error("IOMMU group {group}: cannot {action}: {errno}{}", group_remedy(*errno))]
    Refused {
        /// The group.
        group: u32,
        /// What was asked.
        action: GroupAction,
        /// What the kernel said.
        errno: Errno,
    },
}

/// What a group is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum GroupAction {
    /// Tell its state.
    Status,
    /// Join a container.
    SetContainer,
    /// Let its container have an IOMMU.
    SetIommu,
    /// Be known to KVM.
    TellKvm,
}

impl fmt::Display for GroupAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "read its status",
            Self::SetContainer => "join a container",
            Self::SetIommu => "use the Type1v2 IOMMU",
            Self::TellKvm => "tell KVM about it",
        })
    }
}

fn group_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT => "; no device of the group is bound to a VFIO driver",
        Errno::EACCES => "; be root, or be given this file and /dev/vfio/vfio",
        Errno::EPERM => "; the platform has no interrupt remapping, or this user may not use VFIO",
        _ => "",
    }
}

/// The devices of a group, one a line, and the command for each that is in the way.
struct MemberList<'a>(&'a [GroupMember]);

impl fmt::Display for MemberList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for member in self.0 {
            let driver = member.driver.as_deref().unwrap_or("no driver");
            write!(f, "\n  {}: {driver}", member.name)?;
            if member.in_the_way {
                write!(f, "; give it to VFIO, too: {}", Rebind(&member.name, true))?;
            }
        }
        Ok(())
    }
}

/// The shell line that gives a function to vfio-pci.
struct Rebind<'a>(&'a str, bool);

impl fmt::Display for Rebind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, bound) = self;
        let folder = format_args!("/sys/bus/pci/devices/{name}");
        write!(f, "modprobe vfio-pci; echo vfio-pci > {folder}/driver_override")?;
        if *bound {
            write!(f, "; echo {name} > {folder}/driver/unbind")?;
        }
        write!(f, "; echo {name} > /sys/bus/pci/drivers_probe")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_that_is_not_viable_lists_its_members() {
        let member = |name: &str, driver: Option<&str>, in_the_way| GroupMember {
            name: name.into(),
            driver: driver.map(Into::into),
            in_the_way,
        };
        let members = vec![
            member("0000:00:04.0", Some("vfio-pci"), false),
            member("0000:00:04.1", Some("nvme"), true),
            member("0000:00:04.2", None, false),
        ];
        let text = "IOMMU group 7 cannot be given to a guest while host drivers use its devices:\
            \n  0000:00:04.0: vfio-pci\
            \n  0000:00:04.1: nvme; give it to VFIO, too: \
            modprobe vfio-pci; echo vfio-pci > /sys/bus/pci/devices/0000:00:04.1/driver_override; \
            echo 0000:00:04.1 > /sys/bus/pci/devices/0000:00:04.1/driver/unbind; \
            echo 0000:00:04.1 > /sys/bus/pci/drivers_probe\
            \n  0000:00:04.2: no driver";
        assert_eq!(GroupError::NotViable { group: 7, members }.to_string(), text);
    }

    #[test]
    fn device_of_another_driver_says_how_to_rebind_it() {
        let bdf = Bdf::new(0, 0, 4, 0).unwrap();
        let text = "0000:00:04.0 is bound to no driver, not to a VFIO driver; give it to VFIO by: \
            modprobe vfio-pci; echo vfio-pci > /sys/bus/pci/devices/0000:00:04.0/driver_override; \
            echo 0000:00:04.0 > /sys/bus/pci/drivers_probe";
        assert_eq!(OpenError::NotVfio { bdf, driver: None }.to_string(), text);
    }

    #[test]
    fn missing_vfio_says_what_to_load() {
        let error = ContainerError::Open { path: "/dev/vfio/vfio".into(), errno: Errno::ENOENT };
        let text = "cannot open /dev/vfio/vfio: ENOENT, No such file or directory; \
            VFIO is not loaded: `modprobe vfio-pci`";
        assert_eq!(error.to_string(), text);
    }
}
