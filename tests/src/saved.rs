//! What must hold of saved states: a guest cannot tell a restored function from one that was never saved.

use crate::op::Op;
use crate::world::World;
use vfio_assign_core::Bytes;
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::Message;

/// Whether `op` happens to a kept and to a restored function alike: a host that fails, or that interrupts in the
/// middle of an operation, may do so to one of the two otherwise.
pub fn is_fair(op: &Op) -> bool {
    !matches!(op, Op::Fail { .. } | Op::Unplug | Op::Interrupt { .. })
}

/// Applies `before` to a function of `shape`, saves and restores it, and compares what each of `after` looks like to the
/// guest with and without. Nothing, if there is no such function.
///
/// # Panics
///
/// There is a difference.
pub fn restoring_is_unseen(shape: &Shape, before: &[Op], after: &[Op]) {
    let Some(mut kept) = World::new(shape) else {
        return;
    };
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

/// What a guest sees of an operation: what it reads, and the interrupts that reach it.
fn seen(world: &mut World, op: Op) -> (Bytes, Vec<(u16, Message)>) {
    let bytes = world.observe(op);
    let delivered = world.rig.host.take_delivered().into_iter();
    let mut delivered: Vec<_> = delivered.map(|(vector, message)| (vector.get(), message)).collect();
    delivered.sort_by_key(|(vector, _)| *vector);
    (bytes, delivered)
}

/// Bytes of a saved state, of which the length and the checksum are made right.
///
/// # Panics
///
/// There is no room for a header.
pub fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len() + 8).expect("a state of some KiB");
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}
