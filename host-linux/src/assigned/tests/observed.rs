//! What can be seen of a guest that runs: accesses by piece, the MSI-X table, every step that is taken.

use super::*;
use crate::steps::StepObserver;
use std::sync::Mutex;
use vfio_assign_core::Treatment;
use vfio_assign_core::host::{Outcome, Step};

/// Notes every step.
#[derive(Debug, Default)]
struct Steps(Mutex<Vec<(Step, Outcome)>>);

impl StepObserver for Steps {
    fn taken(&self, step: Step, outcome: Outcome) {
        self.0.lock().unwrap().push((step, outcome));
    }
}

impl Steps {
    fn take(&self) -> Vec<(Step, Outcome)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// The test device, decoding and observed; what was observed until then is forgotten.
fn observed() -> (TestKernel, Assigned<TestGuest>, Arc<Steps>) {
    let TestDevice { kernel, device, .. } = TestDevice::open();
    let steps = Arc::new(Steps::default());
    let options = AssignOptions { steps: Some(steps.clone()), ..AssignOptions::default() };
    let device = Arc::into_inner(device).unwrap();
    let assigned = Assigned::new(device, TestGuest(kernel.clone(), None), &options).unwrap();
    assigned.config_write(0x10, &(BAR_AT as u32).to_le_bytes());
    assigned.config_write(COMMAND, &[6, 0]);
    steps.take();
    (kernel, assigned, steps)
}

fn accesses(assigned: &Assigned<TestGuest>) -> Vec<(Treatment, u64, u64, u64)> {
    let all = assigned.accesses().filter(|piece| piece.reads + piece.writes != 0);
    all.map(|one| (one.piece.treatment, one.piece.span.first().get(), one.reads, one.writes)).collect()
}

#[test]
fn accesses_are_counted_by_the_piece_that_they_begin_in() {
    let (_kernel, assigned) = decoding();
    read(&assigned, BAR_AT);
    assert!(assigned.memory_write(GuestAddr::new(BAR_AT), &[0; 8]));
    read(&assigned, TABLE);
    // Not aligned, so that it does not pass through.
    assert!(assigned.memory_read(GuestAddr::new(TABLE + 0x802), &mut [0; 4]));
    let pieces = accesses(&assigned);
    let expected = [
        (Treatment::Mapped, 0, 1, 1),
        (Treatment::Emulated, 0x2000, 1, 0),
        (Treatment::Trapped, pieces[2].1, 1, 0),
    ];
    assert_eq!(pieces, expected);
}

#[test]
fn accesses_of_all_vcpus_are_counted_together() {
    let (_kernel, assigned) = decoding();
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(read(&assigned, BAR_AT).len(), 4)));
        }
    });
    assert_eq!(accesses(&assigned), [(Treatment::Mapped, 0, 100, 0)]);
}

#[test]
fn a_bar_that_moves_moves_for_every_vcpu() {
    let (_kernel, assigned) = decoding();
    let elsewhere = BAR_AT + 0x1000_0000;
    let seen = || [BAR_AT, elsewhere].map(|at| assigned.memory_read(GuestAddr::new(at), &mut [0; 4]));
    std::thread::scope(|scope| {
        let (go, gone) = std::sync::mpsc::channel();
        let vcpu = scope.spawn(move || (seen(), gone.recv(), seen()));
        while accesses(&assigned).is_empty() {
            std::thread::yield_now();
        }
        assigned.config_write(0x10, &(elsewhere as u32).to_le_bytes());
        go.send(()).unwrap();
        assert_eq!(vcpu.join().unwrap(), ([true, false], Ok(()), [false, true]));
    });
}

#[test]
fn an_access_of_nobody_is_not_counted() {
    let (_kernel, assigned) = decoding();
    assert!(!assigned.memory_read(GuestAddr::new(BAR_AT + 0x4000), &mut [0; 4]));
    assert_eq!(accesses(&assigned), []);
}

#[test]
fn the_msix_table_is_seen_as_the_guest_has_programmed_it() {
    let (kernel, assigned) = interrupting();
    kernel.calls();
    let state = assigned.msix().unwrap();
    assert_eq!(state.message_control & 0xc000, 0x8000);
    let programmed = state.entries[1];
    assert_eq!((programmed.message.address, programmed.message.data), (0xfee0_1000, 0x41));
    assert_eq!((programmed.masked, programmed.has_event, programmed.pending), (false, true, Some(false)));
    let other = state.entries[0];
    assert_eq!((other.message.address, other.masked, other.has_event), (0, true, false));
}

#[test]
fn an_interrupt_of_a_masked_vector_is_pending_and_stays_so() {
    let (_kernel, assigned) = interrupting();
    assigned.memory_write(GuestAddr::new(TABLE + 28), &1u32.to_le_bytes());
    let vector = VectorIndex::new(1).unwrap();
    assigned.inspect(|_, irqs, _, _| {
        irqs.of(vfio_assign_core::host::InterruptKind::Msix).signal(vector).unwrap()
    });
    for _ in 0..2 {
        assert_eq!(assigned.msix().unwrap().entries[1].pending, Some(true));
    }
}

#[test]
fn what_is_pending_and_cannot_be_asked_for_is_not_known() {
    let (kernel, assigned) = interrupting();
    kernel.fail("pread 0x3000", Errno::EIO);
    assert_eq!(assigned.msix().unwrap().entries[0].pending, None);
}

#[test]
fn each_step_is_told_with_what_was_read() {
    let (_kernel, assigned, steps) = observed();
    assigned.config_read(0, &mut [0; 4]);
    let [(Step::ReadConfig { .. }, Outcome::Value(ids))] = steps.take()[..] else { panic!("{steps:?}") };
    assert_eq!(ids, 0x0010_1b36);
}

#[test]
fn an_access_that_passes_through_is_one_step() {
    let (kernel, assigned, steps) = observed();
    read(&assigned, BAR_AT + 8);
    assert!(assigned.memory_write(GuestAddr::new(BAR_AT + 8), &[1, 0]));
    kernel.fail("pread 0x8", Errno::EIO);
    read(&assigned, BAR_AT + 8);
    let told = steps.take();
    assert!(
        matches!(
            told[..],
            [
                (Step::ReadBar { .. }, Outcome::Value(0)),
                (Step::WriteBar { value: 1, .. }, Outcome::Done),
                (Step::ReadBar { .. }, Outcome::Failed)
            ]
        ),
        "{told:?}"
    );
}

#[test]
fn a_step_that_fails_is_told_as_failed() {
    let (kernel, assigned, steps) = observed();
    kernel.fail("unmap 0", Errno::EINVAL);
    assigned.config_write(COMMAND, &[0, 0]);
    assert!(matches!(steps.take()[..], [(Step::Unmap(_), Outcome::Failed)]));
}
