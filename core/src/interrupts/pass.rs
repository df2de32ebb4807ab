//! The passes of a settling, and what one of them looks for: which entries, and vectors in which states.

use super::settle::Settle;
use super::vector::{Vector, VectorState};
use crate::addr::VectorIndex;
use crate::host::{InterruptKind, Step};

/// What keeps a vector from delivering.
pub(super) const SILENT: VectorState = VectorState::MASKED.union(VectorState::UNUSED);

/// What a settling does, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Pass {
    /// Events that must no longer reach the guest are cut off.
    Disarm,
    /// The kind off.
    Disable,
    /// While the function is stopped no vector signals an event: the device keeps what it wants to signal.
    Unwire,
    /// Nothing signals the events any longer: what they hold is kept.
    TakePending,
    /// Events and routes given back.
    Release,
    /// The vectors must be allocated anew, larger: off for a moment. Events keep what they hold.
    GrowDisable,
    /// On again.
    GrowWire,
    /// Vectors that the guest wants for the first time get an event.
    Wire,
    /// The host hears the messages.
    Route,
    /// The messages take effect, all at once.
    Commit,
    /// Events whose new message did not take effect must not send the old one.
    DisarmUnrouted,
    /// Interrupts that waited go into their events; into one that does not reach the guest yet they go first, so
    /// that together with what it holds they are one interrupt, as one pending bit is.
    Signal,
    /// Events reach the guest.
    Arm,
    /// A pin that the host has masked may be asserted again.
    Unmask,
    /// Nothing is left to do.
    Done,
}

impl Pass {
    /// The pass after one that has nothing to do.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Disarm => Self::Disable,
            Self::Disable => Self::Unwire,
            Self::Unwire => Self::TakePending,
            Self::TakePending => Self::Release,
            Self::Release => Self::GrowDisable,
            Self::GrowDisable | Self::GrowWire => Self::Wire,
            Self::Wire => Self::Route,
            Self::Route => Self::Commit,
            Self::Commit => Self::DisarmUnrouted,
            Self::DisarmUnrouted => Self::Signal,
            Self::Signal => Self::Arm,
            Self::Arm => Self::Unmask,
            Self::Unmask | Self::Done => Self::Done,
        }
    }

    /// The step that a pass which goes from vector to vector takes for one of them.
    #[inline]
    pub(super) fn step(self, kind: InterruptKind, vector: VectorIndex, of: Vector) -> Step {
        match self {
            Self::Route => Step::Route { kind, vector, message: of.message() },
            Self::Signal => Step::Signal { kind, vector },
            Self::Arm => Step::Arm { kind, vector },
            // Both that disarm; the others go from no vector to the next. Named, all of them, they would cost an eighth more
            // instructions of a bring-up.
            _ => Step::Disarm { kind, vector },
        }
    }
}

/// The entries that a settling looks at, or none of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) first: u16,
    /// Below `first` if there is none.
    pub(super) last: u16,
}

impl Range {
    /// Every entry.
    pub(super) const ALL: Self = Self { first: 0, last: u16::MAX };
    /// No entry: what joins it is all there is.
    pub(super) const NONE: Self = Self { first: u16::MAX, last: 0 };

    pub(super) fn is_none(self) -> bool {
        self.last < self.first
    }

