//! The terminal: raw while the guest runs, and as it was before on every way out.

use std::io;
use std::panic;
use std::sync::{Mutex, Once, PoisonError};

use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};

/// What standard input was before; taken by whoever restores it first.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Standard input in raw mode, until this is dropped or a thread panics.
pub(crate) struct RawTerminal(());

/// What can be read from standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// What a person types.
    Terminal,
    /// Bytes of a file or another program.
    Stream,
    /// Nothing: it has ended, or another job owns the terminal, and reading would stop this one.
    None,
}

impl RawTerminal {
    /// Makes standard input raw if it is a terminal of this job.
    ///
    /// # Errors
    /// The terminal refused its settings.
    pub(crate) fn enter() -> rustix::io::Result<(Option<Self>, Input)> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok((None, Input::Stream));
        }
        match tcgetpgrp(&stdin) {
            Ok(owner) if owner != getpgrp() => return Ok((None, Input::None)),
            // Not the controlling terminal: there is no job control on it.
            Ok(_) | Err(Errno::NOTTY) => {}
            Err(errno) => return Err(errno),
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        // Our own messages end in a bare newline.
        raw.output_modes |= OutputModes::OPOST;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        HOOK.call_once(restore_before_panics);
        let guard = Self(());
        tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
        Ok((Some(guard), Input::Terminal))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before
        && let Err(errno) = tcsetattr(io::stdin(), OptionalActions::Now, &before)
    {
        log::error!("the terminal keeps its raw mode (`reset` helps): {errno}");
    }
}

/// The message of a panic belongs on a terminal that shows it properly, and an abort runs no destructors.
fn restore_before_panics() {
    let next = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        next(info);
    }));
}
