//! A record, done to the core once more: it hears what the host said then, and must ask for the same steps in the same
//! order, and give the guest the same answers.

use std::collections::BTreeSet;

use vfio_assign_core::fake::{CallKind, Capture};
use vfio_assign_core::host::{InterruptKind, Outcome, Step};
use vfio_assign_core::{Begin, Bytes, Completion, Decoded, GuestAddr, ResetOutcome, Width};

use super::effect::{Effect, text};
use super::function::{Difference, DifferenceKind, Function, Replayed, function, value};
use super::trace::{Access, Operation, Space, What};
use crate::explain::NoPlan;

/// Carries out operations up to the first difference.
pub(super) fn carry_out(capture: &Capture, operations: &[Operation]) -> Result<Replayed, NoPlan> {
    let shape = capture.shape();
    let mut replay = Replay {
        function: function(capture, &shape)?,
        replayed: Replayed::default(),
        armed: BTreeSet::new(),
    };
    for operation in operations {
        if let Err(difference) = replay.operation(operation) {
            replay.replayed.difference = Some(*difference);
            break;
        }
    }
    Ok(replay.replayed)
}

struct Replay {
    function: Function,
    replayed: Replayed,
    /// What interrupts reach the guest, as the record names them.
    armed: BTreeSet<(String, u16)>,
}

type Same<T> = Result<T, Box<Difference>>;

/// The steps of an operation as they were taken then.
struct Then<'a> {
    operation: &'a Operation,
    next: std::slice::Iter<'a, (usize, Effect)>,
}

impl<'a> Then<'a> {
    fn of(operation: &'a Operation) -> Self {
        Self { operation, next: operation.effects.iter() }
    }

    /// How this step went then, if it was the next one.
    fn outcome(&mut self, now: Step) -> Same<Outcome> {
        match self.next.next() {
            Some((_, effect)) if effect.step == text(now) => Ok(effect.outcome),
            Some((line, effect)) => Err(self.differs(*line, &effect.step, text(now))),
            None => Err(self.differs(self.operation.line, NOTHING, text(now))),
        }
    }

    /// Nothing more was done then.
    fn end(mut self) -> Same<()> {
        match self.next.next() {
            Some((line, effect)) => Err(self.differs(*line, &effect.step, NOTHING)),
            None => Ok(()),
        }
    }

    fn differs(&self, line: usize, then: &str, now: impl Into<String>) -> Box<Difference> {
        let operation = self.operation.text.clone();
        let (kind, then, now) = (DifferenceKind::Effect, then.into(), now.into());
        Box::new(Difference { kind, line, operation, then, now })
    }
}

const NOTHING: &str = "nothing";

impl Replay {
    fn operation(&mut self, operation: &Operation) -> Same<()> {
        let mut then = Then::of(operation);
        match &operation.what {
            What::Access(access) => self.access(*access, &mut then)?,
            What::Interrupt(kind, vector) => self.interrupt(operation, kind, *vector)?,
            What::Attach => self.begin(|function| function.begin_attach(), &mut then)?,
            What::Stop(bus_mastering) => {
                self.begin(|function| function.begin_stop(*bus_mastering), &mut then)?;
            }
            What::Start => self.begin(|function| function.begin_start(), &mut then)?,
            What::Gone => {
                self.function.handle_gone();
                self.begin(|function| function.begin_settle(), &mut then)?;
            }
            What::Detach => self.begin(|function| function.begin_detach(), &mut then)?,
            What::Reset(done) => {
                if self.function.is_quarantined() {
                    self.begin(|function| function.begin_detach(), &mut then)?;
                }
                self.begin(|function| function.begin_reset(), &mut then)?;
                let now = self.function.last_reset() == Some(ResetOutcome::Reset);
                if now != *done {
                    let [then, now] = [*done, now].map(|done| if done { "done" } else { "not-done" });
                    return Err(Box::new(Difference::answer(operation, then, now)));
                }
            }
        }
        then.end()
    }

    fn access(&mut self, access: Access, then: &mut Then<'_>) -> Same<()> {
        self.replayed.accesses += 1;
        let effects = &then.operation.effects;
        let asked = effects.iter().any(|(_, effect)| matches!(effect.outcome, Outcome::Value(_)));
        let now = match self.passes_through(access) {
            Some(step) => match self.outcome(step, then)? {
                Outcome::Value(value) => value,
                Outcome::Done | Outcome::Failed | Outcome::Fewer(_) => u64::MAX,
            },
            None => {
                let begun = self.function.begin(access.of_core());
                value(&self.drive(begun, then)?)
            }
        };
        if access.write {
            return Ok(());
        }
        self.replayed.reads += 1;
        self.replayed.asked_device += usize::from(asked);
        let now = now & (u64::MAX >> (64 - 8 * access.size));
        if now == access.value {
            return Ok(());
        }
        let [before, now] = [access.value, now].map(|value| format!("{value:#x}"));
        Err(Box::new(Difference::answer(then.operation, before, now)))
    }

