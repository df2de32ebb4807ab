//! How the command ends, as its exit status says.

use std::process::ExitCode;

/// The end of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It did what it was asked.
    Done,
    /// The answer is no: an assignment would not work, something differs.
    No,
    /// The answer cannot be told.
    Unknown,
    /// A signal ended it.
    Signal(i32),
}

/// What a person is told of exit statuses. What clap says of a wrong command line has status 2.
pub(crate) const EXIT_STATUS: &str = "\
Exit status:
  0      done; of `run`, the guest powered off, or you left with Ctrl-A x;
         of `doctor`, an assignment would work
  1      failed; standard error says why and what to do
  2      the command line is wrong
  3      the answer is no: of `doctor`, an assignment would not work;
         of `replay`, something differs
  4      the answer cannot be told: of `doctor`, something could not be looked at
  128+N  signal N ended the command";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::No => Self::from(3),
            Exit::Unknown => Self::from(4),
            Exit::Signal(signal) => Self::from(128_u8.saturating_add(signal.try_into().unwrap_or(0))),
        }
    }
}
