//! Trapped memory and ports of any offset and length, in BARs of any place and over one another, against the model that
//! knows one byte at a time where it goes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfio_assign_core::fake::{MsixPlan, Shape};
use vfio_assign_core::{BarIndex, Bytes};
use vfio_assign_tests::{Bytewise, Interrupts, Placed, Space, bar};

const BASE: u64 = 0xc000_0000;
/// Bytes that say what the device is.
const HEAD: usize = 12;

fuzz_target!(|bytes: &[u8]| {
    let Some((head, accesses)) = bytes.split_first_chunk::<HEAD>() else {
        return;
    };
    let Some((shape, placed, msix)) = device(head) else {
        return;
    };
    let interrupts = if head[0] & 1 == 0 { Interrupts::Off } else { Interrupts::Masked };
    let mut function = Bytewise::new(&shape, &placed, msix, interrupts);
    let edges = function.edges();
    for access in accesses.chunks_exact(6).take(100) {
        let size = usize::from(access[1]) % (Bytes::LIMIT + 8);
        let near = i64::from(i16::from_le_bytes([access[2], access[3]])) >> (access[0] >> 5);
        let (space, edge) = edges[usize::from(access[4]) % edges.len()];
        let address = edge.wrapping_add_signed(near);
        let data = [0, 1, 2, 3, 4, 5, 6, 7].map(|at: u8| access[5].wrapping_mul(2 * at + 1));
        match access[0] % 4 {
            0 => function.read(space, address, size),
            1 => function.read(space, address.wrapping_neg(), size),
            2 => function.write(space, address, &data.repeat(9)[..size]),
            _ => function.turn_over(space, address, size % 32),
        }
    }
});

/// A device with BARs of several kinds, where they are, and the MSI-X that it offers.
fn device(head: &[u8; HEAD]) -> Option<(Shape, Vec<Placed>, Option<MsixPlan>)> {
    let [flags, sizes, place0, place2, place4, rom, count_low, count_high, table, table_high, pba, pba_high] =
        *head;
    let size0 = 0x1000 << (sizes & 3);
    let size2 = 0x10 << (sizes >> 2 & 15);
    let ports = 4 << (sizes >> 6);
    let count = 1 + u16::from_le_bytes([count_low, count_high]) % 320;
    let owner = bar(if flags & 2 == 0 { 0 } else { 2 });
    let slot = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x1fff) * 8;
    let plan = MsixPlan {
        vectors: count,
        table: (owner, slot(table, table_high)),
        pba: (bar(0), slot(pba, pba_high)),
    };
    let shape = Shape::new().wide_bar(bar(0), size0).memory_bar(bar(2), size2).io_bar(bar(4), ports);
    let shape = shape.rom(0x800).msix(plan);
    let at = |place: u8, size: u64| BASE + u64::from(place) * 0x100 / size * size;
    let placed = vec![
        Placed { bar: bar(0), space: Space::Memory, base: at(place0, size0), size: size0 },
        Placed { bar: bar(2), space: Space::Memory, base: at(place2, size2), size: size2 },
        Placed { bar: bar(4), space: Space::Ports, base: 0xc000 + u64::from(place4) * ports, size: ports },
        Placed { bar: BarIndex::ROM, space: Space::Memory, base: at(rom, 0x800), size: 0x800 },
    ];
    let ends = |(owner, first): (BarIndex, u32), bytes: u64| {
        let size = if owner == bar(0) { size0 } else { size2 };
        let first = u64::from(first);
        (first + bytes <= size).then_some((owner, first, first + bytes))
    };
    let Some(table) = ends(plan.table, u64::from(count) * 16) else {
        return Some((shape, placed, None));
    };
    // One that is elsewhere is shown in another place.
    let pba = ends(plan.pba, u64::from(count).div_ceil(64) * 8)?;
    let apart = table.0 != pba.0 || table.2 <= pba.1 || pba.2 <= table.1;
    apart.then_some((shape, placed, Some(plan)))
}
