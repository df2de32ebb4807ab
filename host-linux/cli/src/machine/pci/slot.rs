//! A slot: what is in it, and the root port that leads to it if it is one for hot-plug.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::PciFunction;
use super::port::{Effect, Port, PortMessage, SavedPort};

/// A slot.
pub(super) struct Slot {
    port: Option<Mutex<Port>>,
    /// Whether what is in it can be reached, for accesses that take no other lock.
    up: AtomicBool,
    /// Accesses hold it for reading, so that the function is nobody's any more once it was taken.
    function: RwLock<Option<Arc<dyn PciFunction>>>,
}

impl Slot {
    /// A slot of bus 0.
    pub(super) fn of_bus() -> Self {
        Self { port: None, up: AtomicBool::new(true), function: RwLock::default() }
    }

    /// A slot behind a port; `full` if the machine starts with something in it.
    pub(super) fn with_port(number: u8, full: bool) -> Self {
        let port = Some(Mutex::new(Port::new(number, full)));
        Self { port, up: AtomicBool::new(full), function: RwLock::default() }
    }

    /// Whether it is a slot for hot-plug.
    pub(super) fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.function.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Does something with the function, if it is there and can be reached.
    pub(super) fn with<T>(&self, access: impl FnOnce(&dyn PciFunction) -> T) -> Option<T> {
        self.look_at(|function| self.up.load(Ordering::SeqCst).then(|| access(function)))?
    }

    /// Does something with the function, if it is there.
    pub(super) fn look_at<T>(&self, look: impl FnOnce(&dyn PciFunction) -> T) -> Option<T> {
        let function = self.function.read().unwrap_or_else(PoisonError::into_inner);
        function.as_deref().map(look)
    }

    /// Puts a function in; `announced` if the guest may have found the slot empty.
    pub(super) fn put(&self, function: Arc<dyn PciFunction>, announced: bool) -> Option<PortMessage> {
        *self.function.write().unwrap_or_else(PoisonError::into_inner) = Some(function);
        if !announced {
            return None;
        }
        self.change_port(Port::insert)?.1
    }

    /// Takes the function out; what the port interrupts with for that.
    pub(super) fn take(&self) -> (Option<Arc<dyn PciFunction>>, Option<PortMessage>) {
        let taken = self.function.write().unwrap_or_else(PoisonError::into_inner).take();
        (taken, self.change_port(Port::remove).and_then(|((), message)| message))
    }

    /// Asks the guest to give up what is in it; none if the guest cannot be asked.
    pub(super) fn ask_back(&self) -> Option<Option<PortMessage>> {
        Some(self.change_port(Port::ask_back)?.1)
    }

    /// Whether the guest was asked for what is in it.
    pub(super) fn is_asked_back(&self) -> bool {
        self.lock_port().is_some_and(|port| port.is_asked_back())
    }

    /// Whether the guest has given up what was asked back.
    pub(super) fn is_released(&self) -> bool {
        self.lock_port().is_some_and(|port| port.is_released())
    }

    /// Whether the bus behind it has this number, and what is on it can be reached.
    pub(super) fn leads_to(&self, bus: u8) -> bool {
        self.lock_port().is_some_and(|port| port.is_up() && port.bus() == Some(bus))
    }

    /// The port as it is when the machine is turned on.
    pub(super) fn reset(&self) {
        self.change_port(Port::reset);
    }

    /// The port for a file, if there is one.
    pub(super) fn save_port(&self) -> Option<SavedPort> {
        Some(self.lock_port()?.save())
    }

    /// The port becomes what was saved; false if that is no port of this kind, or there is none.
    pub(super) fn restore_port(&self, saved: &SavedPort) -> bool {
        let Some(mut port) = self.lock_port() else { return false };
        let restored = port.restore(saved);
        self.up.store(port.is_up(), Ordering::SeqCst);
        restored
    }

    /// The guest reads a register of the port.
    pub(super) fn port_read(&self, register: u16, data: &mut [u8]) {
        if let Some(port) = self.lock_port() {
            port.read(register, data);
        }
    }

    /// The guest writes a register of the port. Whether it has given up what is in the slot, and what the port
    /// interrupts with.
    pub(super) fn port_write(&self, register: u16, data: &[u8]) -> (bool, Option<PortMessage>) {
        let changed = self.change_port(|port| port.write(register, data));
        let (effect, message) = changed.unwrap_or((Effect::None, None));
        if effect == Effect::Reset {
            // Without the port: the device may take its time.
            self.look_at(|function| function.reset());
        }
        (effect == Effect::Released, message)
    }

    fn lock_port(&self) -> Option<MutexGuard<'_, Port>> {
        Some(self.port.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_port<T>(&self, change: impl FnOnce(&mut Port) -> T) -> Option<(T, Option<PortMessage>)> {
        let mut port = self.lock_port()?;
        let result = change(&mut port);
        self.up.store(port.is_up(), Ordering::SeqCst);
        Some((result, port.interrupt()))
    }
}
