//! What one VM has of VFIO: its groups, its address spaces, and the memory that is mapped in each of them.
//!
//! Devices of one VM share a group where the hardware wants it, and an address space where the kernel allows
//! it. Two VMs never share either. The last device out closes its group, the last group its address space.

mod handing;
mod opening;

pub use handing::{HandedDevice, HandedWay};
pub use opening::Reservation;

use crate::dma::{DmaError, GuestRegion, merge, overlapping};
use crate::errno::Errno;
use crate::gate::{MappingThread, MappingThreadError, MemoryGate};
use crate::group::Group;
use crate::iommu::IommuInfo;
use crate::kernel::Host;
use crate::options::VmOptions;
use crate::progress::Progress;
use crate::space::AddressSpace;
pub(crate) use opening::Claim;
use std::cell::LazyCell;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use vfio_assign_core::{Bdf, GuestAddr, Span};

/// The devices and the memory of one VM. Clones are the same VM.
#[derive(Clone, Debug)]
pub struct Vm(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host: Host,
    options: VmOptions,
    state: Mutex<State>,
    gate: Arc<MemoryGate>,
}

#[derive(Debug, Default)]
struct State {
    memory: Vec<GuestRegion>,
    spaces: Vec<Weak<AddressSpace>>,
    groups: Vec<Weak<Group>>,
    devices: Vec<Bdf>,
}

impl Vm {
    /// A VM without devices and without memory.
    pub fn new(host: Host, options: VmOptions) -> Self {
        Self(Arc::new(Shared { host, options, state: Mutex::default(), gate: Arc::default() }))
    }

    /// Maps memory for the devices that there are and those to come, or for none.
    ///
    /// Neighbours, which adjoin in the guest and in one memory, become one region: few large mappings are made, and
    /// are removed, faster than many.
    ///
    /// # Errors
    ///
    /// See [`DmaError`].
    pub fn add_memory(&self, regions: &[GuestRegion]) -> Result<(), DmaError> {
        self.map_memory(regions, &[], 0)
    }

    fn map_memory(
        &self,
        regions: &[GuestRegion],
        first: &[Span<GuestAddr>],
        left: usize,
    ) -> Result<(), DmaError> {
        let regions = merge(regions);
        if !self.0.lock().live_spaces().is_empty() {
            // Most of the time goes here, where nobody has to wait for the VM's lock: devices open meanwhile.
            self.0.find_pages(&regions, first, left);
        }
        let mut state = self.0.lock();
        if let Some(span) = overlapping(&regions, &state.memory) {
            return Err(DmaError::Overlap { span });
        }
        // The others get it with their first device.
        let mut spaces = state.live_spaces();
        spaces.retain(|space| space.is_ready());
        for (done, space) in spaces.iter().enumerate() {
            if let Err(error) = self.0.map_into(space, &regions) {
                spaces[..done].iter().for_each(|space| space.roll_back(&regions));
                return Err(error);
            }
        }
        state.memory.extend(regions);
        Ok(())
    }

    /// Maps memory in a thread of its own, as [`add_memory`](Self::add_memory) does, and calls `done` at the end.
    /// Pages for `first`, which the guest starts in, are found before all others.
    ///
    /// Until then a guest that turns bus mastering on waits in that write, and with it every vCPU whose access needs
    /// the same function: configuration space, the MSI-X table. Registers that only pass through do not wait. To pin
    /// memory takes a quarter of a second a GiB that nobody has touched, and less of what is there; where that is
    /// long, as with hundreds of GiB, [wait](MappingThread::wait) before vCPUs run. Opening a device, dropping one and
    /// changing memory wait as well, though not for pages to be found.
    ///
    /// If the mapping fails the write is dropped, and so is each later one; the VM is to be given up.
    ///
    /// # Errors
    ///
    /// The thread was not started.
    pub fn add_memory_in_background(
        &self,
        regions: Vec<GuestRegion>,
        first: Vec<Span<GuestAddr>>,
        done: impl FnOnce(Result<(), DmaError>) + Send + 'static,
    ) -> Result<MappingThread, MappingThreadError> {
        let vm = self.clone();
        self.0.gate.begin();
        let work = move || {
            // A panic must not leave the guest waiting. The locks it may have poisoned are used all the same.
            let mapped = catch_unwind(AssertUnwindSafe(|| vm.map_memory(&regions, &first, FOR_THE_GUEST)));
            let result = mapped.unwrap_or(Err(DmaError::Panicked));
            vm.0.gate.end(&result);
            done(result.clone());
            result
        };
        match thread::Builder::new().name("dma-map".into()).spawn(work) {
            Ok(thread) => Ok(MappingThread(Some(thread))),
            Err(error) => {
                self.0.gate.end(&Ok(()));
                Err(MappingThreadError { errno: Errno::of(&error).unwrap_or(Errno::EAGAIN) })
            }
        }
    }

