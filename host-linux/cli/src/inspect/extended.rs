//! Extended capabilities: their names, and what is in the most common ones.
//!
//! Sources: PCI Express Base 5.0, 7.7 to 7.9; Single Root I/O Virtualization 1.1, 3.3.

use vfio_assign_core::regs::capability;

use super::decode::{At, Field, bits, field, yes};

/// Extended Capability IDs by name.
const NAMES: [(u16, &str); 33] = [
    (0x01, "Advanced Error Reporting"),
    (0x02, "Virtual Channel"),
    (0x03, "Device Serial Number"),
    (0x04, "Power Budgeting"),
    (0x05, "Root Complex Link Declaration"),
    (0x07, "Root Complex Event Collector Association"),
    (0x08, "Multi-Function Virtual Channel"),
    (0x09, "Virtual Channel"),
    (0x0a, "Root Complex Register Block"),
    (0x0b, "Vendor Specific Extended"),
    (0x0d, "Access Control Services"),
    (0x0e, "Alternative Routing-ID Interpretation"),
    (0x0f, "Address Translation Services"),
    (0x10, "SR-IOV"),
    (0x12, "Multicast"),
    (0x13, "Page Request"),
    (0x15, "Resizable BAR"),
    (0x16, "Dynamic Power Allocation"),
    (0x17, "TPH Requester"),
    (0x18, "Latency Tolerance Reporting"),
    (0x19, "Secondary PCI Express"),
    (0x1b, "PASID"),
    (0x1d, "Downstream Port Containment"),
    (0x1e, "L1 PM Substates"),
    (0x1f, "Precision Time Measurement"),
    (0x22, "Readiness Time Reporting"),
    (0x23, "Designated Vendor-Specific"),
    (0x24, "VF Resizable BAR"),
    (0x25, "Data Link Feature"),
    (0x26, "Physical Layer 16 GT/s"),
    (0x27, "Lane Margining"),
    (0x2a, "Physical Layer 32 GT/s"),
    (0x2e, "Data Object Exchange"),
];

const UNCORRECTABLE: [(u32, &str); 13] = [
    (4, "data link protocol"),
    (5, "surprise down"),
    (12, "poisoned TLP"),
    (13, "flow control"),
    (14, "completion timeout"),
    (15, "completer abort"),
    (16, "unexpected completion"),
    (17, "receiver overflow"),
    (18, "malformed TLP"),
    (19, "ECRC"),
    (20, "unsupported request"),
    (21, "ACS violation"),
    (22, "internal"),
];

const CORRECTABLE: [(u32, &str); 8] = [
    (0, "receiver"),
    (6, "bad TLP"),
    (7, "bad DLLP"),
    (8, "replay number rollover"),
    (12, "replay timer timeout"),
    (13, "advisory non-fatal"),
    (14, "internal"),
    (15, "header log overflow"),
];

const ACS: [(u32, &str); 7] = [
    (0, "source validation"),
    (1, "translation blocking"),
    (2, "request redirect"),
    (3, "completion redirect"),
    (4, "upstream forwarding"),
    (5, "egress control"),
    (6, "direct translated"),
];

/// The name of an extended capability and what is in it.
pub(super) fn decode(id: u16, at: At<'_>) -> (String, Vec<Field>) {
    let name = NAMES.iter().find(|(known, _)| *known == id).map(|(_, name)| (*name).to_owned());
    let fields = match id {
        capability::EXTENDED_AER => vec![
            field("uncorrectable errors seen", bits(at.dword(4), &UNCORRECTABLE)),
            field("uncorrectable errors masked", bits(at.dword(8), &UNCORRECTABLE)),
            field("correctable errors seen", bits(at.dword(0x10), &CORRECTABLE)),
            field("correctable errors masked", bits(at.dword(0x14), &CORRECTABLE)),
        ],
        capability::EXTENDED_DSN => {
            let bytes = [at.dword(8).to_be_bytes(), at.dword(4).to_be_bytes()].concat();
            let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            vec![field("number", digits.join("-"))]
        }
        capability::EXTENDED_ACS => {
            vec![field("can", bits(at.word(4), &ACS)), field("does", bits(at.word(6), &ACS))]
        }
        capability::EXTENDED_ARI => vec![field("next function", at.byte(5).to_string())],
        capability::EXTENDED_ATS => vec![field("on", yes(at.word(6) >> 15 & 1 != 0))],
        capability::EXTENDED_PASID => {
            vec![field("bits", (at.word(4) >> 8 & 0x1f).to_string()), field("on", yes(at.word(6) & 1 != 0))]
        }
        capability::EXTENDED_SRIOV => vec![
            field("virtual functions", format!("{} of {}", at.word(0x10), at.word(0x0e))),
            field("on", yes(at.word(8) & 1 != 0)),
            field("first", format!("{} further on, then every {}", at.word(0x14), at.word(0x16))),
            field("device id of each", format!("{:04x}", at.word(0x1a))),
        ],
        capability::EXTENDED_RESIZABLE_BAR => resizable(at),
        _ => Vec::new(),
    };
    (name.unwrap_or_else(|| format!("extended capability {id:#06x}")), fields)
}

/// The first BAR says how many there are.
fn resizable(at: At<'_>) -> Vec<Field> {
    let count = at.dword(8) >> 5 & 7;
    let one = |place: u32| {
        let control = at.dword(8 + 8 * place as u16);
        let size = 1u64.checked_shl((control >> 8 & 0x3f) + 20).unwrap_or(0);
        field("size", format!("BAR{} has {}", control & 7, crate::display::size(size)))
    };
    (0..count.min(6)).map(one).collect()
}
