//! Errors of the command: what failed, and what a person can do about it.

use std::error::Error;

/// An error that may know a way out.
pub(crate) trait Help: Error {
    /// What to do, as one sentence that follows `help:`; none if nobody can do anything.
    fn help(&self) -> Option<String>;
}

/// Any error of the command. Each part has an enum of its own; whoever puts parts together only passes them on.
pub(crate) type Problem = Box<dyn Help>;

impl<E: Help + 'static> From<E> for Problem {
    fn from(error: E) -> Self {
        Box::new(error)
    }
}

impl Help for vfio_assign_linux::SysfsError {
    fn help(&self) -> Option<String> {
        // The message says it.
        None
    }
}