    /// The one step of an access that does not meet the function, as vCPUs find out from its decoder.
    fn passes_through(&self, Access { space, write, at, size, value }: Access) -> Option<Step> {
        let decoded = match space {
            Space::Memory => self.function.decoder().memory(GuestAddr::new(at), size as u64),
            Space::Config | Space::Port => return None,
        };
        let Decoded::Passthrough { bar, offset } = decoded else { return None };
        let width = Width::natural(offset.get(), size as u64);
        Some(match write {
            true => Step::WriteBar { bar, offset, width, value },
            false => Step::ReadBar { bar, offset, width },
        })
    }

    /// Only what leads to the guest can have come there.
    fn interrupt(&mut self, operation: &Operation, kind: &str, vector: u16) -> Same<()> {
        *self.replayed.interrupts.entry(format!("{kind} {vector}")).or_default() += 1;
        if self.armed.contains(&(kind.into(), vector)) {
            return Ok(());
        }
        Err(Box::new(Difference::answer(operation, "went to the guest", "leads nowhere")))
    }

    fn begin(&mut self, begin: impl FnOnce(&mut Function) -> Begin, then: &mut Then<'_>) -> Same<()> {
        let begun = begin(&mut self.function);
        self.drive(begun, then).map(drop)
    }

    /// Takes the steps of an operation to its end; what it read.
    fn drive(&mut self, begun: Begin, then: &mut Then<'_>) -> Same<Bytes> {
        if let Begin::Done(bytes) = begun {
            return Ok(bytes);
        }
        while let Some((token, step)) = self.function.next_step() {
            let outcome = self.outcome(step, then)?;
            if let Completion::Done(bytes) = self.function.complete(token, outcome) {
                return Ok(bytes);
            }
        }
        Ok(Bytes::EMPTY)
    }

    /// How a step that is taken now went then.
    fn outcome(&mut self, step: Step, then: &mut Then<'_>) -> Same<Outcome> {
        let outcome = then.outcome(step)?;
        self.replayed.effects += 1;
        *self.replayed.calls.entry(format!("{:?}", CallKind::of(step))).or_default() += 1;
        match step {
            Step::Arm { kind, vector } if outcome.is_done() => {
                self.armed.insert((source(kind).into(), vector.get()));
            }
            Step::Disarm { kind, vector } if outcome.is_done() => {
                self.armed.remove(&(source(kind).into(), vector.get()));
            }
            _ => {}
        }
        Ok(outcome)
    }
}

