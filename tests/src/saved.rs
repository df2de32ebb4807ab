//! What must hold of saved states: a guest cannot tell a restored function from one that was never saved.

use crate::op::Op;
use crate::setup::Setup;
use crate::world::World;
use vfio_assign_core::Bytes;
use vfio_assign_core::host::{GuestRange, Message};
use vfio_assign_core::regs::header::Command;
use vfio_assign_core::regs::msi;

/// Whether `op` happens to a kept and to a restored function alike: a host that fails, or that interrupts in the
/// middle of an operation, may do so to one of the two otherwise.
pub fn is_fair(op: &Op) -> bool {
    !matches!(op, Op::Fail { .. } | Op::Unplug | Op::Interrupt { .. })
}

/// What a guest sees of an operation: what it reads, the interrupts that reach it, and its line.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    bytes: Bytes,
    delivered: Vec<(u16, Message)>,
    line: bool,
}

impl Seen {
    fn of(world: &mut World, op: Op) -> Self {
        let bytes = world.observe(op);
        let delivered = world.rig.host.take_delivered().into_iter();
        let mut delivered: Vec<_> = delivered.map(|(vector, message)| (vector.get(), message)).collect();
        delivered.sort_by_key(|(vector, message)| (*vector, message.data));
        Self { bytes, delivered, line: world.rig.host.line().0 }
    }

    /// Whether each interrupt of `least` is here, and each bit that is pending there, if those are what was read.
    fn has(&self, least: &Self, pending_bits: bool) -> bool {
        let mut more = self.delivered.clone();
        let delivered = least.delivered.iter().all(|wanted| {
            more.iter().position(|found| found == wanted).map(|place| more.swap_remove(place)).is_some()
        });
        let pairs = || self.bytes.as_slice().iter().zip(least.bytes.as_slice());
        let bits = pairs().all(|(found, wanted)| found & wanted == *wanted);
        delivered && (self.bytes == least.bytes || (pending_bits && bits))
    }
}

/// Applies `before`, saves and restores, starts both functions, and compares what each of `after` looks like to the
/// guest with and without. Nothing, if there is no such function.
///
/// Where the host cannot add vectors, or the device cannot mask them, an interrupt too many is allowed, to the function
/// that was kept and to the one that was restored: there both must have at least what a function of a host that can
/// add vectors has.
///
/// # Panics
///
/// There is a difference.
pub fn restoring_is_unseen(setup: impl Into<Setup>, before: &[Op], after: &[Op]) {
    let setup = setup.into();
    let mut ideal = setup.clone();
    ideal.shape.resizable = true;
    let (Some(mut kept), Some(mut ideal)) = (World::new(&setup), World::new(ideal)) else {
        return;
    };
    let exact = setup.shape.resizable && loses_nothing(&kept);
    for op in before {
        if !changes_count(&kept, *op) {
            kept.apply(*op);
            ideal.apply(*op);
        }
    }
    for world in [&mut kept, &mut ideal] {
        world.apply(Op::Settle);
        world.rig.host.take_delivered();
    }
    let mut restored = kept.restored();
    let reads = (0..96).map(|dword| Op::ConfigRead { offset: dword * 4, size: 4 });
    // The one that was restored has gone on already.
    let mut starts = vec![Op::Start];
    starts.extend(after);
    for op in starts.into_iter().chain(reads) {
        if changes_count(&kept, op) {
            continue;
        }
        let pending_bits = reads_pending_bits(&kept, op);
        let (kept_seen, seen) = (Seen::of(&mut kept, op), Seen::of(&mut restored, op));
        let least = Seen::of(&mut ideal, op);
        if exact {
            let (bytes, delivered) = (&kept_seen.bytes, &kept_seen.delivered);
            assert_eq!((bytes, delivered), (&seen.bytes, &seen.delivered), "{op:x?}");
        }
        for seen in [&kept_seen, &seen] {
            assert!(seen.has(&least, pending_bits), "{op:x?}: {seen:x?}, and at least {least:x?}");
        }
        for (world, seen) in [(&kept, &kept_seen), (&restored, &seen)] {
            let disabled = world.rig.function.command().contains(Command::INTERRUPT_DISABLE);
            assert!(!(disabled && seen.line), "{op:x?}: the line is asserted and Interrupt Disable set");
        }
        // A line that the device has let go meanwhile is not asserted again, and need not be.
        let stale = !kept.rig.host.is_pin_asserted();
        assert!(
            kept_seen.line == seen.line || stale,
            "{op:x?}: the line is {}, not {}",
            seen.line,
            kept_seen.line
        );
    }
}

/// Whether `op` changes Multiple Message Enable while MSI is on. What a device makes of that is its own affair: no driver
/// does it, the host leaves its vectors as they are, and a function that is restored asks for as many as the guest has.
fn changes_count(world: &World, op: Op) -> bool {
    let count = |world: &World| {
        let control = world.rig.function.msi().map_or(0, |msi| msi.message_control());
        (control & msi::ENABLE != 0).then_some(control & msi::ENABLED)
    };
    let before = count(world);
    if before.is_none() || !matches!(op, Op::ConfigWrite { .. }) {
        return false;
    }
    let mut after = world.clone();
    after.apply(op);
    count(&after).is_some_and(|count| Some(count) != before)
}

/// Whether nothing is lost of what a device signals while its vectors have no event.
fn loses_nothing(world: &World) -> bool {
    world.rig.function.msi().is_none_or(|msi| msi.message_control() & msi::MASKABLE != 0)
}

/// Whether `op` reads Pending Bits, of MSI-X or of MSI.
fn reads_pending_bits(world: &World, op: Op) -> bool {
    let function = &world.rig.function;
    let meets = |first: u64, size: u8, from: u64, bytes: u64| {
        first < from.saturating_add(bytes) && from < first.saturating_add(u64::from(size))
    };
    match op {
        Op::Read { address, size } => function.msix().is_some_and(|msix| {
            let pba = msix.layout().pba;
            let Some(GuestRange::Memory(bar)) = function.decoder().range(pba.bar) else {
                return false;
            };
            meets(address, size, bar.first().get() + pba.span.first().get(), pba.span.size())
        }),
        Op::ConfigRead { offset, size } => function.msi().is_some_and(|msi| {
            let wide = msi.message_control() & msi::WIDE != 0;
            let bits = msi.capability().get() + if wide { 20 } else { 16 };
            meets(u64::from(offset), size, u64::from(bits), 4)
        }),
        _ => false,
    }
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
