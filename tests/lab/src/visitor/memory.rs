//! Memory in BAR 2, as QEMU's `ivshmem-plain` has it: read, written in part as a disk would be, read again. BAR 0 is
//! smaller than a page.

use crate::Voice;
use crate::function::{Bar, Fault, Function};
use sha2::{Digest, Sha256};

const WRITE_LINE: &[u8] = b"written by the guest\n";
const WRITE_AT: usize = 8 << 20;
const WRITE_BYTES: usize = 4 << 20;

/// Both BARs.
pub(crate) fn visit(function: &Function, voice: &Voice) -> Result<(), Fault> {
    function.enable()?;
    let registers = function.memory(0)?;
    // The plain device has no peers: its interrupt registers take no value, and it has no number among them.
    registers.write32(0, 0xffff_ffff)?;
    voice.say("registers", format_args!("bytes={} position={:#x}", registers.bytes(), registers.read32(8)?));
    let memory = function.memory(2)?;
    voice.say("found", format_args!("name=bar2 bytes={}", memory.bytes()));
    voice.say("read", format_args!("sha256={}", digest(&memory)?));
    let line: Vec<u8> = WRITE_LINE.iter().copied().cycle().take(WRITE_BYTES).collect();
    for (at, bytes) in line.chunks_exact(8).enumerate() {
        let mut value = [0; 8];
        value.copy_from_slice(bytes);
        memory.write64(WRITE_AT + at * 8, u64::from_le_bytes(value))?;
    }
    voice.say("written", format_args!("sha256={}", digest(&memory)?));
    Ok(())
}

/// The same BAR as memory of another kind, a disk's own: a part of every 64 KiB is written, then all of it is compared.
pub(crate) fn visit_large(function: &Function, voice: &Voice) -> Result<(), Fault> {
    const STRIDE: usize = 64 << 10;
    function.enable()?;
    let memory = function.memory(2)?;
    let value = |at: usize| (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for at in (0..memory.bytes()).step_by(STRIDE) {
        memory.write64(at, value(at))?;
    }
    let mut kept = true;
    for at in (0..memory.bytes()).step_by(STRIDE) {
        kept &= memory.read64(at)? == value(at);
    }
    voice.say("large", format_args!("bytes={} kept={kept}", memory.bytes()));
    Ok(())
}

fn digest(memory: &Bar) -> Result<String, Fault> {
    let mut hash = Sha256::new();
    let mut block = Vec::with_capacity(4096);
    for at in (0..memory.bytes()).step_by(8) {
        block.extend_from_slice(&memory.read64(at)?.to_le_bytes());
        if block.len() == block.capacity() {
            hash.update(&block);
            block.clear();
        }
    }
    hash.update(&block);
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
