//! A state saved at any point, restored into a new function and settled: the guest cannot tell.

use crate::whole::op;
use proptest::prelude::*;
use vfio_assign_core::fake::Shape;
use vfio_assign_tests::{BASE, Choices, MESSAGE, Op, is_fair, restoring_is_unseen};

fn shape(flags: u8) -> Shape {
    // Where vectors cannot be added, growth signals those that are wired once more.
    Choices::new(&[flags & !0x90]).shape().unwrap()
}

proptest! {
    #[test]
    fn s2_a_restored_function_is_as_one_that_was_never_saved(
        flags in any::<u8>(),
        before in prop::collection::vec(op(), 0..60),
        after in prop::collection::vec(op(), 0..40),
    ) {
        let fair = |ops: Vec<Op>| ops.into_iter().filter(is_fair).collect::<Vec<_>>();
        restoring_is_unseen(&shape(flags), &fair(before), &fair(after));
    }

    #[test]
    fn s2_interrupts_survive_whatever_the_guest_has_masked(
        before in prop::collection::vec(interrupts(), 0..60),
        after in prop::collection::vec(interrupts(), 0..40),
    ) {
        let mut start = vec![
            Op::ConfigWrite { offset: 0x10, size: 8, value: BASE },
            Op::ConfigWrite { offset: 4, size: 2, value: 6 },
        ];
        for vector in 0..3 {
            let entry = BASE + 0x2000 + 16 * vector;
            start.push(Op::Write { address: entry, size: 8, value: MESSAGE });
            start.push(Op::Write { address: entry + 8, size: 4, value: vector });
        }
        start.extend(before);
        restoring_is_unseen(&Shape::nvme(3), &start, &after);
    }
}

/// What a guest and a device do about interrupts.
fn interrupts() -> impl Strategy<Value = Op> {
    let entry = |vector: u64| BASE + 0x200c + 16 * vector;
    prop_oneof![
        4 => (0..3u16).prop_map(|vector| Op::Raise { vector }),
        4 => (0..3u64, 0..2u64).prop_map(move |(vector, mask)| Op::Write { address: entry(vector), size: 4, value: mask }),
        2 => prop::sample::select(vec![0x8000, 0x8000, 0xc000, 0]).prop_map(|value| Op::ConfigWrite { offset: 0x4a, size: 2, value }),
        2 => Just(Op::Read { address: BASE + 0x3000, size: 8 }),
        1 => (0..3u16).prop_map(|vector| Op::Latch { vector }),
        1 => (0..3u64).prop_map(|vector| Op::Write { address: BASE + 0x2008 + 16 * vector, size: 4, value: 0x99 }),
        1 => prop::sample::select(vec![2u64, 6]).prop_map(|value| Op::ConfigWrite { offset: 4, size: 2, value }),
        1 => prop::sample::select(vec![0u64, 3]).prop_map(|value| Op::ConfigWrite { offset: 0x44, size: 1, value }),
    ]
}
