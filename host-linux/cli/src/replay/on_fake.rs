//! The accesses of a trace, done to the core on a fake device.

use vfio_assign_core::fake::{CallKind, Capture, FakeHost};

use super::function::{Difference, Replayed, function, value};
use super::trace::{Operation, What};
use crate::explain::NoPlan;

/// Carries out accesses up to the first that differs.
pub(super) fn carry_out(capture: &Capture, operations: &[Operation]) -> Result<Replayed, NoPlan> {
    let shape = capture.shape();
    let mut host = FakeHost::new(&shape);
    let mut function = function(capture, &shape)?;
    function.attach(&mut host);
    host.take_steps();
    let mut replayed = Replayed::default();
    for operation in operations {
        let What::Access(access) = &operation.what else { continue };
        replayed.accesses += 1;
        let answer = function.access(access.of_core(), &mut host);
        let kinds: Vec<CallKind> = host.take_steps().into_iter().map(CallKind::of).collect();
        for kind in &kinds {
            *replayed.calls.entry(format!("{kind:?}")).or_default() += 1;
        }
        if access.write {
            continue;
        }
        replayed.reads += 1;
        let now = value(&answer);
        let asked = kinds
            .iter()
            .any(|kind| matches!(kind, CallKind::ReadConfig | CallKind::ReadBar | CallKind::PollPending));
        replayed.asked_device += usize::from(asked);
        if now != access.value && asked {
            replayed.device_differs += 1;
        } else if now != access.value {
            let [then, now] = [access.value, now].map(|value| format!("{value:#x}"));
            replayed.difference = Some(Difference::answer(operation, then, now));
            break;
        }
    }
    Ok(replayed)
}
