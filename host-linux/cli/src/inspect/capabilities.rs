//! Standard capabilities: their names, and what is in the most common ones.
//!
//! Sources: PCI Local Bus 3.0, 6.7 and Appendix H; PCI Power Management 1.2, 3.2; PCI Express Base 5.0, 7.5.3.

use vfio_assign_core::regs::{capability, msi, msix};

use super::decode::{At, Field, bits, field, yes};

/// Capability IDs by name.
const NAMES: [(u8, &str); 20] = [
    (0x01, "Power Management"),
    (0x02, "AGP"),
    (0x03, "Vital Product Data"),
    (0x04, "Slot Identification"),
    (0x05, "MSI"),
    (0x06, "CompactPCI Hot Swap"),
    (0x07, "PCI-X"),
    (0x08, "HyperTransport"),
    (0x09, "Vendor Specific"),
    (0x0a, "Debug Port"),
    (0x0b, "CompactPCI Resource Control"),
    (0x0c, "Hot-Plug Controller"),
    (0x0d, "Bridge Subsystem Vendor ID"),
    (0x0e, "AGP 8x"),
    (0x0f, "Secure Device"),
    (0x10, "PCI Express"),
    (0x11, "MSI-X"),
    (0x12, "SATA"),
    (0x13, "Advanced Features"),
    (0x14, "Enhanced Allocation"),
];

/// The name of a capability and what is in it.
pub(super) fn decode(id: u8, at: At<'_>) -> (String, Vec<Field>) {
    let name = NAMES.iter().find(|(known, _)| *known == id).map(|(_, name)| (*name).to_owned());
    let fields = match id {
        capability::POWER_MANAGEMENT => power(at),
        capability::MSI => message(at),
        capability::MSIX => table(at),
        capability::PCI_EXPRESS => express(at),
        capability::ADVANCED_FEATURES => vec![
            field("transactions pending", yes(at.byte(5) & 1 != 0)),
            field("function-level reset", yes(at.byte(3) & 2 != 0)),
        ],
        capability::VENDOR_SPECIFIC => vec![field("length", at.byte(2).to_string())],
        _ => Vec::new(),
    };
    (name.unwrap_or_else(|| format!("capability {id:#04x}")), fields)
}

fn power(at: At<'_>) -> Vec<Field> {
    let (capabilities, control) = (at.word(2), at.word(4));
    let states = bits(capabilities, &[(9, "D1"), (10, "D2")]);
    vec![
        field("version", (capabilities & 7).to_string()),
        field("state", ["D0", "D1", "D2", "D3hot"][(control & 3) as usize]),
        field("states between", states),
        field("keeps its registers from D3hot to D0", yes(control & 8 != 0)),
        field(
            "wakes from",
            bits(capabilities >> 11, &[(0, "D0"), (1, "D1"), (2, "D2"), (3, "D3hot"), (4, "D3cold")]),
        ),
    ]
}

fn message(at: At<'_>) -> Vec<Field> {
    let control = at.word(2);
    let wide = control & u32::from(msi::WIDE) != 0;
    let high = if wide { at.dword(8) } else { 0 };
    let data = at.word(if wide { 12 } else { 8 });
    let mut fields = vec![
        field("vectors", format!("{} of {}", 1 << (control >> 4 & 7), 1 << (control >> 1 & 7))),
        field("state", if control & u32::from(msi::ENABLE) != 0 { "on" } else { "off" }),
        field(
            "address",
            format!(
                "{:#x}, {} bits",
                u64::from(high) << 32 | u64::from(at.dword(4)),
                if wide { 64 } else { 32 }
            ),
        ),
        field("data", format!("{data:#06x}")),
    ];
    if control & u32::from(msi::MASKABLE) != 0 {
        let masks = if wide { 16 } else { 12 };
        fields.push(field("masked", format!("{:#010x}", at.dword(masks))));
        fields.push(field("pending", format!("{:#010x}", at.dword(masks + 4))));
    }
    fields
}

fn table(at: At<'_>) -> Vec<Field> {
    let control = at.word(2);
    let state = match (control & u32::from(msix::ENABLE) != 0, control & u32::from(msix::FUNCTION_MASK) != 0)
    {
        (false, _) => "off",
        (true, false) => "on",
        (true, true) => "on, all masked",
    };
    let place = |register: u32| format!("BAR{} at {:#x}", register & msix::BIR, register & !msix::BIR);
    vec![
        field("vectors", ((control & u32::from(msix::TABLE_SIZE)) + 1).to_string()),
        field("state", state),
        field("table", place(at.dword(4))),
        field("Pending Bit Array", place(at.dword(8))),
    ]
}

const ERRORS: [(u32, &str); 4] =
    [(0, "correctable"), (1, "non-fatal"), (2, "fatal"), (3, "unsupported request")];

fn express(at: At<'_>) -> Vec<Field> {
    let capabilities = at.word(2);
    let kind = match capabilities >> 4 & 0xf {
        0x0 => "Endpoint",
        0x1 => "Legacy Endpoint",
        0x4 => "Root Port",
        0x5 => "Upstream Port of a switch",
        0x6 => "Downstream Port of a switch",
        0x7 => "bridge to PCI",
        0x8 => "bridge from PCI",
        0x9 => "Root Complex Integrated Endpoint",
        0xa => "Root Complex Event Collector",
        _ => "unknown",
    };
    let (device, control, status) = (at.dword(4), at.word(8), at.word(10));
    let payload = |code: u32| format!("{} B", 128u32 << (code & 7));
    let mut fields = vec![
        field("kind", format!("{kind}, version {}", capabilities & 0xf)),
        field("function-level reset", yes(device >> 28 & 1 != 0)),
        field("payload", format!("{} of {}", payload(control >> 5), payload(device))),
        field("read requests", payload(control >> 12)),
        field("errors reported", bits(control, &ERRORS)),
        field("errors seen", bits(status, &ERRORS)),
        field("transactions pending", yes(status >> 5 & 1 != 0)),
    ];
    // Root Complex Integrated Endpoints and Event Collectors have no link.
    if !matches!(capabilities >> 4 & 0xf, 9 | 10) {
        let link = |register: u32| format!("{} x{}", speed(register & 0xf), register >> 4 & 0x3f);
        fields.push(field("link", format!("{} of {}", link(at.word(0x12)), link(at.dword(0x0c)))));
    }
    fields
}

fn speed(code: u32) -> &'static str {
    match code {
        1 => "2.5 GT/s",
        2 => "5 GT/s",
        3 => "8 GT/s",
        4 => "16 GT/s",
        5 => "32 GT/s",
        6 => "64 GT/s",
        _ => "no speed",
    }
}
