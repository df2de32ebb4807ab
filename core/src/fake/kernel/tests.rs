//! What the fake kernel takes, and what it refuses.

use super::*;

fn vector(index: u16) -> VectorIndex {
    VectorIndex::new(index).unwrap()
}

fn kernel(host_vectors: u16, resizable: bool) -> Kernel {
    let mut shape = Shape::nvme(64);
    (shape.host_vectors, shape.resizable) = (host_vectors, resizable);
    Kernel::new(&shape, InterruptKind::Msix)
}

fn wire(kernel: &mut Kernel, first: u16, last: u16) -> Result<(), FakeError> {
    kernel.wire(vector(first), vector(last), &|_| true)
}

#[test]
fn too_many_at_first_enable_enables_nothing() {
    let mut kernel = kernel(4, true);
    assert_eq!(
        (wire(&mut kernel, 0, 4), kernel.is_on(), kernel.allocated()),
        (Err(FakeError::FewerVectors(4)), false, 0)
    );
}

#[test]
fn range_that_fails_midway_is_detached() {
    let mut kernel = kernel(4, true);
    wire(&mut kernel, 0, 1).unwrap();
    assert_eq!(wire(&mut kernel, 1, 5), Err(FakeError::FewerVectors(4)));
    assert_eq!(kernel.wired().iter().copied().collect::<Vec<_>>(), [vector(0)]);
}

#[test]
fn detached_vectors_stay_allocated() {
    let mut kernel = kernel(4, true);
    wire(&mut kernel, 0, 1).unwrap();
    kernel.wire(vector(1), vector(1), &|_| false).unwrap();
    assert_eq!(kernel.allocated(), 2);
}

#[test]
fn noresize_refuses_to_grow() {
    let mut kernel = kernel(64, false);
    kernel.enable().unwrap();
    assert_eq!(wire(&mut kernel, 1, 1), Err(FakeError::NotResizable(vector(1))));
}

#[test]
fn disable_when_off_is_an_error() {
    assert_eq!(kernel(4, true).disable(), Err(FakeError::NotOn));
}

#[test]
fn unwired_vector_is_latched_in_the_device() {
    let mut kernel = kernel(64, true);
    kernel.enable().unwrap();
    assert_eq!((kernel.raise(vector(3), true), kernel.pending_bits(0)), (Raised::Latched, 8));
}

#[test]
fn wired_vector_is_held_until_armed_and_delivered_once() {
    let mut kernel = kernel(64, true);
    wire(&mut kernel, 0, 0).unwrap();
    let message = Message { address: 0xfee0_1000, data: 0x41 };
    kernel.route(vector(0), message).unwrap();
    kernel.commit();
    let raised = [kernel.raise(vector(0), true), kernel.raise(vector(0), true)];
    kernel.arm(vector(0)).unwrap();
    assert_eq!((raised, kernel.delivered()), ([Raised::Held; 2], &[(vector(0), message)][..]));
}

#[test]
fn arm_without_a_committed_route_is_an_error() {
    let mut kernel = kernel(64, true);
    wire(&mut kernel, 0, 0).unwrap();
    kernel.route(vector(0), Message { address: 0xfee0_0000, data: 0 }).unwrap();
    assert_eq!(kernel.arm(vector(0)), Err(FakeError::NoRoute(vector(0))));
}

#[test]
fn nothing_is_signalled_while_the_kind_is_off() {
    assert_eq!(kernel(4, true).raise(vector(0), true), Raised::Lost);
}

#[test]
fn a_vector_is_armed_once_and_disarmed_once() {
    let mut kernel = kernel(64, true);
    wire(&mut kernel, 0, 0).unwrap();
    kernel.route(vector(0), Message { address: 0xfee0_0000, data: 0 }).unwrap();
    kernel.commit();
    let armed = [kernel.arm(vector(0)), kernel.arm(vector(0))];
    let disarmed = [kernel.disarm(vector(0)), kernel.disarm(vector(0))];
    let wrong = FakeError::ArmState(vector(0));
    assert_eq!((armed, disarmed), ([Ok(false), Err(wrong)], [Ok(()), Err(wrong)]));
}

#[test]
fn a_vector_without_an_event_is_neither_armed_nor_signalled_nor_polled() {
    let mut kernel = kernel(64, true);
    wire(&mut kernel, 0, 0).unwrap();
    let wrong = FakeError::NoEvent(vector(1));
    assert_eq!(kernel.arm(vector(1)), Err(wrong));
    assert_eq!(kernel.signal(vector(1)), Err(wrong));
    assert_eq!((kernel.poll(vector(0), 3), kernel.poll(vector(0), 1)), (Err(wrong), Ok(0)));
}

#[test]
fn a_message_to_no_interrupt_controller_is_no_route() {
    let mut kernel = kernel(64, true);
    let route = |kernel: &mut Kernel, address| kernel.route(vector(0), Message { address, data: 0 });
    assert_eq!(route(&mut kernel, 0xfef0_0000), Err(FakeError::NotAMessage(0xfef0_0000)));
    assert_eq!(route(&mut kernel, 0xfeef_f000), Ok(()));
}

#[test]
fn what_an_event_held_is_lost_with_it() {
    let mut kernel = kernel(64, true);
    wire(&mut kernel, 0, 0).unwrap();
    kernel.raise(vector(0), true);
    kernel.release();
    assert_eq!(kernel.lost(), 1);
}
