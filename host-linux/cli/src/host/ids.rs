//! What vendors, devices and classes are called, from the list that lspci uses, too.

use pci_ids::{Class, Device, FromId as _, Subclass, Vendor};

/// The name of a device with its vendor's, as far as they are known.
pub(crate) fn device_name(vendor: u16, device: u16) -> Option<String> {
    let of = Vendor::from_id(vendor)?.name();
    // What kind of company it is says nothing of the device.
    let of = COMPANIES.iter().find_map(|kind| of.strip_suffix(kind)).unwrap_or(of);
    Some(match Device::from_vid_pid(vendor, device) {
        Some(found) => format!("{of} {}", found.name()),
        None => format!("{of} device {device:04x}"),
    })
}

const COMPANIES: [&str; 6] = [", Inc.", " Corporation", " Co., Ltd.", " Inc.", " Corp.", " Ltd."];

/// The name of a 24-bit class code: its subclass, or where that is not known its base class.
pub(crate) fn class_name(class: u32) -> String {
    let [_, base, sub, _] = class.to_be_bytes();
    let subclass = Subclass::from_cid_sid(base, sub).map(Subclass::name);
    let name = subclass.or_else(|| Class::from_id(base).map(Class::name));
    name.map_or_else(|| format!("class {base:02x}{sub:02x}"), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_called_as_lspci_calls_it() {
        let name = device_name(0x8086, 0x10d3);
        assert_eq!(name.as_deref(), Some("Intel 82574L Gigabit Network Connection"));
    }

    #[test]
    fn a_device_that_is_not_listed_keeps_its_vendor() {
        assert_eq!(device_name(0x8086, 0xfffe).as_deref(), Some("Intel device fffe"));
    }

    #[test]
    fn a_class_is_called_by_its_subclass() {
        assert_eq!(class_name(0x01_08_02), "Non-Volatile memory controller");
    }

    #[test]
    fn a_class_that_is_not_listed_is_a_number() {
        assert_eq!(class_name(0xee_12_00), "class ee12");
    }
}
