//! An emulated PCI Express root port with one hot-plug slot, which the guest's own driver serves.
//!
//! PCI Express Base 5.0, 6.7 "PCI Express Hot-Plug Support", 7.5.1.3 (Type 1 header), 7.5.3 (PCI Express capability);
//! PCI Local Bus 3.0, 6.8.1 (MSI). The slot has an attention button and a power controller. A device that comes is
//! announced by its presence, one that is wanted back by the button: the guest gives it up and turns the slot's power
//! off, and only then is it taken. One that is gone is a link that goes down.
//!
//! Not there: windows (a function behind the port answers where its BARs are), power management, error reporting, an
//! interrupt pin. Without MSI the port interrupts nobody.

mod registers;

use serde::{Deserialize, Serialize};

use super::super::layout::LOCAL_APIC;
use registers::{Dword, Registers};

/// What the guest does to a slot by a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// Nothing that concerns what is in it.
    None,
    /// The secondary bus is reset, or the slot's power goes off, and what is in it comes back later.
    Reset,
    /// The slot's power is off, and what was in it is given up.
    Released,
}

/// The message that the port interrupts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PortMessage {
    /// Where it is written to.
    pub(crate) address: u64,
    /// What is written.
    pub(crate) data: u32,
}

/// The port's state.
pub(super) struct Port {
    slot: u8,
    registers: Registers,
    /// Something is in the slot.
    present: bool,
    /// What is in it is wanted back.
    wanted: bool,
    /// Whether the port's interrupt condition held when it was last looked at.
    interrupting: bool,
}

/// A port's state in a file.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedPort {
    registers: Vec<u8>,
    present: bool,
    wanted: bool,
    interrupting: bool,
}

/// Red Hat's generic root port.
const IDENTITY: u32 = 0x000c_1b36;
const BUSES: u16 = 0x18;
const BRIDGE_CONTROL: u16 = 0x3e;
const BRIDGE_BUS_RESET: u16 = 1 << 6;

const EXPRESS: u16 = 0x40;
const LINK_CONTROL: u16 = EXPRESS + 0x10;
const LINK_DISABLE: u16 = 1 << 4;
const LINK_STATUS: u16 = EXPRESS + 0x12;
const LINK_ACTIVE: u16 = 1 << 13;
const SLOT_CONTROL: u16 = EXPRESS + 0x18;
const HOT_PLUG_INTERRUPT: u16 = 1 << 5;
const POWER_INDICATOR_OFF: u16 = 0b11 << 8;
const POWER_INDICATOR_ON: u16 = 0b01 << 8;
const POWER_OFF: u16 = 1 << 10;
const LINK_CHANGED_ENABLE: u16 = 1 << 12;
const SLOT_STATUS: u16 = EXPRESS + 0x1a;
const BUTTON_PRESSED: u16 = 1 << 0;
const PRESENCE_CHANGED: u16 = 1 << 3;
const PRESENT: u16 = 1 << 6;
const LINK_CHANGED: u16 = 1 << 8;
/// Button, power fault, retention latch, presence, command: enabled in Slot Control where Slot Status has them.
const SAME_BITS: u16 = 0x1f;

const MSI: u16 = 0x80;
const MSI_CONTROL: u16 = MSI + 2;
const MSI_ENABLE: u16 = 1;

/// 16 GT/s, 32 lanes.
const LINK: u32 = 0x0204;
/// Attention button, power controller, both indicators, surprise removal, hot-plug, no command interrupts.
const SLOT_CAPABILITIES: u32 = 0x0004_007b;

fn dwords(slot: u8, present: bool) -> Vec<Dword> {
    let row = |offset, value, writable, cleared| Dword { offset, value, writable, cleared };
    let number = u32::from(slot);
    let power = if present { POWER_INDICATOR_ON } else { POWER_INDICATOR_OFF | POWER_OFF };
    let attention_off = 0b11 << 6;
    let slot_state = u32::from(power | attention_off) | if present { u32::from(PRESENT) << 16 } else { 0 };
    let link_state = LINK << 16 | if present { u32::from(LINK_ACTIVE) << 16 } else { 0 };
    vec![
        row(0x00, IDENTITY, 0, 0),
        row(0x04, 0x0010_0000, 0x0547, 0xf900_0000),
        row(0x08, 0x0604_0000, 0, 0),
        row(0x0c, 0x0001_0000, 0xff, 0),
        row(BUSES, 0, 0x00ff_ffff, 0),
        row(0x1c, 0, 0xf0f0, 0xf900_0000),
        row(0x20, 0, 0xfff0_fff0, 0),
        row(0x24, 0x0001_0001, 0xfff0_fff0, 0),
        row(0x28, 0, u32::MAX, 0),
        row(0x2c, 0, u32::MAX, 0),
        row(0x34, u32::from(EXPRESS), 0, 0),
        row(0x3c, 0, 0x0043_00ff, 0),
        row(EXPRESS, 0x0142_0010 | u32::from(MSI) << 8, 0, 0),
        row(EXPRESS + 0x04, 0x8000, 0, 0),
        row(EXPRESS + 0x08, 0x2000, 0x70ff, 0x000f_0000),
        row(EXPRESS + 0x0c, 0x0010_0000 | LINK | number << 24, 0, 0),
        row(LINK_CONTROL, link_state, 0x00d3, 0),
        row(EXPRESS + 0x14, SLOT_CAPABILITIES | number << 19, 0, 0),
        row(SLOT_CONTROL, slot_state, 0x17ff, 0x011f_0000),
        row(EXPRESS + 0x1c, 0, 0x000f, 0),
        row(EXPRESS + 0x20, 0, 0, 0x0001_0000),
        row(EXPRESS + 0x2c, 0x1e, 0, 0),
        row(EXPRESS + 0x30, 4, 0x000f, 0),
        row(MSI, 0x0080_0005, 0x0001_0000, 0),
        row(MSI + 0x04, 0, !3, 0),
        row(MSI + 0x08, 0, u32::MAX, 0),
        row(MSI + 0x0c, 0, 0xffff, 0),
    ]
}

