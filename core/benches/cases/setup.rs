//! What is done once, when a device is opened, beside crates that do something like it.

use super::Measure;
use super::host::{config, description};
use super::peers::Memory;
use pci_types::{EndpointHeader, PciAddress, PciHeader};
use rangemap::RangeSet;
use std::hint::black_box;
use vfio_assign_core::{
    AssignedFunction, Bars, ConfigImage, ConfigMap, Options, PhysBarOffset, Span, Vector, Window,
};
use virtio_drivers::transport::pci::bus::{DeviceFunction, PciRoot};

pub(crate) fn measure(by: &mut impl Measure) {
    bars(by);
    capabilities(by);
    subtraction(by);
    let config = config(64);
    by.repeat("function made", "with its mapping plan", || {
        let storage = ([Vector::RESET; 64], [Window::default(); 8]);
        AssignedFunction::new(black_box(&description(&config)), storage.0, storage.1, |_| {})
    });
}

/// Six BARs: ours come from the sizes that the kernel tells; drivers size them through the registers.
fn bars(by: &mut impl Measure) {
    let group = "six BARs decoded";
    let mut bytes = config(64);
    bytes[0x10..0x28].fill(0);
    let image = ConfigImage::new(&bytes);
    let sizes = [0x1000, 0x1000, 0x1000, 0x1000, 0x1000, 0x1000, 0];
    by.repeat(group, "ours", || Bars::new(black_box(image), black_box(&sizes)));
    let memory = Memory::new(&bytes);
    let (header, place) = peer_header(&memory);
    by.repeat(group, "pci_types", || sized(black_box(&header), black_box(&memory)));
    let mut root = PciRoot::new(memory.clone());
    by.repeat(group, "virtio-drivers", || root.bars(black_box(place)));
}

/// As ours, a function that is called.
#[inline(never)]
fn sized(header: &EndpointHeader, memory: &Memory) {
    for slot in 0..6 {
        black_box(header.bar(slot, memory));
    }
}

fn capabilities(by: &mut impl Measure) {
    let group = "capability walk";
    let bytes = config(64);
    let image = ConfigImage::new(&bytes);
    by.repeat(group, "ours", || black_box(image).capabilities().count());
    by.repeat(group, "ours, with the policy of every register", || {
        ConfigMap::new(black_box(image), &Options::default(), |_| {})
    });
    let memory = Memory::new(&bytes);
    let (header, place) = peer_header(&memory);
    by.repeat(group, "pci_types", || header.capabilities(black_box(&memory)).count());
    let root = PciRoot::new(memory.clone());
    by.repeat(group, "virtio-drivers", || root.capabilities(black_box(place)).count());
}

fn peer_header(memory: &Memory) -> (EndpointHeader, DeviceFunction) {
    let header = EndpointHeader::from_header(PciHeader::new(PciAddress::new(0, 0, 4, 0)), memory);
    let place = DeviceFunction { bus: 0, device: 4, function: 0 };
    (header.expect("the header is that of an endpoint"), place)
}

/// One mmap area without the pages of the table and of the Pending Bit Array.
fn subtraction(by: &mut impl Measure) {
    let group = "one area minus two holes";
    let span = |first, size| Span::from_size(PhysBarOffset::new(first), size).expect("it does not wrap");
    let (area, table, pba) = (span(0, 0x1_0000), span(0x2000, 0x1000), span(0xa000, 0x1000));
    by.repeat(group, "ours", || {
        let (before, rest) = black_box(area).subtract(black_box(table));
        (before, rest.map(|rest| rest.subtract(black_box(pba))))
    });
    by.repeat(group, "rangemap", || {
        let mut set = RangeSet::new();
        set.insert(black_box(0_u64..0x1_0000));
        set.remove(black_box(0x2000..0x3000));
        set.remove(black_box(0xa000..0xb000));
        set
    });
}
