//! A step of the core's and its outcome as a line of a record, as `docs/captures.md` describes it.

use std::fmt;

use vfio_assign_core::host::{GuestRange, InterruptKind, MappedWindow, Outcome, Step};
use vfio_assign_core::{Address, Span, Width};

/// What stands between a step and its outcome.
const TO: &str = " -> ";

/// A step that was taken, and how it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    /// The step as text: two are the same if their texts are.
    pub(crate) step: String,
    pub(crate) outcome: Outcome,
}

impl Effect {
    /// A step that was taken.
    pub(crate) fn new(step: Step, outcome: Outcome) -> Self {
        Self { step: text(step), outcome }
    }

    /// Reads a line without what it is indented by.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (step, outcome) = line.rsplit_once(TO)?;
        let outcome = match outcome.split_once(' ') {
            Some(("fewer", count)) => Outcome::Fewer(count.parse().ok()?),
            Some(_) => return None,
            None if outcome == "done" => Outcome::Done,
            None if outcome == "failed" => Outcome::Failed,
            None => Outcome::Value(u64::from_str_radix(outcome.strip_prefix("0x")?, 16).ok()?),
        };
        (!step.is_empty()).then(|| Self { step: step.into(), outcome })
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{TO}", self.step)?;
        match self.outcome {
            Outcome::Done => f.write_str("done"),
            Outcome::Value(value) => write!(f, "{value:#x}"),
            Outcome::Failed => f.write_str("failed"),
            Outcome::Fewer(count) => write!(f, "fewer {count}"),
        }
    }
}

/// A kind of interrupt as a word.
fn word(kind: InterruptKind) -> &'static str {
    match kind {
        InterruptKind::Intx => "intx",
        InterruptKind::Msi => "msi",
        InterruptKind::Msix => "msix",
    }
}

/// A step as words and numbers.
pub(super) fn text(step: Step) -> String {
    let bytes = |width: Width| width.bytes();
    match step {
        Step::ReadConfig { offset, width } => format!("read-config {:#x} {}", offset.get(), bytes(width)),
        Step::WriteConfig { offset, width, value } => {
            format!("write-config {:#x} {} {value:#x}", offset.get(), bytes(width))
        }
        Step::ReadBar { bar, offset, width } => {
            format!("read-bar {} {:#x} {}", bar.get(), offset.get(), bytes(width))
        }
        Step::WriteBar { bar, offset, width, value } => {
            format!("write-bar {} {:#x} {} {value:#x}", bar.get(), offset.get(), bytes(width))
        }
        Step::ResetFunction => "reset".into(),
        Step::Map(window) => format!("map {}", window_text(window)),
        Step::Unmap(window) => format!("unmap {}", window_text(window)),
        Step::Trap { bar, range } => format!("trap {} {}", bar.get(), range_text(range)),
        Step::Untrap { bar, range } => format!("untrap {} {}", bar.get(), range_text(range)),
        Step::PollPending { kind, first, mask } => format!("poll {} {} {mask:#x}", word(kind), first.get()),
        Step::TakePending { kind, first, mask } => format!("take {} {} {mask:#x}", word(kind), first.get()),
        Step::EnableInterrupts { kind } => format!("enable {}", word(kind)),
        Step::DisableInterrupts { kind } => format!("disable {}", word(kind)),
        Step::ReleaseVectors { kind } => format!("release {}", word(kind)),
        Step::Wire { kind, first, last } => format!("wire {} {} {}", word(kind), first.get(), last.get()),
        Step::Route { kind, vector, message } => {
            format!("route {} {} {:#x} {:#x}", word(kind), vector.get(), message.address, message.data)
        }
        Step::CommitRoutes => "commit-routes".into(),
        Step::Arm { kind, vector } => format!("arm {} {}", word(kind), vector.get()),
        Step::Disarm { kind, vector } => format!("disarm {} {}", word(kind), vector.get()),
        Step::UnmaskIntx => "unmask-intx".into(),
        Step::Signal { kind, vector } => format!("signal {} {}", word(kind), vector.get()),
        // What the core comes to ask for besides: still the same text for the same step.
        other => format!("{other:?}"),
    }
}

fn window_text(MappedWindow { index, bar, device, guest }: MappedWindow) -> String {
    format!("{index} {} {:#x} {}", bar.get(), device.first().get(), span_text(guest))
}

fn range_text(range: GuestRange) -> String {
    match range {
        GuestRange::Memory(span) => format!("memory {}", span_text(span)),
        GuestRange::Ports(span) => format!("ports {}", span_text(span)),
    }
}

fn span_text<A: Address>(span: Span<A>) -> String {
    format!("{:#x} {:#x}", span.first().get(), span.last().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_read_as_it_was_written() {
        for outcome in [Outcome::Done, Outcome::Value(0x8086), Outcome::Failed, Outcome::Fewer(5)] {
            let effect = Effect::new(Step::CommitRoutes, outcome);
            assert_eq!(Effect::parse(&effect.to_string()), Some(effect));
        }
    }

    #[test]
    fn what_has_no_outcome_is_no_effect() {
        for line in ["reset", "reset -> ", "reset -> well", "reset -> fewer x", " -> done", "-> done"] {
            assert_eq!(Effect::parse(line), None, "{line}");
        }
    }
}
