//! What an embedder decides about a device, on top of what the core does by itself.

use crate::addr::{BarIndex, GuestAddr, GuestBarOffset, GuestPort, PhysBarOffset};
use crate::span::Span;

/// What an embedder decides; by default nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options<'a> {
    /// Where the guest finds the function.
    pub placement: Placement,
    /// Capabilities to hide or to keep; the first that names a capability counts.
    pub capabilities: &'a [CapabilityChoice],
    /// Ids that the guest reads in place of the device's.
    pub ids: Ids,
    /// Addresses that the guest finds in its BARs, by [`BarIndex`], after power-on and after each reset.
    pub pinned: [Option<Pin>; 7],
    /// Where BARs decode.
    pub apertures: Apertures,
    /// What the guest is not to reach directly.
    pub unmapped: &'a [Exclusion],
    /// Another place for the MSI-X table and Pending Bit Array.
    pub relocation: Option<Relocation>,
}

impl Options<'_> {
    /// Whether the embedder hides or keeps this capability: `true` is hidden.
    // One copy of it: the core is to be small.
    #[inline(never)]
    pub(crate) fn choice(&self, id: CapabilityId) -> Option<bool> {
        self.capabilities.iter().find(|choice| choice.id == id).map(|choice| choice.hidden)
    }

    /// Whether the embedder hides this capability.
    pub(crate) fn hides(&self, id: CapabilityId) -> bool {
        self.choice(id) == Some(true)
    }
}

/// Where the guest finds the function: its PCI Express Device/Port Type has to fit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Placement {
    /// On a root bus: a Root Complex Integrated Endpoint, which has no link.
    #[default]
    RootComplex,
    /// Behind a Root Port or a Switch Downstream Port: an Endpoint, which has one.
    BehindPort,
}

/// Names a capability.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CapabilityId {
    /// Capability ID, in the 256-byte area.
    Standard(u8),
    /// Extended Capability ID.
    Extended(u16),
}

/// Whether the guest sees a capability.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CapabilityChoice {
    /// The capability.
    pub id: CapabilityId,
    /// Whether it is hidden. One that is kept is the device's own where the core has no virtual one.
    pub hidden: bool,
}

/// Ids in place of the device's.
///
/// PCI Local Bus 3.0, 6.2.1 Device Identification and 6.2.4 Miscellaneous Registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ids {
    /// Vendor ID.
    pub vendor: Option<u16>,
    /// Device ID.
    pub device: Option<u16>,
    /// Subsystem Vendor ID.
    pub subsystem_vendor: Option<u16>,
    /// Subsystem ID.
    pub subsystem: Option<u16>,
}

/// The address that the guest finds in a BAR.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pin {
    /// The one that the device has on its host.
    Host,
    /// This one: a guest-physical address, or a port.
    At(u64),
}

/// Where BARs decode; a base outside is not decoded. With nothing given they decode everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Apertures {
    /// Memory.
    pub memory: [Option<Span<GuestAddr>>; 3],
    /// I/O ports.
    pub ports: Option<Span<GuestPort>>,
}

impl Apertures {
    /// Whether a memory BAR may decode this.
    pub(crate) fn has_memory(&self, range: Span<GuestAddr>) -> bool {
        let mut given = self.memory.iter().flatten().peekable();
        given.peek().is_none() || given.any(|aperture| aperture.covers(range))
    }

    /// Whether an I/O BAR may decode this.
    pub(crate) fn has_ports(&self, range: Span<GuestPort>) -> bool {
        self.ports.is_none_or(|aperture| aperture.covers(range))
    }
}

/// A part of a BAR that the guest does not reach directly; every access to its pages is trapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exclusion {
    /// The BAR.
    pub bar: BarIndex,
    /// The bytes of it; `None` is all.
    pub part: Option<Span<PhysBarOffset>>,
}

/// Another place for the MSI-X table, with the Pending Bit Array behind it, than where the device has them: the
/// registers that share their pages there can then be mapped, if the kernel lets the host map those pages.
///
/// With those registers the guest reaches the device's own table. Nothing needs what is in it, and a message that
/// the guest writes to it meets the interrupt remapping that assignment relies on for all of the device's writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relocation {
    /// Behind the last byte of this memory BAR, which the guest finds twice as large or, if that is too little, as
    /// large as it takes.
    Behind(BarIndex),
    /// In this memory BAR, where the device has no registers.
    At {
        /// The BAR.
        bar: BarIndex,
        /// The table's first byte, a multiple of 8.
        offset: GuestBarOffset,
    },
}
