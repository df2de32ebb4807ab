//! Resets of the virtual machine: of one function, and of those that can only be reset together.

use super::{Assigned, Driven};
use crate::device::ResetError;
use crate::guest::GuestSide;
use std::sync::MutexGuard;
use vfio_assign_core::host::Step;
use vfio_assign_core::{Bdf, Begin, ResetOutcome};

impl<G: GuestSide> Assigned<G> {
    /// The virtual machine is reset: interrupts off, windows out, registers as after power-on, bus mastering off in
    /// hardware, and the device reset, if it can be; why it was not is in [`Self::reset_error`].
    ///
    /// A device without a function reset is reset with the bus or slot that it is on, if nothing else of this VM's is
    /// there: else see [`reset_all`](Self::reset_all).
    ///
    /// A quarantined function is detached first, which may end its quarantine.
    pub fn reset(&self) -> ResetOutcome {
        Self::reset_all(&[self]).pop().unwrap_or(ResetOutcome::NotReset)
    }

    /// Resets functions of one virtual machine together, as [`reset`](Self::reset) does one: a monitor gives all that
    /// the machine has. A bus or slot is reset, once, when all functions of this VM that it would reset are among them
    /// and have been made quiet. The outcomes are in the order of `functions`.
    pub fn reset_all(functions: &[&Self]) -> Vec<ResetOutcome> {
        let mut order: Vec<_> = functions.to_vec();
        // In one order, so that two threads that reset the same functions do not wait for each other.
        order.sort_by_key(|assigned| std::ptr::from_ref(*assigned));
        order.dedup_by_key(|assigned| std::ptr::from_ref(*assigned));
        let mut resetting: Vec<_> = order.into_iter().map(Resetting::begin).collect();
        hot_resets(&mut resetting);
        let ended: Vec<_> = resetting.into_iter().map(Resetting::end).collect();
        let of = |assigned: &Self| ended.iter().find(|(other, _)| std::ptr::eq(*other, assigned));
        functions
            .iter()
            .map(|assigned| of(assigned).map_or(ResetOutcome::NotReset, |(_, outcome)| *outcome))
            .collect()
    }

    /// Why the last [reset](Self::reset) did not reset the device. None where it did, and where the device was not
    /// asked: it is gone, or the function is still quarantined.
    pub fn reset_error(&self) -> Option<ResetError> {
        self.lock().host.reset_error.clone()
    }
}

/// A function in the middle of its reset: nothing of it stands in the host, and the device is to be reset next.
struct Resetting<'a, G: GuestSide> {
    assigned: &'a Assigned<G>,
    driven: MutexGuard<'a, Driven<G>>,
    /// The function has come so far.
    quiet: bool,
}

impl<'a, G: GuestSide> Resetting<'a, G> {
    fn begin(assigned: &'a Assigned<G>) -> Self {
        let mut driven = assigned.lock();
        let Driven { function, host } = &mut *driven;
        (host.reset_made, host.reset_error) = (None, None);
        if function.is_quarantined() {
            // A new guest must not find the old one's device at work in its memory.
            function.detach(host);
        }
        let mut quiet = false;
        if function.begin_reset() == Begin::Steps {
            while let Some((_, step)) = function.next_step() {
                quiet = step == Step::ResetFunction;
                if quiet {
                    break;
                }
                function.drive_step(host);
            }
        }
        Self { assigned, driven, quiet }
    }

    fn bdf(&self) -> Bdf {
        self.assigned.bdf()
    }

    /// The device is reset, if that has not been done, and the function is as after power-on.
    fn end(mut self) -> (&'a Assigned<G>, ResetOutcome) {
        let Driven { function, host } = &mut *self.driven;
        let _ = function.drive(host);
        let outcome = function.last_reset().unwrap_or(ResetOutcome::NotReset);
        self.assigned.publish_quarantine(&self.driven);
        (self.assigned, outcome)
    }
}

/// Makes the hot resets that the functions need which have no reset of their own.
fn hot_resets<G: GuestSide>(resetting: &mut [Resetting<'_, G>]) {
    let quiet: Vec<_> = resetting.iter().filter(|one| one.quiet).map(Resetting::bdf).collect();
    for place in 0..resetting.len() {
        let Some(one) = resetting.get_mut(place).filter(|one| {
            one.quiet && one.driven.host.reset_made.is_none() && !one.assigned.device().is_resettable()
        }) else {
            continue;
        };
        let (affected, reset) = hot_reset(one.assigned, &quiet);
        one.driven.host.reset_made = Some(reset.clone());
        for other in resetting.iter_mut().filter(|other| affected.contains(&other.bdf())) {
            // Where this reset has failed a function may still have one of its own.
            if reset.is_ok() || !other.assigned.device().is_resettable() {
                other.driven.host.reset_made = Some(reset.clone());
            }
        }
    }
}

/// Resets the bus or slot of a function whose machines are quiet; the functions there.
fn hot_reset<G: GuestSide>(assigned: &Assigned<G>, quiet: &[Bdf]) -> (Vec<Bdf>, Result<(), ResetError>) {
    let device = assigned.device();
    let set = match device.hot_reset_set() {
        Ok(set) => set,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let affected: Vec<_> = set.iter().map(|function| function.bdf).collect();
    let mut others = device.claim().devices();
    others.retain(|other| affected.contains(other) && !quiet.contains(other));
    let reset = match others.is_empty() {
        true => device.hot_reset_together(&set),
        false => Err(ResetError::Together { bdf: device.bdf(), others }),
    };
    (affected, reset)
}
