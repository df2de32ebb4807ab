//! Accesses that are answered on the spot: they need nothing of the host, and are most of what a guest's driver does
//! to emulated registers.
//!
//! What is here is a shorter way to what `pieces.rs` does with the same access; whatever does not fit goes there.

use crate::function::AssignedFunction;
use crate::interrupts::Vector;
use crate::operation::{Access, Target};
use crate::windows::Window;

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// What the access reads, and how many bytes of it, if it is one of those and the function is at rest.
    pub(crate) fn at_once(&mut self, access: &Access) -> Option<(u64, usize)> {
        if !self.at_rest {
            return None;
        }
        let (address, size, data) = match access {
            Access::Read { target: Target::Config(offset), size } => {
                let (register, lane) = self.map.own(*offset, *size)?;
                let value = self.virtual_value(register).wrapping_shr(lane.wrapping_mul(8));
                self.counters.config_accesses = self.counters.config_accesses.wrapping_add(1);
                self.counters.local_accesses = self.counters.local_accesses.wrapping_add(1);
                return Some((u64::from(value), *size));
            }
            Access::Read { target: Target::Memory(address), size } => (*address, *size, None),
            Access::Write { target: Target::Memory(address), data } => (*address, data.len(), Some(data)),
            _ => return None,
        };
        let (byte, width) = self.decoder.table_piece(address, size)?;
        let msix = self.interrupts.msix.as_mut()?;
        let answer = match data {
            None => (msix.read_table(byte, width), size),
            Some(data) if msix.write_table(byte, width, data.value(0, width)) => (0, 0),
            // Written again it is the same, and then what it has changed is settled.
            Some(_) => return None,
        };
        self.counters.bar_accesses = self.counters.bar_accesses.wrapping_add(1);
        self.counters.local_accesses = self.counters.local_accesses.wrapping_add(1);
        Some(answer)
    }
}
