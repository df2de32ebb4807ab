//! A trace as text, as `docs/captures.md` describes it.

use vfio_assign_core::fake::{Capture, CaptureError};

/// What a guest did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trace {
    /// The device, if the text begins with it.
    pub(super) capture: Option<Capture>,
    pub(super) accesses: Vec<Line>,
}

/// An access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The line, from 1.
    pub(super) number: usize,
    pub(super) text: String,
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

/// Why a text is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TraceError {
    /// The capture at its beginning is none.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Neither a trace nor a capture before one.
    #[error("line {line}: a trace begins with the line `trace 1`, or with a capture before it")]
    NoTrace { line: usize },
    /// A line that is no access.
    #[error("line {line}: `{text}` is no access, such as `config read 0x42 2 0x40`")]
    Access { line: usize, text: String },
    /// The last line has no end.
    #[error("line {line}: the last line does not end: this is not all of the trace")]
    CutOff { line: usize },
}

impl Trace {
    /// Reads a text.
    pub(super) fn parse(text: &str) -> Result<Self, TraceError> {
        let last = text.lines().count().max(1);
        let begin = text.lines().position(|line| line.trim() == "trace 1");
        let Some(begin) = begin else {
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
            return Err(TraceError::CutOff { line: last });
        }
        let lines = (1..).zip(text.lines()).skip(begin + 1).filter(|(_, line)| counts(line));
        let access = |(number, line): (usize, &str)| {
            Line::parse(number, line).ok_or_else(|| TraceError::Access { line: number, text: line.into() })
        };
        Ok(Self { capture, accesses: lines.map(access).collect::<Result<_, _>>()? })
    }
}

impl Line {
    fn parse(number: usize, text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [space, direction, at, size, value] = words[..] else { return None };
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
        fits.then(|| Self { number, text: text.into(), space, write, at, size, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "capture 1\n00: 36 1b 10 00\nend\ntrace 1\n# A comment.\nconfig read 0x0 2 0x1b36\n\
        memory write 0xc000200c 4 0x1\n";

    #[test]
    fn a_trace_has_a_device_and_accesses() {
        let trace = Trace::parse(TEXT).unwrap();
        assert_eq!(trace.capture.map(|capture| capture.config[0]), Some(0x36));
        let seen: Vec<_> =
            trace.accesses.iter().map(|line| (line.number, line.space, line.write, line.value)).collect();
        assert_eq!(seen, [(6, Space::Config, false, 0x1b36), (7, Space::Memory, true, 1)]);
    }

    #[test]
    fn a_trace_may_have_no_device() {
        assert_eq!(Trace::parse("trace 1\n"), Ok(Trace { capture: None, accesses: vec![] }));
    }

    #[test]
    fn every_truncation_is_an_error_or_fewer_accesses() {
        let whole = Trace::parse(TEXT).unwrap().accesses.len();
        for end in 0..TEXT.len() {
            // Only at the end of a line can it be a trace.
            match Trace::parse(&TEXT[..end]) {
                Ok(trace) => {
                    assert!(TEXT[..end].ends_with('\n') && trace.accesses.len() < whole, "{end}");
                }
                Err(error) => assert!(error.to_string().starts_with("line "), "{error}"),
            }
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
        ] {
            let error = TraceError::Access { line: 2, text: line.into() };
            assert_eq!(Trace::parse(&format!("trace 1\n{line}\n")), Err(error));
        }
    }
}
