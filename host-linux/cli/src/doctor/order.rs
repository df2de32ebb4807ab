//! All checks, causes before what follows from them.

use super::check::{Check, State, Subject};
use super::facts::{Device, Facts};
use super::{device, group, kernel, limits, platform, vfio};
use crate::host::Unreadable;

type Found = Result<Check, Unreadable>;

/// How to look.
#[derive(Clone, Copy)]
enum Look {
    /// At the host.
    Host(fn(&Facts<'_>) -> Found),
    /// At the device, if there is one.
    Device(fn(&Facts<'_>, &Device) -> Found),
    /// At the host, with the device if there is one.
    Both(fn(&Facts<'_>, Option<&Device>) -> Found),
}

use Look::{Both, Device as Of, Host};
use Subject as S;

/// What each check is about, what must be right before it makes sense to look, and how to look.
const CHECKS: [(Subject, &[Subject], Look); 28] = [
    (S::Kvm, &[], Host(platform::kvm)),
    (S::Kind, &[], Of(device::kind)),
    (S::Power, &[], Of(device::power)),
    (S::Iommu, &[], Host(platform::iommu)),
    (S::InterruptRemapping, &[S::Iommu], Host(platform::interrupt_remapping)),
    (S::Modules, &[], Host(vfio::modules)),
    (S::Container, &[S::Modules], Host(vfio::container)),
    (S::Bars, &[S::Power], Of(device::bars)),
    (S::VirtualFunctions, &[], Of(device::virtual_functions)),
    (S::Group, &[S::Kind, S::Iommu], Of(group::group)),
    (S::ReservedRegions, &[S::Group], Of(group::reserved_regions)),
    (S::Uses, &[S::Kind], Of(device::uses)),
    (S::Siblings, &[S::Group, S::Uses], Of(group::siblings)),
    (S::Driver, &[S::Kind, S::Modules, S::Siblings], Of(device::driver)),
    (S::DeviceFile, &[S::Group, S::Driver], Of(vfio::device_file)),
    (S::Holder, &[S::DeviceFile], Of(vfio::holder)),
    (S::IovaWidth, &[S::Iommu], Both(platform::iova_width)),
    (S::LockedMemory, &[], Host(limits::locked_memory)),
    (S::EntryLimit, &[], Host(limits::entry_limit)),
    (S::OpenFiles, &[], Both(limits::open_files)),
    (S::PageSize, &[], Host(limits::page_size)),
    (S::Acs, &[S::Group], Of(group::acs)),
    (S::Reset, &[S::Kind], Of(device::reset)),
    (S::DynamicMsix, &[], Host(kernel::dynamic_msix)),
    (S::Iommufd, &[], Host(kernel::iommufd)),
    (S::DeviceFiles, &[], Host(kernel::device_files)),
    (S::HugeFaults, &[], Host(kernel::huge_faults)),
    (S::MapByFile, &[], Host(kernel::map_by_file)),
];

/// Makes all checks.
pub(super) fn examine(facts: &Facts<'_>) -> Vec<(Subject, Check)> {
    let mut made: Vec<(Subject, Check)> = Vec::new();
    for (subject, needs, look) in CHECKS {
        let wrong = |need: &&Subject| made.iter().any(|(done, check)| done == *need && check.stops());
        let found = match (needs.iter().find(wrong), look, &facts.device) {
            (Some(first), look, device) => {
                if matches!(look, Look::Device(_)) && device.is_none() {
                    continue;
                }
                Ok(Check::after(cause(&made, *first)))
            }
            (None, Host(look), _) => look(facts),
            (None, Both(look), device) => look(facts, device.as_ref()),
            (None, Of(look), Some(device)) => look(facts, device),
            (None, Of(_), None) => continue,
        };
        let check = found.unwrap_or_else(|error| {
            Check::cannot_tell(error.to_string(), "Nothing can be said about it.").act("Look again as root.")
        });
        made.push((subject, check));
    }
    made
}

/// What is wrong first, where `subject` follows from something itself.
fn cause(made: &[(Subject, Check)], subject: Subject) -> Subject {
    match made.iter().find(|(done, _)| *done == subject).map(|(_, check)| check.state) {
        Some(State::After(first)) => first,
        _ => subject,
    }
}

impl Check {
    fn after(first: Subject) -> Self {
        Self { state: State::After(first), ..Self::ok(format!("first: {}", first.title())) }
    }

    /// Whether what needs this is not looked at.
    fn stops(&self) -> bool {
        matches!(self.state, State::Problem | State::After(_))
    }
}
