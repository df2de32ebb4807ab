//! A kernel of tests: VFIO, iommufd and KVM as a model that keeps their rules, says what stands, and can fail any call.
//!
//! It stands behind the one seam of this crate, [`Host`]. The files that it lends are pipes, of which it sees when the
//! last descriptor is closed; eventfds and the mappings of BARs are real ones.

mod calls;
mod device;
mod dma;
mod event;
mod files;
mod function;
mod hot_reset;
#[cfg_attr(not(feature = "kvm"), expect(dead_code, reason = "without KVM nobody asks for it"))]
mod kvm;

pub use function::ScriptedFunction;

use crate::errno::Errno;
use crate::irq::IrqKind;
use crate::kernel::{Call, Host};
use crate::retry::Clock;
use device::DeviceModel;
use event::KernelEvent;
use files::{File, Kind};
use kvm::KvmModel;
use std::collections::BTreeMap;
use std::fmt;
#[cfg(feature = "kvm")]
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The kernel of a host with such functions. Clones are the same kernel.
///
/// It knows no sysfs: that is a folder, which a test makes.
#[derive(Clone)]
pub struct ScriptedKernel {
    model: Arc<Mutex<Model>>,
    /// Whether the process that calls it by this value has ended.
    ended: Arc<AtomicBool>,
}

/// What happens to one call instead of what would.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallFault {
    /// It does nothing and gives this.
    Errno(Errno),
    /// It does all that it should, and gives this.
    Late(Errno),
    /// `VFIO_DEVICE_SET_IRQS` does the first half, takes that back as the kernel does, and gives this.
    Halfway(Errno),
    /// It does nothing and gives this number: of bytes that it has moved or unmapped, of vectors that there are.
    Answer(u32),
    /// A read or a write of a region moves the first half of its bytes, and says so.
    Short,
}

/// What the kernel has, and what it is told to do.
pub(crate) struct Model {
    calls: Vec<Call>,
    fault: Option<(usize, CallFault)>,
    files: BTreeMap<u64, File>,
    devices: Vec<DeviceModel>,
    /// How many address spaces there were in iommufds.
    spaces: u32,
    /// What has reached guests since it was last asked for.
    injections: Vec<Injection>,
    /// Whether iommufd maps files, as Linux 6.13 does.
    pub(crate) maps_files: bool,
}

impl ScriptedKernel {
    /// The kernel of a host with these functions, all bound to VFIO until [told otherwise](Self::set_host_driver).
    pub fn new(functions: &[ScriptedFunction]) -> Self {
        let model = Model {
            calls: Vec::new(),
            fault: None,
            files: BTreeMap::new(),
            devices: functions.iter().map(|function| DeviceModel::new(function.clone())).collect(),
            spaces: 0,
            injections: Vec::new(),
            maps_files: true,
        };
        Self { model: Arc::new(Mutex::new(model)), ended: Arc::default() }
    }

    /// iommufd maps no files, as before Linux 6.13.
    #[must_use]
    pub fn without_file_mappings(self) -> Self {
        self.model().maps_files = false;
        self
    }

    /// The same kernel as another process calls it.
    #[must_use]
    pub fn process(&self) -> Self {
        Self { model: self.model.clone(), ended: Arc::default() }
    }

    /// The process that calls it by this value, or a clone of it, ends: none of its calls does anything any longer, so
    /// that values of its own, which are to be dropped then, close their descriptors and give nothing back. Its virtual
    /// machines still hear of it, for they end with it.
    pub fn end_process(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// A host over this kernel.
    pub fn host(&self) -> Host {
        Host::over(Arc::new(self.clone()))
    }

    /// A KVM virtual machine, as `KVM_CREATE_VM` gives it.
    ///
    /// # Errors
    ///
    /// This process has no descriptor left.
    pub fn create_vm(&self) -> Result<OwnedFd, Errno> {
        self.model().lend(Kind::KvmVm(KvmModel::default()))
    }

    /// The names of all calls that there are.
    pub fn every_call() -> &'static [&'static str] {
        Call::NAMES
    }

