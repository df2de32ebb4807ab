//! A hostile guest, a hostile device and a failing host at once: nothing panics, operations end within their bound,
//! windows are where they may be, and nothing is left after a detach.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfio_assign_tests::{Choices, World};

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    if let Some(mut world) = choices.setup().and_then(World::new) {
        choices.for_each(|op| world.apply(op));
    }
});
