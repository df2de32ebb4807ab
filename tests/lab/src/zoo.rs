//! The zoo: every device that QEMU can lend and that is in some way unlike the others, as data.
//!
//! A [`Kind`] says how QEMU makes the device, what stands behind it, what the guest does with it and by which
//! interrupts; [`Animal`] is one such device in one machine. Adding a device is adding a row to [`KINDS`].

use crate::disk::{Disk, nameless, path_of};
use crate::echo::Echo;
use crate::l1::L1;
use crate::machine::Machine;
use crate::virtual_function::{self, VirtualFunctionError};
use std::fs::File;
use std::io;

/// What stands behind a device, on the outer machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// A disk that the guest reads, writes in part, and reads again.
    Disk,
    /// A network of its own, in which somebody sends back what the guest sends.
    Network,
    /// Memory that the guest reads, writes in part, and reads again.
    Memory,
    /// Nothing; the guest drives the device from user space.
    Nothing,
}

/// By which interrupts the guest's driver must hear of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupts {
    /// MSI-X.
    Msix,
    /// MSI.
    Msi,
    /// The pin.
    Pin,
    /// The device or its driver has none.
    None,
}

/// A kind of device.
pub(crate) struct Kind {
    /// As people name it on the command line.
    pub(crate) name: &'static str,
    /// Whether the guest gets a virtual function of the device, which for that is behind a root port.
    pub(crate) virtual_function: bool,
    /// What `-device` takes. `{n}` stands for the device's number, by which it names what stands behind it.
    qemu: &'static str,
    /// A second `-device` that sits on the first one's bus.
    on_it: Option<&'static str>,
    /// What stands behind it.
    pub(crate) behind: Behind,
    /// What its driver in the guest is.
    pub(crate) modules: &'static [&'static str],
    /// How the driver hears of it.
    pub(crate) interrupts: Interrupts,
    /// What else the guest does with it: a function of the guest's script, which gets the device's slot.
    pub(crate) also: Option<&'static str>,
    /// A device that must be in the same guest.
    needs: Option<&'static str>,
}

/// What most devices are.
const PLAIN: Kind = Kind {
    name: "",
    virtual_function: false,
    qemu: "",
    on_it: None,
    behind: Behind::Nothing,
    modules: &[],
    interrupts: Interrupts::None,
    also: None,
    needs: None,
};

const USB_DISK: &str = "usb-storage,drive=b{n},bus=a{n}.0";
const USB_MODULES: &[&str] = &["xhci-pci", "usb-storage", "sd_mod"];

