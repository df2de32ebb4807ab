//! QEMU's `pci-testdev` (`docs/specs/pci-testdev.txt` in its source): a BAR that says which register it wants written,
//! and counts the writes that were right; one such BAR of memory, one of ports. BAR 2 is large and does nothing.

use crate::Voice;
use crate::function::{Bar, Fault, Function, Ports};

/// Writing a test's number selects it.
const TEST: usize = 0;
/// Bytes of a right access.
const WIDTH: usize = 1;
const OFFSET: usize = 4;
const DATA: usize = 8;
const COUNT: usize = 12;
/// The test whose writes the device itself handles.
const PLAIN: u8 = 0;
const WRITES: u32 = 50;

/// Both BARs.
pub(crate) fn visit(function: &Function, voice: &Voice) -> Result<(), Fault> {
    function.enable()?;
    let memory = function.memory(0)?;
    voice.say("memory", format_args!("written={WRITES} counted={}", by_memory(&memory)?));
    voice.say("ports", format_args!("written={WRITES} counted={}", by_ports(&function.ports(1)?)?));
    voice.say("large", format_args!("bytes={}", function.memory(2)?.bytes()));
    Ok(())
}

fn by_memory(bar: &Bar) -> Result<u32, Fault> {
    bar.write8(TEST, PLAIN)?;
    let (width, offset, data) = (bar.read8(WIDTH)?, bar.read32(OFFSET)? as usize, bar.read32(DATA)?);
    let before = bar.read32(COUNT)?;
    for _ in 0..WRITES {
        match width {
            1 => bar.write8(offset, data as u8)?,
            2 => bar.write16(offset, data as u16)?,
            _ => bar.write32(offset, data)?,
        }
    }
    Ok(bar.read32(COUNT)? - before)
}

fn by_ports(bar: &Ports) -> Result<u32, Fault> {
    bar.write(TEST as u64, &[PLAIN])?;
    let [width] = bar.read::<1>(WIDTH as u64)?;
    let dword = |at: usize| bar.read::<4>(at as u64).map(u32::from_le_bytes);
    let (offset, data, before) = (dword(OFFSET)?, dword(DATA)?, dword(COUNT)?);
    for _ in 0..WRITES {
        bar.write(u64::from(offset), &data.to_le_bytes()[..usize::from(width).clamp(1, 4)])?;
    }
    Ok(dword(COUNT)? - before)
}
