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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Bytes;
    use crate::addr::{GuestAddr, PageSize, VectorIndex};
    use crate::description::{Description, Region};
    use crate::host::{InterruptKind, Outcome};
    use crate::operation::Begin;

    const BASE: u64 = 0xfe00_0000;
    const TABLE: u64 = BASE + 0x2000;
    const CONTROL: u32 = 0x42;

    /// A function with two vectors, attached, with its BAR placed and decoding on.
    fn decoding() -> AssignedFunction<[Vector; 2], [Window; 0]> {
        let mut config = [0; 256];
        for (at, byte) in [(0x00, 0x36), (0x06, 0x10), (0x34, 0x40), (0x40, 0x11), (0x42, 1), (0x45, 0x20)] {
            config[at] = byte;
        }
        config[0x49] = 0x30;
        let mut regions = [Region::default(); 7];
        regions[0].size = 0x4000;
        let description =
            Description { config: &config, regions, page_size: PageSize::SIZE_4K, ..Description::default() };
        let mut function = AssignedFunction::new(&description, [Vector::RESET; 2], [], |_| {}).unwrap();
        let _ = function.begin_attach();
        end(&mut function);
        write(&mut function, Target::Config(0x10), &0xfe00_0000u32.to_le_bytes());
        write(&mut function, Target::Config(0x04), &[2, 0]);
        function
    }

    fn end(function: &mut AssignedFunction<[Vector; 2], [Window; 0]>) {
        while let Some((token, _)) = function.next_step() {
            let _ = function.complete(token, Outcome::Done);
        }
    }

    fn write(function: &mut AssignedFunction<[Vector; 2], [Window; 0]>, target: Target, data: &[u8]) {
        let _ = function.begin(Access::Write { target, data: Bytes::from_slice(data) });
        end(function);
    }

    fn read(offset: u32, size: usize) -> Access {
        Access::Read { target: Target::Config(offset), size }
    }

    fn table(offset: u64) -> Target {
        Target::Memory(GuestAddr::new(TABLE + offset))
    }

    fn mask(masked: bool) -> Access {
        let data = Bytes::from_slice(&[u8::from(masked), 0, 0, 0]);
        Access::Write { target: table(12), data }
    }

    #[test]
    fn own_bytes_of_a_register_are_read_at_once() {
        let mut function = decoding();
        let before = function.counters().local_accesses;
        assert_eq!(function.at_once(&read(0x10, 4)), Some((0xfe00_0000, 4)));
        assert_eq!(function.at_once(&read(0x13, 1)), Some((0xfe, 1)));
        assert_eq!(function.counters().local_accesses, before + 2);
    }

    #[test]
    fn bytes_of_hardware_and_of_two_registers_are_not() {
        let mut function = decoding();
        let answers =
            [read(0x00, 4), read(0x40, 4), read(0x12, 4), read(0x10, 8)].map(|it| function.at_once(&it));
        assert_eq!(answers, [None; 4]);
    }

    #[test]
    fn masked_entry_is_written_and_read_at_once() {
        let mut function = decoding();
        let data = Bytes::from_slice(&0xfee0_1003u32.to_le_bytes());
        assert_eq!(function.at_once(&Access::Write { target: table(0), data }), Some((0, 0)));
        assert_eq!(function.at_once(&Access::Read { target: table(0), size: 4 }), Some((0xfee0_1000, 4)));
        assert_eq!(function.at_once(&Access::Read { target: table(2), size: 4 }), None);
    }

    #[test]
    fn entry_that_comes_into_effect_is_settled() {
        let mut function = decoding();
        assert_eq!(function.at_once(&mask(false)), Some((0, 0)));
        assert_eq!(function.at_once(&mask(true)), Some((0, 0)));
        write(&mut function, Target::Config(CONTROL), &[0, 0x80]);
        assert_eq!(function.begin(mask(false)), Begin::Steps);
    }

    #[test]
    fn nothing_is_answered_while_an_interrupt_waits_to_be_settled() {
        let mut function = decoding();
        function.handle_interrupt(InterruptKind::Msix, VectorIndex::default());
        assert_eq!(function.at_once(&read(0x10, 4)), None);
    }
}
