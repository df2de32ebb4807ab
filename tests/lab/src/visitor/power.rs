//! D3hot and back (PCI Power Management 1.2, 5.4.1), again and again.

use crate::Voice;
use crate::function::{Fault, Function};
use std::time::Duration;

/// Capability id of Power Management.
const POWER: u8 = 1;
/// Where the state is in it.
const CONTROL: u64 = 4;
const D3HOT: u16 = 3;
const ROUNDS: u32 = 50;
/// What software leaves a function alone for after either change (5.6.1).
const RECOVERY: Duration = Duration::from_millis(10);

/// After each round the header is as it was, and the device answers.
pub(crate) fn visit(function: &Function, voice: &Voice) -> Result<(), Fault> {
    function.enable()?;
    let control = function.capability(POWER)? + CONTROL;
    let bar = function.memory(0)?;
    let first = bar.read32(0)?;
    let mut right = 0;
    for _ in 0..ROUNDS {
        let header: [u8; 64] = function.config(0)?;
        function.write_config(control, &D3HOT.to_le_bytes())?;
        std::thread::sleep(RECOVERY);
        let asleep = u16::from_le_bytes(function.config(control)?) & 3 == D3HOT;
        // A function in D3hot answers nothing but configuration requests.
        let silent = bar.read32(0)? == u32::MAX;
        function.write_config(control, &[0, 0])?;
        std::thread::sleep(RECOVERY);
        let awake = u16::from_le_bytes(function.config(control)?) & 3 == 0;
        // Without No_Soft_Reset what was set is gone: BARs first, then decoding.
        for at in (0x10..0x40).step_by(4).chain([4]) {
            function.write_config(at as u64, &header[at..at + 4])?;
        }
        let restored = function.config::<64>(0)? == header && bar.read32(0)? == first;
        right += u32::from(asleep && silent && awake && restored);
        if !(asleep && silent && awake && restored) {
            voice.say(
                "fault",
                format_args!("asleep={asleep} silent={silent} awake={awake} restored={restored}"),
            );
            break;
        }
    }
    voice.say("power", format_args!("rounds={ROUNDS} right={right}"));
    Ok(())
}
