//! Reads a register in BAR 0 for ever, a thousand times a second, beside whatever driver has the device.

use crate::Voice;
use crate::function::{Fault, Function};
use std::time::Duration;

/// What nobody answers reads so.
const NOBODY: u32 = u32::MAX;

/// Says when it begins, and when nobody answers for the first time; goes on all the same.
pub(crate) fn visit(function: &Function, voice: &Voice) -> Result<(), Fault> {
    let registers = function.memory(0)?;
    voice.say("polling", format_args!("value={:#x}", registers.read32(0)?));
    let mut answered = true;
    loop {
        if registers.read32(0)? == NOBODY && std::mem::take(&mut answered) {
            voice.say("unanswered", format_args!("value={NOBODY:#x}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
