//! BARs: a device is refused or has BARs that keep to their masks; what they decode is what a naive register says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfio_assign_core::{BarIndex, BarKind, Bars, ByteLanes, ConfigImage};

fuzz_target!(|bytes: &[u8]| {
    let Some((description, writes)) = bytes.split_at_checked(7 * 2) else {
        return;
    };
    let (mut space, mut sizes) = ([0; 64], [0; 7]);
    for (index, pair) in description.chunks_exact(2).enumerate() {
        let register = if index == 6 { 0x30 } else { 0x10 + 4 * index };
        space[register] = pair[0] & 0xf;
        // Mostly powers of two.
        sizes[index] = match pair[1] {
            shift @ 0..=63 => 1 << shift,
            odd @ 64..=79 => u64::from(odd) << 8,
            _ => 0,
        };
    }
    let Ok(mut bars) = Bars::new(ConfigImage::new(&space), &sizes) else {
        return;
    };
    for (bar, found) in bars.iter() {
        assert!(found.size.is_power_of_two(), "{bar}");
        assert_eq!(found.size, sizes[bar.position()], "{bar}");
        assert!(matches!(found.kind, BarKind::Memory64 { .. }) || found.size <= 1 << 31, "{bar}");
    }
    let mut naive = [0u64; 7];
    for write in writes.chunks_exact(6) {
        let register = usize::from(write[0] % 7);
        let lanes = ByteLanes::from_bits(write[1]);
        let value = u32::from_le_bytes([write[2], write[3], write[4], write[5]]);
        let index = BarIndex::ALL[register];
        let before = bars.read(index);
        let changed = bars.write(index, value, lanes);
        assert_eq!(changed, bars.read(index) != before, "{index}");
        let Some((owner, shift)) = owner(&bars, register) else {
            assert_eq!(bars.read(index), 0, "{index} is absent");
            continue;
        };
        let mask = u64::from(lanes.mask()) << shift;
        naive[owner] = (naive[owner] & !mask) | (u64::from(value) << shift & mask);
        check(&bars, owner, naive[owner]);
    }
    bars.reset();
    assert!(bars.iter().all(|(bar, _)| bars.memory(bar).is_none() && bars.ports(bar).is_none()));
});

/// The BAR that a register belongs to, and where in it its bits are.
fn owner(bars: &Bars, register: usize) -> Option<(usize, u32)> {
    if bars.get(BarIndex::ALL[register]).is_some() {
        return Some((register, 0));
    }
    let below = register.checked_sub(1).filter(|_| register < 6)?;
    let wide = matches!(bars.get(BarIndex::ALL[below])?.kind, BarKind::Memory64 { .. });
    wide.then_some((below, 32))
}

fn check(bars: &Bars, owner: usize, written: u64) {
    let index = BarIndex::ALL[owner];
    let found = bars.get(index).expect("a BAR");
    let wide = matches!(found.kind, BarKind::Memory64 { .. });
    let address = match found.kind {
        BarKind::Rom => !(found.size - 1) & 0xffff_f800,
        _ if wide => !(found.size - 1),
        _ => !(found.size - 1) & 0xffff_ffff,
    };
    let (low, high) = (address & 0xffff_ffff, address & !0xffff_ffff);
    let base = written & address;
    let enabled = found.kind != BarKind::Rom || written & 1 != 0;
    let sizing = |bits: u64| bits != 0 && base & bits == bits;
    let decodes = base != 0 && !sizing(low) && !sizing(high) && base.checked_add(found.size - 1).is_some();
    let expected = decodes.then(|| (base, base + (found.size - 1)));
    let memory = bars.memory(index).map(|span| (span.first().get(), span.last().get()));
    let ports = bars.ports(index).map(|span| (span.first().get(), span.last().get()));
    let (is_memory, is_ports) = (found.kind != BarKind::Io && enabled, found.kind == BarKind::Io);
    assert_eq!(memory, expected.filter(|_| is_memory), "{index}, memory");
    assert_eq!(ports, expected.filter(|_| is_ports), "{index}, ports");
    assert_eq!(u64::from(bars.read(index)) & low, base & low, "{index}");
    if wide {
        assert_eq!(
            u64::from(bars.read(BarIndex::ALL[owner + 1])) << 32,
            base & !0xffff_ffff,
            "{index}, upper half"
        );
    }
}
