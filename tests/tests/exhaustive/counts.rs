//! M1 to M9: functions with each number of vectors at which something changes, brought up, used and torn down.

use vfio_assign_core::fake::Shape;
use vfio_assign_tests::{Rig, message, vector};

/// One, a dword of pending bits, a qword of them, a page of entries, the most: and what is one beside.
const COUNTS: [u16; 11] = [1, 2, 32, 33, 64, 65, 255, 256, 257, 2047, 2048];

/// Dynamic, and a kernel that cannot add vectors.
fn each_count(mut check: impl FnMut(&mut Rig, u16)) {
    for vectors in COUNTS {
        for shape in [Shape::nvme(vectors), Shape::nvme(vectors).noresize()] {
            let mut rig = Rig::started(&shape);
            let count = rig.function.msix().map(|msix| msix.count());
            assert_eq!(
                (count, rig.config_read(Rig::MSIX_CONTROL, 2)),
                (Some(vectors), u64::from(vectors) - 1)
            );
            check(&mut rig, vectors);
        }
    }
}

/// The vectors that the Pending Bit Array names, all of it and nothing behind it.
fn pending(rig: &mut Rig, vectors: u16) -> Vec<u16> {
    let qwords: Vec<u64> = (0..vectors).step_by(64).map(|index| rig.read(rig.pba(index), 8)).collect();
    let bits = (0..64 * qwords.len()).filter(|index| qwords[index / 64] >> (index % 64) & 1 != 0);
    bits.map(|index| u16::try_from(index).expect("at most 2,048 vectors")).collect()
}

#[test]
fn m3_every_vector_of_every_count_is_pending_alone_and_delivered_once() {
    each_count(|rig, vectors| {
        rig.start_interrupts(vectors);
        rig.delivered();
        rig.msix_control(true, true);
        for index in (0..vectors).step_by(usize::from(vectors / 64 + 1)).chain([vectors - 1]) {
            rig.host.raise(vector(index));
            assert_eq!(pending(rig, vectors), [index], "of {vectors}");
            rig.msix_control(true, false);
            let delivered = rig.host.take_delivered();
            assert_eq!(delivered, [(vector(index), message(index))], "of {vectors}");
            rig.msix_control(true, true);
        }
    });
}

#[test]
fn m3_all_vectors_of_every_count_are_pending_together_and_delivered_once() {
    each_count(|rig, vectors| {
        rig.start_interrupts(vectors);
        rig.delivered();
        rig.msix_control(true, true);
        let all: Vec<u16> = (0..vectors).collect();
        all.iter().for_each(|index| {
            rig.host.raise(vector(*index));
        });
        assert_eq!(pending(rig, vectors), all);
        rig.msix_control(true, false);
        assert_eq!((rig.delivered(), pending(rig, vectors)), (all, vec![]));
    });
}

#[test]
fn m1_every_entry_of_every_count_holds_its_own_message() {
    each_count(|rig, vectors| {
        (0..vectors).for_each(|index| rig.program(index));
        for index in 0..vectors {
            let entry = [0, 4, 8, 12].map(|at| rig.read(rig.entry(index, at), 4));
            let found = message(index);
            assert_eq!(entry, [found.address, 0, u64::from(found.data), 1], "vector {index} of {vectors}");
        }
    });
}

#[test]
fn m9_every_count_is_torn_down_whole_and_comes_up_again() {
    each_count(|rig, vectors| {
        for _ in 0..2 {
            rig.start_interrupts(vectors);
            assert_eq!(rig.host.armed().len(), usize::from(vectors));
            rig.msix_control(false, false);
            assert_eq!(
                (rig.host.held(), rig.host.armed(), rig.host.interrupts_on()),
                ((0, 0, 0), vec![], false)
            );
        }
        rig.start_interrupts(vectors);
        rig.function.detach(&mut rig.host);
        assert_eq!((rig.host.held(), rig.windows(), rig.host.lost_interrupts()), ((0, 0, 0), vec![], 0));
    });
}
