//! A trace or a record as text, as `docs/captures.md` describes them.

use vfio_assign_core::BusMastering;
use vfio_assign_core::fake::{Capture, CaptureError};

use super::effect::Effect;

/// What was done to a function.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trace {
    /// The device, if the text begins with it.
    pub(super) capture: Option<Capture>,
    pub(super) kind: Kind,
    pub(super) operations: Vec<Operation>,
}

/// How much is known of what was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The guest's accesses.
    Trace,
    /// All that the core decided from, and what it did.
    Record,
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    /// Its line, from 1.
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) what: What,
    /// The steps that the host took for it, each with its line.
    pub(super) effects: Vec<(usize, Effect)>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// An access of the guest's.
    Access(Access),
    /// An interrupt of the device's went to the guest: a message or the pin, and its vector.
    Interrupt(String, u16),
    /// The function was put into the guest.
    Attach,
    /// The machine was reset; whether the device was, too.
    Reset(bool),
    /// The machine stopped.
    Stop(BusMastering),
    /// The machine went on.
    Start,
    /// The device was found to be gone.
    Gone,
    /// The function was taken out of the guest.
    Detach,
}

/// An access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) space: Space,
    pub(super) write: bool,
    /// The offset into configuration space, the guest-physical address or the port.
    pub(super) at: u64,
    pub(super) size: usize,
    pub(super) value: u64,
}

/// What an access goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Config,
    Memory,
    Port,
}

/// Why a text is neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TraceError {
    /// The capture at its beginning is none.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Neither a trace nor a capture before one.
    #[error(
        "line {line}: a record begins with the line `record 1`, a trace with `trace 1`, each with a capture before \
         it or without"
    )]
    NoTrace { line: usize },
    /// A line that is no access.
    #[error("line {line}: `{text}` is no access, such as `config read 0x42 2 0x40`")]
    Access { line: usize, text: String },
    /// A line of a record that says nothing that can be done.
    #[error(
        "line {line}: `{text}` is nothing that a record says, such as `config read 0x42 2 0x40` or `start`"
    )]
    Operation { line: usize, text: String },
    /// An indented line that is no step.
    #[error("line {line}: `{text}` is no step of the line before, such as `  read-config 0x42 2 -> 0x40`")]
    Effect { line: usize, text: String },
    /// The last line has no end, or is not `end`.
    #[error("line {line}: it ends here: this is not all of it")]
    CutOff { line: usize, kind: Kind },
}

/// The last line of a record.
const END: &str = "end";

impl Trace {
    /// Reads a text.
    pub(super) fn parse(text: &str) -> Result<Self, TraceError> {
        let last = text.lines().count().max(1);
        let begins = |line: &str| match line.trim() {
            "trace 1" => Some(Kind::Trace),
            "record 1" => Some(Kind::Record),
            _ => None,
        };
        let begin = text.lines().enumerate().find_map(|(place, line)| Some((place, begins(line)?)));
        let Some((begin, kind)) = begin else {
            // A capture that was cut off says where; else this is something else.
            if text.trim_start().starts_with("capture") {
                let _whole: Capture = text.parse()?;
            }
            return Err(TraceError::NoTrace { line: last });
        };
        let before: String = text.lines().take(begin).map(|line| format!("{line}\n")).collect();
        let counts = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let capture = before.lines().any(counts).then(|| before.parse()).transpose()?;
        if !text.ends_with('\n') {
            return Err(TraceError::CutOff { line: last, kind });
        }
        let lines = (1..).zip(text.lines()).skip(begin + 1).filter(|(_, line)| counts(line));
        let operations = match kind {
            Kind::Trace => lines.map(|(line, text)| access(line, text)).collect::<Result<_, _>>()?,
            Kind::Record => record(lines, last)?,
        };
        Ok(Self { capture, kind, operations })
    }
}

fn access(line: usize, text: &str) -> Result<Operation, TraceError> {
    match What::parse(text) {
        Some(what @ What::Access(_)) => Ok(Operation { line, text: text.into(), what, effects: Vec::new() }),
        _ => Err(TraceError::Access { line, text: text.into() }),
    }
}

fn record<'a>(
    lines: impl Iterator<Item = (usize, &'a str)>,
    last: usize,
) -> Result<Vec<Operation>, TraceError> {
    let (mut operations, mut ended) = (Vec::<Operation>::new(), false);
    for (line, text) in lines {
        let known = match text.strip_prefix("  ") {
            _ if ended => return Err(TraceError::Operation { line, text: text.into() }),
            Some(effect) => {
                let effect = Effect::parse(effect).zip(operations.last_mut());
                let found = effect.map(|(effect, operation)| operation.effects.push((line, effect)));
                found.ok_or_else(|| TraceError::Effect { line, text: text.into() })?;
                continue;
            }
            None if text == END => {
                ended = true;
                continue;
            }
            None => What::parse(text),
        };
        let what = known.ok_or_else(|| TraceError::Operation { line, text: text.into() })?;
        operations.push(Operation { line, text: text.into(), what, effects: Vec::new() });
    }
    if ended { Ok(operations) } else { Err(TraceError::CutOff { line: last, kind: Kind::Record }) }
}

