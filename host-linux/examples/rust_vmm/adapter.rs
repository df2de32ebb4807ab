//! The adapter: what a VMM in the rust-vmm style writes to have assigned devices. The VMM itself is in `main.rs`.
//!
//! An assigned device is on three buses: that of configuration space, memory and ports. It needs no lock, so each of
//! the three is a small device of its own that shares it.

use crate::bus::BusDevice;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use vfio_assign_core::{GuestAddr, Span};
use vfio_assign_linux::kvm::{KvmGuest, SlotAllocator};
use vfio_assign_linux::{Assigned, Errno, GuestMemory, GuestRegion, MemoryBacking};
use vm_memory::mmap::FromRangesError;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

/// Why there is no memory for the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The file behind it.
    #[error("no memory of {size:#x} bytes for the guest: {errno}")]
    File { size: u64, errno: Errno },
    /// Another descriptor of that file.
    #[error("no second descriptor of the guest's memory: {0}")]
    Descriptor(io::Error),
    /// The VMM's own mapping of it.
    #[error("the VMM cannot map the guest's memory: {0}")]
    Mapping(#[from] FromRangesError),
}

/// The guest's memory twice: as devices and KVM are told of it, which must stay where it is as long as a device can
/// reach it, and as the VMM's own mapping of the same files, for its other devices to use.
pub(crate) fn guest_memory(
    ranges: &[(GuestAddress, usize)],
) -> Result<(Vec<GuestRegion>, GuestMemoryMmap), MemoryError> {
    let mut regions = Vec::new();
    let mut mappings = Vec::new();
    for (start, length) in ranges {
        let size = *length as u64;
        let refused = |errno| MemoryError::File { size, errno };
        let memory = GuestMemory::new(size, MemoryBacking::Memfd).map_err(refused)?;
        let guest = Span::from_size(GuestAddr::new(start.0), size).ok_or(refused(Errno::EINVAL))?;
        let file = memory.file().ok_or(refused(Errno::EBADF))?;
        let file = file.try_clone_to_owned().map_err(MemoryError::Descriptor)?;
        mappings.push((*start, *length, Some(FileOffset::new(File::from(file), 0))));
        regions.push(GuestRegion { guest, memory, offset: 0 });
    }
    Ok((regions, GuestMemoryMmap::from_ranges_with_files(mappings)?))
}

/// The VMM's counter of memory slots, shared with the library.
#[derive(Debug, Default)]
pub(crate) struct VmmSlots {
    next: AtomicU32,
    freed: Mutex<Vec<u32>>,
}

impl SlotAllocator for VmmSlots {
    fn allocate(&self) -> Option<u32> {
        let freed = self.freed.lock().ok()?.pop();
        freed.or_else(|| Some(self.next.fetch_add(1, Ordering::Relaxed)))
    }

    fn free(&self, slot: u32) {
        if let Ok(mut freed) = self.freed.lock() {
            freed.push(slot);
        }
    }
}

/// The device's page of ECAM.
pub(crate) struct ConfigSpace(pub(crate) Arc<Assigned<KvmGuest>>);

impl BusDevice for ConfigSpace {
    fn read(&mut self, _base: u64, offset: u64, data: &mut [u8]) {
        self.0.config_read(offset as u32, data);
    }

    fn write(&mut self, _base: u64, offset: u64, data: &[u8]) {
        self.0.config_write(offset as u32, data);
    }
}

/// Where the guest may place memory BARs. The bus need not hear of a BAR that moves: the device knows what it decodes.
pub(crate) struct MemoryAperture(pub(crate) Vec<Arc<Assigned<KvmGuest>>>);

impl BusDevice for MemoryAperture {
    fn read(&mut self, base: u64, offset: u64, data: &mut [u8]) {
        let address = GuestAddr::new(base + offset);
        if !self.0.iter().any(|device| device.memory_read(address, data)) {
            data.fill(0xff);
        }
    }

    fn write(&mut self, base: u64, offset: u64, data: &[u8]) {
        let address = GuestAddr::new(base + offset);
        let _answered = self.0.iter().any(|device| device.memory_write(address, data));
    }
}

/// Where the guest may place I/O BARs.
pub(crate) struct PortAperture(pub(crate) Vec<Arc<Assigned<KvmGuest>>>);

impl BusDevice for PortAperture {
    fn read(&mut self, base: u64, offset: u64, data: &mut [u8]) {
        let port = (base + offset) as u16;
        if !self.0.iter().any(|device| device.port_read(port, data)) {
            data.fill(0xff);
        }
    }

    fn write(&mut self, base: u64, offset: u64, data: &[u8]) {
        let port = (base + offset) as u16;
        let _answered = self.0.iter().any(|device| device.port_write(port, data));
    }
}

/// What a vCPU's thread asks before each run: whether one of the devices must not be reached any more.
pub(crate) fn may_run(devices: &[Arc<Assigned<KvmGuest>>]) -> bool {
    !devices.iter().any(|device| device.is_quarantined())
}
