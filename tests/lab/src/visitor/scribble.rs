//! A hostile guest: random values of random widths into configuration space and BARs, from a seed, for some time.

use crate::Voice;
use crate::function::{Bar, Fault, Function, Ports};
use crate::random::Random;
use std::time::{Duration, Instant};

/// Capability id of MSI-X.
const MSIX: u8 = 0x11;

/// Scribbles until the time is over; the same seed makes the same accesses in the same order.
pub(crate) fn visit(function: &Function, seed: u64, seconds: u64, voice: &Voice) -> Result<(), Fault> {
    function.enable()?;
    // Whoever maps a BAR first has it for good: what is written to the BAR registers later moves it away under us.
    let bars: Vec<(u8, Bar)> =
        (0..6).filter_map(|bar| function.memory(bar).ok().map(|it| (bar, it))).collect();
    let ports = ports(function)?;
    let trapped = trapped(function);
    let mut random = Random::new(seed);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut next_word = Instant::now();
    let (mut configuration, mut registers, mut at_ports) = (0u64, 0u64, 0u64);
    while Instant::now() < until {
        let what = random.below(6);
        if what < 2 || bars.is_empty() && ports.is_empty() {
            scribble_config(function, &mut random);
            configuration += 1;
        } else if bars.is_empty() || what == 2 && !ports.is_empty() {
            let (bar, bytes) = &ports[random.below(ports.len() as u64) as usize];
            scribble_ports(bar, *bytes, &mut random);
            at_ports += 1;
        } else {
            let (number, bar) = &bars[random.below(bars.len() as u64) as usize];
            // Three of four go to the pages that the monitor emulates.
            let page = trapped.filter(|(bar, _)| bar == number && random.below(4) != 0);
            scribble_bar(bar, page.map(|(_, offset)| offset), &mut random)?;
            registers += 1;
        }
        // It may hurt its own machine any moment, and then its last word counts.
        if Instant::now() >= next_word {
            next_word += Duration::from_secs(2);
            let counts = format_args!("configuration={configuration} registers={registers} ports={at_ports}");
            voice.say("scribbled", counts);
        }
    }
    Ok(())
}

/// The I/O BARs, and how long each is: Linux shows a line for each BAR with its first and last address and flags, and
/// flag 0x100 is what it calls I/O.
fn ports(function: &Function) -> Result<Vec<(Ports, u64)>, Fault> {
    let path = function.path("resource");
    let text =
        std::fs::read_to_string(&path).map_err(|source| Fault::File { operation: "read", path, source })?;
    let mut ports = Vec::new();
    for (bar, line) in (0..6).zip(text.lines()) {
        let words =
            line.split_whitespace().map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16));
        if let [Ok(first), Ok(last), Ok(flags)] = words.collect::<Vec<_>>()[..]
            && flags & 0x100 != 0
        {
            ports.push((function.ports(bar)?, last - first + 1));
        }
    }
    Ok(ports)
}

/// The BAR and the offset of the MSI-X table.
fn trapped(function: &Function) -> Option<(u8, usize)> {
    let capability = function.capability(MSIX).ok()?;
    let place = u32::from_le_bytes(function.config(capability + 4).ok()?);
    Some(((place & 7) as u8, (place & !7) as usize))
}

fn scribble_config(function: &Function, random: &mut Random) {
    let width = 1 << random.below(3);
    let space = if random.below(2) == 0 { 0x100 } else { 0x1000 };
    let offset = random.below(space) & !(width - 1);
    let value = value(random).to_le_bytes();
    // Linux may refuse what lies beyond the space it knows; a guest that writes past it has nothing else to expect.
    let _refused = match random.below(2) {
        0 => function.config::<4>(offset & !3).map(|_read| ()),
        _ => function.write_config(offset, &value[..width as usize]),
    };
}

fn scribble_ports(ports: &Ports, bytes: u64, random: &mut Random) {
    let width = (1 << random.below(3)).min(bytes);
    let offset = random.below(bytes) & !(width - 1);
    let value = value(random).to_le_bytes();
    // Linux may refuse an access that is not what it expects of ports.
    let _refused = match (random.below(2), width) {
        (0, 1) => ports.read::<1>(offset).map(|_read| ()),
        (0, 2) => ports.read::<2>(offset).map(|_read| ()),
        (0, _) => ports.read::<4>(offset).map(|_read| ()),
        _ => ports.write(offset, &value[..width as usize]),
    };
}

fn scribble_bar(bar: &Bar, page: Option<usize>, random: &mut Random) -> Result<(), Fault> {
    let width = 1 << random.below(4);
    let (from, length) = match page {
        // A large table and the pending bits behind it.
        Some(offset) => (offset, (bar.bytes() - offset).min(0xa000)),
        None => (0, bar.bytes()),
    };
    let offset = (from + random.below(length as u64) as usize) & !(width - 1);
    let value = value(random);
    match (random.below(2), width) {
        (0, 1) => bar.read8(offset).map(|_read| ()),
        (0, 2) => bar.read16(offset).map(|_read| ()),
        (0, 4) => bar.read32(offset).map(|_read| ()),
        (0, _) => bar.read64(offset).map(|_read| ()),
        (_, 1) => bar.write8(offset, value as u8),
        (_, 2) => bar.write16(offset, value as u16),
        (_, 4) => bar.write32(offset, value as u32),
        (_, _) => bar.write64(offset, value),
    }
}

/// A value to write. Registers with a meaning have few bits set; half of the values have one.
fn value(random: &mut Random) -> u64 {
    let value = random.next();
    if value & 1 == 0 { value } else { 1 << (value >> 58) }
}