impl What {
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        Some(match words[..] {
            ["attach"] => Self::Attach,
            ["reset", "done"] => Self::Reset(true),
            ["reset", "not-done"] => Self::Reset(false),
            ["stop", "kept"] => Self::Stop(BusMastering::Kept),
            ["stop", "off"] => Self::Stop(BusMastering::Off),
            ["start"] => Self::Start,
            ["gone"] => Self::Gone,
            ["detach"] => Self::Detach,
            ["interrupt", kind @ ("intx" | "message"), vector] => {
                Self::Interrupt(kind.into(), vector.parse().ok()?)
            }
            [space, direction, at, size, value] => {
                Self::Access(Access::parse([space, direction, at, size, value])?)
            }
            _ => return None,
        })
    }
}

impl Access {
    fn parse([space, direction, at, size, value]: [&str; 5]) -> Option<Self> {
        let hexadecimal = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
        let space = match space {
            "config" => Space::Config,
            "memory" => Space::Memory,
            "port" => Space::Port,
            _ => return None,
        };
        let write = match direction {
            "read" => false,
            "write" => true,
            _ => return None,
        };
        let size = size.parse().ok().filter(|size| (1..=8).contains(size))?;
        let (at, value) = (hexadecimal(at)?, hexadecimal(value)?);
        let fits = space == Space::Memory || u32::try_from(at).is_ok();
        fits.then_some(Self { space, write, at, size, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "capture 1\n00: 36 1b 10 00\nend\ntrace 1\n# A comment.\nconfig read 0x0 2 0x1b36\n\
        memory write 0xc000200c 4 0x1\n";
    const RECORD: &str = "capture 1\n00: 36 1b 10 00\nend\nrecord 1\nattach\n# A comment.\n\
        config read 0x0 2 0x1b36\n  read-config 0x0 2 -> 0x1b36\ninterrupt message 3\nreset not-done\n\
        \x20 reset -> failed\nend\n";

    #[test]
    fn a_trace_has_a_device_and_accesses() {
        let trace = Trace::parse(TEXT).unwrap();
        assert_eq!(trace.capture.map(|capture| capture.config[0]), Some(0x36));
        let seen: Vec<_> = trace.operations.iter().map(|one| (one.line, &*one.text)).collect();
        assert_eq!(seen, [(6, "config read 0x0 2 0x1b36"), (7, "memory write 0xc000200c 4 0x1")]);
    }

    #[test]
    fn a_trace_may_have_no_device() {
        let (capture, operations) = (None, Vec::new());
        assert_eq!(Trace::parse("trace 1\n"), Ok(Trace { capture, kind: Kind::Trace, operations }));
    }

    #[test]
    fn a_record_has_operations_with_their_effects() {
        let record = Trace::parse(RECORD).unwrap();
        assert_eq!(record.kind, Kind::Record);
        let seen: Vec<_> = record.operations.iter().map(|one| (one.line, one.effects.len())).collect();
        assert_eq!(seen, [(5, 0), (7, 1), (9, 0), (10, 1)]);
        assert_eq!(record.operations[2].what, What::Interrupt("message".into(), 3));
        assert_eq!(record.operations[1].effects[0].0, 8);
    }

    #[test]
    fn every_truncation_of_a_trace_is_an_error_or_fewer_accesses() {
        let whole = Trace::parse(TEXT).unwrap().operations.len();
        for end in 0..TEXT.len() {
            // Only at the end of a line can it be a trace.
            match Trace::parse(&TEXT[..end]) {
                Ok(trace) => {
                    assert!(TEXT[..end].ends_with('\n') && trace.operations.len() < whole, "{end}");
                }
                Err(error) => assert!(error.to_string().starts_with("line "), "{error}"),
            }
        }
    }

    #[test]
    fn every_truncation_of_a_record_is_an_error_with_a_line() {
        for end in 0..RECORD.len() {
            let error = Trace::parse(&RECORD[..end]).expect_err("it is cut off").to_string();
            let line = error.strip_prefix("line ").and_then(|rest| rest.split(':').next()?.parse().ok());
            let lines = RECORD[..end].lines().count().max(1);
            assert!(line.is_some_and(|line: usize| line <= lines + 1), "{end}: {error}");
        }
    }

    #[test]
    fn what_is_no_access_is_named() {
        for line in [
            "config read 0x0 2",
            "io read 0x0 2 0x0",
            "config read 0x0 9 0x0",
            "config peek 0x0 2 0x0",
            "config read 12 2 0x0",
            "config read 0x100000000 2 0x0",
            "start",
        ] {
            let error = TraceError::Access { line: 2, text: line.into() };
            assert_eq!(Trace::parse(&format!("trace 1\n{line}\n")), Err(error));
        }
    }

    #[test]
    fn what_no_record_says_is_named() {
        for line in ["reset", "interrupt nmi 0", "interrupt message x", "stop", "config read 0x0 2"] {
            let error = TraceError::Operation { line: 2, text: line.into() };
            assert_eq!(Trace::parse(&format!("record 1\n{line}\nend\n")), Err(error));
        }
    }

    #[test]
    fn a_step_without_an_operation_or_an_outcome_is_named() {
        for (line, before) in [(2, ""), (3, "start\n")] {
            let text = if before.is_empty() { "  reset -> done" } else { "  reset" };
            let error = TraceError::Effect { line, text: text.into() };
            assert_eq!(Trace::parse(&format!("record 1\n{before}{text}\nend\n")), Err(error));
        }
    }

    #[test]
    fn nothing_comes_after_the_end() {
        let error = TraceError::Operation { line: 3, text: "start".into() };
        assert_eq!(Trace::parse("record 1\nend\nstart\n"), Err(error));
    }
}
