//! What a VM and its devices are opened with: which of the kernel's interfaces, and files that somebody with more
//! rights has opened.

use crate::group::VfioFiles;
use crate::progress::MappingObserver;
use crate::retry::RetryPolicy;
use crate::sysfs::Sysfs;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// One of the kernel's two interfaces to VFIO. A device is open on one of them at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// Groups (`/dev/vfio/7`) in containers of kind Type1v2.
    Group,
    /// A file for each device (`/dev/vfio/devices/vfio0`, since Linux 6.6) in address spaces of iommufd.
    Cdev,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "group",
            Self::Cdev => "cdev",
        })
    }
}

/// What a VM is made with.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// Where functions are looked up.
    pub sysfs: Sysfs,
    /// The folder with VFIO's device files.
    pub dev_vfio: PathBuf,
    /// The file that makes an iommufd.
    pub dev_iommu: PathBuf,
    /// Which interface devices are opened by. None: cdev where iommufd and the device's own file are there and
    /// open, else groups; a VM that has a device on one of them stays with it.
    pub backend: Option<Backend>,
    /// An iommufd that somebody has opened for this VM; none: it opens its own.
    pub iommufd: Option<Arc<OwnedFd>>,
    /// A container that somebody has opened for this VM, without groups; none: it opens its own. Where one
    /// container is not enough for all groups, it opens the others.
    pub container: Option<Arc<OwnedFd>>,
    /// Who must know which VFIO files the VM uses; on KVM, the VM's KVM-VFIO device.
    pub files: Option<Arc<dyn VfioFiles>>,
    /// When an opening is tried again.
    pub retry: RetryPolicy,
    /// Who wants to know how far memory is mapped.
    pub observer: Option<Arc<dyn MappingObserver>>,
}

impl Default for VmOptions {
    fn default() -> Self {
        Self {
            sysfs: Sysfs::default(),
            dev_vfio: "/dev/vfio".into(),
            dev_iommu: "/dev/iommu".into(),
            backend: None,
            iommufd: None,
            container: None,
            files: None,
            retry: RetryPolicy::default(),
            observer: None,
        }
    }
}

/// What one device is opened with, beside its address.
#[derive(Debug, Default)]
pub struct DeviceOptions {
    /// The token that virtual functions need whose physical function has one. Only the group interface takes it.
    pub vf_token: Option<VfToken>,
    /// The file by which it is opened, where somebody else has opened that; it decides the interface.
    pub file: Option<VfioFile>,
}

/// A file of VFIO's that somebody with more rights has opened for this process.
#[derive(Debug)]
#[non_exhaustive]
pub enum VfioFile {
    /// The device's group, in no container yet.
    Group(OwnedFd),
    /// The device's own file, not bound yet.
    Cdev(OwnedFd),
}

/// A secret that the physical function's user shares with those of its virtual functions: a UUID.
#[derive(Clone, PartialEq, Eq)]
pub struct VfToken(Box<str>);

/// A text is no VF token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a VF token is a UUID, such as 00112233-4455-6677-8899-aabbccddeeff")]
pub struct VfTokenError;

impl FromStr for VfToken {
    type Err = VfTokenError;

    fn from_str(text: &str) -> Result<Self, VfTokenError> {
        let groups = text.split('-').map(str::len);
        let digits = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        if digits && groups.eq([8, 4, 4, 4, 12]) { Ok(Self(text.into())) } else { Err(VfTokenError) }
    }
}

impl VfToken {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for VfToken {
    /// Does not tell it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VfToken").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "00112233-4455-6677-8899-AABBccddeeff";

    #[test]
    fn uuid_is_a_token() {
        assert_eq!(TOKEN.parse::<VfToken>().unwrap().as_str(), TOKEN);
    }

    #[test]
    fn what_could_be_another_option_is_no_token() {
        let text = "00112233-4455-6677-8899-aabb ddeeff_";
        assert_eq!(text.parse::<VfToken>(), Err(VfTokenError));
    }

    #[test]
    fn uuid_that_is_too_short_is_no_token() {
        assert_eq!(TOKEN[1..].parse::<VfToken>(), Err(VfTokenError));
    }

    #[test]
    fn token_is_not_told_to_logs() {
        assert_eq!(format!("{:?}", TOKEN.parse::<VfToken>().unwrap()), "VfToken(..)");
    }
}
