//! The PCI functions of the host: what each is, who drives it, which resources it has.

use vfio_assign_core::Bdf;

use super::{HostFiles, Unreadable, class_name, device_name, folder};
use crate::help::Problem;

/// A PCI function.
#[derive(Clone, Debug)]
pub(crate) struct PciFunction {
    pub(crate) bdf: Bdf,
    /// Vendor ID and Device ID.
    pub(crate) id: (u16, u16),
    /// Base class, subclass and programming interface.
    pub(crate) class: u32,
    bridge: bool,
    pub(crate) driver: Option<String>,
    /// Whether that driver is one of VFIO's.
    pub(crate) vfio: bool,
    /// The number of its IOMMU group.
    pub(crate) group: Option<u32>,
    /// BARs 0 to 5 and the Expansion ROM, those that there are.
    pub(crate) bars: Vec<Bar>,
    /// Of a function with SR-IOV: how many virtual functions there are, and how many there can be.
    pub(crate) virtual_functions: Option<(u16, u16)>,
    /// Of a virtual function: its physical one.
    pub(crate) physical: Option<Bdf>,
}

/// A BAR as the kernel has sized it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    /// 0 to 5, or 6 for the Expansion ROM.
    pub(crate) index: u8,
    /// Where it is on the host; 0 where the kernel gave it no place.
    pub(crate) address: u64,
    pub(crate) size: u64,
    /// The kernel's `IORESOURCE_*` flags.
    flags: u64,
}

impl Bar {
    /// I/O ports.
    pub(crate) fn is_io(self) -> bool {
        self.flags & 0x100 != 0
    }

    /// The kernel found no place for it.
    pub(crate) fn has_no_place(self) -> bool {
        self.flags & 0x2000_0000 != 0
    }

    /// 64 bits wide.
    pub(crate) fn is_wide(self) -> bool {
        self.flags & 0x10_0000 != 0
    }

    /// Prefetchable.
    pub(crate) fn is_prefetchable(self) -> bool {
        self.flags & 0x2000 != 0
    }
}

impl PciFunction {
    /// Its name, or what kind of thing it is.
    pub(crate) fn name(&self) -> String {
        let (vendor, device) = self.id;
        device_name(vendor, device).unwrap_or_else(|| format!("{vendor:04x}:{device:04x}"))
    }

    /// What kind of thing it is.
    pub(crate) fn class_name(&self) -> String {
        class_name(self.class)
    }

    /// A bridge forwards for others and cannot be given to a guest.
    pub(crate) fn is_bridge(&self) -> bool {
        self.bridge
    }

    /// How much of the address space its BARs take.
    pub(crate) fn bar_total(&self) -> u64 {
        let sizes = self.bars.iter().filter(|bar| !bar.is_io() && bar.index < 6).map(|bar| bar.size);
        // What a broken device reports can be more than there are addresses.
        sizes.fold(0, u64::saturating_add)
    }

    /// Reads what there is of a function that is there.
    pub(crate) fn read(host: &HostFiles, bdf: Bdf) -> Result<Self, Problem> {
        let folder = folder(bdf);
        let number = |name: &str| -> Result<u64, Unreadable> {
            let text = host.text(&format!("{folder}/{name}"))?;
            Ok(text.and_then(|text| hexadecimal(&text)).unwrap_or(0))
        };
        let count = |name: &str| -> Result<Option<u16>, Unreadable> {
            let text = host.text(&format!("{folder}/{name}"))?;
            Ok(text.and_then(|text| text.parse().ok()))
        };
        let found = host.sysfs().function(bdf)?;
        let id = (number("vendor")? as u16, number("device")? as u16);
        let class = number("class")? as u32;
        // What is only classed as a bridge, as non-transparent ones are, is a device like others.
        let bridge = class >> 16 == 0x06
            && match class >> 8 {
                // To the processor, to ISA, to another PCI bus.
                0x0600 | 0x0601 | 0x0604 => true,
                _ => host.bytes(&format!("{folder}/config"))?.is_some_and(|config| {
                    // What does not answer reads all ones.
                    config.get(0x0e).is_some_and(|kind| !matches!(kind & 0x7f, 0 | 0x7f))
                }),
            };
        let bars = host.text(&format!("{folder}/resource"))?.map(|text| resources(&text)).unwrap_or_default();
        let virtual_functions = match count("sriov_totalvfs")? {
            Some(total) if total > 0 => Some((count("sriov_numvfs")?.unwrap_or(0), total)),
            _ => None,
        };
        let physical = host.link(&format!("{folder}/physfn"))?;
        let physical = physical.and_then(|path| path.file_name()?.to_str()?.parse().ok());
        Ok(Self {
            bdf,
            id,
            class,
            bridge,
            driver: found.driver.map(Into::into),
            vfio: found.vfio,
            group: found.group,
            bars,
            virtual_functions,
            physical,
        })
    }
}

/// All PCI functions of the host, in order of their addresses. One that goes while it is read is not there.
pub(crate) fn functions(host: &HostFiles) -> Result<Vec<PciFunction>, Problem> {
    let names = host.names("/sys/bus/pci/devices")?.unwrap_or_default();
    let mut addresses: Vec<Bdf> = names.iter().filter_map(|name| name.parse().ok()).collect();
    addresses.sort();
    let read = addresses.into_iter().map(|bdf| (bdf, PciFunction::read(host, bdf)));
    read.filter(|(bdf, _)| host.has(&folder(*bdf))).map(|(_, read)| read).collect()
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// The BARs and the ROM in sysfs's table of first byte, last byte and flags.
fn resources(table: &str) -> Vec<Bar> {
    let lines = (0..7).zip(table.lines());
    lines
        .filter_map(|(index, line)| {
            let mut words = line.split_whitespace().map(hexadecimal);
            let (first, last, flags) = (words.next()??, words.next()??, words.next()??);
            let size = last.checked_sub(first)?.checked_add(1)?;
            (flags != 0).then_some(Bar { index, address: first, size, flags })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_that_are_there_have_a_size_and_a_kind() {
        let table = "0x00000000fe000000 0x00000000fe003fff 0x0000000000140204\n\
            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
            0x000000000000c000 0x000000000000c01f 0x0000000000040101\n";
        let bars = resources(table);
        let seen: Vec<_> = bars.iter().map(|bar| (bar.index, bar.size, bar.is_wide(), bar.is_io())).collect();
        assert_eq!(seen, [(0, 0x4000, true, false), (2, 0x20, false, true)]);
    }
}
