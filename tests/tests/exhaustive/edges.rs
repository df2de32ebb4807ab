//! A1, A2, M1, M3: every access of 1 to 16 bytes around each edge of the MSI-X table, the Pending Bit Array and each BAR,
//! read and written, against the byte-wise model.

use vfio_assign_core::BarIndex;
use vfio_assign_core::fake::{Capture, MsixPlan, Shape};
use vfio_assign_tests::{Bytewise, Interrupts, Placed, Space, bar, memory_at};

const BASE: u64 = 0xc000_0000;

/// A device, where its BARs are, and its MSI-X.
struct Case {
    shape: Shape,
    placed: Vec<Placed>,
    msix: Option<MsixPlan>,
}

/// Every access that begins at most 16 bytes from an edge; each write from the same state.
fn every_access_around_every_edge(case: &Case) {
    for interrupts in [Interrupts::Off, Interrupts::Masked] {
        let start = Bytewise::new(&case.shape, &case.placed, case.msix, interrupts);
        for (space, edge) in start.edges() {
            let mut read = start.clone();
            for address in edge.saturating_sub(16)..=edge.saturating_add(16) {
                for size in 1..=16 {
                    read.read(space, address, size);
                    start.clone().turn_over(space, address, size);
                }
            }
        }
    }
}

fn capture(text: &str) -> Shape {
    text.parse::<Capture>().expect("a capture").shape()
}

fn plan(vectors: u16, table: (u8, u32), pba: (u8, u32)) -> MsixPlan {
    MsixPlan { vectors, table: (bar(table.0), table.1), pba: (bar(pba.0), pba.1) }
}

#[test]
fn a1_nvme_with_its_structures_on_pages_of_their_own() {
    every_access_around_every_edge(&Case {
        shape: capture(include_str!("../../captures/nvme.capture")),
        placed: vec![memory_at(0, BASE, 0x4000)],
        msix: Some(plan(65, (0, 0x2000), (0, 0x3000))),
    });
}

/// Memory BARs one behind the other, ports, and the ROM behind the last BAR.
#[test]
fn a1_e1000e_with_bars_that_touch() {
    let at = |bar, space, base, size| Placed { bar, space, base, size };
    every_access_around_every_edge(&Case {
        shape: capture(include_str!("../../captures/e1000e.capture")),
        placed: vec![
            memory_at(0, BASE, 0x2_0000),
            memory_at(1, BASE + 0x2_0000, 0x2_0000),
            at(bar(2), Space::Ports, 0xc000, 0x20),
            memory_at(3, BASE + 0x4_0000, 0x4000),
            at(BarIndex::ROM, Space::Memory, BASE + 0x8_0000, 0x4_0000),
        ],
        msix: Some(plan(5, (3, 0), (3, 0x2000))),
    });
}

#[test]
fn a1_edu_without_structures() {
    every_access_around_every_edge(&Case {
        shape: capture(include_str!("../../captures/edu.capture")),
        placed: vec![memory_at(0, BASE, 0x10_0000)],
        msix: None,
    });
}

/// The table from the BAR's first byte, the Pending Bit Array to its last, another BAR behind it.
#[test]
fn a1_structures_at_both_ends_of_a_bar() {
    let msix = plan(3, (0, 0), (0, 0xff8));
    every_access_around_every_edge(&Case {
        shape: Shape::new().memory_bar(bar(0), 0x1000).memory_bar(bar(1), 0x1000).msix(msix),
        placed: vec![memory_at(0, BASE, 0x1000), memory_at(1, BASE + 0x1000, 0x1000)],
        msix: Some(msix),
    });
}

/// From the middle of a page to the middle of the next one.
#[test]
fn a1_a_pending_bit_array_directly_behind_a_table_across_pages() {
    let msix = plan(130, (0, 0xff8), (0, 0xff8 + 130 * 16));
    every_access_around_every_edge(&Case {
        shape: Shape::new().wide_bar(bar(0), 0x4000).msix(msix),
        placed: vec![memory_at(0, 0x12_c000_0000, 0x4000)],
        msix: Some(msix),
    });
}

#[test]
fn a1_a_pending_bit_array_directly_before_its_table() {
    let msix = plan(33, (0, 0x808), (0, 0x800));
    every_access_around_every_edge(&Case {
        shape: Shape::new().memory_bar(bar(0), 0x1000).msix(msix),
        placed: vec![memory_at(0, BASE, 0x1000)],
        msix: Some(msix),
    });
}

/// The lowest index answers where BARs overlap, and the table lies half under another BAR.
#[test]
fn b4_bars_that_overlap() {
    let msix = plan(64, (2, 0x1e00), (2, 0x3ff8));
    every_access_around_every_edge(&Case {
        shape: Shape::new().memory_bar(bar(0), 0x1000).memory_bar(bar(2), 0x4000).msix(msix),
        placed: vec![memory_at(0, BASE + 0x2000, 0x1000), memory_at(2, BASE, 0x4000)],
        msix: Some(msix),
    });
}

#[test]
fn a2_the_last_bytes_of_the_address_space_and_those_past_them() {
    let shape = Shape::new().wide_bar(bar(0), 0x1000);
    let mut function = Bytewise::new(&shape, &[memory_at(0, BASE, 0x1000)], None, Interrupts::Off);
    for address in u64::MAX - 16..=u64::MAX {
        for size in 1..=16 {
            function.read(Space::Memory, address, size);
            function.write(Space::Memory, address, &[0x5a; 16][..size]);
        }
    }
}
