//! A virtual machine whose guest counts its interrupts, and the library's side of it.

use crate::counting::{RAM, machine_of, place_code, processor};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::error::Error;
use std::os::fd::AsFd;
use std::sync::Arc;
use vfio_assign_core::{GuestAddr, Span};
use vfio_assign_linux::kvm::{IrqchipRoutes, KvmGuest, KvmVm, MemorySlot, MemorySlots, Routes, SlotNumbers};
use vfio_assign_linux::{GuestMemory, GuestRegion, Host, MemoryBacking};

/// The machine.
pub(crate) struct Machine {
    pub(crate) processor: VcpuFd,
    pub(crate) side: KvmGuest,
    pub(crate) memory: GuestMemory,
    pub(crate) slot: MemorySlot,
    pub(crate) vm: VmFd,
}

impl Machine {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let kvm = Kvm::new()?;
        let (vm, own) = machine_of(&kvm);
        let processor = processor(&kvm, &vm);
        let own = KvmVm::new(Host::linux(), own.as_fd())?;
        let slots = MemorySlots::new(own.clone(), Arc::new(SlotNumbers::new(&own, 0)?));
        let memory = GuestMemory::new(RAM, MemoryBacking::Anonymous)?;
        let guest = Span::from_size(GuestAddr::new(0), RAM).ok_or("no RAM")?;
        let slot = slots.show_memory(&GuestRegion { guest, memory: memory.clone(), offset: 0 })?;
        place_code(&memory);
        let routes = Arc::new(Routes::new(own.clone(), IrqchipRoutes::X86Full)?);
        let side = KvmGuest::new(own, slots, routes);
        Ok(Self { processor, side, memory, slot, vm })
    }
}
