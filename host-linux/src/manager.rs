//! What one VM has of VFIO: its groups, its address spaces, and the memory that is mapped in each of them.
//!
//! Devices of one VM share a group where the hardware wants it, and an address space where the kernel allows
//! it. Two VMs never share either. The last device out closes its group, the last group its address space.

use crate::container::Container;
use crate::device::Device;
use crate::dma::{AddressSpace, DmaError, GuestRegion};
use crate::errno::Errno;
use crate::error::{GroupAction, GroupError, OpenError};
use crate::gate::{MappingThread, MappingThreadError, MemoryGate};
use crate::group::{Group, LooseGroup, VfioFiles};
use crate::kernel::Host;
use crate::retry::RetryPolicy;
use crate::sysfs::Sysfs;
use std::ffi::CString;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use vfio_assign_core::{Bdf, GuestAddr, Span};

/// The devices and the memory of one VM. Clones are the same VM.
#[derive(Clone, Debug)]
pub struct Vm(Arc<Shared>);

/// What a VM is made with.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// Where functions are looked up.
    pub sysfs: Sysfs,
    /// The folder with VFIO's device files.
    pub dev_vfio: PathBuf,
    /// Who must know which VFIO files the VM uses; on KVM, the VM's KVM-VFIO device.
    pub files: Option<Arc<dyn VfioFiles>>,
    /// When an opening is tried again.
    pub retry: RetryPolicy,
}