/// All of them.
pub(crate) const KINDS: &[Kind] = &[
    Kind {
        name: "nvme",
        qemu: "nvme,drive=b{n},serial=zoo{n}",
        behind: Behind::Disk,
        modules: &["nvme"],
        interrupts: Interrupts::Msix,
        also: Some("processors_go_and_come"),
        ..PLAIN
    },
    Kind {
        name: "nvme-2048",
        qemu: "nvme,drive=b{n},serial=zoo{n},msix_qsize=2048,max_ioqpairs=2047",
        behind: Behind::Disk,
        modules: &["nvme"],
        interrupts: Interrupts::Msix,
        ..PLAIN
    },
    Kind {
        name: "nvme-vf",
        virtual_function: true,
        qemu: "nvme,id=c{n},serial=zoo{n},bus=p{n},subsys=s{n},sriov_max_vfs=4,sriov_vq_flexible=16,\
               sriov_vi_flexible=16,max_ioqpairs=26,msix_qsize=27",
        on_it: Some("nvme-ns,drive=b{n},bus=c{n}"),
        behind: Behind::Disk,
        modules: &["nvme"],
        interrupts: Interrupts::Msix,
        ..PLAIN
    },
    Kind {
        name: "nvme-cmb",
        qemu: "nvme,drive=b{n},serial=zoo{n},cmb_size_mb=64",
        behind: Behind::Disk,
        modules: &["nvme"],
        interrupts: Interrupts::Msix,
        also: Some("large_bar"),
        ..PLAIN
    },
    Kind {
        name: "e1000e",
        qemu: "e1000e,netdev=b{n},mac=52:54:00:00:00:{n},romfile={rom}",
        behind: Behind::Network,
        modules: &["e1000e"],
        interrupts: Interrupts::Msix,
        also: Some("rom"),
        ..PLAIN
    },
    Kind {
        name: "e1000",
        qemu: "e1000,netdev=b{n},mac=52:54:00:00:00:{n},romfile=",
        behind: Behind::Network,
        modules: &["e1000"],
        interrupts: Interrupts::Pin,
        ..PLAIN
    },
    Kind {
        name: "virtio-net",
        qemu: "virtio-net-pci,netdev=b{n},mac=52:54:00:00:00:{n},romfile=,disable-legacy=on,iommu_platform=on",
        behind: Behind::Network,
        modules: &["virtio_pci", "virtio_net"],
        interrupts: Interrupts::Msix,
        ..PLAIN
    },
    Kind {
        name: "virtio-blk",
        qemu: "virtio-blk-pci,drive=b{n},disable-legacy=on,iommu_platform=on",
        behind: Behind::Disk,
        modules: &["virtio_pci", "virtio_blk"],
        interrupts: Interrupts::Msix,
        ..PLAIN
    },
    Kind {
        name: "ahci",
        qemu: "ich9-ahci,id=a{n}",
        on_it: Some("ide-hd,drive=b{n},bus=a{n}.0"),
        behind: Behind::Disk,
        modules: &["ahci", "sd_mod"],
        interrupts: Interrupts::Msi,
        ..PLAIN
    },
    Kind {
        name: "qemu-xhci",
        qemu: "qemu-xhci,id=a{n}",
        on_it: Some(USB_DISK),
        behind: Behind::Disk,
        modules: USB_MODULES,
        interrupts: Interrupts::Msix,
        ..PLAIN
    },
    Kind {
        name: "nec-usb-xhci",
        qemu: "nec-usb-xhci,id=a{n}",
        on_it: Some(USB_DISK),
        behind: Behind::Disk,
        modules: USB_MODULES,
        interrupts: Interrupts::Msix,
        ..PLAIN
    },
    Kind {
        name: "edu",
        qemu: "edu,dma_mask=0xffffffffffffffff",
        modules: &["uio_pci_generic"],
        also: Some("edu"),
        // Its message interrupt is shown by way of a driver that has one: see `edu` in the guest's program.
        needs: Some("ahci"),
        ..PLAIN
    },
    Kind { name: "ivshmem", qemu: "ivshmem-plain,memdev=b{n}", behind: Behind::Memory, ..PLAIN },
    Kind { name: "pci-testdev", qemu: "pci-testdev,membar=16M", also: Some("testdev"), ..PLAIN },
];

/// A device in a machine.
pub(crate) struct Animal {
    /// What it is.
    pub(crate) kind: &'static Kind,
    /// Its place among the machine's devices, from 0.
    pub(crate) number: usize,
    /// The disk or memory behind it.
    pub(crate) disk: Option<Disk>,
    /// Who sends back what the guest sends.
    pub(crate) echo: Option<Echo>,
    rom: Option<File>,
}

impl Kind {
    /// The kind of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// These kinds, all of them where none is named, each after what it needs, none twice.
    pub(crate) fn select(names: &[String]) -> Vec<&'static Self> {
        let wanted = |kind: &&Kind| names.is_empty() || names.iter().any(|name| name == kind.name);
        let mut chosen: Vec<&'static Self> = Vec::new();
        for kind in KINDS.iter().filter(wanted) {
            for kind in kind.needs.and_then(Self::named).into_iter().chain([kind]) {
                if !chosen.iter().any(|other| other.name == kind.name) {
                    chosen.push(kind);
                }
            }
        }
        chosen
    }
}

impl Animal {
    /// A device and what stands behind it.
    pub(crate) fn new(kind: &'static Kind, number: usize) -> io::Result<Self> {
        let disk = matches!(kind.behind, Behind::Disk | Behind::Memory).then(Disk::small).transpose()?;
        let echo = (kind.behind == Behind::Network).then(Echo::start).transpose()?;
        let rom = kind.qemu.contains("{rom}").then(|| nameless(&option_rom())).transpose()?;
        Ok(Self { kind, number, disk, echo, rom })
    }

