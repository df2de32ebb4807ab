//! A piece of configuration space: what the guest reads of a register, and what it does by writing to one.

use super::{Piece, lane_values, set_lanes};
use crate::access::{ByteLanes, DwordAccess, next_dword};
use crate::config::{Policy, Register};
use crate::function::AssignedFunction;
use crate::interrupts::Vector;
use crate::phases::Phase;
use crate::regs::header::Command;
use crate::regs::power::{AF_INITIATE_FLR, DEVICE_CONTROL_INITIATE_FLR, PMCSR_STATE, PowerState};
use crate::windows::Window;

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    pub(super) fn config_piece(&mut self, offset: u32, write: bool) {
        let start = self.operation.done;
        let Some(piece) = next_dword(offset, self.operation.bytes.len(), start) else {
            self.operation.phase = Phase::Finish;
            return;
        };
        self.operation.done = start.saturating_add(piece.bytes);
        let found = piece.access.and_then(|access| Some((access, self.map.register(access.dword)?)));
        let Some((access, register)) = found else {
            self.missed(piece.bytes);
            return;
        };
        let base = start.wrapping_sub(piece.lane);
        if write {
            self.write_register(access, register, base);
        } else {
            self.read_register(access, register, base);
        }
    }

    /// The bytes that the guest reads from the virtual register go into the access; hardware's are to be read.
    fn read_register(&mut self, access: DwordAccess, register: Register, base: usize) {
        let Policy { virtual_read, .. } = Policy::of(register);
        let msi = self.interrupts.msi.as_ref().filter(|_| register == Register::MsiPending);
        if let Some(msi) = msi {
            let query = msi.pending();
            let bits = query.known;
            self.operation.piece = Piece::MsiPending { base, lanes: access.lanes, query, bits };
            self.operation.phase = Phase::Read;
            return;
        }
        let value = self.virtual_value(register) & virtual_read;
        set_lanes(&mut self.operation.bytes, base, access.lanes, value);
        let lanes = access.lanes.and(ByteLanes::touching(!virtual_read));
        self.operation.piece = Piece::Config { dword: access.dword, base, lanes, virtual_read };
        self.operation.phase = Phase::Read;
    }

    /// What the guest reads from a register that is virtual, wholly or in part.
    #[inline]
    pub(crate) fn virtual_value(&self, register: Register) -> u32 {
        let upper_half = |value: u16| u32::from(value).wrapping_shl(16);
        let msix = self.interrupts.msix.as_ref();
        match register {
            Register::Command | Register::CommandWithoutPin => u32::from(self.command.bits()),
            Register::Bar(bar) => self.bars.read(bar),
            Register::MsixControl => msix.map_or(0, |msix| upper_half(msix.message_control())),
            Register::MsixTable => msix.map_or(0, |msix| msix.layout().table_register()),
            Register::MsixPba => msix.map_or(0, |msix| msix.layout().pba_register()),
            Register::MsiControl
            | Register::MsiAddress
            | Register::MsiUpperAddress
            | Register::MsiData
            | Register::MsiMask => self.interrupts.msi.as_ref().map_or(0, |msi| msi.read(register)),
            _ => self.map.constant(register),
        }
    }

    /// The guest writes the enabled bytes of a register.
    #[inline(never)]
    fn write_register(&mut self, access: DwordAccess, register: Register, base: usize) {
        let lanes = access.lanes;
        let mut value = lane_values(&self.operation.bytes, base) & lanes.mask();
        self.operation.forwards.clear();
        match register {
            Register::Command | Register::CommandWithoutPin => {
                self.write_command(value, lanes);
                value = self.allowed(value);
            }
            Register::Bar(bar) => {
                let changed = self.bars.write(bar, value, lanes);
                if changed {
                    self.decode_changed();
                }
            }
            Register::MsixControl => {
                if let Some(msix) = &mut self.interrupts.msix {
                    let [_, _, low, high] = lanes.mask().to_le_bytes();
                    let mask = u16::from_le_bytes([low, high]);
                    let [_, _, low, high] = value.to_le_bytes();
                    let new = (msix.message_control() & !mask) | u16::from_le_bytes([low, high]);
                    msix.write_message_control(new);
                }
            }
            Register::MsiControl
            | Register::MsiAddress
            | Register::MsiUpperAddress
            | Register::MsiData
            | Register::MsiMask => {
                if let Some(msi) = &mut self.interrupts.msi {
                    let mask = lanes.mask() & Policy::of(register).virtual_write;
                    msi.write(register, (msi.read(register) & !mask) | (value & mask));
                }
                // Address and data that come in one access take effect as one change.
                self.operation.phase = Phase::Piece;
                return;
            }
            Register::PowerControl if !lanes.and(ByteLanes::touching(PMCSR_STATE)).is_none() => {
                self.write_power_state(PowerState::from_pmcsr(value));
            }
            Register::DeviceControl if value & DEVICE_CONTROL_INITIATE_FLR != 0 => {
                self.start_reset(self.wake(), false);
            }
            Register::AdvancedFeaturesControl if value & AF_INITIATE_FLR != 0 => {
                self.start_reset(self.wake(), false);
            }
            _ => {}
        }
        let mut forward = lanes.and(ByteLanes::touching(Policy::of(register).forward));
        // They are taken from the end: the lowest bytes go first, and before what a reset has put there.
        while let Some((at, width)) = forward.take_last_run() {
            let Some(offset) = access.dword.checked_add(u16::from(at)) else {
                break;
            };
            let shifted = u64::from(value.wrapping_shr(u32::from(at).wrapping_mul(8))) & width.all_ones();
            self.operation.forward_config(offset, width, u32::try_from(shifted).unwrap_or(0));
        }
        self.enter_revoke();
    }

    fn write_command(&mut self, value: u32, lanes: ByteLanes) {
        let [low, high, ..] = lanes.mask().to_le_bytes();
        let mask = Command::from_bits_retain(u16::from_le_bytes([low, high]));
        let [low, high, ..] = value.to_le_bytes();
        let new = Command::from_bits_retain(u16::from_le_bytes([low, high]));
        let before = self.command;
        self.command = (before & !mask) | (new & mask);
        if (before ^ self.command).intersects(Command::MEMORY_SPACE | Command::IO_SPACE) {
            self.decode_changed();
        }
        if let Some(intx) = &mut self.interrupts.intx {
            intx.set_disabled(self.command.contains(Command::INTERRUPT_DISABLE));
        }
    }
}
