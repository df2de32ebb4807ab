//! `vfio-assign replay`: what a guest did to a function, done again to the core without hardware. A record says what the host
//! answered; of a trace, which is the guest's accesses alone, a fake of the device answers.

mod again;
mod effect;
mod function;
mod on_fake;
mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use vfio_assign_core::fake::Capture;

use crate::display::{self, BAD, GOOD, styled, wrapped};
use crate::exit::Exit;
use crate::help::{Help, Problem};
use crate::shape::{DeviceShape, of_file};
pub(crate) use effect::Effect;
use function::{Difference, DifferenceKind, Replayed};
use trace::{Kind, Trace, TraceError};

/// What to replay.
#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// The record or trace, in which a capture of the device may come first
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// A capture of the device, where the file has none
    #[arg(long, value_name = "CAPTURE")]
    pub(crate) capture: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReplayed {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// It is neither a record nor a trace.
    #[error("{}: {source}", path.display())]
    Trace { path: PathBuf, source: TraceError },
    /// Nobody says what the device is.
    #[error("{} does not begin with a capture of its device", path.display())]
    NoCapture { path: PathBuf },
}

impl Help for NotReplayed {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Read { .. } => return None,
            Self::Trace { source: TraceError::CutOff { kind: Kind::Record, .. }, .. } => {
                "a run that was killed leaves a part; with a last line `end` that part can be replayed".into()
            }
            Self::Trace { .. } => "docs/captures.md describes records and traces".into(),
            Self::NoCapture { .. } => "name one with --capture".into(),
        })
    }
}

/// The schema's name, with its version at the end.
const SCHEMA: &str = "vfio-assign/replay/2";

#[derive(Serialize)]
struct Schema<'a> {
    schema: &'static str,
    #[serde(flatten)]
    replayed: &'a Replayed,
}

/// Replays a trace.
pub(crate) fn replay(arguments: &ReplayArguments) -> Result<Exit, Problem> {
    let path = &arguments.file;
    let text = fs::read(path).map_err(|source| NotReplayed::Read { path: path.clone(), source })?;
    let text = String::from_utf8_lossy(&text);
    let trace = Trace::parse(&text).map_err(|source| NotReplayed::Trace { path: path.clone(), source })?;
    let given = arguments.capture.as_deref().map(of_file).transpose()?;
    let capture: Capture = match (given, trace.capture) {
        (Some(DeviceShape { capture, .. }), _) | (None, Some(capture)) => capture,
        (None, None) => return Err(NotReplayed::NoCapture { path: path.clone() }.into()),
    };
    let replayed = match trace.kind {
        Kind::Trace => on_fake::carry_out(&capture, &trace.operations)?,
        Kind::Record => again::carry_out(&capture, &trace.operations)?,
    };
    if arguments.json {
        display::print_json(&Schema { schema: SCHEMA, replayed: &replayed })?;
    } else {
        display::print(&text_of(&replayed, trace.kind, display::text_width()))?;
    }
    Ok(if replayed.difference.is_none() { Exit::Done } else { Exit::No })
}

fn text_of(replayed: &Replayed, kind: Kind, width: usize) -> String {
    let Replayed { accesses, reads, asked_device, device_differs, effects, interrupts, difference, calls } =
        replayed;
    let mut text = String::new();
    let mut say = |line: String| text.push_str(&wrapped("", &line, width));
    match difference {
        None if kind == Kind::Record => {
            say(styled(
                GOOD,
                format!("The core does all that it did: {accesses} accesses, {effects} effects."),
            ));
        }
        None => say(styled(GOOD, format!("The guest would be answered as it was: {accesses} accesses."))),
        Some(Difference { kind: DifferenceKind::Answer, line, operation, then, now }) => {
            say(styled(BAD, format!("Line {line}: `{operation}` gives {now} now, and {then} then.")));
        }
        Some(Difference { kind: DifferenceKind::Effect, line, operation, then, now }) => {
            say(styled(BAD, format!("Line {line}: `{operation}` does `{now}` now, and `{then}` then.")));
        }
    }
    match kind {
        Kind::Trace => say(format!(
            "{reads} reads, of which {asked_device} asked the device; {device_differs} of those had another value then."
        )),
        Kind::Record => say(format!("{reads} reads, of which {asked_device} asked the device.")),
    }
    let listed = |counts: &BTreeMap<String, usize>, separator: &str| {
        let counts: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name}{separator}{count}")).collect();
        if counts.is_empty() { "none".into() } else { counts.join(", ") }
    };
    if kind == Kind::Record {
        say(format!("Interrupts of the guest: {}.", listed(interrupts, ": ")));
    }
    say(format!("Calls to the host: {}.", listed(calls, " ")));
    text
}
