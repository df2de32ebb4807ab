//! KVM as one function's side of the hypervisor.

use super::slots::{MemorySlot, MemorySlots, SlotError};
use super::{Gsi, KvmVm, RouteError, RouteTable};
use crate::bar::WindowMemory;
use crate::errno::Errno;
use crate::guest::{GuestSide, LineEnd};
use crate::sys::EventFd;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use vfio_assign_core::host::Message;
use vfio_assign_core::{GuestAddr, Span, VectorIndex};

/// Message addresses that reach a local APIC: Intel SDM volume 3, 11.11.1 Message Address Register Format.
const APIC_ADDRESSES: u64 = 0xfee0_0000;
const APIC_MASK: u64 = 0xffff_ffff_fff0_0000;

/// Windows as memory slots, interrupts as irqfds. Everything is given back when dropped.
///
/// No signal is lost. One that comes in the very moment when its vector is unmasked may reach the guest twice: KVM
/// listens to the event first and then looks whether it holds a signal, and both find the same one (Linux 6.12,
/// virt/kvm/eventfd.c). Drivers must bear that anyway, and the event's user cannot prevent it.
#[derive(Debug)]
pub struct KvmGuest {
    vm: KvmVm,
    slots: MemorySlots,
    routes: Arc<dyn RouteTable>,
    windows: BTreeMap<usize, MemorySlot>,
    gsis: BTreeMap<VectorIndex, Gsi>,
    line: Option<(Gsi, LineEnd)>,
}

/// Why KVM did not do its part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmError {
    /// A window.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The routing table.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The message leads to no local APIC. KVM would deliver it to some vCPU all the same.
    #[error("vector {vector}: message address {address:#x} is outside 0xfee00000 to 0xfeefffff")]
    Address {
        /// The vector.
        vector: VectorIndex,
        /// The address that the guest has set.
        address: u64,
    },
    /// The vector was never given a message.
    #[error("vector {vector} has no route")]
    NoRoute {
        /// The vector.
        vector: VectorIndex,
    },
    /// The function's pin leads to no line of the guest's.
    #[error("the function's pin leads to no line of the guest's")]
    NoLine,
    /// The kernel refused the irqfd of the pin.
    #[error("KVM does not {} the event of the interrupt pin, {gsi}: {errno}",
        if *arm { "arm" } else { "disarm" })]
    Line {
        /// Whether it was to be armed.
        arm: bool,
        /// The line's GSI.
        gsi: Gsi,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel refused the irqfd.
    #[error("KVM does not {} the event of vector {vector}, {gsi}: {errno}",
        if *arm { "arm" } else { "disarm" })]
    Irqfd {
        /// Whether it was to be armed.
        arm: bool,
        /// The vector.
        vector: VectorIndex,
        /// Its GSI.
        gsi: Gsi,
        /// What the kernel said.
        errno: Errno,
    },
}

impl KvmGuest {
    /// One function's side of `vm`.
    pub fn new(vm: KvmVm, slots: MemorySlots, routes: Arc<dyn RouteTable>) -> Self {
        Self { vm, slots, routes, windows: BTreeMap::new(), gsis: BTreeMap::new(), line: None }
    }

    /// The function's pin leads to this line of the guest's, which several functions may share.
    ///
    /// [`LineEnd::Resampled`]: a pin of the IOAPIC in the kernel, which tells VFIO of the end of an interrupt
    /// (`KVM_CAP_IRQFD_RESAMPLE`; not with a split irqchip). [`LineEnd::Told`]: a pin of the monitor's own IOAPIC, which
    /// keeps the pin's message in the route table and hears of the end by `KVM_EXIT_IOAPIC_EOI`.
    #[must_use]
    pub fn with_line(mut self, gsi: Gsi, end: LineEnd) -> Self {
        self.line = Some((gsi, end));
        self
    }

    /// How many windows the guest sees, and how many vectors have a route.
    pub fn usage(&self) -> (usize, usize) {
        (self.windows.len(), self.gsis.len())
    }

    fn gsi(&self, vector: VectorIndex) -> Result<Gsi, KvmError> {
        self.gsis.get(&vector).copied().ok_or(KvmError::NoRoute { vector })
    }
}

impl GuestSide for KvmGuest {
    type Error = KvmError;

    fn map(&mut self, index: usize, guest: Span<GuestAddr>, memory: WindowMemory) -> Result<(), KvmError> {
        let slot = self.slots.show_window(guest, memory)?;
        self.windows.insert(index, slot);
        Ok(())
    }

    fn unmap(&mut self, index: usize) -> Result<(), KvmError> {
        if let Some(slot) = self.windows.get_mut(&index) {
            slot.remove()?;
            self.windows.remove(&index);
        }
        Ok(())
    }

    fn route(&mut self, vector: VectorIndex, message: Message) -> Result<(), KvmError> {
        if message.address & APIC_MASK != APIC_ADDRESSES {
            return Err(KvmError::Address { vector, address: message.address });
        }
        let gsi = match self.gsis.get(&vector) {
            Some(gsi) => *gsi,
            None => {
                let gsi = self.routes.allocate()?;
                self.gsis.insert(vector, gsi);
                gsi
            }
        };
        self.routes.set(gsi, message);
        Ok(())
    }

    fn commit_routes(&mut self) -> Result<(), KvmError> {
        Ok(self.routes.commit()?)
    }

    fn arm(&mut self, vector: VectorIndex, event: &EventFd) -> Result<(), KvmError> {
        let gsi = self.gsi(vector)?;
        let armed = self.vm.host().kvm_assign_irqfd(self.vm.fd(), gsi.0, event.as_fd(), None);
        armed.map_err(|errno| KvmError::Irqfd { arm: true, vector, gsi, errno })
    }

    fn disarm(&mut self, vector: VectorIndex, event: &EventFd) -> Result<(), KvmError> {
        let gsi = self.gsi(vector)?;
        let disarmed = self.vm.host().kvm_deassign_irqfd(self.vm.fd(), gsi.0, event.as_fd());
        disarmed.map_err(|errno| KvmError::Irqfd { arm: false, vector, gsi, errno })
    }

    fn line(&self) -> Option<LineEnd> {
        self.line.map(|(_, end)| end)
    }

    fn arm_line(&mut self, event: &EventFd, resample: Option<&EventFd>) -> Result<(), KvmError> {
        let (gsi, _) = self.line.ok_or(KvmError::NoLine)?;
        let resample = resample.map(AsFd::as_fd);
        let armed = self.vm.host().kvm_assign_irqfd(self.vm.fd(), gsi.0, event.as_fd(), resample);
        armed.map_err(|errno| KvmError::Line { arm: true, gsi, errno })
    }

    fn disarm_line(&mut self, event: &EventFd) -> Result<(), KvmError> {
        let (gsi, _) = self.line.ok_or(KvmError::NoLine)?;
        let disarmed = self.vm.host().kvm_deassign_irqfd(self.vm.fd(), gsi.0, event.as_fd());
        disarmed.map_err(|errno| KvmError::Line { arm: false, gsi, errno })
    }

    fn release_routes(&mut self) -> Result<(), KvmError> {
        for gsi in std::mem::take(&mut self.gsis).into_values() {
            self.routes.free(gsi);
        }
        Ok(self.routes.commit()?)
    }
}

impl Drop for KvmGuest {
    fn drop(&mut self) {
        if let Err(error) = self.release_routes() {
            log::error!("routes of a function that is gone stay in the VM's table: {error}");
        }
    }
}