    /// The address in L1 of the device, or of the port that it is behind: slots from 4 on.
    pub(crate) fn address(&self) -> String {
        format!("0000:00:{:02x}.0", self.slot_in_l1())
    }

    /// Gets the device ready to be lent and gives its address.
    pub(crate) fn prepare(&self, l1: &mut L1) -> Result<String, VirtualFunctionError> {
        match self.kind.virtual_function {
            true => virtual_function::enable(l1, &self.address()),
            false => Ok(self.address()),
        }
    }

    /// The slot in which the guest finds it: the monitor fills them from 1 on, in the order of its command line.
    pub(crate) fn slot_in_guest(&self) -> usize {
        self.number + 1
    }

    /// Adds it to a machine.
    pub(crate) fn house(&self, machine: Machine) -> Machine {
        let (number, slot) = (self.number, self.slot_in_l1());
        if !self.kind.virtual_function {
            return self.house_at(machine, &format!("addr={slot:x}.0"));
        }
        let port = self.filled(&format!("pcie-root-port,id=p{{n}},chassis={number},addr={slot:x}.0"));
        let machine = machine.device(&port).device(&self.filled("nvme-subsys,id=s{n}"));
        self.house_at(machine, "addr=0.0")
    }

    /// The same at this place, in QEMU's words.
    pub(crate) fn house_at(&self, machine: Machine, place: &str) -> Machine {
        let number = self.number;
        let back = format!("b{number:02}");
        let machine = match (self.kind.behind, &self.disk) {
            (Behind::Disk, Some(disk)) => machine.drive(&back, disk),
            (Behind::Memory, Some(disk)) => machine.shared_memory(&back, disk),
            (Behind::Network, _) => machine.network(&back, number),
            _ => machine,
        };
        let machine = machine.device(&format!("{},{place}", self.filled(self.kind.qemu)));
        match self.kind.on_it {
            Some(second) => machine.device(&self.filled(second)),
            None => machine,
        }
    }

    fn slot_in_l1(&self) -> usize {
        self.number + 4
    }

    fn filled(&self, text: &str) -> String {
        let rom = self.rom.as_ref().map(path_of).unwrap_or_default();
        // As a part of a hardware address it must have two digits, which as a number in a name it may.
        text.replace("{n}", &format!("{:02}", self.number)).replace("{rom}", &rom)
    }
}

/// A ROM image that Linux takes for one (PCI Firmware 3.2, 5.1), full of bytes that differ from page to page.
pub(crate) fn option_rom() -> Vec<u8> {
    const BYTES: usize = 4 << 10;
    const STRUCTURE: usize = 0x20;
    let mut rom: Vec<u8> = (0..BYTES).map(|at| (at ^ (at >> 8) ^ (at >> 12)) as u8).collect();
    rom[..2].copy_from_slice(&[0x55, 0xaa]);
    rom[0x18..0x1a].copy_from_slice(&(STRUCTURE as u16).to_le_bytes());
    let structure = &mut rom[STRUCTURE..STRUCTURE + 0x18];
    structure.fill(0);
    structure[..4].copy_from_slice(b"PCIR");
    structure[0xa..0xc].copy_from_slice(&0x18u16.to_le_bytes());
    // The image's length in units of 512 bytes; no legacy code; the last image.
    structure[0x10..0x12].copy_from_slice(&((BYTES / 512) as u16).to_le_bytes());
    structure[0x14] = 0xff;
    structure[0x15] = 0x80;
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_brings_what_it_needs() {
        let names: Vec<&str> = Kind::select(&["edu".to_owned()]).iter().map(|kind| kind.name).collect();
        assert_eq!(names, ["ahci", "edu"]);
    }

    #[test]
    fn without_names_all_are_chosen_once() {
        assert_eq!(Kind::select(&[]).len(), KINDS.len());
    }

    #[test]
    fn a_device_is_told_what_stands_behind_it() {
        let kind = Kind::named("ahci").expect("there is one");
        let animal = Animal::new(kind, 3).expect("a file");
        assert_eq!(animal.filled(kind.on_it.unwrap_or_default()), "ide-hd,drive=b03,bus=a03.0");
    }
}