    /// The smallest range that holds both.
    pub(super) fn join(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

/// Tells vectors by their states.
#[derive(Clone, Copy)]
pub(super) struct Which {
    pub(super) has: VectorState,
    pub(super) lacks: VectorState,
    /// Also those that have the first and lack the second.
    pub(super) or: Option<(VectorState, VectorState)>,
}

/// What a pass that goes from vector to vector looks for, and what a step that is done changes.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) which: Which,
    pub(super) gains: VectorState,
    pub(super) loses: VectorState,
}

impl Settle {
    /// What a pass that goes from vector to vector looks for; `None` if there is none of it, or it is no such pass.
    // One copy of it: the core is to be small.
    #[inline(never)]
    pub(super) fn change(&self) -> Option<Change> {
        let none = VectorState::empty();
        let armed = VectorState::ARMED;
        let (which, gains, loses) = match self.pass {
            // Events that reach the guest and should not.
            Pass::Disarm if self.delivers() => {
                let unused = (armed | VectorState::UNUSED, none);
                let or = (self.kind == InterruptKind::Msi).then_some(unused);
                (Which { or, ..Which::these(armed | VectorState::MASKED, none) }, none, armed)
            }
            Pass::Disarm => (Which::these(armed, none), none, armed),
            Pass::DisarmUnrouted => {
                let or = self.uncommitted.then_some((armed | VectorState::UNCOMMITTED, none));
                (Which { or, ..Which::these(armed, VectorState::ROUTED) }, none, armed)
            }
            pass => {
                let told = VectorState::ROUTED | VectorState::UNCOMMITTED;
                let ready = VectorState::WIRED | VectorState::ROUTED;
                let (has, lacks, gains, loses) = match pass {
                    Pass::Route => (VectorState::WIRED, told, told, none),
                    // Interrupts that wait and can be delivered.
                    Pass::Signal => {
                        (ready | VectorState::LATCHED, VectorState::UNCOMMITTED, none, VectorState::LATCHED)
                    }
                    Pass::Arm => (ready, armed | VectorState::UNCOMMITTED, armed, none),
                    _ => return None,
                };
                // Of vectors that the guest wants delivered and the host has not refused.
                if !self.delivers() {
                    return None;
                }
                (Which::these(has, lacks | SILENT | VectorState::REFUSED), gains, loses)
            }
        };
        let seen = which.or.is_some() || self.seen.contains(which.has);
        seen.then_some(Change { which, gains, loses })
    }
}

impl Change {
    #[inline]
    pub(super) fn apply(self, state: &mut VectorState) {
        *state = (*state | self.gains) & !self.loses;
    }
}

impl Which {
    pub(super) fn these(has: VectorState, lacks: VectorState) -> Self {
        Self { has, lacks, or: None }
    }

    #[inline]
    pub(super) fn holds(self, vector: Vector) -> bool {
        let is = |has: VectorState, lacks: VectorState| vector.state & (has | lacks) == has;
        is(self.has, self.lacks) || self.or.is_some_and(|(has, lacks)| is(has, lacks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each pass does with one vector, where it goes from vector to vector.
    fn of_a_vector(pass: Pass) -> Option<Step> {
        let mut settle = Settle::new(InterruptKind::Msix, true);
        (settle.enable, settle.pass) = (true, pass);
        settle.change()?;
        Some(pass.step(settle.kind, VectorIndex::default(), Vector::RESET))
    }

    #[test]
    fn five_passes_go_from_vector_to_vector_and_each_takes_its_own_step() {
        let (kind, vector, message) = (InterruptKind::Msix, VectorIndex::default(), Vector::RESET.message());
        let passes = [
            (Pass::Disarm, Some(Step::Disarm { kind, vector })),
            (Pass::Disable, None),
            (Pass::Unwire, None),
            (Pass::TakePending, None),
            (Pass::Release, None),
            (Pass::GrowDisable, None),
            (Pass::GrowWire, None),
            (Pass::Wire, None),
            (Pass::Route, Some(Step::Route { kind, vector, message })),
            (Pass::Commit, None),
            (Pass::DisarmUnrouted, Some(Step::Disarm { kind, vector })),
            (Pass::Signal, Some(Step::Signal { kind, vector })),
            (Pass::Arm, Some(Step::Arm { kind, vector })),
            (Pass::Unmask, None),
            (Pass::Done, None),
        ];
        assert!(passes.windows(2).all(|two| two[0].0 < two[1].0) && passes.len() == Pass::Done as usize + 1);
        for (pass, step) in passes {
            assert_eq!(of_a_vector(pass), step, "{pass:?}");
        }
    }
}
