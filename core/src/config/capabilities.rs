//! What is done with each capability, as data: the built-in rules.

use super::rules::Register;
use crate::addr::ConfigOffset;
use crate::caps::{Capabilities, CapabilityFinding, ConfigImage, ExtendedCapabilities};
use crate::options::{CapabilityId, Placement};
use crate::regs::{capability, express, msi, power};
use CapabilityId::{Extended, Standard};

/// How a capability is treated where the embedder does not say otherwise.
#[derive(Debug)]
pub(crate) struct CapabilityRule {
    /// The capability; `None` is every one that no other rule is for.
    id: Option<CapabilityId>,
    pub(crate) name: &'static str,
    size: Size,
    pub(crate) hidden: bool,
    /// Registers that are not hardware's alone. A function has one such capability: a second one is hidden.
    pub(crate) parts: &'static [Part],
}

/// A register of a capability.
#[derive(Debug)]
pub(crate) struct Part {
    /// Bytes from the capability's start, a multiple of four.
    pub(crate) at: u16,
    pub(crate) register: Register,
    /// A dword of the capability and bits of it, all of which must be set.
    needs: (u16, u32),
    /// Where the function must be.
    placement: Option<Placement>,
}

/// How many bytes a capability has.
#[derive(Clone, Copy, Debug)]
enum Size {
    Bytes(u16),
    /// Bits of the first dword add registers to those of a plain MSI.
    Msi,
    /// The version, and for the first one the port type.
    Express,
    /// The third byte says it.
    Length,
    /// Bits 31:20 of the second dword say it.
    ExtendedLength,
    /// Bits 7:5 of the first control register count pairs of registers.
    ResizableBars,
    /// The specification has several, or does not say: as far as the next capability.
    Rest,
}

const HARDWARE: &[Part] = &[];

const fn part(at: u16, register: Register) -> Part {
    Part { at, register, needs: (0, 0), placement: None }
}

const fn row(id: CapabilityId, name: &'static str, size: Size, parts: &'static [Part]) -> CapabilityRule {
    CapabilityRule { id: Some(id), name, size, hidden: false, parts }
}

const fn hidden(id: CapabilityId, name: &'static str, size: Size) -> CapabilityRule {
    CapabilityRule { id: Some(id), name, size, hidden: true, parts: HARDWARE }
}

const POWER_MANAGEMENT: &[Part] = &[part(power::PMCSR, Register::PowerControl)];
/// Of two at one place the first that applies counts.
const MSI: &[Part] = &[
    part(0, Register::MsiControl),
    part(4, Register::MsiAddress),
    Part { needs: (0, MSI_WIDE), ..part(8, Register::MsiUpperAddress) },
    part(8, Register::MsiData),
    Part { needs: (0, MSI_WIDE), ..part(12, Register::MsiData) },
    Part { needs: (0, MSI_MASKABLE), ..part(12, Register::MsiMask) },
    Part { needs: (0, MSI_WIDE | MSI_MASKABLE), ..part(16, Register::MsiMask) },
    Part { needs: (0, MSI_MASKABLE), ..part(16, Register::MsiPending) },
    Part { needs: (0, MSI_WIDE | MSI_MASKABLE), ..part(20, Register::MsiPending) },
];
const MSI_WIDE: u32 = msi::in_first_dword(msi::WIDE);
const MSI_MASKABLE: u32 = msi::in_first_dword(msi::MASKABLE);
const MSIX: &[Part] =
    &[part(0, Register::MsixControl), part(4, Register::MsixTable), part(8, Register::MsixPba)];
const FLR: (u16, u32) = (power::DEVICE_CAPABILITIES, power::DEVICE_CAPABILITIES_FLR);
const PCI_EXPRESS: &[Part] = &[
    part(0, Register::ExpressCapabilities),
    Part { needs: FLR, ..part(power::DEVICE_CONTROL, Register::DeviceControl) },
    no_link(express::LINK_CAPABILITIES),
    no_link(express::LINK_CONTROL),
    no_link(express::LINK_CAPABILITIES_2),
    no_link(express::LINK_CONTROL_2),
    new_link(express::LINK_CAPABILITIES, Register::LinkCapabilities),
    new_link(express::LINK_CONTROL, Register::LinkControl),
];
const AF: &[Part] = &[Part {
    needs: (0, power::AF_CAPABILITIES_TP_FLR),
    ..part(power::AF_CONTROL, Register::AdvancedFeaturesControl)
}];

/// A register of the link that a Root Complex Integrated Endpoint does not have.
const fn no_link(at: u16) -> Part {
    Part { placement: Some(Placement::RootComplex), ..part(at, Register::Hidden) }
}

/// A register of the link that an Endpoint has and hardware's Root Complex Integrated Endpoint does not.
const fn new_link(at: u16, register: Register) -> Part {
    let needs = (0, express::INTEGRATED_ENDPOINT | express::VERSION_2);
    Part { needs, placement: Some(Placement::BehindPort), ..part(at, register) }
}

