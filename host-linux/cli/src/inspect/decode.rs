//! Registers as names and values: the header, the BARs, the capabilities in the order of their lists.

use serde::Serialize;
use vfio_assign_core::fake::Capture;
use vfio_assign_core::regs::header;
use vfio_assign_core::{ConfigImage, ConfigOffset};

use super::guest::Guest;
use super::interrupts::Interrupts;
use super::{capabilities, extended};
use crate::display::size;
use crate::host::{PciFunction, class_name, device_name};

/// A device's registers.
#[derive(Debug, Serialize)]
pub(super) struct Registers {
    pub(super) device: Option<String>,
    pub(super) name: String,
    /// How many bytes of configuration space could be read.
    pub(super) readable: usize,
    pub(super) parts: Vec<Part>,
    /// What is wrong with the lists of capabilities.
    pub(super) findings: Vec<String>,
    /// What the run that has the device says of it, if it was asked.
    pub(super) guest: Option<Guest>,
    /// How often it has interrupted the host for a guest, by vector.
    pub(super) interrupts: Vec<Interrupts>,
}

/// The header, or a capability.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    /// Where it starts.
    pub(super) offset: u16,
    pub(super) name: String,
    pub(super) fields: Vec<Field>,
}

/// A register, or a part of one.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// A field.
pub(super) fn field(name: &'static str, value: impl Into<String>) -> Field {
    Field { name, value: value.into() }
}

/// The names of bits that are set, or `none`.
pub(super) fn bits(value: u32, names: &[(u32, &str)]) -> String {
    let set: Vec<&str> =
        names.iter().filter(|(bit, _)| value >> bit & 1 != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "none".into() } else { set.join(", ") }
}

/// `yes` or `no`.
pub(super) fn yes(set: bool) -> &'static str {
    if set { "yes" } else { "no" }
}

/// The registers from an offset on.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    image: ConfigImage<'a>,
    offset: u16,
}

impl At<'_> {
    /// The dword so many bytes further on; all ones where there is none.
    pub(super) fn dword(self, bytes: u16) -> u32 {
        let at = self.offset.checked_add(bytes).and_then(ConfigOffset::new);
        at.map_or(u32::MAX, |at| self.image.dword(at))
    }

    /// The word so many bytes further on, which is an even number.
    pub(super) fn word(self, bytes: u16) -> u32 {
        self.dword(bytes & !3) >> (8 * (bytes & 2)) & 0xffff
    }

    /// The byte so many bytes further on.
    pub(super) fn byte(self, bytes: u16) -> u32 {
        self.dword(bytes & !3) >> (8 * (bytes & 3)) & 0xff
    }
}

const COMMAND: [(u32, &str); 8] = [
    (0, "I/O"),
    (1, "memory"),
    (2, "bus master"),
    (3, "special cycles"),
    (4, "memory write and invalidate"),
    (6, "parity errors"),
    (8, "SERR"),
    (10, "INTx off"),
];

const STATUS: [(u32, &str); 9] = [
    (3, "INTx asserted"),
    (4, "capabilities"),
    (5, "66 MHz"),
    (8, "master data parity error"),
    (11, "signalled target abort"),
    (12, "received target abort"),
    (13, "received master abort"),
    (14, "signalled system error"),
    (15, "detected parity error"),
];

impl Registers {
    /// Those of a device of this host.
    pub(super) fn of_function(function: &PciFunction, config: &[u8]) -> Self {
        let sizes = function.bars.iter().fold([0; 7], |mut sizes, bar| {
            sizes[usize::from(bar.index)] = bar.size;
            sizes
        });
        Self::of(Some(function.bdf.to_string()), function.name(), config, sizes)
    }

    /// Those in a capture.
    pub(super) fn of_capture(capture: &Capture) -> Self {
        let sizes = std::array::from_fn(|index| capture.regions[index].size);
        let image = ConfigImage::new(&capture.config);
        let id = image.dword(header::ID);
        let name = device_name(id as u16, (id >> 16) as u16).unwrap_or_else(|| capture.name.to_string());
        Self::of(capture.device.map(|bdf| bdf.to_string()), name, &capture.config, sizes)
    }

