//! One access of a guest's, by what becomes of it.

use super::Measure;
use super::host::{BASE, Host, TABLE, decoding};
use std::hint::black_box;
use vfio_assign_core::{Access, Bytes, GuestAddr, Target};

pub(crate) fn measure(by: &mut impl Measure) {
    let mut host = Host;
    let mut function = decoding(64, &mut host);
    let config = Target::Config;
    let bar = |offset| Target::Memory(GuestAddr::new(BASE + offset));
    let table = bar(u64::from(TABLE));
    let read = |target, size| Access::Read { target, size };
    let write = |target, data: &[u8]| Access::Write { target, data: Bytes::from_slice(data) };
    // Registers that are the guest's, that are partly the device's, and that are the device's.
    let cases = [
        ("config read, local", read(config(0x10), 4)),
        ("config read, merged", read(config(0x04), 4)),
        ("config read, forwarded", read(config(0x64), 4)),
        ("config write, local", write(config(0x54), &[0; 4])),
        ("config write, forwarded", write(config(0x68), &[0; 4])),
        ("table write, dword, the same again", write(table, &0xfee0_0000_u32.to_le_bytes())),
        ("table read, dword", read(table, 4)),
        ("Pending Bit Array read, qword", read(bar(0xa000), 8)),
        ("register read through the core, dword", read(bar(0x1000), 4)),
    ];
    // What handing over an access and its answer costs by itself.
    by.repeat("access", "nothing", || take(&nothing(black_box(cases[0].1))));
    for (name, access) in cases {
        by.repeat("access", name, || take(&function.access(black_box(access), &mut host)));
    }
    let messages = [0xfee0_0000_u32, 0xfee0_1000].map(|address| write(table, &address.to_le_bytes()));
    let mut turn = 0;
    by.repeat("access", "table write, dword", || {
        turn ^= 1;
        take(&function.access(black_box(messages[turn]), &mut host));
    });
    // What a vCPU does before it knows whether it needs the function's lock.
    let decoder = function.decoder();
    for (name, offset) in [("register", 0x1000), ("table", u64::from(TABLE)), ("miss", 0x10_0000)] {
        let address = GuestAddr::new(BASE + offset);
        by.repeat("address lookup", name, || decoder.memory(black_box(address), 4));
    }
}

/// Takes the answer as a virtual machine monitor does, which copies its few bytes to where the guest's processor finds
/// them. Moved as a whole, its 65 bytes would be loaded in other pieces than they were stored in, and the time would be
/// that of a processor that waits for its own stores.
fn take(answer: &Bytes) {
    black_box(answer.as_slice());
}

/// Answers without looking at anything.
#[inline(never)]
fn nothing(access: Access) -> Bytes {
    black_box(&access);
    Bytes::EMPTY
}
