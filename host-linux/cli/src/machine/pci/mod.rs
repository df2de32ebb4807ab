//! The PCI buses of the machine: bus 0 with the host bridge in slot 0, and one function for each other slot.
//!
//! A function is either in its slot of bus 0, where one of PCI Express is an integrated endpoint of the root complex to
//! the guest; or the slot has a root port, the function is alone on the bus behind it, and may come and go while the
//! guest runs. Where its BARs are is the guest's choice and changes while it runs, so each function is asked whether an
//! address is its own.

pub(crate) mod config;
mod function;
mod host_bridge;
mod port;
mod slot;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::event::Event;
use super::layout::BUSES;
use crate::help::Help;
use host_bridge::HostBridge;
use slot::Slot;

pub(crate) use function::{PciFunction, Quarantine};
pub(crate) use port::{PortMessage, SavedPort};

/// Slots of bus 0.
const SLOTS: u8 = 32;
/// The slot of the first device; the others follow.
pub(crate) const FIRST_SLOT: u8 = 1;
/// Bytes of a function's configuration space.
const CONFIG_SIZE: u16 = 4096;
// A bus behind each port, and bus 0.
const _: () = assert!(BUSES >= SLOTS as u16);

/// The bus.
pub(crate) struct PciBus {
    bridge: HostBridge,
    /// Slots 1, 2, ….
    slots: Vec<Slot>,
    /// Set when the devices are there that the machine starts with, or will never come.
    arrived: OnceLock<()>,
    /// Raised when whoever keeps the devices is to look at them: one was given up, or has died.
    look: Event,
    /// How many functions were dead when they were taken.
    buried: Mutex<usize>,
    interrupt: Box<dyn Fn(PortMessage) + Send + Sync>,
}

/// What answers configuration accesses.
enum Configured<'a> {
    /// The port of a slot.
    Port(&'a Slot),
    /// What is in the slot.
    Function(&'a Slot),
}

/// Devices that are still being opened.
///
/// The guest boots meanwhile. It waits where it looks for a device; before that it cannot have told a device
/// where its BARs are, so nothing else can be meant for one. Nobody waits any more once this is dropped.
pub(crate) struct Arrival(Arc<PciBus>);

impl Drop for Arrival {
    fn drop(&mut self) {
        // Set by the only one that there is; a second time would change nothing.
        let _refused = self.0.arrived.set(());
    }
}

/// What the guest finds where a device may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotPlan {
    /// Devices that the machine starts with.
    pub(crate) devices: usize,
    /// Slots for hot-plug; none: the devices are on bus 0.
    pub(crate) hot_plug: usize,
}

/// Why there is no such bus.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSlot {
    /// More functions than slots.
    #[error("{count} devices do not fit into the guest's {room} slots")]
    TooMany {
        /// How many devices.
        count: usize,
        /// How many slots.
        room: usize,
    },
    /// No event.
    #[error("cannot make an eventfd for the PCI bus: {0}")]
    Event(std::io::Error),
}

impl Help for NoSlot {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::TooMany { room, .. } if *room < usize::from(SLOTS - 1) => {
                "give as many --slots as there are --device, or more".into()
            }
            Self::TooMany { .. } => "give fewer --device".into(),
            Self::Event(_) => "raise the number of open files: `ulimit -n`".into(),
        })
    }
}

impl PciBus {
    /// A bus with the host bridge and slots as planned, whose ports interrupt by `interrupt`.
    pub(crate) fn new(
        plan: SlotPlan,
        interrupt: impl Fn(PortMessage) + Send + Sync + 'static,
    ) -> Result<(Arc<Self>, Arrival), NoSlot> {
        let SlotPlan { devices, hot_plug } = plan;
        let room = if hot_plug == 0 { usize::from(SLOTS - 1) } else { hot_plug };
        if devices > room {
            return Err(NoSlot::TooMany { count: devices, room });
        }
        let slots = match hot_plug {
            0 => (0..devices).map(|_| Slot::of_bus()).collect(),
            count => {
                let numbers = (FIRST_SLOT..SLOTS).take(count);
                numbers
                    .map(|number| Slot::with_port(number, usize::from(number - FIRST_SLOT) < devices))
                    .collect()
            }
        };
        let bus = Arc::new(Self {
            bridge: HostBridge::new(),
            slots,
            arrived: OnceLock::new(),
            look: Event::new().map_err(NoSlot::Event)?,
            buried: Mutex::default(),
            interrupt: Box::new(interrupt),
        });
        let arrival = Arrival(Arc::clone(&bus));
        Ok((bus, arrival))
    }