impl Default for VmOptions {
    fn default() -> Self {
        Self {
            sysfs: Sysfs::default(),
            dev_vfio: "/dev/vfio".into(),
            files: None,
            retry: RetryPolicy::default(),
        }
    }
}

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

    /// Opens a device. The guest's memory is mapped for it, as it is now and as it will be.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; what was done on the way is undone.
    pub fn open(&self, bdf: Bdf) -> Result<Device, OpenError> {
        self.reserve(bdf)?.open()
    }

    /// Does all of opening a device but the opening itself, in which the kernel resets the device: looks it up,
    /// puts its group into an address space, and tells whoever must know, on KVM before a vCPU runs.
    ///
    /// What can be wrong with the host's set-up is found here, in little time; the device can then be opened
    /// beside the guest's boot.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; what was done on the way is undone.
    pub fn reserve(&self, bdf: Bdf) -> Result<Reservation, OpenError> {
        let function = self.0.options.sysfs.function(bdf)?;
        if !function.vfio {
            return Err(OpenError::NotVfio { bdf, driver: function.driver });
        }
        let number = function.group.ok_or(OpenError::NoIommu { bdf })?;
        if self.0.options.sysfs.is_no_iommu(number)? {
            return Err(OpenError::NoIommuMode { bdf });
        }
        let claim = Claim::new(&self.0, bdf)?;
        let group = self.group(bdf, number)?;
        Ok(Reservation { group, claim, vm: self.clone() })
    }

    /// Maps memory for the devices that there are and those to come, or for none.
    ///
    /// # Errors
    ///
    /// See [`DmaError`].
    pub fn add_memory(&self, regions: &[GuestRegion]) -> Result<(), DmaError> {
        self.map_memory(regions, processors())
    }

    fn map_memory(&self, regions: &[GuestRegion], threads: usize) -> Result<(), DmaError> {
        let mut state = self.0.lock();
        let spaces: Vec<_> = state.spaces.iter().filter_map(Weak::upgrade).collect();
        for (done, space) in spaces.iter().enumerate() {
            if let Err(error) = space.map(regions, threads) {
                spaces[..done].iter().for_each(|space| space.roll_back(regions));
                return Err(error);
            }
        }
        state.memory.extend_from_slice(regions);
        Ok(())
    }

    /// Maps memory in a thread of its own, as [`add_memory`](Self::add_memory) does, and calls `done` at the end.
    ///
    /// Until then a guest that turns bus mastering on waits in that write, and with it every vCPU whose access needs
    /// the same function: configuration space, the MSI-X table. Registers that only pass through do not wait. To pin
    /// memory takes a quarter of a second a GiB that nobody has touched, and less of what is there; where that is
    /// long, as with hundreds of GiB, [wait](MappingThread::wait) before vCPUs run. Opening a device, dropping one and
    /// changing memory wait as well.
    ///
    /// If the mapping fails the write is dropped, and so is each later one; the VM is to be given up.
    ///
    /// # Errors
    ///
    /// The thread was not started.
    pub fn add_memory_in_background(
        &self,
        regions: Vec<GuestRegion>,
        done: impl FnOnce(Result<(), DmaError>) + Send + 'static,
    ) -> Result<MappingThread, MappingThreadError> {
        let vm = self.clone();
        self.0.gate.begin();
        let work = move || {
            // One processor is left to the guest.
            let threads = processors().saturating_sub(1).max(1);
            // A panic must not leave the guest waiting. The locks it may have poisoned are used all the same.
            let mapped = catch_unwind(AssertUnwindSafe(|| vm.map_memory(&regions, threads)));
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

    /// Unmaps what was added as one region.
    ///
    /// # Errors
    ///
    /// See [`DmaError`]; the region then still counts as mapped, and may be removed again.
    pub fn remove_memory(&self, guest: Span<GuestAddr>) -> Result<(), DmaError> {
        let mut state = self.0.lock();
        let place = state.memory.iter().position(|region| region.guest == guest);
        let missing = DmaError::NotMapped { span: GuestRegion::iova_of(guest) };
        let region = place.map(|place| state.memory[place].clone()).ok_or(missing)?;
        for space in state.spaces.iter().filter_map(Weak::upgrade) {
            match space.unmap(region.iova()) {
                // An earlier removal may have come as far as this one.
                Ok(()) | Err(DmaError::NotMapped { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        state.memory.retain(|region| region.guest != guest);
        Ok(())
    }

    /// How many groups and how many address spaces the VM has open.
    pub fn open_groups_and_spaces(&self) -> (usize, usize) {
        let state = self.0.lock();
        let groups = state.groups.iter().filter(|group| group.strong_count() > 0).count();
        let spaces = state.spaces.iter().filter(|space| space.strong_count() > 0).count();
        (groups, spaces)
    }

    /// How many threads wait for memory to be mapped.
    #[cfg(test)]
    pub(crate) fn waiting_for_memory(&self) -> usize {
        self.0.gate.waiting()
    }

    /// The group, opened if the VM does not have it yet.
    fn group(&self, bdf: Bdf, number: u32) -> Result<Arc<Group>, OpenError> {
        let mut state = self.0.lock();
        state.groups.retain(|group| group.strong_count() > 0);
        state.spaces.retain(|space| space.strong_count() > 0);
        let known = state.groups.iter().filter_map(Weak::upgrade).find(|group| group.number() == number);
        if let Some(group) = known {
            return Ok(group);
        }
        let VmOptions { sysfs, dev_vfio, files, retry } = &self.0.options;
        // The container first: a host without VFIO says so at once.
        let spare = match state.spaces.is_empty() {
            true => Some(Container::open(&self.0.host, dev_vfio)?),
            false => None,
        };
        let loose = LooseGroup::open(&self.0.host, sysfs, dev_vfio, number, retry)?;
        for space in state.spaces.iter().filter_map(Weak::upgrade) {
            if loose.join(space.container())? {
                return Ok(Self::settled(&mut state, Group::new(space, files.clone(), loose)?));
            }
        }
        let container = match spare {
            Some(container) => container,
            None => Container::open(&self.0.host, dev_vfio)?,
        };
        let space = Arc::new(Self::space(bdf, &state, &loose, container)?);
        state.spaces.push(Arc::downgrade(&space));
        Ok(Self::settled(&mut state, Group::new(space, files.clone(), loose)?))
    }

    /// A new address space for the group, with all of the VM's memory in it.
    fn space(
        bdf: Bdf,
        state: &State,
        group: &LooseGroup,
        container: Container,
    ) -> Result<AddressSpace, OpenError> {
        if !group.join(&container)? {
            return Err(group.refused(GroupAction::SetContainer, crate::Errno::EINVAL).into());
        }
        let refused = |errno| -> GroupError { group.refused(GroupAction::SetIommu, errno) };
        container.set_iommu().map_err(refused)?;
        let space = AddressSpace::new(container);
        space.map(&state.memory, processors()).map_err(|error| OpenError::Memory { bdf, error })?;
        Ok(space)
    }

    fn settled(state: &mut State, group: Group) -> Arc<Group> {
        let group = Arc::new(group);
        state.groups.push(Arc::downgrade(&group));
        group
    }
}

/// How many threads can run at a time.
fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device that its VM may open, with its group ready for it. Dropping it gives both back.
#[derive(Debug)]
pub struct Reservation {
    // Dropped in this order: the group before the device may be assigned again.
    group: Arc<Group>,
    claim: Claim,
    vm: Vm,
}

impl Reservation {
    /// The device's address on the host.
    pub fn bdf(&self) -> Bdf {
        self.claim.bdf
    }

    /// Opens the device, which the kernel resets.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; the reservation is given back.
    pub fn open(self) -> Result<Device, OpenError> {
        let Self { vm, claim, group } = self;
        let bdf = claim.bdf;
        let name = CString::new(bdf.to_string()).expect("an address has no zero byte");
        let Shared { host, options, .. } = &*vm.0;
        let opened = options.retry.run(&bdf, || group.device(&name));
        let fd = opened.map_err(|errno| OpenError::Device { bdf, errno })?;
        let device = Device::new(host, &options.retry, claim, group, fd)?;
        log::info!("{bdf}: opened, IOMMU group {}", device.group());
        Ok(device)
    }
}

/// A device's place among those of its VM: while it exists the VM does not open the device again.
#[derive(Debug)]
pub(crate) struct Claim {
    vm: Weak<Shared>,
    gate: Arc<MemoryGate>,
    bdf: Bdf,
}

impl Claim {
    fn new(vm: &Arc<Shared>, bdf: Bdf) -> Result<Self, OpenError> {
        let mut state = vm.lock();
        if state.devices.contains(&bdf) {
            return Err(OpenError::Twice { bdf });
        }
        state.devices.push(bdf);
        Ok(Self { vm: Arc::downgrade(vm), gate: vm.gate.clone(), bdf })
    }

    pub(crate) fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// Waits until all of the VM's memory is mapped for devices.
    pub(crate) fn wait_for_memory(&self) -> Result<(), DmaError> {
        self.gate.wait()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(vm) = self.vm.upgrade() {
            vm.lock().devices.retain(|bdf| *bdf != self.bdf);
        }
    }
}

#[cfg(test)]
mod tests;
