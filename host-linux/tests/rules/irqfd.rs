//! What KVM does with an event that is signalled before, while and after it is an irqfd, as a table; run like the other.

use std::sync::Arc;
use vfio_assign_core::VectorIndex;
use vfio_assign_core::host::Message;
use vfio_assign_linux::kvm::{IrqchipRoutes, KvmError, KvmGuest, KvmVm, MemorySlots, Routes, SlotNumbers};
use vfio_assign_linux::{Device, Errno, GuestSide, IrqKind, IrqVectors};

/// A request, and what comes of it.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The event is signalled, as by the device.
    Signal,
    Arm,
    /// KVM has the event already.
    ArmAgain,
    Disarm,
    /// Whether the event holds a signal.
    Holds(bool),
}

use Step::{Arm, ArmAgain, Disarm, Holds, Signal};

/// Each with a new event of a vector.
const SCRIPTS: &[(&str, &[Step])] = &[
    ("a signal stays in an event that leads nowhere", &[Signal, Holds(true)]),
    ("a signal of an armed event is taken from it", &[Arm, Signal, Holds(false), Disarm, Holds(false)]),
    (
        "a signal before the arming goes with the disarming at the latest",
        &[Signal, Arm, Disarm, Holds(false)],
    ),
    ("a signal after the disarming stays", &[Arm, Disarm, Signal, Holds(true)]),
    ("disarming what is not armed takes nothing", &[Signal, Disarm, Holds(true)]),
    ("an event is armed once", &[Arm, ArmAgain, Disarm, Arm, Disarm]),
];

/// Runs every script in a machine that has its interrupt controllers; where it went otherwise.
pub(crate) fn run(device: &Arc<Device>, vm: &KvmVm) -> Vec<String> {
    let numbers = SlotNumbers::new(vm, 0).expect("KVM tells its limit");
    let routes = Routes::new(vm.clone(), IrqchipRoutes::X86Full).expect("KVM tells its limit");
    let slots = MemorySlots::new(vm.clone(), Arc::new(numbers));
    let mut guest = KvmGuest::new(vm.clone(), slots, Arc::new(routes));
    let vector = VectorIndex::default();
    guest.route(vector, Message { address: 0xfee0_0000, data: 0x41 }).expect("a message to a local APIC");
    guest.commit_routes().expect("KVM takes the routes");
    let mut wrong = Vec::new();
    for (name, steps) in SCRIPTS {
        let mut vectors = IrqVectors::new(device.clone(), IrqKind::Msix);
        vectors.wire(vector, vector, &|_| true).expect("one vector");
        for (place, step) in steps.iter().enumerate() {
            let event = vectors.event(vector).expect("a wired vector has an event");
            let as_expected = match step {
                Signal => vectors.signal(vector).is_ok(),
                Arm => guest.arm(vector, event).is_ok(),
                ArmAgain => is_busy(guest.arm(vector, event)),
                Disarm => guest.disarm(vector, event).is_ok(),
                Holds(expected) => vectors.poll(vector, 1) == Ok(u64::from(*expected)),
            };
            if !as_expected {
                wrong.push(format!("{name}: step {place}, {step:?}"));
            }
        }
        vectors.disable().expect("MSI-X goes off");
    }
    wrong
}

fn is_busy(armed: Result<(), KvmError>) -> bool {
    matches!(armed, Err(KvmError::Irqfd { errno: Errno::EBUSY, .. }))
}
