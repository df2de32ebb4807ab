//! The VM's interrupt routing table: which message a GSI stands for.

use super::KvmVm;
use crate::errno::Errno;
use crate::sys::kvm::{Route, RouteTarget};
use kvm_bindings as k;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use vfio_assign_core::host::Message;

/// A Global System Interrupt: a line number of the VM's routing table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gsi(pub u32);

impl fmt::Display for Gsi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GSI {}", self.0)
    }
}

/// The interrupt routing table of one VM. A monitor that has its own implements this.
///
/// KVM replaces the whole table at once, so changes are collected and then committed.
pub trait RouteTable: Send + Sync + fmt::Debug {
    /// A GSI that nobody uses; it leads nowhere.
    ///
    /// # Errors
    ///
    /// There is none left.
    fn allocate(&self) -> Result<Gsi, RouteError>;

    /// A GSI that was given out is used no longer; its entry goes with the next commit.
    fn free(&self, gsi: Gsi);

    /// The GSI stands for this message from the next commit on: one that was given out, or a pin of the monitor's own
    /// IOAPIC.
    fn set(&self, gsi: Gsi, message: Message);

    /// All changes so far take effect, in one call to the kernel; none if nothing has changed.
    ///
    /// # Errors
    ///
    /// The old table stays in effect, and the changes wait for the next commit.
    fn commit(&self) -> Result<(), RouteError>;
}

/// Why the routing table was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// All entries that KVM allows are in use.
    #[error("KVM's interrupt routing table is full: all {limit} entries are in use")]
    Full {
        /// How many entries there are.
        limit: u32,
    },
    /// The kernel refused the table.
    #[error("KVM does not take an interrupt routing table of {entries} entries: {errno}")]
    Refused {
        /// How many entries the table had.
        entries: usize,
        /// What the kernel said.
        errno: Errno,
    },
}

/// The entries of the interrupt controllers that the kernel emulates for the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IrqchipRoutes {
    /// x86 with the whole irqchip in the kernel (`KVM_CREATE_IRQCHIP`): both 8259s on GSIs 0 to 15, the IOAPIC
    /// on 0 to 23.
    X86Full,
    /// GSIs 0 to 23 are kept free: the monitor has an IOAPIC of its own there (split irqchip).
    X86Split,
}

/// `KVM_IRQCHIP_PIC_MASTER`, which the bindings have on x86 only.
const PIC_MASTER: u32 = 0;
/// `KVM_IRQCHIP_PIC_SLAVE`.
const PIC_SLAVE: u32 = 1;
/// `KVM_IRQCHIP_IOAPIC`.
const IOAPIC: u32 = 2;
/// Pins of an IOAPIC.
const IOAPIC_PINS: u32 = 24;
/// Pins of one 8259.
const PIC_PINS: u32 = 8;

/// A routing table that this crate keeps.
#[derive(Debug)]
pub struct Routes {
    vm: KvmVm,
    chips: Vec<Route>,
    limit: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Every GSI that was given out, and its message once it has one.
    used: BTreeMap<u32, Option<Message>>,
    /// The highest GSI ever given out is below this.
    next: u32,
    freed: Vec<u32>,
    changed: bool,
}

impl Routes {
    /// The table of a VM that has none but its irqchip's own entries, which are kept.
    ///
    /// # Errors
    ///
    /// The kernel does not tell how many entries there may be.
    pub fn new(vm: KvmVm, chips: IrqchipRoutes) -> Result<Self, Errno> {
        let limit = vm.limit(k::KVM_CAP_IRQ_ROUTING)?;
        let chips = match chips {
            IrqchipRoutes::X86Full => x86_irqchip(),
            IrqchipRoutes::X86Split => Vec::new(),
        };
        let state = State { next: IOAPIC_PINS, ..State::default() };
        Ok(Self { vm, chips, limit, state: Mutex::new(state) })
    }

    /// How many entries the table may have, and how many are in use.
    pub fn usage(&self) -> (u32, usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (self.limit, self.chips.len() + state.used.len())
    }
}

impl RouteTable for Routes {
    fn allocate(&self) -> Result<Gsi, RouteError> {
        let full = RouteError::Full { limit: self.limit };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.chips.len() + state.used.len() >= self.limit as usize {
            return Err(full);
        }
        let gsi = match state.freed.pop() {
            Some(gsi) => gsi,
            None if state.next < self.limit => {
                state.next += 1;
                state.next - 1
            }
            None => return Err(full),
        };
        state.used.insert(gsi, None);
        Ok(Gsi(gsi))
    }

    fn free(&self, gsi: Gsi) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = state.used.remove(&gsi.0) {
            state.changed |= message.is_some();
            if gsi.0 >= IOAPIC_PINS {
                state.freed.push(gsi.0);
            }
        }
    }

    fn set(&self, gsi: Gsi, message: Message) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.used.insert(gsi.0, Some(message)).flatten();
        state.changed |= before != Some(message);
    }

    fn commit(&self) -> Result<(), RouteError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.changed {
            return Ok(());
        }
        let messages = state.used.iter().filter_map(|(gsi, message)| {
            let Message { address, data } = (*message)?;
            Some(Route { gsi: *gsi, target: RouteTarget::Msi { address, data } })
        });
        let table: Vec<_> = self.chips.iter().copied().chain(messages).collect();
        let committed = self.vm.host().kvm_set_gsi_routing(self.vm.fd(), &table);
        committed.map_err(|errno| RouteError::Refused { entries: table.len(), errno })?;
        state.changed = false;
        Ok(())
    }
}

/// What KVM's own table has after `KVM_CREATE_IRQCHIP`.
fn x86_irqchip() -> Vec<Route> {
    let ioapic = (0..IOAPIC_PINS).map(|pin| (pin, RouteTarget::Irqchip { chip: IOAPIC, pin }));
    let master = (0..PIC_PINS).map(|pin| (pin, RouteTarget::Irqchip { chip: PIC_MASTER, pin }));
    let slave = (0..PIC_PINS).map(|pin| (PIC_PINS + pin, RouteTarget::Irqchip { chip: PIC_SLAVE, pin }));
    ioapic.chain(master).chain(slave).map(|(gsi, target)| Route { gsi, target }).collect()
}
