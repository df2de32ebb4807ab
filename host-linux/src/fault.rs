//! The opt-in by which the monitor's own register accesses go through mappings.

use crate::errno::Errno;
use crate::sys::fault;

/// The process has a handler for the faults of this crate's own register accesses: a register whose device is gone,
/// asleep or not decoding gives an error instead of killing the process by SIGBUS.
///
/// Whoever has this value may choose [`RegisterPath::Mapping`](crate::RegisterPath::Mapping). Every other SIGBUS goes to
/// the handler that was there before, and does what it did before if there was none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultHandler(());

/// The handler was not installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no handler for SIGBUS can be installed: {errno}")]
pub struct FaultHandlerError {
    /// What the kernel said.
    pub errno: Errno,
}

impl FaultHandler {
    /// Installs the handler, once for the process; it stays until the process ends. Who handles SIGBUS after this is to
    /// call it for what is none of its own.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn install() -> Result<Self, FaultHandlerError> {
        fault::install().map_err(|errno| FaultHandlerError { errno })?;
        Ok(Self(()))
    }
}
