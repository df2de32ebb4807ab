//! Which calls of a fake host fail, and with what.

use crate::addr::VectorIndex;
use crate::host::{InterruptKind, Step};
use alloc::vec::Vec;

/// Why a call of a fake host failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FakeError {
    /// The fault plan says so.
    #[error("the fault plan fails this call")]
    Planned,
    /// The device is gone.
    #[error("the device is gone")]
    Gone,
    /// The device does not decode memory: it is off, or the device is not in D0.
    #[error("the device does not decode memory")]
    NotDecoding,
    /// There is nothing at that offset.
    #[error("nothing is at {0:#x}")]
    OutOfRange(u64),
    /// The device has no reset.
    #[error("the device cannot be reset")]
    NoReset,
    /// A window lies over one that the guest sees already.
    #[error("window {0} is over this one")]
    WindowOverlap(usize),
    /// A window is mapped already, or not mapped.
    #[error("window {0} is not in the state that the call needs")]
    WindowState(usize),
    /// The device, or the host, has only so many vectors; none was taken.
    #[error("only {0} vectors can be had")]
    FewerVectors(u16),
    /// Vectors cannot be added while others are in use.
    #[error("vector {0} is past those that were allocated, and none can be added")]
    NotResizable(VectorIndex),
    /// That kind of interrupt is not on.
    #[error("that kind of interrupt is not on")]
    NotOn,
    /// Another kind of interrupt is on.
    #[error("{0} is on")]
    OtherKind(InterruptKind),
    /// The vector has no event.
    #[error("{0:?} has no event")]
    NoEvent(VectorIndex),
    /// The vector has no route that was committed.
    #[error("{0:?} has no route")]
    NoRoute(VectorIndex),
    /// There is no room for another route.
    #[error("no room for more than {0} routes")]
    RoutesFull(usize),
    /// The message is none that an interrupt controller would take.
    #[error("no interrupt controller is at {0:#x}")]
    NotAMessage(u64),
    /// The vector is armed already, or not armed.
    #[error("{0:?} is not in the state that the call needs")]
    ArmState(VectorIndex),
}

/// The kind of a call: a [`Step`] without its particulars.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "each is the step of the same name")]
pub enum CallKind {
    ReadConfig,
    ReadBar,
    PollPending,
    WriteConfig,
    WriteBar,
    ResetFunction,
    Unmap,
    Untrap,
    Disarm,
    TakePending,
    DisableInterrupts,
    ReleaseVectors,
    Trap,
    Map,
    EnableInterrupts,
    Wire,
    Route,
    CommitRoutes,
    Arm,
    UnmaskIntx,
    Signal,
}

impl CallKind {
    /// Every kind.
    pub const ALL: [Self; 21] = [
        Self::ReadConfig,
        Self::ReadBar,
        Self::PollPending,
        Self::WriteConfig,
        Self::WriteBar,
        Self::ResetFunction,
        Self::Unmap,
        Self::Untrap,
        Self::Disarm,
        Self::TakePending,
        Self::DisableInterrupts,
        Self::ReleaseVectors,
        Self::Trap,
        Self::Map,
        Self::EnableInterrupts,
        Self::Wire,
        Self::Route,
        Self::CommitRoutes,
        Self::Arm,
        Self::UnmaskIntx,
        Self::Signal,
    ];

    /// The kind of `step`.
    pub fn of(step: Step) -> Self {
        match step {
            Step::ReadConfig { .. } => Self::ReadConfig,
            Step::ReadBar { .. } => Self::ReadBar,
            Step::PollPending { .. } => Self::PollPending,
            Step::WriteConfig { .. } => Self::WriteConfig,
            Step::WriteBar { .. } => Self::WriteBar,
            Step::ResetFunction => Self::ResetFunction,
            Step::Unmap(_) => Self::Unmap,
            Step::Untrap { .. } => Self::Untrap,
            Step::Disarm { .. } => Self::Disarm,
            Step::TakePending { .. } => Self::TakePending,
            Step::DisableInterrupts { .. } => Self::DisableInterrupts,
            Step::ReleaseVectors { .. } => Self::ReleaseVectors,
            Step::Trap { .. } => Self::Trap,
            Step::Map(_) => Self::Map,
            Step::EnableInterrupts { .. } => Self::EnableInterrupts,
            Step::Wire { .. } => Self::Wire,
            Step::Route { .. } => Self::Route,
            Step::CommitRoutes => Self::CommitRoutes,
            Step::Arm { .. } => Self::Arm,
            Step::UnmaskIntx => Self::UnmaskIntx,
            Step::Signal { .. } => Self::Signal,
        }
    }
}

/// One line of the plan: so many calls of a kind go well, the next so many fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fault {
    /// `None` is every kind.
    kind: Option<CallKind>,
    pass: u32,
    fail: u32,
}

/// Which calls fail. Without an entry, none does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    lines: Vec<Fault>,
}

impl Faults {
    /// Of all calls from now on, the `n`-th fails; the next call is number 0.
    pub fn fail_call(&mut self, n: u32) {
        self.lines.push(Fault { kind: None, pass: n, fail: 1 });
    }

    /// Of all calls of this kind from now on, the `n`-th fails; the next one is number 0.
    pub fn fail_nth(&mut self, kind: CallKind, n: u32) {
        self.lines.push(Fault { kind: Some(kind), pass: n, fail: 1 });
    }

    /// The next `times` calls of this kind fail.
    pub fn fail_next(&mut self, kind: CallKind, times: u32) {
        self.lines.push(Fault { kind: Some(kind), pass: 0, fail: times });
    }

    /// No call fails any longer.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Whether this call is to fail.
    pub(super) fn strikes(&mut self, kind: CallKind) -> bool {
        let mut strikes = false;
        for line in self.lines.iter_mut().filter(|line| line.kind.is_none_or(|wanted| wanted == kind)) {
            if line.pass > 0 {
                line.pass = line.pass.saturating_sub(1);
            } else {
                line.fail = line.fail.saturating_sub(1);
                strikes = true;
            }
        }
        self.lines.retain(|line| line.fail > 0);
        strikes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_line_nothing_fails() {
        assert!(!Faults::default().strikes(CallKind::Map));
    }

    #[test]
    fn nth_of_a_kind_counts_that_kind_only() {
        let mut faults = Faults::default();
        faults.fail_nth(CallKind::Map, 1);
        let struck = [CallKind::Map, CallKind::Wire, CallKind::Map, CallKind::Map].map(|k| faults.strikes(k));
        assert_eq!(struck, [false, false, true, false]);
    }

    #[test]
    fn nth_call_counts_all_kinds() {
        let mut faults = Faults::default();
        faults.fail_call(1);
        assert_eq!(
            [CallKind::Map, CallKind::Wire, CallKind::Map].map(|k| faults.strikes(k)),
            [false, true, false]
        );
    }

    #[test]
    fn next_times_fail() {
        let mut faults = Faults::default();
        faults.fail_next(CallKind::Arm, 2);
        assert_eq!([CallKind::Arm; 3].map(|k| faults.strikes(k)), [true, true, false]);
    }
}
