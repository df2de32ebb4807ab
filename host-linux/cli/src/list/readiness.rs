//! What stands between a function and a guest, in a word.

use vfio_assign_linux::GroupMember;

use crate::host::{PciFunction, Use};

/// Whether a function can be given to a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Readiness {
    /// VFIO has it, and all of its group.
    Ready,
    /// VFIO has it; others of its group are with drivers of the host.
    Siblings,
    /// It is to be given to VFIO.
    Bind,
    /// It is to be given to VFIO with others of its group.
    BindGroup,
    /// The host would lose something that it uses.
    InUse,
    /// It is in no IOMMU group.
    NoIommu,
    /// Bound to VFIO in its mode without IOMMU.
    NoIommuMode,
    /// It is a bridge.
    Bridge,
}

impl Readiness {
    /// All, in the order of a legend.
    pub(crate) const ALL: [Self; 8] = [
        Self::Ready,
        Self::Siblings,
        Self::Bind,
        Self::BindGroup,
        Self::InUse,
        Self::NoIommu,
        Self::NoIommuMode,
        Self::Bridge,
    ];

    /// For a table.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Siblings => "siblings",
            Self::Bind => "bind",
            Self::BindGroup => "bind group",
            Self::InUse => "in use",
            Self::NoIommu => "no IOMMU",
            Self::NoIommuMode => "unsafe",
            Self::Bridge => "bridge",
        }
    }

    /// For a legend.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Ready => "a guest can have it",
            Self::Siblings => "others of its group are with drivers of the host",
            Self::Bind => "`vfio-assign bind` makes it ready",
            Self::BindGroup => "`vfio-assign bind --siblings` makes it ready",
            Self::InUse => "the host needs it; `vfio-assign doctor` says for what",
            Self::NoIommu => "it is in no IOMMU group; `vfio-assign doctor` says why",
            Self::NoIommuMode => "VFIO has it without an IOMMU, so it is not given to a guest",
            Self::Bridge => "bridges are never given to a guest",
        }
    }

    /// For JSON.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Siblings => "siblings",
            Self::Bind => "bind",
            Self::BindGroup => "bind-group",
            Self::InUse => "in-use",
            Self::NoIommu => "no-iommu",
            Self::NoIommuMode => "no-iommu-mode",
            Self::Bridge => "bridge",
        }
    }
}

/// What stands between this function and a guest.
pub(crate) fn readiness(
    function: &PciFunction,
    members: &[GroupMember],
    no_iommu_mode: bool,
    uses: &[Use],
) -> Readiness {
    let own = function.bdf.to_string();
    let in_the_way = members.iter().any(|member| member.in_the_way && *member.name != own);
    if function.is_bridge() {
        Readiness::Bridge
    } else if no_iommu_mode {
        Readiness::NoIommuMode
    } else if function.group.is_none() {
        Readiness::NoIommu
    } else if !uses.is_empty() {
        Readiness::InUse
    } else {
        match (function.vfio, in_the_way) {
            (true, false) => Readiness::Ready,
            (true, true) => Readiness::Siblings,
            (false, false) => Readiness::Bind,
            (false, true) => Readiness::BindGroup,
        }
    }
}
