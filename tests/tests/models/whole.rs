//! A hostile guest, a hostile device and a failing host at once: what must hold does.

use proptest::prelude::*;
use vfio_assign_core::BusMastering;
use vfio_assign_core::fake::CallKind;
use vfio_assign_tests::{BASE, Choices, Op, Setup, World};

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        prop::sample::select(vec![
            0,
            1,
            2,
            3,
            6,
            7,
            0x11,
            0x21,
            0x406,
            0x8000,
            0xc000,
            0xffff_ffff,
            BASE << 32 | BASE
        ]),
        (0u64..32).prop_map(|page| BASE + page * 0x1000),
        any::<u64>(),
    ]
}

fn offset() -> impl Strategy<Value = u32> {
    let known = vec![
        4, 5, 6, 0x10, 0x14, 0x18, 0x1c, 0x30, 0x44, 0x48, 0x4a, 0x4b, 0x5c, 0x5d, 0x94, 0x9a, 0x9c, 0xa4,
        0xa8, 0xac,
    ];
    prop_oneof![4 => prop::sample::select(known), 1 => 0u32..0x1010]
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u64..70).prop_map(|vector| BASE + 0x200c + 16 * vector),
        (0u64..0x1_0000).prop_map(|at| BASE + at)
    ]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (offset(), 0..10u8).prop_map(|(offset, size)| Op::ConfigRead { offset, size }),
        6 => (offset(), 0..9u8, value()).prop_map(|(offset, size, value)| Op::ConfigWrite { offset, size, value }),
        1 => (address(), any::<u8>()).prop_map(|(address, size)| Op::Read { address, size }),
        6 => (address(), 0..9u8, value()).prop_map(|(address, size, value)| Op::Write { address, size, value }),
        1 => any::<u16>().prop_map(|vector| Op::Raise { vector }),
        1 => prop_oneof![any::<bool>().prop_map(|asserted| Op::Pin { asserted }), Just(Op::EndInterrupt)],
        1 => any::<u16>().prop_map(|vector| Op::Latch { vector }),
        1 => (any::<u16>(), 0..20u8).prop_map(|(vector, after)| Op::Interrupt { vector, after }),
        1 => prop_oneof![Just(Op::Settle), Just(Op::Reset), Just(Op::Reassign)],
        1 => stop(),
        1 => (prop::sample::select(CallKind::ALL.to_vec()), 0..8u8).prop_map(|(kind, after)| Op::Fail { kind, after }),
    ]
}

/// A device, and what its embedder decides; with zeros and with fewer bytes, nothing.
pub(crate) fn setup() -> impl Strategy<Value = Setup> {
    (0..128u8, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(flags, bytes)| {
        let shape = Choices::new(&[flags]).shape().unwrap();
        Setup::decided(shape, &mut Choices::new(&bytes))
    })
}

pub(crate) fn stop() -> impl Strategy<Value = Op> {
    prop_oneof![
        Just(Op::Stop { bus_mastering: BusMastering::Kept }),
        Just(Op::Stop { bus_mastering: BusMastering::Off }),
        Just(Op::Start),
        Just(Op::Start),
    ]
}

proptest! {
    #[test]
    fn what_must_hold_does(setup in setup(), ops in prop::collection::vec(op(), 0..60)) {
        let mut world = World::new(&setup).expect("a device that can be as the embedder wants it");
        ops.into_iter().for_each(|op| world.apply(op));
    }

    #[test]
    fn what_must_hold_does_for_bent_devices(bytes in prop::collection::vec(any::<u8>(), 60..600)) {
        let mut choices = Choices::new(&bytes);
        if let Some(mut world) = choices.setup().and_then(World::new) {
            choices.for_each(|op| world.apply(op));
        }
    }
}