/// The Device/Port Type that fits where the function is, for the first dword of PCI Express.
pub(crate) fn port_type(first: u32, placement: Placement) -> u32 {
    match (first & express::PORT_TYPE, placement) {
        (express::ENDPOINT | express::LEGACY_ENDPOINT, Placement::RootComplex) => {
            express::INTEGRATED_ENDPOINT
        }
        (express::INTEGRATED_ENDPOINT, Placement::BehindPort) => express::ENDPOINT,
        (other, _) => other,
    }
}

/// The header, a dword each.
static HEADER: [&str; 16] = [
    "Vendor ID, Device ID",
    "Command, Status",
    "Revision ID, Class Code",
    "Header Type",
    BAR,
    BAR,
    BAR,
    BAR,
    BAR,
    BAR,
    "CardBus CIS Pointer",
    "Subsystem IDs",
    "Expansion ROM",
    "Capabilities Pointer",
    "reserved",
    "Interrupt Line, Interrupt Pin",
];
const BAR: &str = "Base Address Register";

/// The capability that `offset` belongs to, if it is one, and the name of the rule for it.
pub(crate) fn rule_of(image: ConfigImage<'_>, offset: ConfigOffset) -> (Option<CapabilityId>, &'static str) {
    if let Some(name) = HEADER.get(usize::from(offset.get() / 4)) {
        return (None, name);
    }
    let standard = offset.get() < capability::EXTENDED_FIRST;
    let mut owner = None;
    visit(image, &mut |id, at| {
        let nearer = owner.is_none_or(|(_, other)| other < at);
        if matches!(id, Standard(_)) == standard && at <= offset && nearer {
            owner = Some((id, at));
        }
    });
    match owner {
        Some((id, at)) if offset.get() <= last_dword(image, id, at) | 3 => {
            (Some(id), CapabilityRule::of(id).name)
        }
        _ => (None, "no capability"),
    }
}

/// Every capability there is a rule for. The last one is for those that there is none for.
pub(crate) static RULES: [CapabilityRule; 42] = [
    row(Standard(capability::POWER_MANAGEMENT), "Power Management", Size::Bytes(8), POWER_MANAGEMENT),
    row(Standard(0x02), "AGP", Size::Rest, HARDWARE),
    row(Standard(capability::VITAL_PRODUCT_DATA), "Vital Product Data", Size::Bytes(8), HARDWARE),
    row(Standard(0x04), "Slot Identification", Size::Bytes(4), HARDWARE),
    row(Standard(capability::MSI), "MSI", Size::Msi, MSI),
    row(Standard(0x07), "PCI-X", Size::Rest, HARDWARE),
    row(Standard(0x08), "HyperTransport", Size::Rest, HARDWARE),
    row(Standard(capability::VENDOR_SPECIFIC), "Vendor-Specific", Size::Length, HARDWARE),
    row(Standard(0x0a), "Debug Port", Size::Bytes(4), HARDWARE),
    row(Standard(0x0d), "Subsystem ID", Size::Bytes(8), HARDWARE),
    row(Standard(capability::PCI_EXPRESS), "PCI Express", Size::Express, PCI_EXPRESS),
    row(Standard(capability::MSIX), "MSI-X", Size::Bytes(12), MSIX),
    row(Standard(0x12), "Serial ATA", Size::Bytes(8), HARDWARE),
    row(Standard(capability::ADVANCED_FEATURES), "Advanced Features", Size::Bytes(8), AF),
    row(Standard(0x14), "Enhanced Allocation", Size::Rest, HARDWARE),
    row(Extended(capability::EXTENDED_AER), "Advanced Error Reporting", Size::Rest, HARDWARE),
    row(Extended(0x0002), "Virtual Channel", Size::Rest, HARDWARE),
    row(Extended(capability::EXTENDED_DSN), "Device Serial Number", Size::Bytes(12), HARDWARE),
    row(Extended(0x0004), "Power Budgeting", Size::Bytes(16), HARDWARE),
    row(Extended(0x000b), "Vendor-Specific Extended", Size::ExtendedLength, HARDWARE),
    row(Extended(capability::EXTENDED_ACS), "Access Control Services", Size::Rest, HARDWARE),
    hidden(Extended(capability::EXTENDED_ARI), "Alternative Routing-ID", Size::Bytes(8)),
    hidden(Extended(capability::EXTENDED_ATS), "Address Translation Services", Size::Bytes(8)),
    hidden(Extended(capability::EXTENDED_SRIOV), "Single Root I/O Virtualization", Size::Bytes(64)),
    row(Extended(0x0012), "Multicast", Size::Bytes(48), HARDWARE),
    hidden(Extended(capability::EXTENDED_PRI), "Page Request", Size::Bytes(16)),
    hidden(Extended(capability::EXTENDED_RESIZABLE_BAR), "Resizable BAR", Size::ResizableBars),
    row(Extended(0x0016), "Dynamic Power Allocation", Size::Rest, HARDWARE),
    row(Extended(0x0017), "TPH Requester", Size::Rest, HARDWARE),
    row(Extended(capability::EXTENDED_LTR), "Latency Tolerance Reporting", Size::Bytes(8), HARDWARE),
    row(Extended(0x0019), "Secondary PCI Express", Size::Rest, HARDWARE),
    hidden(Extended(capability::EXTENDED_PASID), "Process Address Space ID", Size::Bytes(8)),
    row(Extended(0x001d), "Downstream Port Containment", Size::Rest, HARDWARE),
    row(Extended(0x001e), "L1 PM Substates", Size::Rest, HARDWARE),
    row(Extended(0x001f), "Precision Time Measurement", Size::Bytes(12), HARDWARE),
    row(Extended(0x0023), "Designated Vendor-Specific", Size::ExtendedLength, HARDWARE),
    hidden(Extended(capability::EXTENDED_VF_RESIZABLE_BAR), "VF Resizable BAR", Size::ResizableBars),
    row(Extended(0x0025), "Data Link Feature", Size::Bytes(12), HARDWARE),
    row(Extended(0x0026), "Physical Layer 16.0 GT/s", Size::Rest, HARDWARE),
    row(Extended(0x0027), "Lane Margining", Size::Rest, HARDWARE),
    row(Extended(0x002a), "Physical Layer 32.0 GT/s", Size::Rest, HARDWARE),
    CapabilityRule { id: None, name: "unknown capability", size: Size::Rest, hidden: false, parts: HARDWARE },
];

