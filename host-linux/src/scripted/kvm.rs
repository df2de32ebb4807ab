//! A virtual machine of the scripted host's KVM: its memory slots, its one routing table, its irqfds.

use super::Injection;
use super::device::DeviceModel;
use super::event::{KernelEvent, event_id, open_events};
use crate::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, BorrowedFd};

#[derive(Default)]
pub(super) struct KvmModel {
    /// Guest addresses and sizes of the slots.
    slots: BTreeMap<u32, (u64, u64)>,
    /// The messages that GSIs stand for; those of the irqchips are not kept.
    routes: BTreeMap<u32, (u64, u32)>,
    /// What eventfds inject, by their numbers.
    irqfds: BTreeMap<u64, Irqfd>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Irqfd {
    gsi: u32,
    /// The eventfd that is signalled when the guest has ended the interrupt.
    resample: Option<u64>,
}

impl KvmModel {
    /// `KVM_SET_USER_MEMORY_REGION`; without memory the slot goes.
    pub(super) fn set_slot(&mut self, slot: u32, guest: u64, size: Option<u64>) -> Result<(), Errno> {
        let Some(size) = size else {
            return self.slots.remove(&slot).map(drop).ok_or(Errno::EINVAL);
        };
        let overlaps = |(start, length): &(u64, u64)| guest < start + length && *start < guest + size;
        if self.slots.iter().any(|(other, place)| *other != slot && overlaps(place)) {
            return Err(Errno::EEXIST);
        }
        self.slots.insert(slot, (guest, size));
        Ok(())
    }

    /// `KVM_SET_GSI_ROUTING`: the messages of the new table.
    pub(super) fn set_routes(&mut self, routes: BTreeMap<u32, (u64, u32)>) {
        self.routes = routes;
    }

    /// `KVM_IRQFD`. A signal that the event holds is injected at once, and stays in it until it is disarmed. What
    /// was injected.
    pub(super) fn assign(
        &mut self,
        gsi: u32,
        event: BorrowedFd<'_>,
        resample: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Injection>, Errno> {
        let event = KernelEvent::new(event)?;
        let resample = match resample {
            Some(resample) => Some(event_id(resample.as_raw_fd()).ok_or(Errno::EINVAL)?),
            None => None,
        };
        if self.irqfds.contains_key(&event.id()) {
            return Err(Errno::EBUSY);
        }
        self.irqfds.insert(event.id(), Irqfd { gsi, resample });
        let injected = self.inject(&event).map(|(injection, _)| injection);
        if injected.is_some() {
            event.signal();
        }
        Ok(injected)
    }

    /// `KVM_IRQFD` the other way, which takes what the event holds. What is not assigned is no error.
    pub(super) fn deassign(&mut self, gsi: u32, event: BorrowedFd<'_>) -> Result<(), Errno> {
        let id = event_id(event.as_raw_fd()).ok_or(Errno::EINVAL)?;
        if self.irqfds.get(&id).is_some_and(|irqfd| irqfd.gsi == gsi) {
            self.irqfds.remove(&id);
            KernelEvent::new(event)?.take();
        }
        Ok(())
    }

    /// What an event holds reaches the guest, if it is armed; and the event that says so when the guest has ended it.
    pub(super) fn inject(&self, event: &KernelEvent) -> Option<(Injection, Option<u64>)> {
        let irqfd = self.irqfds.get(&event.id())?;
        if !event.take() {
            return None;
        }
        let injection = match self.routes.get(&irqfd.gsi) {
            Some((address, data)) => Injection::Message { address: *address, data: *data },
            None => Injection::Line(irqfd.gsi),
        };
        Some((injection, irqfd.resample))
    }

    /// An eventfd is new: whichever had its number was closed, and its irqfd went with it.
    pub(super) fn forget_number(&mut self, event: BorrowedFd<'_>) {
        if let Some(id) = event_id(event.as_raw_fd()) {
            self.irqfds.remove(&id);
        }
    }

    /// An irqfd goes with its eventfd's last descriptor outside the kernel.
    pub(super) fn forget_closed(&mut self, devices: &[DeviceModel]) {
        if self.irqfds.is_empty() {
            return;
        }
        let own: BTreeSet<_> = devices.iter().flat_map(DeviceModel::own_descriptors).collect();
        let open = open_events(&own);
        self.irqfds.retain(|id, _| open.contains(id));
    }

    /// What stands, without the numbers that the caller chooses.
    pub(super) fn standing(&self) -> Vec<String> {
        let slots = self.slots.values().map(|(at, size)| format!("KVM: slot at {at:#x} {size:#x}"));
        let routes = self.routes.values().map(|(at, data)| format!("KVM: route {at:#x} {data:#x}"));
        let irqfds = self.irqfds.values().map(|irqfd| match self.routes.get(&irqfd.gsi) {
            Some((at, data)) => format!("KVM: irqfd to {at:#x} {data:#x}"),
            None => format!("KVM: irqfd to line {}", irqfd.gsi),
        });
        let mut standing: Vec<_> = slots.chain(routes).chain(irqfds).collect();
        standing.sort();
        standing
    }
}
