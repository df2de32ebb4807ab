//! A paused run in a file: all that another process needs to go on with it, but for guest memory and the devices
//! themselves, whose descriptors are handed over.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::arguments::RunArguments;
use crate::assignment::SavedDevice;
use crate::help::Help;
use crate::machine::SavedMachine;

/// The version of the file; there is no way from one to another.
const VERSION: u32 = 1;

/// A paused run.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedRun {
    version: u32,
    shape: Shape,
    pub(crate) machine: SavedMachine,
    pub(crate) devices: Vec<SavedDevice>,
}

/// What must be the same of both runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Shape {
    memory: u64,
    cpus: u8,
    slots: u8,
}

impl Shape {
    /// What these arguments make.
    pub(crate) fn of(arguments: &RunArguments) -> Self {
        let RunArguments { memory, cpus, slots, .. } = *arguments;
        Self { memory, cpus, slots }
    }
}

/// Why a run was not saved, or cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SavedError {
    /// The file.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was to be done with it.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It has something else in it.
    #[error("{} is no saved run: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Another version.
    #[error("{} is of version {found}, this program goes on from version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// Another machine.
    #[error("the saved run has {found:?}, this one {wanted:?}")]
    Shape {
        /// In the file.
        found: Shape,
        /// Here.
        wanted: Shape,
    },
    /// The other process has sent fewer or other files.
    #[error("the other run has handed over {found} files, which are not those of its state")]
    Files {
        /// How many came.
        found: usize,
    },
    /// Its state has parts of another machine.
    #[error("the saved run has {what} of another machine")]
    Other {
        /// What.
        what: &'static str,
    },
}

impl Help for SavedError {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::File { .. } => "give a path in a folder that exists and can be written".into(),
            Self::Content { .. } => {
                "give the file that `vfio-assign control SOCKET save FILE` has written".into()
            }
            Self::Version { .. } => {
                "go on with the vfio-assign that saved it, or one of the same version".into()
            }
            Self::Shape { .. } | Self::Other { .. } => {
                "give --memory, --cpus and --slots as the first run had them".into()
            }
            Self::Files { .. } => "save the run again, and go on from that".into(),
        })
    }
}

impl SavedRun {
    /// A run of this shape.
    pub(crate) fn new(shape: Shape, machine: SavedMachine, devices: Vec<SavedDevice>) -> Self {
        Self { version: VERSION, shape, machine, devices }
    }

    /// Writes the file, which is its owner's only: what the guest computes with is in it.
    pub(crate) fn write(&self, path: &Path) -> Result<(), SavedError> {
        let failed = |source| SavedError::File { operation: "write", path: path.to_owned(), source };
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let mut file = BufWriter::new(file.map_err(failed)?);
        serde_json::to_writer(&mut file, self).map_err(|error| failed(error.into()))?;
        file.flush().map_err(failed)
    }

    /// Reads the file of a run of this shape.
    pub(crate) fn read(path: &Path, wanted: Shape) -> Result<Self, SavedError> {
        let failed = |source| SavedError::File { operation: "read", path: path.to_owned(), source };
        let content = |source| SavedError::Content { path: path.to_owned(), source };
        let file = BufReader::new(File::open(path).map_err(failed)?);
        let value: serde_json::Value = serde_json::from_reader(file).map_err(content)?;
        // First: what another version has is not known.
        let found = value
            .get("version")
            .and_then(serde_json::Value::as_u64)
            .and_then(|found| u32::try_from(found).ok());
        if let Some(found) = found.filter(|found| *found != VERSION) {
            return Err(SavedError::Version { path: path.to_owned(), found });
        }
        let saved: Self = serde_json::from_value(value).map_err(content)?;
        if saved.shape != wanted {
            return Err(SavedError::Shape { found: saved.shape, wanted });
        }
        Ok(saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { memory: 1 << 30, cpus: 1, slots: 2 };

    fn refusal(text: &str) -> SavedError {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        SavedRun::read(file.path(), SHAPE).err().unwrap()
    }

    #[test]
    fn another_version_is_refused_whatever_is_in_it() {
        assert!(matches!(refusal("{\"version\":2}"), SavedError::Version { found: 2, .. }));
    }

    #[test]
    fn what_is_no_state_is_refused() {
        assert!(matches!(refusal("{}"), SavedError::Content { .. }));
    }
}
