//! Which functions are shown.

use std::convert::Infallible;
use std::str::FromStr;

use crate::host::PciFunction;

/// A class: what its code begins with, or a part of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassFilter(String);

impl FromStr for ClassFilter {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.strip_prefix("0x").unwrap_or(text).to_lowercase()))
    }
}

impl ClassFilter {
    pub(super) fn matches(&self, function: &PciFunction) -> bool {
        let Self(text) = self;
        let code = format!("{:06x}", function.class);
        code.starts_with(text) || function.class_name().to_lowercase().contains(text)
    }
}

/// A driver, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DriverFilter(Option<String>);

impl FromStr for DriverFilter {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self((text != "none").then(|| text.into())))
    }
}

impl DriverFilter {
    pub(super) fn matches(&self, function: &PciFunction) -> bool {
        self.0 == function.driver
    }
}

/// A vendor, and perhaps a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdFilter {
    vendor: u16,
    device: Option<u16>,
}

/// It is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "give four hexadecimal digits, a colon and four more, such as 8086:10d3, or 8086: for all of a vendor"
)]
pub(crate) struct NoId;

impl FromStr for IdFilter {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let number = |digits: &str| {
            let right = digits.len() <= 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            u16::from_str_radix(digits, 16).ok().filter(|_| right).ok_or(NoId)
        };
        let (vendor, device) = text.split_once(':').ok_or(NoId)?;
        let device = if device.is_empty() { None } else { Some(number(device)?) };
        Ok(Self { vendor: number(vendor)?, device })
    }
}

impl IdFilter {
    pub(super) fn matches(self, function: &PciFunction) -> bool {
        let (vendor, device) = function.id;
        self.vendor == vendor && self.device.is_none_or(|wanted| wanted == device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_a_vendor_and_perhaps_a_device() {
        assert_eq!("8086:10d3".parse(), Ok(IdFilter { vendor: 0x8086, device: Some(0x10d3) }));
        assert_eq!("8086:".parse(), Ok(IdFilter { vendor: 0x8086, device: None }));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["8086", ":", "8086:+1", "18086:1", "vendor:1"] {
            assert_eq!(text.parse::<IdFilter>(), Err(NoId), "{text}");
        }
    }
}
