//! The map from a configuration offset to what stands there, made once from a device's capabilities.

use super::rules::Register;
use crate::addr::{BarIndex, ConfigOffset};
use crate::caps::{CapabilityFinding, ConfigImage};
use crate::regs::{capability, header, power};
use heapless::Vec;

/// A run of dwords that are the same to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    first: u16,
    last: u16,
    register: Register,
}

/// Why no map could be made of a device's configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigMapError {
    /// There is less than a header.
    #[error("configuration space has {0} bytes, fewer than the 64 of a header")]
    TooSmall(u16),
    /// The header is that of a bridge.
    #[error("header type {0:#04x} is no Type 0 header: bridges cannot be assigned")]
    NotEndpoint(u8),
    /// Every bit reads one: nobody is there.
    #[error("configuration space reads all-ones: the device is gone")]
    Gone,
    /// More registers need a rule than the map has room for.
    #[error("more than {0} registers need a rule of their own")]
    TooManyRules(usize),
}

/// Which register each dword is; what is not in the map is hardware's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigMap {
    /// Sorted by offset, disjoint.
    entries: Vec<Entry, { Self::RULES }>,
    size: u16,
    /// D1 and D2, if Power Management says that they are supported.
    supports_d1: bool,
    supports_d2: bool,
    no_soft_reset: bool,
    power_control: Option<ConfigOffset>,
}

impl ConfigMap {
    /// The most runs of dwords with a rule of their own.
    const RULES: usize = 48;

