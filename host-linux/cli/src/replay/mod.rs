//! `vfio-assign replay`: what a guest did to a function, done again to the core on a fake of its device, without hardware.

mod carry_out;
mod trace;

use std::fs;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use vfio_assign_core::fake::Capture;

use crate::display::{self, BAD, GOOD, styled};
use crate::exit::Exit;
use crate::help::{Help, Problem};
use crate::shape::{DeviceShape, of_file};
use carry_out::{Replayed, carry_out};
use trace::{Trace, TraceError};

/// What to replay.
#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// The trace, in which a capture of the device may come first
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// A capture of the device, where the trace has none
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
    /// It is no trace.
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
            Self::Trace { .. } => "docs/captures.md describes traces".into(),
            Self::NoCapture { .. } => "name one with --capture".into(),
        })
    }
}

/// The schema's name, with its version at the end.
const SCHEMA: &str = "vfio-assign/replay/1";

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
    let replayed = carry_out(&capture, &trace.accesses)?;
    if arguments.json {
        display::print_json(&Schema { schema: SCHEMA, replayed: &replayed })?;
    } else {
        display::print(&text_of(&replayed))?;
    }
    Ok(if replayed.difference.is_none() { Exit::Done } else { Exit::No })
}

fn text_of(replayed: &Replayed) -> String {
    let Replayed { accesses, reads, asked_device, device_differs, difference, calls } = replayed;
    let mut text = match difference {
        None => styled(GOOD, format!("The guest would be answered as it was: {accesses} accesses.")),
        Some(found) => {
            styled(BAD, format!("Line {}: `{}` gives {:#x} now.", found.line, found.access, found.now))
        }
    };
    text.push_str(&format!(
        "\n{reads} reads, of which {asked_device} asked the device; {device_differs} of those had another value then.\n"
    ));
    let calls: Vec<String> = calls.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    text.push_str(&format!(
        "Calls to the host: {}.\n",
        if calls.is_empty() { "none".into() } else { calls.join(", ") }
    ));
    text
}
