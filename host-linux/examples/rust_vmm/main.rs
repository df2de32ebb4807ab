//! A VMM in the rust-vmm style, with buses of devices behind `Arc<Mutex<_>>` and memory of `vm-memory`: what it writes
//! to have assigned devices is in `adapter.rs`. `docs/EMBEDDING.md` counts its lines.
//!
//! The kernel is the scripted one, so it runs anywhere; with `Host::linux`, a real sysfs and a real virtual machine
//! nothing of the VMM changes.

mod adapter;
mod bus;

use adapter::{ConfigSpace, MemoryAperture, PortAperture, VmmSlots, guest_memory, may_run};
use bus::Bus;
use std::error::Error;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex};
use vfio_assign_core::Bdf;
use vfio_assign_linux::kvm::{IrqchipRoutes, KvmGuest, KvmVfio, KvmVm, MemorySlot, MemorySlots, Routes};
use vfio_assign_linux::scripted::{Injection, ScriptedFunction, ScriptedKernel};
use vfio_assign_linux::{AssignOptions, Assigned, GuestRegion, IrqKind, Sysfs, Vm, VmOptions};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where the guest has what: RAM, ECAM with one page for each function, and the apertures of BARs.
const RAM: [(GuestAddress, usize); 2] = [(GuestAddress(0), 2 << 20), (GuestAddress(0x1_0000_0000), 1 << 20)];
const ECAM: u64 = 0xe000_0000;
const MEMORY: (u64, u64) = (0xc000_0000, 0x1000_0000);
const PORTS: (u64, u64) = (0x1000, 0xf000);

/// The VMM: its buses, its memory, and its assigned devices.
struct Vmm {
    mmio: Bus,
    pio: Bus,
    memory: GuestMemoryMmap,
    /// The same memory, as devices see it.
    regions: Vec<GuestRegion>,
    devices: Vec<Arc<Assigned<KvmGuest>>>,
    /// RAM as KVM shows it to the guest, as long as these are there.
    _ram: Vec<MemorySlot>,
}

impl Vmm {
    /// A machine with these devices.
    fn new(kernel: &ScriptedKernel, sysfs: &Path, bdfs: &[Bdf]) -> Result<Self> {
        let kvm = KvmVm::new(kernel.host(), kernel.create_vm()?.as_fd())?;
        let slots = MemorySlots::new(kvm.clone(), Arc::new(VmmSlots::default()));
        let (regions, memory) = guest_memory(&RAM)?;
        let ram =
            regions.iter().map(|region| slots.show_memory(region)).collect::<std::result::Result<_, _>>()?;

        let files = Some(Arc::new(KvmVfio::new(kvm.clone())) as Arc<_>);
        let options = VmOptions { sysfs: Sysfs::at(sysfs), files, ..VmOptions::default() };
        let vm = Vm::new(kernel.host(), options);
        vm.add_memory(&regions)?;
        let routes = Arc::new(Routes::new(kvm.clone(), IrqchipRoutes::X86Full)?);
        let mut mmio = Bus::default();
        let mut devices = Vec::new();
        for bdf in bdfs {
            let side = KvmGuest::new(kvm.clone(), slots.clone(), routes.clone());
            let device = Arc::new(Assigned::new(vm.open(*bdf)?, side, &AssignOptions::default())?);
            let page = ECAM + ((devices.len() as u64 + 1) << 15);
            mmio.insert(page, 0x1000, Arc::new(Mutex::new(ConfigSpace(device.clone()))));
            devices.push(device);
        }
        mmio.insert(MEMORY.0, MEMORY.1, Arc::new(Mutex::new(MemoryAperture(devices.clone()))));
        let mut pio = Bus::default();
        pio.insert(PORTS.0, PORTS.1, Arc::new(Mutex::new(PortAperture(devices.clone()))));
        Ok(Self { mmio, pio, memory, regions, devices, _ram: ram })
    }
}

fn main() -> Result<()> {
    let bdf: Bdf = "0000:00:04.0".parse()?;
    let kernel = ScriptedKernel::new(&[ScriptedFunction::new(bdf, 7)]);
    let sysfs = sysfs(bdf)?;
    let vmm = Vmm::new(&kernel, sysfs.path(), &[bdf])?;
    drive(&vmm, &kernel)?;
    drop(vmm);
    let standing = kernel.standing();
    println!("after the VMM: {standing:?}");
    if standing.is_empty() { Ok(()) } else { Err("something still stands in the kernel".into()) }
}

/// What a guest's driver does, as its exits reach the buses.
fn drive(vmm: &Vmm, kernel: &ScriptedKernel) -> Result<()> {
    const PAGE: u64 = ECAM + (1 << 15);
    const BAR: u64 = MEMORY.0 + 0x10_0000;
    const MSIX: u64 = PAGE + 0x40;
    let mut id = [0; 4];
    vmm.mmio.read(PAGE, &mut id);
    println!("the guest finds {id:02x?}");
    // The BAR, decoding and bus mastering; then vector 0 with a message, and MSI-X on.
    for (register, value) in [(PAGE + 0x10, BAR as u32), (PAGE + 0x04, 6)] {
        vmm.mmio.write(register, &value.to_le_bytes());
    }
    for (offset, value) in [(0, 0xfee0_0000u32), (4, 0), (8, 0x41), (12, 0)] {
        vmm.mmio.write(BAR + 0x2000 + offset, &value.to_le_bytes());
    }
    vmm.mmio.write(MSIX + 2, &0x8000u16.to_le_bytes());
    let mut nobody = [0];
    vmm.pio.read(PORTS.0, &mut nobody);

    kernel.interrupt(0, IrqKind::Msix, 0);
    let arrived = kernel.injections();
    println!("interrupts: {arrived:?}");
    // What a device of the VMM's own writes, assigned devices see.
    vmm.memory.write_obj(0x1234_5678u32, GuestAddress(0x1_0000_1000))?;
    let mut seen = [0; 4];
    vmm.regions[1].memory.read(0x1000, &mut seen)?;
    let wanted = [Injection::Message { address: 0xfee0_0000, data: 0x41 }];
    let as_it_must = id == [0x36, 0x1b, 0x10, 0] && nobody == [0xff] && arrived == wanted;
    let as_it_must = as_it_must && u32::from_le_bytes(seen) == 0x1234_5678;
    match as_it_must && may_run(&vmm.devices) {
        true => Ok(()),
        false => Err("the guest has seen something else".into()),
    }
}

/// A sysfs of one function that is bound to VFIO.
fn sysfs(bdf: Bdf) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    let device = root.join("bus/pci/devices").join(bdf.to_string());
    let driver = root.join("bus/pci/drivers/vfio-pci");
    let group = root.join("kernel/iommu_groups/7");
    for path in [&driver, &device, &group.join("devices")] {
        std::fs::create_dir_all(path)?;
    }
    symlink(&driver, device.join("driver"))?;
    symlink(&group, device.join("iommu_group"))?;
    symlink(&device, group.join("devices").join(bdf.to_string()))?;
    Ok(folder)
}

#[test]
fn a_guest_drives_its_device_over_the_buses() {
    main().unwrap();
}
