//! The map from a configuration offset to what stands there, made once from a device's capabilities.

use super::capabilities::{CapabilityRule, capabilities, last_dword, port_type};
use super::rules::{Policy, Register};
use crate::access::ByteLanes;
use crate::addr::{BarIndex, ConfigOffset};
use crate::caps::{CapabilityFinding, ConfigImage};
use crate::description::Finding;
use crate::options::{CapabilityId, Ids, Options, Placement};
use crate::regs::{express, header, power};
use crate::text::{count, say};
use core::fmt;
use heapless::Vec;

/// A run of dwords that are the same to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    first: u16,
    last: u16,
    register: Register,
}

/// One of the first 64 dwords.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Low {
    register: Register,
    /// The bytes that are wholly the guest's own, and need no host to be read.
    own: ByteLanes,
}

impl Low {
    const HARDWARE: Self = Self { register: Register::Hardware, own: ByteLanes::NONE };
}

/// Why no map could be made of a device's configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigMapError {
    /// There is less than a header.
    TooSmall(u16),
    /// The header is that of a bridge.
    NotEndpoint(u8),
    /// Every bit reads one: nobody is there.
    Gone,
    /// More registers need a rule than the map has room for.
    TooManyRules(usize),
}

impl fmt::Display for ConfigMapError {
    #[inline(never)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::TooSmall(bytes) => (
                    "configuration space has %d bytes, fewer than the 64 of a header",
                    [u64::from(bytes), 0, 0],
                ),
                Self::NotEndpoint(kind) => (
                    "header type %2 is no Type 0 header: bridges cannot be assigned",
                    [u64::from(kind), 0, 0],
                ),
                Self::Gone => ("configuration space reads all-ones: the device is gone", [0; 3]),
                Self::TooManyRules(most) => {
                    ("more than %d registers need a rule of their own", [count(most), 0, 0])
                }
            },
        )
    }
}

/// The dwords of the header that are not hardware's alone.
static HEADER: [(ConfigOffset, Register); 10] = {
    let [a, b, c, d, e, f] = BarIndex::BARS;
    [
        (header::COMMAND, Register::CommandWithoutPin),
        (header::HEADER_TYPE_DWORD, Register::HeaderType),
        (header::BAR0, Register::Bar(a)),
        (ConfigOffset::low(0x14), Register::Bar(b)),
        (ConfigOffset::low(0x18), Register::Bar(c)),
        (ConfigOffset::low(0x1c), Register::Bar(d)),
        (ConfigOffset::low(0x20), Register::Bar(e)),
        (ConfigOffset::low(0x24), Register::Bar(f)),
        (header::ROM, Register::Bar(BarIndex::ROM)),
        (header::INTERRUPT_LINE, Register::NoInterruptPin),
    ]
};

/// The map has no room for another rule.
struct Full;

/// Which register each dword is; what is not in the map is hardware's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigMap {
    /// Sorted by offset, disjoint.
    entries: Vec<Entry, { Self::RULES }>,
    /// The dwords of the first 256 bytes once more, each by its place: they are read most.
    low: [Low; 64],
    size: u16,
    /// D1 and D2, if Power Management says that they are supported.
    supports_d1: bool,
    supports_d2: bool,
    no_soft_reset: bool,
    power_control: Option<ConfigOffset>,
    /// Vendor ID and Device ID, then Subsystem Vendor ID and Subsystem ID, as the guest reads them.
    ids: [u32; 2],
    /// Revision ID and Class Code.
    class: u32,
    /// Device/Port Type in its place in the first dword of PCI Express.
    port_type: u32,
}

impl ConfigMap {
    /// The most runs of dwords with a rule of their own.
    const RULES: usize = 64;

    /// The map for a device with this configuration space. `finding` hears what is wrong with its lists.
    ///
    /// # Errors
    ///
    /// It is no Type 0 configuration space.
    pub fn new(
        image: ConfigImage<'_>,
        options: &Options<'_>,
        mut finding: impl FnMut(CapabilityFinding),
    ) -> Result<Self, ConfigMapError> {
        Self::build(image, options, &mut |found| {
            if let Finding::Capability(found) = found {
                finding(found);
            }
        })
    }

    pub(crate) fn build(
        image: ConfigImage<'_>,
        options: &Options<'_>,
        finding: &mut dyn FnMut(Finding),
    ) -> Result<Self, ConfigMapError> {
        if image.size() < 64 {
            return Err(ConfigMapError::TooSmall(image.size()));
        }
        if image.dword(header::ID) == u32::MAX {
            return Err(ConfigMapError::Gone);
        }
        let [_, _, header_type, _] = image.dword(header::HEADER_TYPE_DWORD).to_le_bytes();
        if header_type & 0x7f != 0 {
            return Err(ConfigMapError::NotEndpoint(header_type));
        }
        let mut map = Self {
            entries: Vec::new(),
            low: [Low::HARDWARE; 64],
            size: image.size(),
            supports_d1: false,
            supports_d2: false,
            no_soft_reset: false,
            power_control: None,
            ids: [0; 2],
            class: image.dword(header::REVISION_AND_CLASS),
            port_type: express::INTEGRATED_ENDPOINT,
        };
        match map.fill(image, options, finding) {
            Ok(()) => Ok(map),
            Err(Full) => Err(ConfigMapError::TooManyRules(Self::RULES)),
        }
    }

