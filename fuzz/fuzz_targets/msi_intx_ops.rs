//! MSI-X, MSI and the pin together, one at a time, against the naive model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfio_assign_tests::{KindOp, Kinds};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let mut kinds = Kinds::new(first & 1 != 0);
    rest.iter().take(512).for_each(|byte| kinds.apply(KindOp::from_byte(*byte)));
});
