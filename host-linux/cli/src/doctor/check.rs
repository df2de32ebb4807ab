//! What is looked at, what was found, what it means, and what to do about it.

/// What a check is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    Kvm,
    Iommu,
    InterruptRemapping,
    Modules,
    Container,
    Kind,
    Power,
    Bars,
    VirtualFunctions,
    Group,
    Uses,
    Siblings,
    Driver,
    DeviceFile,
    Holder,
    ReservedRegions,
    IovaWidth,
    LockedMemory,
    EntryLimit,
    OpenFiles,
    PageSize,
    Acs,
    Reset,
    DynamicMsix,
    Iommufd,
    DeviceFiles,
    HugeFaults,
    MapByFile,
}

impl Subject {
    /// For programs.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Iommu => "iommu",
            Self::InterruptRemapping => "interrupt-remapping",
            Self::Modules => "modules",
            Self::Container => "container",
            Self::Kind => "kind",
            Self::Power => "power",
            Self::Bars => "bars",
            Self::VirtualFunctions => "virtual-functions",
            Self::Group => "group",
            Self::Uses => "uses",
            Self::Siblings => "siblings",
            Self::Driver => "driver",
            Self::DeviceFile => "device-file",
            Self::Holder => "holder",
            Self::ReservedRegions => "reserved-regions",
            Self::IovaWidth => "iova-width",
            Self::LockedMemory => "locked-memory",
            Self::EntryLimit => "entry-limit",
            Self::OpenFiles => "open-files",
            Self::PageSize => "page-size",
            Self::Acs => "acs",
            Self::Reset => "reset",
            Self::DynamicMsix => "dynamic-msix",
            Self::Iommufd => "iommufd",
            Self::DeviceFiles => "cdev",
            Self::HugeFaults => "huge-faults",
            Self::MapByFile => "map-by-file",
        }
    }

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Iommu => "IOMMU",
            Self::InterruptRemapping => "interrupt remapping",
            Self::Modules => "VFIO's modules",
            Self::Container => "VFIO's file",
            Self::Kind => "kind of function",
            Self::Power => "power state",
            Self::Bars => "BARs",
            Self::VirtualFunctions => "SR-IOV",
            Self::Group => "IOMMU group",
            Self::Uses => "use by the host",
            Self::Siblings => "others of its group",
            Self::Driver => "driver",
            Self::DeviceFile => "the device's file",
            Self::Holder => "held by nobody",
            Self::ReservedRegions => "reserved regions",
            Self::IovaWidth => "IOMMU's addresses",
            Self::LockedMemory => "locked memory",
            Self::EntryLimit => "DMA entries",
            Self::OpenFiles => "open files",
            Self::PageSize => "page size",
            Self::Acs => "ACS",
            Self::Reset => "reset",
            Self::DynamicMsix => "dynamic MSI-X",
            Self::Iommufd => "iommufd",
            Self::DeviceFiles => "files for devices",
            Self::HugeFaults => "huge mappings",
            Self::MapByFile => "mapping by file",
        }
    }
}

/// What became of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// It is as it must be.
    Ok,
    /// It keeps a guest from having the device.
    Problem,
    /// It could not be looked at, and might.
    CannotTell,
    /// It could not be looked at, or cannot be relied on; a guest can have the device all the same.
    Unsure,
    /// It makes no sense to look before that one is right.
    After(Subject),
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// A line for a shell, as root.
    Run(String),
    /// What no shell can do.
    Do(String),
}

/// A check that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Check {
    pub(crate) state: State,
    /// What was found.
    pub(crate) found: String,
    /// What it means; empty where all is well.
    pub(crate) meaning: String,
    pub(crate) remedy: Vec<Step>,
}

impl Check {
    /// All is well.
    pub(super) fn ok(found: impl Into<String>) -> Self {
        Self { state: State::Ok, found: found.into(), meaning: String::new(), remedy: Vec::new() }
    }

    /// It would not work.
    pub(super) fn problem(found: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { state: State::Problem, meaning: meaning.into(), ..Self::ok(found) }
    }

    /// It cannot be told whether it would work.
    pub(super) fn cannot_tell(found: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { state: State::CannotTell, meaning: meaning.into(), ..Self::ok(found) }
    }

    /// It would work, though not all is known or as one would like it.
    pub(super) fn unsure(found: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { state: State::Unsure, meaning: meaning.into(), ..Self::ok(found) }
    }

    /// With a line for a shell.
    #[must_use]
    pub(super) fn run(mut self, line: impl Into<String>) -> Self {
        self.remedy.push(Step::Run(line.into()));
        self
    }

    /// With something else to do.
    #[must_use]
    pub(super) fn act(mut self, what: impl Into<String>) -> Self {
        self.remedy.push(Step::Do(what.into()));
        self
    }
}