    /// Puts a function into a slot: before the guest can have looked for it, or into a slot for hot-plug.
    pub(crate) fn put(&self, slot: u8, function: Arc<dyn PciFunction>) {
        if let Some(slot) = self.slot(slot) {
            self.send(slot.put(function, self.arrived.get().is_some()));
        }
    }

    /// Takes the function out of a slot. When this returns no processor is in it or will be.
    pub(crate) fn take(&self, slot: u8) {
        if let Some(slot) = self.slot(slot) {
            // While nobody counts: a processor whose fault it explains finds it in its slot or here, and never in both.
            let mut buried = self.buried();
            let (function, message) = slot.take();
            *buried += usize::from(function.is_some_and(|function| function.revoke_if_dead()));
            drop(buried);
            self.send(message);
        }
    }

    /// Asks the guest to give up what is in a slot; false if the slot is none for hot-plug, and the guest cannot be
    /// asked.
    pub(crate) fn ask_back(&self, slot: u8) -> bool {
        let Some(slot) = self.slot(slot) else { return false };
        let Some(message) = slot.ask_back() else { return false };
        if slot.is_released() {
            // Its power was off before, and the guest says nothing more of it.
            self.look.raise();
        }
        self.send(message);
        true
    }

    /// Whether the guest has given up what is in a slot and was asked back.
    pub(crate) fn is_released(&self, slot: u8) -> bool {
        self.slot(slot).is_some_and(Slot::is_released)
    }

    /// Whether the guest was asked for what is in a slot.
    pub(crate) fn is_asked_back(&self, slot: u8) -> bool {
        self.slot(slot).is_some_and(Slot::is_asked_back)
    }

    /// Slots for hot-plug with nothing in them.
    pub(crate) fn free_slots(&self) -> impl Iterator<Item = u8> {
        let free = |(number, slot): (u8, &Slot)| (slot.has_port() && slot.is_empty()).then_some(number);
        (FIRST_SLOT..).zip(&self.slots).filter_map(free)
    }

    /// Raised when one of the devices was given up, or has died.
    pub(crate) fn look(&self) -> &Event {
        &self.look
    }

    fn slot(&self, number: u8) -> Option<&Slot> {
        self.slots.get(usize::from(number.checked_sub(FIRST_SLOT)?))
    }