    fn fill(
        &mut self,
        image: ConfigImage<'_>,
        options: &Options<'_>,
        finding: &mut dyn FnMut(Finding),
    ) -> Result<(), Full> {
        for (offset, register) in &HEADER {
            self.put(*offset, *register)?;
        }
        self.put_ids(image, &options.ids)?;
        for found in capabilities(image) {
            match found {
                Ok((id, offset)) => self.put_capability(image, id, offset, options)?,
                Err(wrong) => finding(wrong.into()),
            }
        }
        self.index();
        Ok(())
    }

    /// The registers in `low` are those of the entries.
    #[inline(never)]
    fn index(&mut self) {
        for entry in &self.entries {
            let register = entry.register;
            let hardware = match register {
                // The host is asked for them.
                Register::MsiPending => u32::MAX,
                _ => !Policy::of(register).virtual_read,
            };
            let own = ByteLanes::touching(hardware).not();
            let [first, last] = [entry.first, entry.last].map(|dword| usize::from(dword / 4));
            let end = last.saturating_add(1).min(self.low.len());
            if let Some(run) = self.low.get_mut(first..end) {
                run.fill(Low { register, own });
            }
        }
    }

    /// The register that all bytes of an access are of, if they are wholly the guest's own, and the first one's lane.
    #[inline]
    pub(crate) fn own(&self, offset: u32, size: usize) -> Option<(Register, u32)> {
        let lane = offset & 3;
        let low = self.low.get(usize::try_from(offset / 4).ok()?)?;
        low.own.holds(lane, size).then_some((low.register, lane))
    }

    /// Which register the dword at `offset` is; `None` past the end of this configuration space.
    pub fn register(&self, offset: ConfigOffset) -> Option<Register> {
        let dword = offset.dword().get();
        if dword >= self.size {
            return None;
        }
        match self.low.get(usize::from(dword / 4)) {
            Some(low) => Some(low.register),
            None => self.find(dword),
        }
    }

    /// The register of a dword that there is.
    fn find(&self, dword: u16) -> Option<Register> {
        let place = self.entries.partition_point(|entry| entry.last < dword);
        match self.entries.get(place) {
            Some(entry) if entry.first <= dword => Some(entry.register),
            _ => Some(Register::Hardware),
        }
    }

    /// The size in bytes, at most 4096.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Whether the function has the power state that a PMCSR value names.
    pub fn supports(&self, state: power::PowerState) -> bool {
        match state {
            power::PowerState::D0 | power::PowerState::D3Hot => true,
            power::PowerState::D1 => self.supports_d1,
            power::PowerState::D2 => self.supports_d2,
        }
    }

    /// Where the Power Management Control/Status register is, if the function has one.
    pub fn power_control(&self) -> Option<ConfigOffset> {
        self.power_control
    }

    /// Whether D3hot to D0 keeps the function's state.
    pub fn no_soft_reset(&self) -> bool {
        self.no_soft_reset
    }

    /// What a guest knows a device by: its ids, Revision ID and Class Code.
    pub(crate) fn identity(&self) -> [u32; 3] {
        let [ids, subsystem] = self.ids;
        [ids, subsystem, self.class]
    }

    /// What the guest reads from a register whose value does not change.
    pub(crate) fn constant(&self, register: Register) -> u32 {
        let [ids, subsystem] = self.ids;
        match register {
            Register::Ids => ids,
            Register::SubsystemIds => subsystem,
            Register::ExpressCapabilities => self.port_type,
            Register::LinkCapabilities => express::LINK_X1_2_5,
            Register::LinkControl => express::LINK_X1_2_5.wrapping_shl(16),
            _ => 0,
        }
    }

    /// MSI-X cannot be offered: hides its capability, and whatever claims to be another.
    pub(crate) fn hide_msix(&mut self) {
        self.replace(&[
            (Register::MsixControl, Register::HiddenHeader),
            (Register::MsixTable, Register::Hidden),
            (Register::MsixPba, Register::Hidden),
        ]);
    }

    /// MSI cannot be offered: hides its capability.
    pub(crate) fn hide_msi(&mut self) {
        self.replace(&[
            (Register::MsiControl, Register::HiddenHeader),
            (Register::MsiAddress, Register::Hidden),
            (Register::MsiUpperAddress, Register::Hidden),
            (Register::MsiData, Register::Hidden),
            (Register::MsiMask, Register::Hidden),
            (Register::MsiPending, Register::Hidden),
        ]);
    }

