//! A state saved at any point, restored into a new function and settled: the guest cannot tell.

use crate::whole::op;
use proptest::prelude::*;
use vfio_assign_core::Bytes;
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::Message;
use vfio_assign_tests::{Choices, Op, World};

/// What a guest sees of an operation: what it reads, and the interrupts that reach it.
fn seen(world: &mut World, op: Op) -> (Bytes, Vec<(u16, Message)>) {
    let bytes = world.observe(op);
    let mut delivered: Vec<_> = world
        .rig
        .host
        .take_delivered()
        .into_iter()
        .map(|(vector, message)| (vector.get(), message))
        .collect();
    delivered.sort_by_key(|(vector, _)| *vector);
    (bytes, delivered)
}

/// Nothing of this is the guest's doing, or the device's: a host that fails may fail one of the two otherwise.
fn is_fair(op: &Op) -> bool {
    !matches!(op, Op::Fail { .. } | Op::Unplug | Op::Interrupt { .. })
}

fn shape(flags: u8) -> Shape {
    // Where vectors cannot be added, growth signals those that are wired once more.
    Choices::new(&[flags & !0x90]).shape().unwrap()
}

/// Applies `before`, saves and restores, and compares what each of `after` looks like with and without.
fn compare(shape: &Shape, before: &[Op], after: &[Op]) {
    let mut kept = World::new(shape).unwrap();
    before.iter().for_each(|op| kept.apply(*op));
    kept.apply(Op::Settle);
    kept.rig.host.take_delivered();
    let mut restored = kept.restored(shape);
    assert_eq!(restored.rig.host.delivered(), [], "an interrupt that the guest had, or that is masked");
    for op in after {
        assert_eq!(seen(&mut kept, *op), seen(&mut restored, *op), "{op:x?}");
    }
    for offset in 0..96 {
        let read = Op::ConfigRead { offset: offset * 4, size: 4 };
        assert_eq!(seen(&mut kept, read), seen(&mut restored, read), "{read:x?}");
    }
}

proptest! {
    #[test]
    fn s2_a_restored_function_is_as_one_that_was_never_saved(
        flags in any::<u8>(),
        before in prop::collection::vec(op(), 0..60),
        after in prop::collection::vec(op(), 0..40),
    ) {
        let fair = |ops: Vec<Op>| ops.into_iter().filter(is_fair).collect::<Vec<_>>();
        compare(&shape(flags), &fair(before), &fair(after));
    }

    #[test]
    fn s2_interrupts_survive_whatever_the_guest_has_masked(
        before in prop::collection::vec(interrupts(), 0..60),
        after in prop::collection::vec(interrupts(), 0..40),
    ) {
        let mut start = vec![
            Op::ConfigWrite { offset: 0x10, size: 8, value: vfio_assign_tests::BASE },
            Op::ConfigWrite { offset: 4, size: 2, value: 6 },
        ];
        for vector in 0..3 {
            let entry = vfio_assign_tests::BASE + 0x2000 + 16 * vector;
            start.push(Op::Write { address: entry, size: 8, value: vfio_assign_tests::MESSAGE });
            start.push(Op::Write { address: entry + 8, size: 4, value: vector });
        }
        start.extend(before);
        compare(&Shape::nvme(3), &start, &after);
    }
}

/// What a guest and a device do about interrupts.
fn interrupts() -> impl Strategy<Value = Op> {
    let entry = |vector: u64| vfio_assign_tests::BASE + 0x200c + 16 * vector;
    prop_oneof![
        4 => (0..3u16).prop_map(|vector| Op::Raise { vector }),
        4 => (0..3u64, 0..2u64).prop_map(move |(vector, mask)| Op::Write { address: entry(vector), size: 4, value: mask }),
        2 => prop::sample::select(vec![0x8000, 0x8000, 0xc000, 0]).prop_map(|value| Op::ConfigWrite { offset: 0x4a, size: 2, value }),
        2 => Just(Op::Read { address: vfio_assign_tests::BASE + 0x3000, size: 8 }),
        1 => (0..3u16).prop_map(|vector| Op::Latch { vector }),
        1 => (0..3u64).prop_map(|vector| Op::Write { address: vfio_assign_tests::BASE + 0x2008 + 16 * vector, size: 4, value: 0x99 }),
        1 => prop::sample::select(vec![2u64, 6]).prop_map(|value| Op::ConfigWrite { offset: 4, size: 2, value }),
        1 => prop::sample::select(vec![0u64, 3]).prop_map(|value| Op::ConfigWrite { offset: 0x44, size: 1, value }),
    ]
}
