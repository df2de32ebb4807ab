//! A device in a virtual machine of one's own: `embed 0000:00:04.0`. What each part is for: `docs/EMBEDDING.md`.
//!
//! The guest is eight instructions that ask the device who it is, by configuration space, and tell us at a port.

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::error::Error;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use vfio_assign_core::{Bdf, GuestAddr, Span};
use vfio_assign_linux::kvm::{IrqchipRoutes, KvmGuest, KvmVfio, KvmVm, MemorySlots, Routes, SlotNumbers};
use vfio_assign_linux::{
    AssignOptions, Assigned, DeviceEvent, EventFd, FaultHandler, GuestMemory, GuestRegion, Host,
    MemoryBacking, RegisterPath, Vm, VmOptions,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// 2 MiB of RAM; the guest's program is at its second page, and its device is 00:01.0.
const RAM: u64 = 2 << 20;
const ENTRY: u64 = 0x1000;
const DEVICE: u32 = 0x8000_0800;
/// Where the guest writes what it has found.
const REPORT: u16 = 0x10;

/// 16-bit code: out 0xcf8, DEVICE; in eax, 0xcfc; out REPORT, eax; hlt.
const GUEST: &[u8] =
    b"\x66\xb8\x00\x08\x00\x80\xba\xf8\x0c\x66\xef\xba\xfc\x0c\x66\xed\xba\x10\x00\x66\xef\xf4";

fn main() -> Result<()> {
    let bdf = std::env::args().nth(1).ok_or("usage: embed SEGMENT:BUS:DEVICE.FUNCTION")?.parse()?;
    println!("the guest has found {:02x?}", embed(bdf)?);
    Ok(())
}

/// Gives the device to a guest; what the guest has found of it.
pub(crate) fn embed(bdf: Bdf) -> Result<Vec<u8>> {
    // The machine: KVM with its interrupt controllers, one vCPU, RAM in a memory slot.
    let machine = Kvm::new()?.create_vm()?;
    machine.set_tss_address(0xfffb_d000)?;
    machine.create_irq_chip()?;
    let mut vcpu = machine.create_vcpu(0)?;
    let host = Host::linux();
    let kvm = KvmVm::new(host.clone(), own(&machine)?.as_fd())?;
    let slots = MemorySlots::new(kvm.clone(), Arc::new(SlotNumbers::new(&kvm, 0)?));
    let memory = GuestMemory::new(RAM, MemoryBacking::Anonymous)?;
    memory.write(ENTRY, GUEST)?;
    let guest = Span::from_size(GuestAddr::new(0), RAM).ok_or("no RAM")?;
    let ram = GuestRegion { guest, memory, offset: 0 };
    let _ram = slots.show_memory(&ram)?;
    enter_at(&vcpu, ENTRY)?;

    // The device: what KVM must know first, then RAM where the device sees it, then the device itself.
    let files = Arc::new(KvmVfio::new(kvm.clone()));
    let vm = Vm::new(host.clone(), VmOptions { files: Some(files), ..VmOptions::default() });
    vm.add_memory(&[ram])?;
    let side = KvmGuest::new(kvm.clone(), slots, Arc::new(Routes::new(kvm, IrqchipRoutes::X86Full)?));
    let registers = RegisterPath::Mapping(FaultHandler::install()?);
    let options = AssignOptions { registers, ..AssignOptions::default() };
    let device = Assigned::new(vm.open(bdf)?, side, &options)?;
    print!("{}", device.explain(&options, |plan| plan.to_string()));

    // The vCPU runs, and somebody listens to what the host has to say of the device.
    let end = EventFd::new()?;
    let found = std::thread::scope(|scope| {
        scope.spawn(|| listen(&device, &end));
        let ran = run(&mut vcpu, &device);
        end.signal()?;
        ran
    })?;

    // Out of the guest, interrupts off, closed; then its group and its address space.
    drop(device);
    println!("calls: {:?}", host.calls());
    Ok(found)
}

/// A descriptor of our own of what kvm-ioctls has open.
fn own(file: &impl AsRawFd) -> Result<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, file.as_raw_fd(), PidfdGetfdFlags::empty())?)
}

/// Real mode, all segments at 0.
fn enter_at(vcpu: &VcpuFd, entry: u64) -> Result<()> {
    let (mut system, mut registers) = (vcpu.get_sregs()?, vcpu.get_regs()?);
    (system.cs.base, system.cs.selector) = (0, 0);
    (registers.rip, registers.rflags) = (entry, 2);
    vcpu.set_sregs(&system)?;
    Ok(vcpu.set_regs(&registers)?)
}

/// Runs the guest until it has reported. A PCI bus of one device is all the bus there is.
fn run(vcpu: &mut VcpuFd, device: &Assigned<KvmGuest>) -> Result<Vec<u8>> {
    let (mut address, mut was_alive) = (0, true);
    loop {
        // The guest may still reach a quarantined device: it must not run on.
        if device.is_quarantined() {
            return Err("the device is quarantined".into());
        }
        match vcpu.run() {
            Ok(VcpuExit::IoOut(0xcf8, data)) => address = u32::from_le_bytes(data.try_into()?),
            Ok(VcpuExit::IoIn(port @ 0xcfc..=0xcff, data)) if address & !0xff == DEVICE => {
                device.config_read((address & 0xfc) + u32::from(port & 3), data);
            }
            Ok(VcpuExit::IoOut(port @ 0xcfc..=0xcff, data)) if address & !0xff == DEVICE => {
                device.config_write((address & 0xfc) + u32::from(port & 3), data);
            }
            Ok(VcpuExit::IoOut(REPORT, data)) => return Ok(data.to_vec()),
            // Nobody else is there: what the device does not decode reads all-ones.
            Ok(VcpuExit::IoIn(port, data)) => {
                data.fill(0xff);
                device.port_read(port, data);
            }
            Ok(VcpuExit::MmioRead(at, data)) => {
                data.fill(0xff);
                device.memory_read(GuestAddr::new(at), data);
            }
            Ok(VcpuExit::IoOut(port, data)) => drop(device.port_write(port, data)),
            Ok(VcpuExit::MmioWrite(at, data)) => drop(device.memory_write(GuestAddr::new(at), data)),
            Ok(VcpuExit::Intr) => {}
            // A window whose device has gone: once, for it takes its windows out of the guest.
            Ok(VcpuExit::MemoryFault { .. }) if was_alive && !device.check_health() => was_alive = false,
            Err(error) if error.errno() == libc::EFAULT && was_alive && !device.check_health() => {
                was_alive = false
            }
            Err(error) if error.errno() == libc::EINTR => {}
            other => return Err(format!("the guest has stopped: {other:?}").into()),
        }
    }
}

/// Tells what the host says of the device, until the guest has ended.
fn listen(device: &Assigned<KvmGuest>, end: &EventFd) {
    let events: Vec<_> =
        DeviceEvent::ALL.into_iter().filter_map(|event| Some((event, device.events().fd(event)?))).collect();
    let mut polled: Vec<_> = events.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)).collect();
    polled.push(PollFd::new(end, PollFlags::IN));
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    while poll(&mut polled, Some(&second)).is_ok() && end.is_signalled() == Ok(false) {
        device.watch(); // Of a device that vanishes nobody else tells.
        for (event, _) in &events {
            if device.events().take(*event) == Ok(true) {
                println!("{}: {event}", device.bdf());
            }
        }
    }
}
