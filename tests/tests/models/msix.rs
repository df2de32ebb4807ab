//! MSI-X delivery against the model: each interrupt reaches the guest once, when it may.

use proptest::prelude::*;
use vfio_assign_core::fake::Shape;
use vfio_assign_tests::{MsixModel, Rig, message, vector};

/// What a guest and a device can do to MSI-X.
#[derive(Clone, Copy, Debug)]
enum Change {
    Control(bool, bool),
    Mask(u16, bool),
    Raise(u16),
}

const VECTORS: u16 = 5;

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => (any::<bool>(), any::<bool>()).prop_map(|(enable, mask)| Change::Control(enable, mask)),
        1 => Just(Change::Control(true, false)),
        4 => (0..VECTORS, any::<bool>()).prop_map(|(vector, masked)| Change::Mask(vector, masked)),
        4 => (0..VECTORS).prop_map(Change::Raise),
    ]
}

fn started(shape: &Shape) -> Rig {
    let mut rig = Rig::started(shape);
    (0..VECTORS).for_each(|index| rig.program(index));
    rig
}

fn apply(rig: &mut Rig, model: &mut MsixModel, change: Change) {
    match change {
        Change::Control(enable, function_mask) => {
            rig.msix_control(enable, function_mask);
            model.control(enable, function_mask);
        }
        Change::Mask(index, true) => {
            rig.mask(index);
            model.mask(index, true);
        }
        Change::Mask(index, false) => {
            rig.unmask(index);
            model.mask(index, false);
        }
        Change::Raise(index) => {
            rig.host.raise(vector(index));
            model.raise(index);
        }
    }
}

fn deliveries(rig: &Rig) -> Vec<u32> {
    let count = |index| rig.host.delivered().iter().filter(|(found, _)| found.get() == index).count();
    (0..VECTORS).map(|index| u32::try_from(count(index)).unwrap()).collect()
}

/// How often each vector was delivered between the two.
fn since(before: &[u32], after: &[u32]) -> Vec<u32> {
    before.iter().zip(after).map(|(before, after)| after - before).collect()
}

proptest! {
    #[test]
    fn on_a_dynamic_kernel_each_interrupt_is_delivered_once(changes in prop::collection::vec(change(), 0..80)) {
        let mut rig = started(&Shape::nvme(VECTORS));
        let mut model = MsixModel::new(VECTORS);
        for change in changes {
            apply(&mut rig, &mut model, change);
            prop_assert_eq!(deliveries(&rig), model.delivered());
            if model.is_enabled() {
                for index in 0..VECTORS {
                    prop_assert_eq!(rig.is_pending(index), model.is_pending(index), "vector {}", index);
                }
            }
        }
        prop_assert!(rig.host.delivered().iter().all(|(vector, sent)| *sent == message(vector.get())));
        prop_assert_eq!(rig.host.lost_interrupts(), 0);
    }

    /// A growth signals every wired vector once more; nothing is missing.
    #[test]
    fn on_a_kernel_that_cannot_add_none_is_missing(changes in prop::collection::vec(change(), 0..80)) {
        let mut rig = started(&Shape::nvme(VECTORS).noresize());
        let mut model = MsixModel::new(VECTORS);
        for change in changes {
            let before = (deliveries(&rig), model.delivered());
            apply(&mut rig, &mut model, change);
            let found = since(&before.0, &deliveries(&rig));
            let least = since(&before.1, &model.delivered());
            prop_assert!(found.iter().zip(&least).all(|(found, least)| found >= least), "{:?} {:?}", found, least);
        }
        prop_assert_eq!(rig.host.lost_interrupts(), 0);
    }
}