    /// The interrupt pin is offered: its register is hardware's, and so is Interrupt Status.
    pub(crate) fn show_interrupt_pin(&mut self) {
        self.replace(&[
            (Register::NoInterruptPin, Register::Hardware),
            (Register::CommandWithoutPin, Register::Command),
        ]);
    }

    #[inline(never)]
    fn replace(&mut self, pairs: &[(Register, Register)]) {
        for entry in &mut self.entries {
            if let Some((_, new)) = pairs.iter().find(|(old, _)| *old == entry.register) {
                entry.register = *new;
            }
        }
        self.index();
    }

    /// The ids that the guest reads, which need not be the device's.
    fn put_ids(&mut self, image: ConfigImage<'_>, ids: &Ids) -> Result<(), Full> {
        self.ids = [
            self.put_pair(image, header::ID, Register::Ids, [ids.vendor, ids.device])?,
            self.put_pair(
                image,
                header::SUBSYSTEM,
                Register::SubsystemIds,
                [ids.subsystem_vendor, ids.subsystem],
            )?,
        ];
        Ok(())
    }

    /// Two ids in a dword, if one of them is given: the value of it.
    fn put_pair(
        &mut self,
        image: ConfigImage<'_>,
        at: ConfigOffset,
        register: Register,
        given: [Option<u16>; 2],
    ) -> Result<u32, Full> {
        if given != [None; 2] {
            self.put(at, register)?;
        }
        let [a, b, c, d] = image.dword(at).to_le_bytes();
        let [low, high] = given;
        let [a, b] = low.map_or([a, b], u16::to_le_bytes);
        let [c, d] = high.map_or([c, d], u16::to_le_bytes);
        Ok(u32::from_le_bytes([a, b, c, d]))
    }

    fn put_capability(
        &mut self,
        image: ConfigImage<'_>,
        id: CapabilityId,
        offset: ConfigOffset,
        options: &Options<'_>,
    ) -> Result<(), Full> {
        let rule = CapabilityRule::of(id);
        // Of what the core answers for, a function has one.
        let second = rule
            .parts
            .first()
            .is_some_and(|part| self.entries.iter().any(|entry| entry.register == part.register));
        let hidden = second || options.choice(id).unwrap_or(rule.hidden);
        let last = last_dword(image, id, offset);
        if hidden {
            let header = match id {
                CapabilityId::Standard(_) => Register::HiddenHeader,
                CapabilityId::Extended(_) => Register::HiddenExtendedHeader,
            };
            self.put(offset, header)?;
            self.put_run(offset.get().wrapping_add(4), last, Register::Hidden)?;
        }
        for part in rule.parts.iter().filter(|_| !second) {
            let at = offset.checked_add(part.at).filter(|at| at.get() <= last);
            if let (Some(at), true) = (at, part.applies(image, offset, options.placement)) {
                if !hidden {
                    self.put(at, part.register)?;
                }
                self.note(image, offset, at, part.register, options.placement);
            }
        }
        Ok(())
    }

    /// What a register's capability says that is needed later.
    fn note(
        &mut self,
        image: ConfigImage<'_>,
        capability: ConfigOffset,
        at: ConfigOffset,
        register: Register,
        placement: Placement,
    ) {
        let first = image.dword(capability);
        match register {
            // One that the guest does not see, or not whole, is still what wakes the device.
            Register::PowerControl if self.power_control.is_none() => {
                self.power_control = Some(at);
                self.supports_d1 = first & power::PMC_D1 != 0;
                self.supports_d2 = first & power::PMC_D2 != 0;
                self.no_soft_reset = image.dword(at) & power::PMCSR_NO_SOFT_RESET != 0;
            }
            Register::ExpressCapabilities => self.port_type = port_type(first, placement),
            _ => {}
        }
    }

    #[inline(never)]
    fn put(&mut self, offset: ConfigOffset, register: Register) -> Result<(), Full> {
        self.put_run(offset.get(), offset.get(), register)
    }

    /// Gives dwords to a rule, except those that have one: a device whose capabilities overlap gets the rules
    /// of the first.
    fn put_run(&mut self, first: u16, last: u16, register: Register) -> Result<(), Full> {
        let mut dword = first;
        while dword <= last {
            let place = self.entries.partition_point(|entry| entry.last < dword);
            let next = self.entries.get(place).copied();
            if let Some(taken) = next.filter(|entry| entry.first <= dword) {
                dword = taken.last.saturating_add(4);
                continue;
            }
            let end = next.map_or(last, |entry| last.min(entry.first.saturating_sub(4)));
            let entry = Entry { first: dword, last: end, register };
            self.entries.insert(place, entry).map_err(|_| Full)?;
            dword = end.saturating_add(4);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
