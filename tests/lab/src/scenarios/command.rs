//! A line for L1's shell, and what it printed.

use super::Cause;
use crate::l1::L1;
use crate::progress::{Console, Progress};
use crate::protocol::{End, Event, Launch, Stream};
use std::rc::Rc;

/// What became of a line.
pub(super) struct Ran {
    pub(super) output: String,
    pub(super) errors: String,
    pub(super) end: End,
}

/// Where a person's shell looks for commands, ours among them.
pub(super) const PATH: &str = "PATH=/lab:/sbin:/bin:/usr/sbin:/usr/bin; export PATH; ";

/// Runs a line as root's shell would.
pub(super) fn run_line(l1: &mut L1, line: &str, progress: &Rc<Progress>) -> Result<Ran, Cause> {
    progress.console(Console::L1, &format!("# {line}"));
    let arguments = ["/bin/busybox", "sh", "-e", "-c", &format!("{PATH}{line}")].map(str::to_owned).into();
    let process = l1.spawn(Launch { arguments, user: None })?;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let end = loop {
        match l1.next_of(process)? {
            Event::Output { stream, bytes, .. } => match stream {
                Stream::Out => output.extend(bytes.0),
                Stream::Err => errors.extend(bytes.0),
            },
            Event::Exited { end, .. } => break end,
            _ => {}
        }
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ran { output: text(output), errors: text(errors).trim().to_owned(), end })
}
