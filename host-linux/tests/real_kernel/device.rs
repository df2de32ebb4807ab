//! A device opened: what the kernel says of it, and its registers by both ways.

use crate::rig::{Rig, open, set_command};
use std::sync::Arc;
use vfio_assign_core::{BarIndex, PhysBarOffset, Width};
use vfio_assign_linux::{
    Device, Errno, FaultHandler, IrqKind, MappedBars, RegionError, RegionIndex, RegisterPath, ResetError,
    Sysfs,
};

const MEMORY: u16 = 2;
/// Controller capabilities of an NVMe controller: NVM Express Base 1.4, 3.1. No two bytes of it are alike.
const CAP: u64 = 0;
/// Interrupt mask set: bits that are written stay set, and are 0 after a reset. NVM Express Base 1.4, 3.1.3.
const INTMS: u64 = 0xc;

#[test]
fn the_disk_has_a_bar_and_2048_vectors() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    let bar = device.region(RegionIndex::bar(BarIndex::BARS[0])).expect("BAR0");
    let msix = device.irq(IrqKind::Msix).expect("MSI-X");
    assert!(bar.readable && bar.writable && !bar.areas.is_empty(), "{bar:?}");
    assert_eq!((msix.count, msix.maskable), (2048, false));
    assert!(device.is_resettable());
}

#[test]
fn edu_has_a_pin_and_one_message() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.edu);
    let intx = device.irq(IrqKind::Intx).expect("INTx");
    let msi = device.irq(IrqKind::Msi).expect("MSI");
    assert!((intx.count, intx.maskable, intx.automasked) == (1, true, true), "{intx:?}");
    // The kernel never adds MSI vectors while MSI is on.
    assert_eq!((msi.count, msi.noresize), (1, true));
    assert_eq!(device.irq(IrqKind::Msix), None);
}

#[test]
fn configuration_space_is_what_sysfs_shows() {
    let Some(rig) = Rig::get() else { return };
    let ids = std::fs::read(format!("/sys/bus/pci/devices/{}/config", rig.nvme)).expect("sysfs is mounted");
    let config = open(rig.nvme).read_config().expect("can be read");
    // Vendor, device, revision, class.
    assert_eq!((&config[..4], &config[8..12]), (&ids[..4], &ids[8..12]));
    assert_eq!(Sysfs::default().function(rig.nvme).map(|function| function.vfio), Ok(true));
}

/// The device's BARs, their registers to be accessed through the mapping.
fn mapped(device: &Arc<Device>) -> MappedBars {
    let handler = FaultHandler::install().expect("the process may handle SIGBUS");
    let bars = MappedBars::map(device.clone(), RegisterPath::Mapping(handler), &[]);
    assert!(bars.failed().is_empty(), "{:?}", bars.failed());
    bars
}

#[test]
fn a3_both_ways_to_a_register_give_the_same_bytes() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    set_command(&device, MEMORY);
    let read = |bars: &MappedBars| bars.read(BarIndex::BARS[0], PhysBarOffset::new(CAP), Width::Dword);
    let by_kernel = MappedBars::map(device.clone(), RegisterPath::Kernel, &[]);
    let value = read(&by_kernel).expect("the device answers");
    assert_eq!(read(&mapped(&device)), Ok(value));
    assert_ne!(value, 0xffff_ffff);
}

#[test]
fn a3_a_mapped_register_of_a_device_that_does_not_decode_is_an_error_and_no_signal() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    set_command(&device, MEMORY);
    let bars = mapped(&device);
    let read = || bars.read(BarIndex::BARS[0], PhysBarOffset::new(CAP), Width::Dword);
    let value = read().expect("the device answers");
    set_command(&device, 0);
    let region = RegionIndex::bar(BarIndex::BARS[0]);
    assert_eq!(read(), Err(RegionError::Fault { region, offset: CAP, length: 4 }));
    set_command(&device, MEMORY);
    assert_eq!(read(), Ok(value));
}

#[test]
fn memory_of_a_device_that_does_not_decode_is_an_io_error() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    set_command(&device, 0);
    let region = RegionIndex::bar(BarIndex::BARS[0]);
    let failed = |offset| Err(RegionError::Failed { region, offset, length: 4, errno: Errno::EIO });
    assert_eq!(device.read(region, CAP, &mut [0; 4]), failed(CAP));
    assert_eq!(device.write(region, INTMS, &[0; 4]), failed(INTMS));
    set_command(&device, MEMORY);
    assert_eq!(device.read(region, CAP, &mut [0; 4]), Ok(()));
}

#[test]
fn reset_clears_registers_and_keeps_command() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme);
    set_command(&device, MEMORY);
    let region = RegionIndex::bar(BarIndex::BARS[0]);
    let register = || {
        let mut data = [0; 4];
        device.read(region, INTMS, &mut data).expect("the device decodes");
        u32::from_le_bytes(data)
    };
    device.write(region, INTMS, &0x1fu32.to_le_bytes()).expect("the device decodes");
    assert_eq!(register(), 0x1f);
    device.reset().expect("the disk has a function reset");
    assert_eq!(register(), 0);
}

#[test]
fn device_without_a_function_reset_says_so() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.edu);
    assert_eq!(device.reset(), Err(ResetError::Unsupported { bdf: rig.edu }));
}
