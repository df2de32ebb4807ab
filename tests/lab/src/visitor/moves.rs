//! A BAR that is moved while it decodes: nobody is at the old address then, and the device is there again afterwards.

use crate::Voice;
use crate::function::{Fault, Function};

const BAR0: u64 = 0x10;
const ROUNDS: u32 = 50;
/// The bits of a 32-bit memory BAR that say what it is.
const KIND: u32 = 0xf;

/// Moves BAR 0 away and back, with decoding on all the time.
pub(crate) fn visit(function: &Function, voice: &Voice) -> Result<(), Fault> {
    function.enable()?;
    let bar = function.memory(0)?;
    let there = bar.read32(0)?;
    let home = u32::from_le_bytes(function.config(BAR0)?);
    // The last place in the same 256 MiB that a BAR of this size fits in; whoever is there loses nothing by it.
    let away = ((home | 0x0fff_ffff) - (bar.bytes() as u32 - 1)) & !KIND;
    let mut right = 0;
    for _ in 0..ROUNDS {
        function.write_config(BAR0, &away.to_le_bytes())?;
        let moved = u32::from_le_bytes(function.config(BAR0)?) & !KIND == away;
        let gone = bar.read32(0)? == u32::MAX;
        function.write_config(BAR0, &home.to_le_bytes())?;
        let back = bar.read32(0)? == there;
        right += u32::from(moved && gone && back);
        if !(moved && gone && back) {
            voice.say(
                "fault",
                format_args!("moved={moved} gone={gone} back={back} home={home:#x} away={away:#x}"),
            );
            break;
        }
    }
    voice.say("moves", format_args!("rounds={ROUNDS} right={right}"));
    Ok(())
}
