//! The steps of an assigned device's life, one after the other. The tests against a real kernel take them, too.

use kvm_ioctls::Kvm;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_assign_core::{Bdf, GuestAddr, Span};
use vfio_assign_linux::kvm::{IrqchipRoutes, KvmGuest, KvmVm, MemorySlots, Routes, SlotNumbers};
use vfio_assign_linux::{
    AssignOptions, Assigned, GuestMemory, GuestRegion, Host, MemoryBacking, Vm, VmOptions,
};

/// Guest memory, from address 0 on.
const RAM: u64 = 1 << 30;
/// Where the guest places the first BAR.
const BAR: u64 = 0xd000_0000;
const COMMAND: u32 = 0x04;
/// Memory Space Enable.
const DECODE: [u8; 2] = [2, 0];
/// Capability id of MSI-X, and Message Control with MSI-X Enable.
const MSIX: u8 = 0x11;
const ENABLED: [u8; 2] = [0, 0x80];
/// How many vectors are used.
const VECTORS: u64 = 8;

/// A step, how long it took, and how often it made which call of the kernel's.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) took: Duration,
    pub(crate) calls: BTreeMap<&'static str, u64>,
}

/// Goes through a device's life, in a virtual machine without processors.
pub(crate) fn measure(bdf: Bdf, options: VmOptions) -> Result<Vec<Step>, Box<dyn Error>> {
    let machine = Kvm::new()?.create_vm()?;
    machine.set_tss_address(0xfffb_d000)?;
    machine.create_irq_chip()?;
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    let own = pidfd_getfd(this, machine.as_raw_fd(), PidfdGetfdFlags::empty())?;
    let host = Host::linux();
    let kvm = KvmVm::new(host.clone(), own.as_fd())?;
    let slots = MemorySlots::new(kvm.clone(), Arc::new(SlotNumbers::new(&kvm, 0)?));
    let routes = Arc::new(Routes::new(kvm.clone(), IrqchipRoutes::X86Full)?);
    let vm = Vm::new(host.clone(), options);
    let guest = Span::from_size(GuestAddr::new(0), RAM).ok_or("no RAM")?;
    let ram = GuestRegion { guest, memory: GuestMemory::new(RAM, MemoryBacking::Anonymous)?, offset: 0 };

    let mut steps = Steps { host, done: Vec::new() };
    let reserved = steps.take("reserve the device", || vm.reserve(bdf))?;
    let device = steps.take("open the device", || reserved.open())?;
    let side = KvmGuest::new(kvm, slots, routes);
    let device = steps.take("assign it", || Assigned::new(device, side, &AssignOptions::default()))?;
    steps.take("map 1 GiB that nobody has touched", || vm.add_memory(std::slice::from_ref(&ram)))?;
    steps.take("unmap 1 GiB", || vm.remove_memory(guest))?;
    steps.take("map 1 GiB that is there", || vm.add_memory(&[ram]))?;

    steps.take("reset it", || device.reset());
    device.config_write(0x10, &(BAR as u32).to_le_bytes());
    steps.take("switch memory decoding on", || device.config_write(COMMAND, &DECODE));
    steps.take("read configuration space", || device.config_read(0x08, &mut [0; 4]));
    steps.take("read a trapped register", || device.memory_read(GuestAddr::new(BAR), &mut [0; 4]));
    let (control, table) = msix(&device)?;
    let word = |address, value: u32| device.memory_write(GuestAddr::new(address), &value.to_le_bytes());
    steps.take("switch MSI-X on", || device.config_write(control, &ENABLED));
    let mask = |vector: u64, masked| word(table + 16 * vector + 12, masked);
    let use_vectors = || {
        for vector in 0..VECTORS {
            word(table + 16 * vector, 0xfee0_0000);
            word(table + 16 * vector + 8, 0x40 + vector as u32);
            mask(vector, 0);
        }
    };
    steps.take("use 8 vectors for the first time", use_vectors);
    steps.take("mask a vector and unmask it", || {
        mask(1, 1);
        mask(1, 0);
    });
    steps.take("switch MSI-X off", || device.config_write(control, &[0, 0]));
    steps.take("switch memory decoding off", || device.config_write(COMMAND, &[0, 0]));
    device.config_write(COMMAND, &DECODE);
    device.config_write(control, &ENABLED);
    steps.take("drop it in the middle of its work", || drop(device));
    Ok(steps.done)
}

struct Steps {
    host: Host,
    done: Vec<Step>,
}

impl Steps {
    fn take<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let before = self.host.calls();
        let started = Instant::now();
        let result = work();
        let took = started.elapsed();
        let mut calls = self.host.calls();
        calls.retain(|call, count| {
            *count -= before.get(call).copied().unwrap_or(0);
            *count > 0
        });
        self.done.push(Step { name, took, calls });
        result
    }
}

/// Where Message Control of MSI-X lies, and the guest's address of its table, which is to be in the first BAR.
fn msix(device: &Assigned<KvmGuest>) -> Result<(u32, u64), Box<dyn Error>> {
    let read = |at: u32| {
        let mut dword = [0; 4];
        device.config_read(at & !3, &mut dword);
        u32::from_le_bytes(dword) >> (8 * (at & 3))
    };
    let mut at = read(0x34) & 0xff;
    while at != 0 && read(at) & 0xff != u32::from(MSIX) {
        at = read(at + 1) & 0xff;
    }
    match read(at + 4) {
        place if at != 0 && place & 7 == 0 => Ok((at + 2, BAR + u64::from(place))),
        _ => Err("the device has no MSI-X table in its first BAR".into()),
    }
}
