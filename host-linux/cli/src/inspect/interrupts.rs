//! How often a device that VFIO has has interrupted the host, by vector: the kernel counts, and nobody else sees each.

use serde::Serialize;
use vfio_assign_core::Bdf;

use crate::host::{HostFiles, Unreadable};

/// A vector that leads to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Interrupts {
    pub(super) kind: &'static str,
    pub(super) vector: u16,
    /// How often it came since it was wired.
    pub(super) count: u64,
}

/// Of a device, in order; empty where VFIO has it not, or no driver in a guest has turned interrupts on.
pub(super) fn interrupts(host: &HostFiles, bdf: Bdf) -> Result<Vec<Interrupts>, Unreadable> {
    let text = host.text("/proc/interrupts")?.unwrap_or_default();
    let mut found: Vec<Interrupts> = text.lines().filter_map(|line| line_of(line, bdf)).collect();
    found.sort_by_key(|one| (one.kind, one.vector));
    Ok(found)
}

/// What VFIO calls each kind.
const NAMES: [(&str, &str); 3] = [("vfio-msix", "MSI-X"), ("vfio-msi", "MSI"), ("vfio-intx", "INTx")];

fn line_of(line: &str, bdf: Bdf) -> Option<Interrupts> {
    let (_number, rest) = line.split_once(':')?;
    let place = format!("({bdf})");
    // A pin may be shared: its names are separated by commas.
    let name = rest.split([' ', ',']).find_map(|word| word.strip_suffix(place.as_str()))?;
    let (kind, vector) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
        Some((kind, vector)) => (kind, vector.parse().ok()?),
        None => (name, 0),
    };
    let (_, kind) = NAMES.iter().find(|(known, _)| *known == kind)?;
    let counts = rest.split_whitespace().map_while(|word| word.parse::<u64>().ok());
    Some(Interrupts { kind, vector, count: counts.sum() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "           CPU0       CPU1\n  9:   0    0   IO-APIC   9-fasteoi   acpi\n\
        \x2016:   5    7   IO-APIC  16-fasteoi   ehci_hcd:usb1, vfio-intx(0000:04:00.0)\n\
        \x2044:   2    0   PCI-MSIX-0000:04:00.0   10-edge  vfio-msix[10](0000:04:00.0)\n\
        \x2045:   1    9   PCI-MSIX-0000:04:00.0   1-edge  vfio-msix[1](0000:04:00.0)\n\
        \x2046:   3    0   PCI-MSI-0000:05:00.0   0-edge  vfio-msi[0](0000:05:00.0)\nNMI:  1  1  Non-maskable\n";

    fn found(bdf: &str) -> Vec<(&'static str, u16, u64)> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("proc")).unwrap();
        std::fs::write(folder.path().join("proc/interrupts"), TEXT).unwrap();
        let found = interrupts(&HostFiles::at(folder.path()), bdf.parse().unwrap()).unwrap();
        found.into_iter().map(|one| (one.kind, one.vector, one.count)).collect()
    }

    #[test]
    fn vectors_of_the_device_are_counted_over_all_processors() {
        assert_eq!(found("0000:04:00.0"), [("INTx", 0, 12), ("MSI-X", 1, 10), ("MSI-X", 10, 2)]);
        assert_eq!(found("0000:05:00.0"), [("MSI", 0, 3)]);
        assert_eq!(found("0000:06:00.0"), []);
    }
}