/// What interrupts of a kind are recorded as: who records them is not told which kind of message is on.
fn source(kind: InterruptKind) -> &'static str {
    match kind {
        InterruptKind::Intx => "intx",
        InterruptKind::Msi | InterruptKind::Msix => "message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::trace::Trace;
    use vfio_assign_core::fake::FakeHost;

    const CAPTURE: &str = include_str!("../../../../tests/captures/nvme.capture");
    /// BAR 0 at 0xfe000000, memory and bus mastering on, MSI-X on, vector 0 with a message, a register.
    const ACCESSES: &str = "config write 0x10 4 0xfe000000\nconfig write 0x4 2 0x6\nconfig write 0x42 2 0x8000\n\
        memory write 0xfe002000 4 0xfee01000\nmemory write 0xfe002008 4 0x4021\nmemory write 0xfe00200c 4 0x0\n\
        memory read 0xfe002008 4 0x4021\nconfig read 0x0 4 0x101b36\nmemory read 0xfe000000 4 0x0\n";

    /// What a run writes: each access with its steps and their outcomes, on a fake device.
    fn record() -> String {
        let capture: Capture = CAPTURE.parse().unwrap();
        let shape = capture.shape();
        let mut host = FakeHost::new(&shape);
        let mut function = function(&capture, &shape).unwrap();
        let mut text = format!("{CAPTURE}record 1\n");
        let mut steps = |function: &mut Function, begun: Begin, line: &str, text: &mut String| {
            text.push_str(&format!("{line}\n"));
            if begun != Begin::Steps {
                return;
            }
            while let Some((token, step)) = function.next_step() {
                let outcome = match function.perform(step, &mut host).unwrap() {
                    Outcome::Value(0) => Outcome::Done,
                    outcome => outcome,
                };
                text.push_str(&format!("  {}\n", Effect::new(step, outcome)));
                let _ = function.complete(token, outcome);
            }
        };
        let begun = function.begin_attach();
        steps(&mut function, begun, "attach", &mut text);
        for line in ACCESSES.lines() {
            let trace = Trace::parse(&format!("trace 1\n{line}\n")).unwrap();
            let What::Access(access) = trace.operations[0].what else { panic!("{line}") };
            if line.contains("0xfe000000 4") {
                text.push_str(&format!("{line}\n  read-bar 0 0x0 4 -> 0x0\n"));
                continue;
            }
            let begun = function.begin(access.of_core());
            steps(&mut function, begun, line, &mut text);
        }
        text.push_str("interrupt message 0\n");
        for (line, begin) in [
            ("stop kept", Function::begin_stop as fn(&mut _, _) -> _),
            ("start", |function: &mut Function, _| function.begin_start()),
            ("reset done", |function: &mut Function, _| function.begin_reset()),
            ("detach", |function: &mut Function, _| function.begin_detach()),
        ] {
            let begun = begin(&mut function, vfio_assign_core::BusMastering::Kept);
            steps(&mut function, begun, line, &mut text);
        }
        text + "end\n"
    }

    fn replayed(text: &str) -> Replayed {
        let trace = Trace::parse(text).unwrap();
        carry_out(&trace.capture.unwrap(), &trace.operations).unwrap()
    }

    /// The first difference, where a line of the record is another one.
    fn difference(from: &str, to: &str) -> (DifferenceKind, String, String, String) {
        let record = record();
        assert!(record.contains(from), "{record}");
        let found = replayed(&record.replacen(from, to, 1)).difference.expect("a difference");
        (found.kind, found.operation, found.then, found.now)
    }

    #[test]
    fn a_record_is_done_again_without_a_difference() {
        let record = record();
        let again = replayed(&record);
        assert!(again.difference.is_none(), "{:?} in {record}", again.difference);
        let effects = record.lines().filter(|line| line.starts_with("  ")).count();
        assert_eq!((again.accesses, again.reads, again.effects), (9, 3, effects));
        assert_eq!(again.interrupts, [("message 0".to_owned(), 1)].into());
        assert!(again.calls["Map"] > 0 && again.calls["ResetFunction"] == 1, "{:?}", again.calls);
    }

    #[test]
    fn another_step_is_the_difference() {
        let (kind, operation, then, now) = difference("  wire msix 0 0 ", "  wire msix 0 1 ");
        assert_eq!((kind, &*operation), (DifferenceKind::Effect, "memory write 0xfe00200c 4 0x0"));
        assert_eq!((&*then, &*now), ("wire msix 0 1", "wire msix 0 0"));
    }

    #[test]
    fn a_step_that_is_no_longer_taken_is_the_difference() {
        let (_, _, then, now) = difference("interrupt message 0\n", "start\n  reset -> done\n");
        assert_eq!((&*then, &*now), ("reset", "nothing"));
    }

    #[test]
    fn a_step_that_was_not_taken_then_is_the_difference() {
        let (_, operation, then, now) = difference("  read-config 0x0 4 -> 0x101b36\n", "");
        assert_eq!(&*operation, "config read 0x0 4 0x101b36");
        assert_eq!((&*then, &*now), ("nothing", "read-config 0x0 4"));
    }

    #[test]
    fn another_answer_of_the_device_is_another_answer_to_the_guest() {
        let (kind, _, then, now) = difference("read-bar 0 0x0 4 -> 0x0", "read-bar 0 0x0 4 -> 0x5");
        assert_eq!((kind, &*then, &*now), (DifferenceKind::Answer, "0x0", "0x5"));
    }

    #[test]
    fn an_interrupt_that_leads_nowhere_is_the_difference() {
        let (_, operation, _, now) = difference("interrupt message 0", "interrupt message 1");
        assert_eq!((&*operation, &*now), ("interrupt message 1", "leads nowhere"));
    }

    #[test]
    fn a_reset_that_went_otherwise_is_the_difference() {
        let (kind, _, then, now) = difference("reset done", "reset not-done");
        assert_eq!((kind, &*then, &*now), (DifferenceKind::Answer, "not-done", "done"));
    }
}