    /// The map for a device with this configuration space. `finding` hears what is wrong with its lists.
    ///
    /// # Errors
    ///
    /// It is no Type 0 configuration space.
    pub fn new(
        image: ConfigImage<'_>,
        mut finding: impl FnMut(CapabilityFinding),
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
            size: image.size(),
            supports_d1: false,
            supports_d2: false,
            no_soft_reset: false,
            power_control: None,
        };
        map.put(header::COMMAND, Register::Command)?;
        map.put(header::HEADER_TYPE_DWORD, Register::HeaderType)?;
        for (index, bar) in (0u16..).zip(BarIndex::BARS) {
            if let Some(offset) = header::BAR0.checked_add(index.wrapping_mul(4)) {
                map.put(offset, Register::Bar(bar))?;
            }
        }
        map.put(header::ROM, Register::Bar(BarIndex::ROM))?;
        map.put(header::INTERRUPT_LINE, Register::NoInterruptPin)?;
        for found in image.capabilities() {
            match found {
                Ok(found) => map.standard(image, found.id, found.offset)?,
                Err(wrong) => finding(wrong),
            }
        }
        for found in image.extended_capabilities() {
            match found {
                Ok(found) => map.extended(image, found.id, found.offset)?,
                Err(wrong) => finding(wrong),
            }
        }
        Ok(map)
    }

    /// Which register the dword at `offset` is; `None` past the end of this configuration space.
    pub fn register(&self, offset: ConfigOffset) -> Option<Register> {
        let dword = offset.dword().get();
        if dword >= self.size {
            return None;
        }
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

    /// MSI-X cannot be offered: hides its capability, and whatever claims to be another.
    pub(crate) fn hide_msix(&mut self) {
        for entry in &mut self.entries {
            entry.register = match entry.register {
                Register::MsixControl => Register::HiddenHeader,
                Register::MsixTable | Register::MsixPba => Register::Hidden,
                other => other,
            };
        }
    }

    fn standard(
        &mut self,
        image: ConfigImage<'_>,
        id: u8,
        offset: ConfigOffset,
    ) -> Result<(), ConfigMapError> {
        match id {
            // A function has one power state: a second capability is none.
            capability::POWER_MANAGEMENT if self.power_control.is_none() => {
                if let Some(pmcsr) = within(offset, power::PMCSR) {
                    self.put(pmcsr, Register::PowerControl)?;
                    self.power_control =
                        Some(pmcsr).filter(|at| self.register(*at) == Some(Register::PowerControl));
                    let first = image.dword(offset);
                    self.supports_d1 = first & power::PMC_D1 != 0;
                    self.supports_d2 = first & power::PMC_D2 != 0;
                    self.no_soft_reset = image.dword(pmcsr) & power::PMCSR_NO_SOFT_RESET != 0;
                }
            }
            capability::MSI => {
                // 64-bit addresses add a dword, per-vector masks add two: bits 7 and 8 of Message Control.
                let [_, _, low, high] = image.dword(offset).to_le_bytes();
                let wide = if low & 0x80 == 0 { 0 } else { 4 };
                let masks = if high & 0x01 == 0 { 0 } else { 8 };
                self.hide(offset, 12u16.wrapping_add(wide).wrapping_add(masks))?;
            }
            capability::MSIX => {
                // A second capability is none: hardware has one table.
                if self.entries.iter().any(|entry| entry.register == Register::MsixControl) {
                    return self.hide(offset, 12);
                }
                self.put(offset, Register::MsixControl)?;
                for (bytes, register) in [(4, Register::MsixTable), (8, Register::MsixPba)] {
                    if let Some(at) = within(offset, bytes) {
                        self.put(at, register)?;
                    }
                }
            }
            capability::PCI_EXPRESS => {
                let flr = within(offset, power::DEVICE_CAPABILITIES)
                    .is_some_and(|at| image.dword(at) & power::DEVICE_CAPABILITIES_FLR != 0);
                if let (true, Some(control)) = (flr, within(offset, power::DEVICE_CONTROL)) {
                    self.put(control, Register::DeviceControl)?;
                }
            }
            capability::ADVANCED_FEATURES => {
                let both = power::AF_CAPABILITIES_TP_FLR;
                let flr = image.dword(offset) & both == both;
                if let (true, Some(control)) = (flr, within(offset, power::AF_CONTROL)) {
                    self.put(control, Register::AdvancedFeaturesControl)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn extended(
        &mut self,
        image: ConfigImage<'_>,
        id: u16,
        offset: ConfigOffset,
    ) -> Result<(), ConfigMapError> {
        let size = match id {
            capability::EXTENDED_ARI | capability::EXTENDED_ATS | capability::EXTENDED_PASID => 8,
            capability::EXTENDED_PRI => 16,
            capability::EXTENDED_SRIOV => 64,
            capability::EXTENDED_RESIZABLE_BAR => {
                // Number of Resizable BARs, 1 to 6, stands in bits 7:5 of the first control register.
                let bars = offset.checked_add(8).map_or(1, |at| (image.dword(at) & 0xe0) / 32);
                u16::try_from(bars.clamp(1, 6)).unwrap_or(6).wrapping_mul(8).wrapping_add(4)
            }
            _ => return Ok(()),
        };
        self.put(offset, Register::HiddenExtendedHeader)?;
        let body = offset.checked_add(4).map(ConfigOffset::get);
        let last = offset.get().saturating_add(size).wrapping_sub(4).min(4092);
        match body {
            Some(first) => self.put_run(first, last, Register::Hidden),
            None => Ok(()),
        }
    }

    /// Hides a standard capability of `size` bytes and keeps the list walkable.
    fn hide(&mut self, offset: ConfigOffset, size: u16) -> Result<(), ConfigMapError> {
        self.put(offset, Register::HiddenHeader)?;
        let first = offset.get().wrapping_add(4);
        let last = offset.get().wrapping_add(size).wrapping_sub(4).min(0xfc);
        self.put_run(first, last, Register::Hidden)
    }

    fn put(&mut self, offset: ConfigOffset, register: Register) -> Result<(), ConfigMapError> {
        self.put_run(offset.get(), offset.get(), register)
    }

    /// Gives dwords to a rule, except those that have one: a device whose capabilities overlap gets the rules
    /// of the first.
    fn put_run(&mut self, first: u16, last: u16, register: Register) -> Result<(), ConfigMapError> {
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
            self.entries.insert(place, entry).map_err(|_| ConfigMapError::TooManyRules(Self::RULES))?;
            dword = end.saturating_add(4);
        }
        Ok(())
    }
}

/// The dword `bytes` into a standard capability, if the 256-byte area reaches that far.
fn within(offset: ConfigOffset, bytes: u16) -> Option<ConfigOffset> {
    offset.checked_add(bytes).filter(|at| at.get() <= 0xfc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> [u8; 4096] {
        let mut bytes = [0; 4096];
        bytes[..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
        bytes[6] = 0x10;
        bytes
    }

    fn map(bytes: &[u8]) -> ConfigMap {
        ConfigMap::new(ConfigImage::new(bytes), |_| {}).unwrap()
    }

    fn at(map: &ConfigMap, offset: u16) -> Option<Register> {
        map.register(ConfigOffset::new(offset).unwrap())
    }

    #[test]
    fn plain_dword_is_hardware() {
        assert_eq!(at(&map(&endpoint()), 0x2c), Some(Register::Hardware));
    }

    #[test]
    fn past_the_end_is_nothing() {
        assert_eq!(at(&map(&endpoint()[..256]), 0x100), None);
    }

    #[test]
    fn msi_is_hidden_and_its_link_kept() {
        let mut bytes = endpoint();
        bytes[0x34] = 0x50;
        bytes[0x50..0x54].copy_from_slice(&[0x05, 0x60, 0x80, 0x00]);
        let map = map(&bytes);
        assert_eq!(
            [0x50, 0x54, 0x5c, 0x60].map(|offset| at(&map, offset)),
            [
                Some(Register::HiddenHeader),
                Some(Register::Hidden),
                Some(Register::Hidden),
                Some(Register::Hardware)
            ]
        );
    }

    #[test]
    fn overlapping_capability_does_not_take_a_rule_away() {
        let mut bytes = endpoint();
        bytes[0x34] = 0x50;
        bytes[0x50..0x54].copy_from_slice(&[0x11, 0x54, 0x00, 0x00]);
        bytes[0x54..0x58].copy_from_slice(&[0x05, 0x00, 0x00, 0x00]);
        assert_eq!(at(&map(&bytes), 0x54), Some(Register::MsixTable));
    }

    #[test]
    fn sriov_is_hidden() {
        let mut bytes = endpoint();
        bytes[0x100..0x104].copy_from_slice(&0x1501_0010u32.to_le_bytes());
        let map = map(&bytes);
        assert_eq!(
            (at(&map, 0x100), at(&map, 0x13c), at(&map, 0x140)),
            (Some(Register::HiddenExtendedHeader), Some(Register::Hidden), Some(Register::Hardware))
        );
    }

    #[test]
    fn resizable_bar_is_hidden_as_long_as_its_count_says() {
        let mut bytes = endpoint();
        bytes[0x100..0x104].copy_from_slice(&0x1501_0015u32.to_le_bytes());
        bytes[0x108] = 0x40;
        let map = map(&bytes);
        assert_eq!((at(&map, 0x110), at(&map, 0x114)), (Some(Register::Hidden), Some(Register::Hardware)));
    }

    #[test]
    fn flr_bit_needs_the_capability() {
        let mut bytes = endpoint();
        bytes[0x34] = 0x80;
        bytes[0x80] = 0x10;
        let without = at(&map(&bytes), 0x88);
        bytes[0x87] = 0x10;
        assert_eq!(
            (without, at(&map(&bytes), 0x88)),
            (Some(Register::Hardware), Some(Register::DeviceControl))
        );
    }

    #[test]
    fn bridge_is_refused() {
        let mut bytes = endpoint();
        bytes[0xe] = 0x81;
        let map = ConfigMap::new(ConfigImage::new(&bytes), |_| {});
        assert_eq!(map, Err(ConfigMapError::NotEndpoint(0x81)));
    }

    #[test]
    fn absent_device_is_refused() {
        let map = ConfigMap::new(ConfigImage::new(&[0xff; 256]), |_| {});
        assert_eq!(map, Err(ConfigMapError::Gone));
    }
}
