//! A state saved at any point, restored into a new function and settled: the guest cannot tell.

use crate::whole::{op, setup, stop};
use proptest::prelude::*;
use vfio_assign_core::fake::Shape;
use vfio_assign_tests::{BASE, MESSAGE, Op, Rig, is_fair, restoring_is_unseen};

proptest! {
    #[test]
    fn s2_a_restored_function_is_as_one_that_was_never_saved(
        setup in setup(),
        before in prop::collection::vec(op(), 0..60),
        after in prop::collection::vec(op(), 0..40),
    ) {
        let fair = |ops: Vec<Op>| ops.into_iter().filter(is_fair).collect::<Vec<_>>();
        restoring_is_unseen(setup, &fair(before), &fair(after));
    }

    /// Devices differ in what they and their hosts can do: masks of MSI, vectors that are added, a pin that is unmasked
    /// when the guest has ended an interrupt.
    #[test]
    fn s2_interrupts_of_every_kind_survive_whatever_the_guest_has_masked(
        (unmaskable, noresize, resample) in any::<(bool, bool, bool)>(),
        before in prop::collection::vec(interrupts(), 0..60),
        after in prop::collection::vec(interrupts(), 0..40),
    ) {
        let mut shape = Shape::nvme(VECTORS as u16).msi(2, true, !unmaskable).pin();
        (shape.resizable, shape.resample) = (!noresize, resample);
        let mut start = vec![config(0x10, 8, BASE), config(4, 2, 6)];
        for vector in 0..VECTORS {
            let entry = BASE + 0x2000 + 16 * vector;
            start.push(Op::Write { address: entry, size: 8, value: MESSAGE });
            start.push(Op::Write { address: entry + 8, size: 4, value: vector });
        }
        start.extend([config(Rig::MSI + 4, 8, MESSAGE), config(Rig::MSI + 12, 2, 0x4140)]);
        start.extend(before);
        restoring_is_unseen(&shape, &start, &after);
    }
}

/// Vectors of MSI and of MSI-X.
const VECTORS: u64 = 4;

fn config(offset: u32, size: u8, value: u64) -> Op {
    Op::ConfigWrite { offset, size, value }
}

/// What a guest, a device and an embedder do about interrupts.
fn interrupts() -> impl Strategy<Value = Op> {
    let entry = |vector: u64| BASE + 0x200c + 16 * vector;
    let data = |vector: u64| BASE + 0x2008 + 16 * vector;
    prop_oneof![
        5 => (0..VECTORS as u16).prop_map(|vector| Op::Raise { vector }),
        4 => (0..VECTORS, 0..2u64).prop_map(move |(vector, mask)| Op::Write { address: entry(vector), size: 4, value: mask }),
        2 => (0..16u64).prop_map(|masks| config(Rig::MSI + 16, 4, masks)),
        2 => prop::sample::select(vec![0x8000, 0x8000, 0xc000, 0]).prop_map(|value| config(Rig::MSIX_CONTROL, 2, value)),
        2 => prop::sample::select(vec![0x21, 0x21, 0x11, 0x01, 0]).prop_map(|value| config(Rig::MSI + 2, 2, value)),
        2 => prop_oneof![any::<bool>().prop_map(|asserted| Op::Pin { asserted }), Just(Op::EndInterrupt)],
        2 => Just(Op::Read { address: BASE + 0x3000, size: 8 }),
        2 => Just(Op::ConfigRead { offset: Rig::MSI + 20, size: 4 }),
        2 => stop(),
        1 => (0..VECTORS as u16).prop_map(|vector| Op::Latch { vector }),
        1 => (0..VECTORS).prop_map(move |vector| Op::Write { address: data(vector), size: 4, value: 0x99 }),
        1 => prop::sample::select(vec![2u64, 6, 0x406]).prop_map(|value| config(4, 2, value)),
        1 => prop::sample::select(vec![0u64, 3]).prop_map(|value| config(Rig::PMCSR, 1, value)),
        1 => prop_oneof![Just(Op::Settle), Just(Op::Reset)],
    ]
}
