//! A device that reads and writes guest memory, and one that tries to go beyond it.

use crate::edu::Edu;
use crate::rig::{Rig, region, set, span};
use vfio_assign_linux::{GuestMemory, GuestRegion, HugePage, MemoryBacking};

const SIZE: u64 = 0x10_0000;
const LENGTH: u64 = 0x800;
/// The engine addresses 28 bits; no memory of the guest's is there.
const BEYOND: u64 = 0x800_0000;

/// The device, and memory of the guest's from address 0 on.
fn with_memory(rig: &Rig) -> (Edu, GuestMemory) {
    let edu = Edu::with_msi(rig.edu);
    let GuestRegion { guest, memory, offset } = region(0, SIZE);
    edu.vm.add_memory(&[GuestRegion { guest, memory: memory.clone(), offset }]).expect("maps");
    (edu, memory)
}

fn pattern() -> Vec<u8> {
    (0..LENGTH).map(|index| (index * 7 % 251) as u8).collect()
}

fn read(memory: &GuestMemory, offset: u64) -> Vec<u8> {
    let mut data = vec![0; LENGTH as usize];
    memory.read(offset, &mut data).expect("it is inside");
    data
}

#[test]
fn the_device_reads_and_writes_guest_memory() {
    let Some(rig) = Rig::get() else { return };
    let (edu, memory) = with_memory(rig);
    memory.write(0x1000, &pattern()).expect("it is inside");
    assert_eq!(edu.fetch(0x1000, LENGTH), 1);
    assert_eq!(edu.store(0x8000, LENGTH), 1);
    assert_eq!(read(&memory, 0x8000), pattern());
}

#[test]
fn the_iommu_stops_a_write_beyond_guest_memory_and_the_device_goes_on() {
    let Some(rig) = Rig::get() else { return };
    let (edu, memory) = with_memory(rig);
    memory.write(0x1000, &pattern()).expect("it is inside");
    assert_eq!(edu.fetch(0x1000, LENGTH), 1);
    assert_eq!(edu.store(BEYOND, LENGTH), 1);
    // Memory mapped there afterwards holds nothing of it.
    let GuestRegion { guest, memory: later, offset } = region(BEYOND, SIZE);
    edu.vm.add_memory(&[GuestRegion { guest, memory: later.clone(), offset }]).expect("maps");
    assert_eq!(read(&later, 0), vec![0; LENGTH as usize]);
    assert_eq!(edu.store(0x8000, LENGTH), 1);
    assert_eq!(read(&memory, 0x8000), pattern());
}

#[test]
fn memory_that_was_removed_is_out_of_reach() {
    let Some(rig) = Rig::get() else { return };
    let (edu, memory) = with_memory(rig);
    memory.write(0x1000, &pattern()).expect("it is inside");
    assert_eq!(edu.fetch(0x1000, LENGTH), 1);
    edu.vm.remove_memory(region(0, SIZE).guest).expect("unmaps");
    assert_eq!(edu.store(0x8000, LENGTH), 1);
    assert_eq!(read(&memory, 0x8000), vec![0; LENGTH as usize]);
}

/// How many huge pages of 2 MiB are to be set aside, or are free of those.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const HUGE: u64 = 2 << 20;

fn free_huge_pages() -> u64 {
    let text = std::fs::read_to_string(format!("{HUGE_PAGES}/free_hugepages")).expect("the kernel has them");
    text.trim().parse().expect("a number")
}

#[test]
fn the_device_reads_and_writes_huge_pages() {
    let Some(rig) = Rig::get() else { return };
    let _pages = set(format!("{HUGE_PAGES}/nr_hugepages"), "2");
    assert_eq!(free_huge_pages(), 2);
    let edu = Edu::with_msi(rig.edu);
    let memory = GuestMemory::new(2 * HUGE, MemoryBacking::Huge(HugePage::Mib2)).expect("there are two");
    let ram = GuestRegion { guest: span(0, 2 * HUGE), memory: memory.clone(), offset: 0 };
    edu.vm.add_memory(&[ram]).expect("maps");
    assert_eq!(free_huge_pages(), 0);
    memory.write(0x1000, &pattern()).expect("it is inside");
    assert_eq!(edu.fetch(0x1000, LENGTH), 1);
    assert_eq!(edu.store(HUGE + 0x8000, LENGTH), 1);
    assert_eq!(read(&memory, HUGE + 0x8000), pattern());
    drop((edu, memory));
    assert_eq!(free_huge_pages(), 2);
}
