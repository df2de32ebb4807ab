//! Configuration space of an emulated function as data: what stands in it, which bits the guest writes, and which it
//! clears by writing ones.

/// Bytes that are there; beyond, a function without extended capabilities reads zero.
const SIZE: usize = 256;

/// A dword of it.
pub(super) struct Dword {
    pub(super) offset: u16,
    /// What stands there at first.
    pub(super) value: u32,
    /// Bits that the guest writes.
    pub(super) writable: u32,
    /// Bits that the guest clears by writing ones.
    pub(super) cleared: u32,
}

/// The registers.
pub(super) struct Registers {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    cleared: [u8; SIZE],
}

impl Registers {
    /// Registers of these dwords, all others zero.
    pub(super) fn new(dwords: &[Dword]) -> Self {
        let mut registers = Self { bytes: [0; SIZE], writable: [0; SIZE], cleared: [0; SIZE] };
        for dword in dwords {
            let place = usize::from(dword.offset);
            let fields = [
                (&mut registers.bytes, dword.value),
                (&mut registers.writable, dword.writable),
                (&mut registers.cleared, dword.cleared),
            ];
            for (field, value) in fields {
                field[place..place + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
        registers
    }

    /// The guest reads.
    pub(super) fn read(&self, offset: u16, data: &mut [u8]) {
        for (place, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(place).copied().unwrap_or(0);
        }
    }

    /// The guest writes.
    pub(super) fn write(&mut self, offset: u16, data: &[u8]) {
        for (place, &written) in (usize::from(offset)..).zip(data) {
            let Some(byte) = self.bytes.get_mut(place) else { return };
            let kept = *byte & !(written & self.cleared[place]);
            *byte = kept & !self.writable[place] | written & self.writable[place];
        }
    }

    /// A word, as it stands there.
    pub(super) fn word(&self, offset: u16) -> u16 {
        let mut word = [0; 2];
        self.read(offset, &mut word);
        u16::from_le_bytes(word)
    }

    /// Sets or clears bits of a word, whatever the guest may write.
    pub(super) fn set(&mut self, offset: u16, bits: u16, on: bool) {
        let word = if on { self.word(offset) | bits } else { self.word(offset) & !bits };
        let place = usize::from(offset);
        if let Some(bytes) = self.bytes.get_mut(place..place + 2) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// All that stands there.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What stood there before stands there again, if it is as much.
    pub(super) fn restore(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() == SIZE;
        if fits {
            self.bytes.copy_from_slice(bytes);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        let dword = Dword { offset: 0x10, value: 0xff00_0000, writable: 0x0000_00ff, cleared: 0x0f00_0000 };
        Registers::new(&[dword])
    }

    fn dword(registers: &Registers) -> u32 {
        let mut data = [0xff; 4];
        registers.read(0x10, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_write_changes_what_it_may() {
        let mut registers = registers();
        registers.write(0x10, &0x0000_ffff_u32.to_le_bytes());
        assert_eq!(dword(&registers), 0xff00_00ff);
    }

    #[test]
    fn ones_clear_what_they_may() {
        let mut registers = registers();
        registers.write(0x13, &[0xf3]);
        assert_eq!(dword(&registers), 0xfc00_0000);
    }

    #[test]
    fn beyond_the_end_there_is_zero() {
        let mut data = [0xff; 4];
        registers().read(0xfe, &mut data);
        assert_eq!(data, [0; 4]);
    }

    #[test]
    fn a_write_over_the_end_stops_there() {
        let mut registers = registers();
        registers.write(0xff, &[1, 2, 3]);
        assert_eq!(registers.word(0xfe), 0);
    }
}