    fn buried(&self) -> MutexGuard<'_, usize> {
        self.buried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: Option<PortMessage>) {
        if let Some(message) = message {
            (self.interrupt)(message);
        }
    }

    /// Does something with each function that the guest can reach, until one has an answer.
    fn find<T>(&self, mut ask: impl FnMut(&dyn PciFunction) -> Option<T>) -> Option<T> {
        self.slots.iter().find_map(|slot| slot.with(&mut ask)?)
    }

    /// Slots in which there may be a function.
    pub(crate) fn slots(&self) -> Vec<u8> {
        (0..=self.slots.len() as u8).collect()
    }

    /// Whether there are slots for hot-plug.
    pub(crate) fn has_ports(&self) -> bool {
        self.slots.iter().any(Slot::has_port)
    }

    /// The ports as they are when the machine is turned on.
    pub(crate) fn reset(&self) {
        self.slots.iter().for_each(Slot::reset);
        // What was wanted back is given up by that.
        self.look.raise();
    }

    /// The ports for a file.
    pub(crate) fn save(&self) -> Vec<SavedPort> {
        self.slots.iter().filter_map(Slot::save_port).collect()
    }

    /// The ports become what was saved; false if those were others.
    pub(crate) fn restore(&self, ports: &[SavedPort]) -> bool {
        let with_ports: Vec<_> = self.slots.iter().filter(|slot| slot.has_port()).collect();
        with_ports.len() == ports.len()
            && with_ports.iter().zip(ports).all(|(slot, port)| slot.restore_port(port))
    }

    /// How many functions have died so far. None of their memory is in the guest any more when this returns.
    pub(crate) fn revoke_dead(&self) -> usize {
        let buried = self.buried();
        // Also those that the guest cannot reach by accesses that are trapped.
        let dead = self.slots.iter().filter_map(|slot| slot.look_at(|function| function.revoke_if_dead()));
        let dead = dead.filter(|dead| *dead).count();
        if dead != 0 {
            self.look.raise();
        }
        dead + *buried
    }

    /// Why no processor may run; none if all may.
    pub(crate) fn quarantine(&self) -> Option<Quarantine> {
        self.slots.iter().find_map(|slot| slot.look_at(|function| function.quarantine())?)
    }

    /// The register at an offset of the memory-mapped configuration space, and how much of an access it takes.
    fn register(offset: u64, length: usize) -> (u16, usize) {
        let register = (offset % u64::from(CONFIG_SIZE)) as u16;
        (register, length.min(usize::from(CONFIG_SIZE - register)))
    }

    /// Bus and slot at an offset of the memory-mapped configuration space; none for all but the first function of a slot.
    fn address(offset: u64) -> Option<(u8, u8)> {
        let function = offset / u64::from(CONFIG_SIZE);
        let bus = u8::try_from(function >> 8).ok()?;
        // Eight functions to a slot, of which the first is there.
        function.is_multiple_of(8).then_some((bus, (function >> 3 & 0x1f) as u8))
    }

    /// What answers configuration accesses at a bus and slot; waits for a device that is still being opened.
    fn configured(&self, (bus, slot): (u8, u8)) -> Option<Configured<'_>> {
        let found = match (bus, slot) {
            (0, slot) => self.slot(slot)?,
            (bus, 0) => self.slots.iter().find(|slot| slot.leads_to(bus))?,
            _ => return None,
        };
        if bus == 0 && found.has_port() {
            return Some(Configured::Port(found));
        }
        self.arrived.wait();
        Some(Configured::Function(found))
    }

    /// A read of the memory-mapped configuration space.
    pub(crate) fn ecam_read(&self, offset: u64, data: &mut [u8]) {
        let (register, length) = Self::register(offset, data.len());
        let data = &mut data[..length];
        match Self::address(offset) {
            Some((0, 0)) => self.bridge.config_read(register, data),
            Some(address) => match self.configured(address) {
                Some(Configured::Port(slot)) => slot.port_read(register, data),
                Some(Configured::Function(slot)) => {
                    slot.with(|function| function.config_read(register, data));
                }
                None => {}
            },
            None => {}
        }
    }

    /// A write to the memory-mapped configuration space.
    pub(crate) fn ecam_write(&self, offset: u64, data: &[u8]) {
        let (register, length) = Self::register(offset, data.len());
        let data = &data[..length];
        match Self::address(offset).and_then(|address| self.configured(address)) {
            Some(Configured::Port(slot)) => {
                let (released, message) = slot.port_write(register, data);
                if released {
                    self.look.raise();
                }
                self.send(message);
            }
            Some(Configured::Function(slot)) => {
                slot.with(|function| function.config_write(register, data));
            }
            None => {}
        }
    }

    /// A read of memory space.
    pub(crate) fn memory_read(&self, address: u64, data: &mut [u8]) {
        let _claimed = self.find(|function| function.memory_read(address, data).then_some(()));
    }

    /// A write to memory space.
    pub(crate) fn memory_write(&self, address: u64, data: &[u8]) {
        let _claimed = self.find(|function| function.memory_write(address, data).then_some(()));
    }

    /// A read of port space.
    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) {
        let _claimed = self.find(|function| function.port_read(port, data).then_some(()));
    }

    /// A write to port space.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) {
        let _claimed = self.find(|function| function.port_write(port, data).then_some(()));
    }
}

#[cfg(test)]
pub(crate) mod tests;