impl Port {
    /// The port of a slot as it is when the machine is turned on, with something in the slot or without.
    pub(super) fn new(slot: u8, present: bool) -> Self {
        let registers = Registers::new(&dwords(slot, present));
        Self { slot, registers, present, wanted: false, interrupting: false }
    }

    /// The port as it is when the machine is turned on, with what is in it; what is wanted back is given up.
    pub(super) fn reset(&mut self) {
        let Self { slot, present, wanted, .. } = *self;
        *self = Self { present, wanted, ..Self::new(slot, present && !wanted) };
    }

    /// The number of the bus behind it; none before the guest has given it one.
    pub(super) fn bus(&self) -> Option<u8> {
        let [secondary, _] = self.registers.word(BUSES + 1).to_le_bytes();
        (secondary != 0).then_some(secondary)
    }

    /// Whether what is behind it can be reached.
    pub(super) fn is_up(&self) -> bool {
        let off = self.registers.word(SLOT_CONTROL) & POWER_OFF != 0;
        let disabled = self.registers.word(LINK_CONTROL) & LINK_DISABLE != 0;
        self.present && !off && !disabled
    }

    /// Whether what is in it is wanted back.
    pub(super) fn is_asked_back(&self) -> bool {
        self.wanted
    }

    /// Whether what is in it was wanted back and has been given up.
    pub(super) fn is_released(&self) -> bool {
        self.wanted && self.registers.word(SLOT_CONTROL) & POWER_OFF != 0
    }

    /// The guest reads a register.
    pub(super) fn read(&self, offset: u16, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    /// The guest writes a register. What is to be interrupted with is asked for afterwards.
    pub(super) fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        let (was_up, in_reset, was_released) = (self.is_up(), self.bus_reset(), self.is_released());
        self.registers.write(offset, data);
        self.follow_link(was_up);
        // Whether or not the link was disabled before, as older drivers do.
        if self.is_released() && !was_released {
            Effect::Released
        } else if (was_up && !self.is_up()) || (!in_reset && self.bus_reset()) {
            Effect::Reset
        } else {
            Effect::None
        }
    }

    /// Something is put into the slot. A guest that waits for the button hears of the presence with it, and does not
    /// wait whether it is pressed again.
    pub(super) fn insert(&mut self) {
        (self.present, self.wanted) = (true, false);
        self.registers.set(SLOT_STATUS, PRESENT | PRESENCE_CHANGED | BUTTON_PRESSED, true);
        self.follow_link(false);
    }

    /// What is in the slot is wanted back. The button is pressed once: a second press would mean the contrary, as does
    /// the first where the power is off, and there the guest has given up already what was in it.
    pub(super) fn ask_back(&mut self) {
        if !std::mem::replace(&mut self.wanted, true) && !self.is_released() {
            self.registers.set(SLOT_STATUS, BUTTON_PRESSED, true);
        }
    }

    /// What was in the slot is gone.
    pub(super) fn remove(&mut self) {
        let was_up = self.is_up();
        (self.present, self.wanted) = (false, false);
        self.registers.set(SLOT_STATUS, PRESENT, false);
        self.registers.set(SLOT_STATUS, PRESENCE_CHANGED, true);
        self.follow_link(was_up);
    }

    /// What the port interrupts with, where it has come to have a reason since this was last asked.
    pub(super) fn interrupt(&mut self) -> Option<PortMessage> {
        let (control, status) = (self.registers.word(SLOT_CONTROL), self.registers.word(SLOT_STATUS));
        let link = control & LINK_CHANGED_ENABLE != 0 && status & LINK_CHANGED != 0;
        let reason = control & HOT_PLUG_INTERRUPT != 0 && (control & status & SAME_BITS != 0 || link);
        let rises = !std::mem::replace(&mut self.interrupting, reason) && reason;
        let enabled = self.registers.word(MSI_CONTROL) & MSI_ENABLE != 0;
        let word = |offset| u64::from(self.registers.word(MSI + offset));
        let address = word(4) | word(6) << 16 | word(8) << 32 | word(10) << 48;
        // Elsewhere there are no local interrupt controllers, and KVM would interrupt some processor all the same.
        let reaches = address & !0xf_ffff == u64::from(LOCAL_APIC);
        (rises && enabled && reaches).then(|| PortMessage { address, data: word(12) as u32 })
    }

    /// The port for a file.
    pub(super) fn save(&self) -> SavedPort {
        let Self { present, wanted, interrupting, .. } = *self;
        SavedPort { registers: self.registers.bytes().to_vec(), present, wanted, interrupting }
    }

    /// The port becomes what was saved; false if that is no port of this kind.
    pub(super) fn restore(&mut self, saved: &SavedPort) -> bool {
        (self.present, self.wanted, self.interrupting) = (saved.present, saved.wanted, saved.interrupting);
        self.registers.restore(&saved.registers)
    }

    fn bus_reset(&self) -> bool {
        self.registers.word(BRIDGE_CONTROL) & BRIDGE_BUS_RESET != 0
    }

    fn follow_link(&mut self, was_up: bool) {
        let up = self.is_up();
        self.registers.set(LINK_STATUS, LINK_ACTIVE, up);
        if up != was_up {
            self.registers.set(SLOT_STATUS, LINK_CHANGED, true);
        }
    }
}

#[cfg(test)]
mod tests;
