//! Memory slots: what a VM's guest sees at which guest-physical addresses.

use super::KvmVm;
use crate::bar::WindowMemory;
use crate::dma::GuestRegion;
use crate::errno::Errno;
use crate::sys::kvm::Slot;
use crate::sys::{GuestMemory, HostRange};
use kvm_bindings as k;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_assign_core::{GuestAddr, Span};

/// Gives out slot numbers of one VM. A monitor that numbers its own slots implements this.
pub trait SlotAllocator: Send + Sync + fmt::Debug {
    /// A number that nobody uses, if there is one left.
    fn allocate(&self) -> Option<u32>;

    /// A number that was given out is used no longer.
    fn free(&self, slot: u32);
}

/// Slot numbers counted up from a start; those given back are used first.
#[derive(Debug)]
pub struct SlotNumbers {
    limit: u32,
    state: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    next: u32,
    freed: Vec<u32>,
}

impl SlotNumbers {
    /// Numbers from `start` on, up to what the kernel allows a VM.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn new(vm: &KvmVm, start: u32) -> Result<Self, Errno> {
        Ok(Self::with_limit(start, vm.limit(k::KVM_CAP_NR_MEMSLOTS)?))
    }

    fn with_limit(start: u32, limit: u32) -> Self {
        Self { limit, state: Mutex::new(Numbers { next: start, freed: Vec::new() }) }
    }
}

impl SlotAllocator for SlotNumbers {
    fn allocate(&self) -> Option<u32> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = state.freed.pop() {
            return Some(slot);
        }
        let slot = state.next;
        if slot >= self.limit {
            return None;
        }
        state.next += 1;
        Some(slot)
    }

    fn free(&self, slot: u32) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).freed.push(slot);
    }
}

/// Why a memory slot was not made or not removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// The VM has no slot left.
    #[error("no KVM memory slot is left for {guest}")]
    NoneLeft {
        /// Where the guest was to see the memory.
        guest: Span<GuestAddr>,
    },
    /// The region is longer than the memory behind it.
    #[error("region {guest} is longer than the memory behind it")]
    NoMemory {
        /// Where the guest was to see the memory.
        guest: Span<GuestAddr>,
    },
    /// The kernel refused to show memory; `EEXIST` where the guest sees other memory there.
    #[error("KVM does not map {guest}: {errno}{}", remedy(*errno))]
    NotMapped {
        /// Where the guest was to see the memory.
        guest: Span<GuestAddr>,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel refused to take memory away. The guest may still reach it.
    #[error("KVM does not unmap {guest}: {errno}")]
    NotUnmapped {
        /// Where the guest sees the memory.
        guest: Span<GuestAddr>,
        /// What the kernel said.
        errno: Errno,
    },
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EEXIST => "; other memory is mapped there",
        _ => "",
    }
}

/// The memory slots of one VM. Clones are the same.
#[derive(Clone, Debug)]
pub struct MemorySlots {
    vm: KvmVm,
    numbers: Arc<dyn SlotAllocator>,
}

/// Memory that the guest sees. Taken away when dropped.
#[derive(Debug)]
pub struct MemorySlot {
    slots: MemorySlots,
    number: u32,
    guest: Span<GuestAddr>,
    memory: Option<Shown>,
}

/// What is shown, kept as long as the guest can reach it.
#[derive(Clone, Debug)]
enum Shown {
    Memory { _keep: GuestMemory, range: HostRange },
    Window(WindowMemory),
}

impl MemorySlots {
    /// The slots of a VM, numbered by `numbers`.
    pub fn new(vm: KvmVm, numbers: Arc<dyn SlotAllocator>) -> Self {
        Self { vm, numbers }
    }

    /// Shows guest memory to the guest.
    ///
    /// # Errors
    ///
    /// See [`SlotError`]; the guest does not see it.
    pub fn show_memory(&self, region: &GuestRegion) -> Result<MemorySlot, SlotError> {
        let missing = SlotError::NoMemory { guest: region.guest };
        let range = region.memory.range(region.offset, region.guest.size()).ok_or(missing)?;
        self.show(region.guest, Shown::Memory { _keep: region.memory.clone(), range })
    }

    /// Shows a part of a device's BAR to the guest.
    ///
    /// # Errors
    ///
    /// See [`SlotError`]; the guest does not see it.
    pub fn show_window(&self, guest: Span<GuestAddr>, window: WindowMemory) -> Result<MemorySlot, SlotError> {
        self.show(guest, Shown::Window(window))
    }

    fn show(&self, guest: Span<GuestAddr>, memory: Shown) -> Result<MemorySlot, SlotError> {
        let (range, read_only) = match &memory {
            Shown::Memory { range, .. } => (*range, false),
            Shown::Window(window) => (window.range(), !window.is_writable()),
        };
        let number = self.numbers.allocate().ok_or(SlotError::NoneLeft { guest })?;
        let slot = Slot { slot: number, guest: guest.first().get(), memory: Some(range), read_only };
        if let Err(errno) = self.vm.host().kvm_set_memory_region(self.vm.fd(), &slot) {
            self.numbers.free(number);
            return Err(SlotError::NotMapped { guest, errno });
        }
        Ok(MemorySlot { slots: self.clone(), number, guest, memory: Some(memory) })
    }
}

impl MemorySlot {
    /// Where the guest sees it.
    pub fn guest(&self) -> Span<GuestAddr> {
        self.guest
    }

    /// The slot's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Takes it away; when this returns no vCPU reaches it.
    ///
    /// # Errors
    ///
    /// The guest may still reach it. The memory behind it is then never unmapped, and the slot can be removed
    /// again.
    pub fn remove(&mut self) -> Result<(), SlotError> {
        if self.memory.is_none() {
            return Ok(());
        }
        let vm = &self.slots.vm;
        let slot =
            Slot { slot: self.number, guest: self.guest.first().get(), memory: None, read_only: false };
        let removed = vm.host().kvm_set_memory_region(vm.fd(), &slot);
        removed.map_err(|errno| SlotError::NotUnmapped { guest: self.guest, errno })?;
        self.memory = None;
        self.slots.numbers.free(self.number);
        Ok(())
    }
}

impl Drop for MemorySlot {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            log::error!("{error}; the memory behind it is kept for ever");
            // The guest may still reach it, so nothing else may come to lie there.
            std::mem::forget(self.memory.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_up_from_the_start() {
        let numbers = SlotNumbers::with_limit(4, 6);
        assert_eq!((numbers.allocate(), numbers.allocate(), numbers.allocate()), (Some(4), Some(5), None));
    }

    #[test]
    fn freed_number_is_used_again() {
        let numbers = SlotNumbers::with_limit(0, 1);
        let slot = numbers.allocate().unwrap();
        numbers.free(slot);
        assert_eq!(numbers.allocate(), Some(slot));
    }
}
