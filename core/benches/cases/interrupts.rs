//! MSI-X brought up and Function Mask toggled, by the number of vectors, and what a host's routing table adds to it.

use super::Measure;
use super::host::{BASE, Function, Host, MSIX_CONTROL, TABLE, decoding, write_config};
use std::hint::black_box;
use vfio_assign_core::host::{InterruptHost, InterruptKind, Message};
use vfio_assign_core::{Access, Bytes, GuestAddr, Target, VectorIndex};

const COUNTS: [u16; 4] = [1, 64, 256, 2048];

pub(crate) fn measure(by: &mut impl Measure) {
    for vectors in COUNTS {
        let mut host = Host;
        // All entries are unmasked under Function Mask; clearing it brings them into effect at once.
        let ready = programmed(vectors, &mut host);
        by.case(
            "MSI-X bring-up",
            &format!("{vectors} vectors"),
            || ready.clone(),
            |function| release(function, &mut host),
        );
        by.repeat("MSI-X bring-up, the host's calls alone", &format!("{vectors} vectors"), || {
            calls(vectors, &mut host)
        });
        let mut live = ready.clone();
        release(&mut live, &mut host);
        by.repeat("Function Mask on and off", &format!("{vectors} vectors"), || {
            write_config(&mut live, &mut host, MSIX_CONTROL, &[0, 0xc0]);
            release(&mut live, &mut host);
        });
        routes(by, vectors);
    }
}

/// The guest clears Function Mask.
fn release(function: &mut Function, host: &mut Host) {
    write_config(function, host, MSIX_CONTROL, &[0, 0x80]);
}

/// What the host is asked for when that many vectors come into effect, by somebody who knows it already.
fn calls(vectors: u16, host: &mut Host) {
    let kind = InterruptKind::Msix;
    let message = Message { address: 0xfee0_0000, data: 0 };
    let all = || (0..black_box(vectors)).filter_map(VectorIndex::new);
    for vector in all() {
        let Ok(()) = host.route(kind, vector, black_box(message));
    }
    let Ok(()) = host.commit_routes();
    for vector in all() {
        let Ok(()) = host.arm(kind, vector);
    }
}

/// A function with MSI-X on, Function Mask set and every entry programmed and unmasked.
fn programmed(vectors: u16, host: &mut Host) -> Function {
    let mut function = decoding(vectors, host);
    write_config(&mut function, host, MSIX_CONTROL, &[0, 0xc0]);
    for vector in 0..u64::from(vectors) {
        let address = GuestAddr::new(BASE + u64::from(TABLE) + vector * 16);
        let mut entry = [0; 16];
        entry[..4].copy_from_slice(&0xfee0_0000_u32.to_le_bytes());
        let data = Bytes::from_slice(&entry);
        let _ = function.access(Access::Write { target: Target::Memory(address), data }, host);
    }
    function
}

/// A routing table as KVM takes it: all of it with every change. Once for all vectors, and once for each.
fn routes(by: &mut impl Measure, vectors: u16) {
    let table: Vec<[u64; 6]> = (0..u64::from(vectors)).map(|vector| [vector; 6]).collect();
    by.repeat("routing table, one rebuild", &format!("{vectors} vectors"), || black_box(table.clone()));
    by.repeat("routing table, a rebuild per vector", &format!("{vectors} vectors"), || {
        for known in 1..=table.len() {
            black_box(table[..known].to_vec());
        }
    });
}
