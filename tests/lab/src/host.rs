//! What L1 is as a host of devices: its kernel, and which of VFIO's interfaces a monitor takes.

use crate::monitor::Monitor;
use crate::protocol::Launch;
use clap::ValueEnum;

/// Which kernel and which interface, where a person may choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct HostOptions {
    /// L1's kernel [default: 6.12, or custom with --backend cdev].
    #[arg(long, value_enum)]
    kernel: Option<KernelChoice>,
    /// VFIO's interface that the monitor is told to take [default: its own choice].
    #[arg(long, value_enum)]
    backend: Option<Backend>,
}

/// L1's kernel. The guest's is always Debian's 6.12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KernelChoice {
    /// Debian's 6.12: groups and containers only.
    #[value(name = "6.12")]
    Debian6_12,
    /// Debian 12's own: MSI-X vectors cannot be added while MSI-X is on.
    #[value(name = "6.1")]
    Debian6_1,
    /// Built by `cargo lab kernel`: iommufd and VFIO's character devices, too.
    Custom,
}

/// One of VFIO's interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// Groups and containers.
    Group,
    /// Character devices and iommufd.
    Cdev,
}

/// A kernel that does not have the interface asked for.
#[derive(Debug, thiserror::Error)]
#[error("Debian's kernels have no iommufd, so --backend cdev needs --kernel custom, its default")]
pub(crate) struct NoCdev;

impl HostOptions {
    /// L1's kernel.
    pub(crate) fn kernel(&self) -> Result<KernelChoice, NoCdev> {
        match (self.kernel, self.backend) {
            (None, Some(Backend::Cdev)) => Ok(KernelChoice::Custom),
            (Some(KernelChoice::Debian6_12 | KernelChoice::Debian6_1), Some(Backend::Cdev)) => Err(NoCdev),
            (kernel, _) => Ok(kernel.unwrap_or(KernelChoice::Debian6_12)),
        }
    }

    /// Tells our command which interface to take; QEMU has its own mind.
    pub(crate) fn tell(&self, monitor: &Monitor, mut launch: Launch) -> Launch {
        if let (Monitor::Ours, Some(backend)) = (monitor, self.backend) {
            launch.arguments.extend(["--backend", backend.word()].map(str::to_owned));
        }
        launch
    }

    /// The interface asked for, or the one that every host has.
    pub(crate) fn backend(&self) -> Backend {
        self.backend.unwrap_or(Backend::Group)
    }
}

impl Backend {
    /// As commands take it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Backend::Group => "group",
            Backend::Cdev => "cdev",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(kernel: Option<KernelChoice>, backend: Option<Backend>) -> Option<KernelChoice> {
        HostOptions { kernel, backend }.kernel().ok()
    }

    #[test]
    fn character_devices_bring_their_kernel() {
        assert_eq!(kernel(None, Some(Backend::Cdev)), Some(KernelChoice::Custom));
    }

    #[test]
    fn a_kernel_without_character_devices_is_refused_for_them() {
        assert_eq!(kernel(Some(KernelChoice::Debian6_1), Some(Backend::Cdev)), None);
    }

    #[test]
    fn groups_work_on_every_kernel() {
        let (choice, group) = (Some(KernelChoice::Custom), Some(Backend::Group));
        assert_eq!(kernel(choice, group), choice);
    }
}
