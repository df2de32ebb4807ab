//! Saved states: bytes that are accepted are those that saving gives again, bytes that are not change nothing, and a
//! guest cannot tell a restored function from one that was never saved.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfio_assign_core::BusMastering;
use vfio_assign_core::fake::Shape;
use vfio_assign_tests::{Choices, Rig, is_fair, restoring_is_unseen, sealed};

fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((0..=127, bytes)) => accepted_is_saved_again(bytes),
        Some((_, bytes)) => is_restored(bytes),
        None => {}
    }
});

/// Byte pairs change a state: where, and to what.
fn accepted_is_saved_again(changes: &[u8]) {
    let shape = Shape::nvme(2);
    let mut rig = Rig::started(&shape);
    rig.start_interrupts(1);
    rig.function.stop(BusMastering::Kept, &mut rig.host);
    let mut state = vec![0; rig.function.saved_size()];
    rig.function.save(&mut state).expect("a function that is stopped");
    state.truncate(state.len() - 8);
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1] & 1]));
        match state.get_mut(at) {
            Some(byte) => *byte = change[2],
            None if change[1] & 2 != 0 => state.push(change[2]),
            None => state.truncate(at.max(16)),
        }
    }
    let state = if changes.len() % 2 == 0 { sealed(state) } else { state };
    let mut new = Rig::new(&shape);
    let before = new.function.clone();
    if new.function.restore(&state).is_err() {
        assert_eq!(new.function, before, "changed");
        return;
    }
    new.function.stop(BusMastering::Kept, &mut new.host);
    let mut again = vec![0; new.function.saved_size()];
    // Hardware may have refused what the state has on; a message that no controller takes is the guest's affair.
    assert_eq!(new.function.save(&mut again), Ok(state.len()));
    assert_eq!(again, state);
}

fn is_restored(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let Some(mut setup) = choices.setup() else {
        return;
    };
    // A host that runs out treats the two differently.
    (setup.shape.host_vectors, setup.shape.routes) = (2048, 4096);
    let ops: Vec<_> = choices.filter(is_fair).take(120).collect();
    let (before, after) = ops.split_at(ops.len() / 2);
    restoring_is_unseen(setup, before, after);
}