    /// The names of the calls that were made, in order.
    pub fn calls(&self) -> Vec<&'static str> {
        self.model().calls.iter().map(|call| call.name()).collect()
    }

    /// The call after `before` more of them has this fault.
    pub fn fail(&self, before: usize, fault: CallFault) {
        let mut model = self.model();
        model.fault = Some((before, fault));
    }

    /// Whether the call that was to have a fault is yet to come.
    pub fn is_fault_pending(&self) -> bool {
        self.model().fault.is_some()
    }

    /// All that stands in the kernel, a line each: open files, mappings, wired vectors, irqfds, routes, memory slots.
    /// Empty if everything was given back. A KVM virtual machine without any of these is nothing.
    pub fn standing(&self) -> Vec<String> {
        self.model().standing()
    }

    /// The device interrupts. A guest that is reached by its pin ends that interrupt at once.
    pub fn interrupt(&self, place: usize, kind: IrqKind, vector: u32) {
        self.model().interrupt(place, kind, vector);
    }

    /// A driver of the host's has the function, or VFIO has it again. sysfs is not told.
    pub fn set_host_driver(&self, place: usize, has_it: bool) {
        if let Some(device) = self.model().devices.get_mut(place) {
            device.has_host_driver = has_it;
        }
    }

    /// What has reached guests since it was last asked for, in order.
    pub fn injections(&self) -> Vec<Injection> {
        std::mem::take(&mut self.model().injections)
    }

    /// Opens a file as somebody else does who hands it in.
    ///
    /// # Errors
    ///
    /// As the kernel opens it.
    pub fn open_for_another(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.model().open(path)
    }

    /// What the device's Command register is in hardware.
    pub fn command(&self, place: usize) -> u16 {
        self.model().devices.get(place).map_or(0, DeviceModel::command)
    }

    /// How often the device was reset on demand.
    pub fn resets(&self, place: usize) -> u32 {
        self.model().devices.get(place).map_or(0, |device| device.resets)
    }

    /// Devices have so many interrupts of this kind.
    #[cfg(test)]
    pub(crate) fn offer(&self, kind: IrqKind, count: u32) {
        for device in &mut self.model().devices {
            device.function.irqs[kind.position()] = count;
        }
    }

    /// Command of all devices is this when they are opened.
    #[cfg(test)]
    pub(crate) fn set_command(&self, command: u16) {
        for device in &mut self.model().devices {
            device.function.command = command;
        }
    }

    /// All devices are virtual functions that want this token.
    #[cfg(test)]
    pub(crate) fn want_token(&self, token: &str) {
        for device in &mut self.model().devices {
            device.function.vf_token = Some(token.into());
        }
    }

    /// Whether a device is open.
    #[cfg(test)]
    pub(crate) fn is_device_open(&self) -> bool {
        let mut model = self.model();
        model.forget_closed();
        model.files.values().any(|file| matches!(file.kind, Kind::Grouped { .. } | Kind::Cdev { .. }))
    }

    /// The registers of all devices are gone from behind their mappings.
    #[cfg(test)]
    pub(crate) fn unplug(&self) {
        let model = self.model();
        let bars = model.devices.iter().filter_map(|device| device.bar().ok());
        bars.for_each(|bar| rustix::fs::ftruncate(bar, 0).unwrap());
    }

    /// Enters a call: it is noted, and its fault, if it is to have one, comes with the model.
    pub(crate) fn enter(&self, call: Call) -> (MutexGuard<'_, Model>, Option<CallFault>) {
        let mut model = self.model();
        if self.ended.load(Ordering::Relaxed) && !call.name().starts_with("kvm") {
            return (model, Some(CallFault::Errno(Errno::EBADF)));
        }
        model.calls.push(call);
        let fault = match &mut model.fault {
            Some((before @ 1.., _)) => {
                *before -= 1;
                None
            }
            due => due.take().map(|(_, fault)| fault),
        };
        model.forget_closed();
        (model, fault)
    }

    /// A call that gives no number.
    fn call<T>(&self, call: Call, work: impl FnOnce(&mut Model) -> Result<T, Errno>) -> Result<T, Errno> {
        let (mut model, fault) = self.enter(call);
        match fault {
            None => work(&mut model),
            Some(CallFault::Late(errno)) => work(&mut model).and(Err(errno)),
            Some(CallFault::Errno(errno) | CallFault::Halfway(errno)) => Err(errno),
            Some(CallFault::Answer(_) | CallFault::Short) => panic!("{} gives no number", call.name()),
        }
    }

    /// A call that gives a number.
    fn number<T: TryFrom<u32>>(
        &self,
        call: Call,
        work: impl FnOnce(&mut Model) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (mut model, fault) = self.enter(call);
        match fault {
            None => work(&mut model),
            Some(CallFault::Late(errno)) => work(&mut model).and(Err(errno)),
            Some(CallFault::Errno(errno) | CallFault::Halfway(errno)) => Err(errno),
            Some(CallFault::Answer(number)) => T::try_from(number).map_err(|_| Errno::EINVAL),
            Some(CallFault::Short) => panic!("{} moves no bytes", call.name()),
        }
    }

    /// A call that moves so many bytes, or fewer.
    fn transfer(
        &self,
        call: Call,
        length: usize,
        work: impl FnOnce(&mut Model, usize) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let (mut model, fault) = self.enter(call);
        match fault {
            None => work(&mut model, length),
            Some(CallFault::Short) => work(&mut model, length / 2),
            Some(CallFault::Late(errno)) => work(&mut model, length).and(Err(errno)),
            Some(CallFault::Errno(errno) | CallFault::Halfway(errno)) => Err(errno),
            Some(CallFault::Answer(number)) => Ok(number as usize),
        }
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An interrupt that has reached the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Injection {
    /// A message.
    Message {
        /// Its address.
        address: u64,
        /// Its data.
        data: u32,
    },
    /// A line, by its GSI.
    Line(u32),
}

impl Model {
    fn standing(&mut self) -> Vec<String> {
        self.forget_closed();
        for file in self.files.values_mut() {
            if let Kind::KvmVm(kvm) = &mut file.kind {
                kvm.forget_closed(&self.devices);
            }
        }
        let mut standing: Vec<_> = self.files.values().flat_map(File::standing).collect();
        standing.extend(self.devices.iter().flat_map(DeviceModel::standing));
        standing
    }

    /// The virtual machines.
    fn kvms(&mut self) -> impl Iterator<Item = &mut KvmModel> {
        self.files.values_mut().filter_map(|file| match &mut file.kind {
            Kind::KvmVm(kvm) => Some(kvm),
            _ => None,
        })
    }

    /// The virtual machine that this descriptor names.
    #[cfg(feature = "kvm")]
    fn kvm(&mut self, vm: BorrowedFd<'_>) -> Result<&mut KvmModel, Errno> {
        match self.file(vm)?.1 {
            Kind::KvmVm(kvm) => Ok(kvm),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// What an event holds reaches the guest whose virtual machine has it armed; the event that says so when the guest
    /// has ended it.
    fn inject(&mut self, event: &KernelEvent) -> Option<u64> {
        let (injection, ended) = self.kvms().find_map(|kvm| kvm.inject(event))?;
        self.injections.push(injection);
        ended
    }

    fn interrupt(&mut self, place: usize, kind: IrqKind, vector: u32) {
        let Some(event) = self.devices.get_mut(place).and_then(|device| device.event(kind.get(), vector))
        else {
            return;
        };
        event.signal();
        let event = event.clone();
        if let Some(ended) = self.inject(&event) {
            self.devices.iter_mut().for_each(|device| device.unmask_by(ended));
        }
    }
}

/// No time passes.
impl Clock for ScriptedKernel {
    fn wait(&self, _: Duration) {}
}

impl fmt::Debug for ScriptedKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedKernel").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
