//! No access costs more host calls than the threat model promises, whatever it is and whatever fails.

use proptest::prelude::*;
use vfio_assign_core::fake::{CallKind, Shape};
use vfio_assign_core::host::InterruptKind;
use vfio_assign_core::{Access, Bytes, GuestAddr, Target};
use vfio_assign_tests::{BASE, Rig, most_host_calls, vector};

/// What a guest, a device and a host do.
#[derive(Clone, Debug)]
enum Change {
    /// Some bytes of configuration space from here on are written, of which these are others than they were.
    Config(u32, Vec<(u8, u8)>),
    /// The same bytes again and again to memory.
    Memory(u64, usize, u8),
    Program(u16),
    Latch(u16),
    Fail(CallKind, u32, u32),
}

const VECTORS: [u16; 4] = [1, 5, 64, 300];

fn change() -> impl Strategy<Value = Change> {
    // Command, BARs, PMCSR, Message Control of MSI-X and of MSI, Device Control, Mask Bits, AF Control.
    let bytes =
        prop::sample::select(vec![4u8, 5, 0x10, 0x12, 0x13, 0x30, 0x44, 0x4b, 0x5d, 0x92, 0xa0, 0xac]);
    let values = prop::sample::select(vec![0u8, 1, 2, 3, 6, 7, 0x51, 0x80, 0xc0, 0xe0, 0xff]);
    let edits = prop::collection::vec((bytes, values), 1..6);
    let starts = prop::sample::select(vec![0u32, 4, 0x0b, 0x40, 0x41, 0x44, 0x4a, 0x80]);
    let memory = (0u64..0x4000, 0..65usize, prop::sample::select(vec![0u8, 1, 0xff]));
    let fail = (prop::sample::select(CallKind::ALL.to_vec()), 0..6u32, 1..700u32);
    prop_oneof![
        6 => (starts, edits).prop_map(|(from, edits)| Change::Config(from, edits)),
        2 => memory.prop_map(|(at, size, byte)| Change::Memory(BASE + at, size, byte)),
        2 => (0..300u16).prop_map(Change::Program),
        1 => (0..300u16).prop_map(Change::Latch),
        1 => fail.prop_map(|(kind, after, times)| Change::Fail(kind, after, times)),
    ]
}

fn apply(rig: &mut Rig, change: &Change, count: u16) {
    match change {
        Change::Config(from, edits) => {
            let target = Target::Config(*from);
            let mut data = [0; Bytes::LIMIT];
            data.copy_from_slice(rig.access(Access::Read { target, size: Bytes::LIMIT }).as_slice());
            for (at, value) in edits {
                let place = u32::from(*at).checked_sub(*from).and_then(|place| data.get_mut(place as usize));
                place.into_iter().for_each(|byte| *byte = *value);
            }
            rig.host.take_steps();
            rig.access(Access::Write { target, data: Bytes::from_slice(&data) });
        }
        Change::Memory(at, size, byte) => {
            let target = Target::Memory(GuestAddr::new(*at));
            rig.access(Access::Write { target, data: Bytes::from_slice(&vec![*byte; *size]) });
        }
        // All vectors from this one on, under Function Mask or not.
        Change::Program(first) => {
            for index in first % count..count {
                rig.program(index);
                rig.unmask(index);
            }
            rig.host.take_steps();
        }
        Change::Latch(first) => {
            for index in first % count..count {
                rig.function.handle_interrupt(InterruptKind::Msix, vector(index));
            }
        }
        Change::Fail(kind, after, times) => {
            (0..*after).for_each(|n| rig.host.faults.fail_nth(*kind, n));
            rig.host.faults.fail_next(*kind, *times);
        }
    }
}

proptest! {
    #[test]
    fn no_access_costs_more_than_is_promised(
        count in prop::sample::select(VECTORS.to_vec()),
        resizable in any::<bool>(),
        changes in prop::collection::vec(change(), 0..40),
    ) {
        let mut shape = Shape::nvme(count).msi(5, true, true).pin().advanced_features();
        shape.resizable = resizable;
        let mut rig = Rig::started(&shape);
        let windows = rig.function.mapped_windows();
        for change in changes {
            rig.host.take_steps();
            apply(&mut rig, &change, count);
            let calls = rig.host.calls().len();
            prop_assert!(calls <= most_host_calls(count.into(), windows), "{} calls: {:?}", calls, change);
            if rig.function.is_quarantined() {
                rig.host.faults.clear();
                rig.function.detach(&mut rig.host);
                rig.function.attach(&mut rig.host);
                rig.map_bar0();
            }
        }
    }
}
