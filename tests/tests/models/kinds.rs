//! MSI-X, MSI and the pin together, one at a time, against the model.

use proptest::prelude::*;
use vfio_assign_tests::{KindOp, Kinds};

fn ops() -> impl Strategy<Value = Vec<KindOp>> {
    prop::collection::vec(any::<u8>().prop_map(KindOp::from_byte), 0..60)
}

proptest! {
    #[test]
    fn each_interrupt_reaches_the_guest_by_the_kind_that_is_on(resample in any::<bool>(), ops in ops()) {
        let mut kinds = Kinds::new(resample);
        ops.into_iter().for_each(|op| kinds.apply(op));
    }
}