    fn of(device: Option<String>, name: String, config: &[u8], sizes: [u64; 7]) -> Self {
        let image = ConfigImage::new(config);
        let mut parts = vec![header_of(image, sizes)];
        let mut findings = Vec::new();
        // Users see the header alone: what the list leads to reads as all ones then.
        let whole = config.len() > 64;
        for found in image.capabilities().filter(|_| whole) {
            match found {
                Ok(found) => {
                    let at = At { image, offset: found.offset.get() };
                    let (name, fields) = capabilities::decode(found.id, at);
                    parts.push(Part { offset: found.offset.get(), name, fields });
                }
                Err(error) => findings.push(error.to_string()),
            }
        }
        for found in image.extended_capabilities() {
            match found {
                Ok(found) => {
                    let at = At { image, offset: found.offset.get() };
                    let (name, fields) = extended::decode(found.id, at);
                    parts.push(Part { offset: found.offset.get(), name, fields });
                }
                Err(error) => findings.push(error.to_string()),
            }
        }
        Self { device, name, readable: config.len(), parts, findings, guest: None, interrupts: Vec::new() }
    }
}

fn header_of(image: ConfigImage<'_>, sizes: [u64; 7]) -> Part {
    let at = At { image, offset: 0 };
    let class = at.dword(8) >> 8;
    let mut fields = vec![
        field("ids", format!("{:04x}:{:04x}", at.word(0), at.word(2))),
        field("subsystem", format!("{:04x}:{:04x}", at.word(0x2c), at.word(0x2e))),
        field("class", format!("{} ({class:06x}), revision {:#04x}", class_name(class), at.byte(8))),
        field("Command", bits(at.word(4), &COMMAND)),
        field("Status", bits(at.word(6), &STATUS)),
    ];
    const BARS: [&str; 6] = ["BAR0", "BAR1", "BAR2", "BAR3", "BAR4", "BAR5"];
    for (index, name) in (0u16..).zip(BARS) {
        let bytes = sizes[usize::from(index)];
        if bytes == 0 {
            continue;
        }
        let low = at.dword(0x10 + 4 * index);
        let io = low & header::bar::IO != 0;
        let wide = !io && low & header::bar::TYPE == header::bar::TYPE_64;
        let high = if wide && index < 5 { at.dword(0x14 + 4 * index) } else { 0 };
        let address = u64::from(high) << 32 | u64::from(low & if io { !3 } else { !0xf });
        let kind = match (io, wide) {
            (true, _) => "I/O ports",
            (false, true) => "64-bit memory",
            (false, false) => "32-bit memory",
        };
        fields.push(field(name, format!("{} of {kind} at {address:#x}", size(bytes))));
    }
    if sizes[6] != 0 {
        let rom = at.dword(0x30);
        let on = if rom & header::bar::ROM_ENABLE != 0 { "on" } else { "off" };
        fields
            .push(field("ROM", format!("{} at {:#x}, {on}", size(sizes[6]), rom & header::bar::ROM_ADDRESS)));
    }
    let pin = match at.byte(0x3d) {
        0 => "none".into(),
        pin @ 1..=4 => format!("INT{}#, line {}", char::from(b'@' + pin as u8), at.byte(0x3c)),
        other => format!("{other:#x}, which is none"),
    };
    fields.push(field("interrupt pin", pin));
    Part { offset: 0, name: "header".into(), fields }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_assign_core::fake::Shape;

    fn part(config: &[u8], name: &str) -> Vec<(&'static str, String)> {
        let registers = Registers::of(None, "a device".into(), config, [0x4000, 0, 0, 0, 0, 0, 0]);
        let found = registers.parts.into_iter().find(|part| part.name == name).unwrap();
        found.fields.into_iter().map(|field| (field.name, field.value)).collect()
    }

    #[test]
    fn bits_that_are_set_are_named() {
        assert_eq!(bits(6, &COMMAND), "memory, bus master");
        assert_eq!(bits(0, &COMMAND), "none");
    }

    #[test]
    fn a_wide_bar_has_one_address() {
        let mut shape = Shape::nvme(65);
        shape.put(0x10, &[0x04, 0, 0, 0xc0, 0x10]);
        let header = part(&shape.config, "header");
        assert!(header.contains(&("BAR0", "16 KiB of 64-bit memory at 0x10c0000000".into())), "{header:?}");
    }

    #[test]
    fn msi_x_tells_where_its_structures_are() {
        let mut shape = Shape::nvme(65);
        shape.put(0x4b, &[0x80]);
        let msix = part(&shape.config, "MSI-X");
        let expected = [
            ("vectors", "65".to_owned()),
            ("state", "on".to_owned()),
            ("table", "BAR0 at 0x2000".to_owned()),
            ("Pending Bit Array", "BAR0 at 0x3000".to_owned()),
        ];
        assert_eq!(msix, expected);
    }

    #[test]
    fn what_users_see_has_a_header_alone() {
        let registers = Registers::of(None, String::new(), &Shape::nvme(65).config[..64], [0; 7]);
        assert_eq!((registers.parts.len(), registers.findings.len()), (1, 0));
    }
}