impl CapabilityRule {
    /// The rule for this capability.
    pub(crate) fn of(id: CapabilityId) -> &'static Self {
        let [.., unknown] = &RULES;
        RULES.iter().find(|rule| rule.id == Some(id)).unwrap_or(unknown)
    }
}

impl Part {
    /// Whether the capability at `offset` has it.
    pub(crate) fn applies(&self, image: ConfigImage<'_>, offset: ConfigOffset, placement: Placement) -> bool {
        let (at, bits) = self.needs;
        let has = offset.checked_add(at).is_some_and(|at| image.dword(at) & bits == bits);
        has && self.placement.is_none_or(|wanted| wanted == placement)
    }
}

/// The capabilities of both lists, and what is wrong with the lists.
pub(crate) fn capabilities(image: ConfigImage<'_>) -> BothLists<'_> {
    BothLists { standard: image.capabilities(), extended: image.extended_capabilities() }
}

/// Shows the capabilities of both lists.
// One copy of it: the core is to be small.
#[inline(never)]
fn visit(image: ConfigImage<'_>, see: &mut dyn FnMut(CapabilityId, ConfigOffset)) {
    for (id, at) in capabilities(image).flatten() {
        see(id, at);
    }
}

/// The walk over the standard list, then the extended one.
pub(crate) struct BothLists<'a> {
    standard: Capabilities<'a>,
    extended: ExtendedCapabilities<'a>,
}

impl Iterator for BothLists<'_> {
    type Item = Result<(CapabilityId, ConfigOffset), CapabilityFinding>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(found) = self.standard.next() {
            return Some(found.map(|found| (Standard(found.id), found.offset)));
        }
        Some(self.extended.next()?.map(|found| (Extended(found.id), found.offset)))
    }
}

/// The offset of the last dword of the capability at `offset`.
pub(crate) fn last_dword(image: ConfigImage<'_>, id: CapabilityId, offset: ConfigOffset) -> u16 {
    let dword = |at: u16| offset.checked_add(at).map_or(0, |at| image.dword(at));
    let size = match CapabilityRule::of(id).size {
        Size::Bytes(bytes) => u32::from(bytes),
        Size::Msi => u32::from(msi::size(msi::control(dword(0)))),
        Size::Express => match dword(0) & express::VERSION {
            express::VERSION_1 if dword(0) & express::PORT_TYPE == express::INTEGRATED_ENDPOINT => 0x0c,
            express::VERSION_1 => 0x14,
            _ => 0x3c,
        },
        Size::Length => dword(0).wrapping_shr(16) & 0xff,
        Size::ExtendedLength => dword(4).wrapping_shr(20),
        Size::ResizableBars => (dword(8) & 0xe0).wrapping_shr(2).clamp(8, 48).wrapping_add(4),
        Size::Rest => u32::MAX,
    };
    let end = match id {
        Standard(_) => 0x100.min(image.size()),
        Extended(_) => image.size(),
    };
    // As far as the next capability, if it has no size of its own.
    let mut last = end.wrapping_sub(1);
    if let Ok(size) = u16::try_from(size) {
        return offset.get().saturating_add(size.max(4).wrapping_sub(1)).min(last) & !3;
    }
    visit(image, &mut |_, at| {
        if at > offset {
            last = last.min(at.get().wrapping_sub(1));
        }
    });
    last & !3
}