    /// Unmaps what was added as one region, or became one.
    ///
    /// # Errors
    ///
    /// See [`DmaError`]; the region then still counts as mapped, and may be removed again.
    pub fn remove_memory(&self, guest: Span<GuestAddr>) -> Result<(), DmaError> {
        let mut state = self.0.lock();
        let place = state.memory.iter().position(|region| region.guest == guest);
        let region =
            place.map(|place| state.memory[place].clone()).ok_or_else(|| not_mapped(&state, guest))?;
        for space in state.live_spaces() {
            match space.unmap(region.iova()) {
                // An earlier removal may have come as far as this one.
                Ok(()) | Err(DmaError::NotMapped { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        state.memory.retain(|region| region.guest != guest);
        Ok(())
    }

    /// How many groups and how many address spaces the VM has open. Devices that are open by their own files
    /// open no group.
    pub fn open_groups_and_spaces(&self) -> (usize, usize) {
        let state = self.0.lock();
        let groups = state.groups.iter().filter(|group| group.strong_count() > 0).count();
        (groups, state.live_spaces().len())
    }

    /// What devices can reach, one answer for each address space that has had a device: to be asked before memory
    /// is placed.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn iommu_info(&self) -> Result<Vec<IommuInfo>, DmaError> {
        let state = self.0.lock();
        state.live_spaces().iter().filter(|space| space.is_ready()).map(|space| space.info()).collect()
    }

    /// Whether pages of guest memory must not be given back to the host, by a balloon, virtio-mem, KSM or
    /// `MADV_DONTNEED`: true from the reservation of the first device to the end of the last.
    ///
    /// The kernel has locked the pages that devices reach. Others that took their place would be the guest's, and
    /// not the devices'.
    pub fn is_discard_inhibited(&self) -> bool {
        !self.0.lock().live_spaces().is_empty()
    }

    /// How many threads wait for memory to be mapped.
    #[cfg(test)]
    pub(crate) fn waiting_for_memory(&self) -> usize {
        self.0.gate.waiting()
    }
}

/// How many processors a mapping beside the guest's boot leaves to the guest.
const FOR_THE_GUEST: usize = 1;

/// How many threads can run at a time. To find it out opens and reads a file for each control group that the process is
/// in: to map a GiB of huge pages that are there takes little longer.
fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps all of the VM's memory in a new address space.
    fn replay(&self, state: &State, space: &AddressSpace) -> Result<(), DmaError> {
        self.find_pages(&state.memory, &[], 0);
        self.map_into(space, &state.memory)
    }

    /// Lets a thread on each processor but those that are `left` to others find pages for memory that is to be mapped.
    /// Only for speed: what is missing or impossible is found out, and said, by the mapping.
    fn find_pages(&self, regions: &[GuestRegion], first: &[Span<GuestAddr>], left: usize) {
        let threads = LazyCell::new(|| processors().saturating_sub(left).max(1));
        let find = |region: &GuestRegion, part: Span<GuestAddr>, found: &(dyn Fn(u64) + Sync)| {
            let offset = region.offset + (part.first().get() - region.guest.first().get());
            // To look for every page of memory that is there takes a fifth of the time that mapping it takes.
            if region.memory.seems_resident(offset, part.size()) {
                found(part.size());
            } else if let Err(errno) = region.memory.prefault_with(offset, part.size(), *threads, found) {
                log::debug!("{part} is not prefaulted: {errno}");
            }
        };
        for (span, region) in first.iter().flat_map(|span| regions.iter().map(move |region| (span, region))) {
            if let Some(part) = region.guest.intersect(*span) {
                // They are counted with the rest.
                find(region, part, &|_| {});
            }
        }
        let progress = Progress::new(self.options.observer.as_deref(), regions);
        regions.iter().for_each(|region| find(region, region.guest, &|bytes| progress.found(bytes)));
    }

    fn map_into(&self, space: &AddressSpace, regions: &[GuestRegion]) -> Result<(), DmaError> {
        if regions.is_empty() {
            // Nothing is asked of the kernel: without an IOMMU it would not know the answer.
            return Ok(());
        }
        space.map(regions, &Progress::with_pages(self.options.observer.as_deref(), regions))
    }
}

impl State {
    fn live_spaces(&self) -> Vec<Arc<AddressSpace>> {
        self.spaces.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Why a part of memory cannot be removed.
fn not_mapped(state: &State, guest: Span<GuestAddr>) -> DmaError {
    let span = GuestRegion::iova_of(guest);
    match state.memory.iter().find(|region| region.guest.covers(guest)) {
        Some(region) => DmaError::Part { span, region: region.iova() },
        None => DmaError::NotMapped { span },
    }
}

#[cfg(test)]
mod cdev_tests;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod text_tests;
