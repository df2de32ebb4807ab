//! `run --record`: the shape of the device, and then every access of the guest's that came to the monitor, in order, as
//! `docs/captures.md` describes traces.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vfio_assign_linux::{Device, RegionError};

use super::AssignmentError;
use crate::help::Help;
use crate::shape::of_open_device;

/// The file of a recording.
#[derive(Debug)]
pub(crate) struct Recording {
    path: PathBuf,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    file: BufWriter<File>,
    /// Why it is not all there; what comes behind a gap is worth nothing.
    failed: Option<io::Error>,
}

/// There is no recording.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRecorded {
    /// The file cannot be made.
    #[error("cannot record into {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A trace is of one device.
    #[error("one device can be recorded; {count} were given")]
    Devices { count: usize },
}

impl Help for NotRecorded {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::File { .. } => "give --record a path in a folder that exists and can be written".into(),
            Self::Devices { .. } => "give --device once".into(),
        })
    }
}

/// The turn of an access: no other comes between it and its line.
pub(super) struct Turn<'a>(Option<MutexGuard<'a, Written>>);

impl Recording {
    /// Creates the file, or empties it, for a run with so many devices.
    pub(crate) fn create(path: &Path, count: usize) -> Result<Self, NotRecorded> {
        if count != 1 {
            return Err(NotRecorded::Devices { count });
        }
        let path = path.to_owned();
        match File::create(&path) {
            Ok(file) => {
                let written = Mutex::new(Written { file: BufWriter::new(file), failed: None });
                Ok(Self { path, written })
            }
            Err(source) => Err(NotRecorded::File { path, source }),
        }
    }

    /// Writes the shape of the device that accesses will be made to.
    pub(super) fn begin(&self, device: &Device) -> Result<(), AssignmentError> {
        let read: Result<_, RegionError> = of_open_device(device);
        let bdf = device.bdf();
        let capture = read.map_err(|error| vfio_assign_linux::AssignError::Config { bdf, error })?;
        self.lock().line(format_args!("{capture}trace 1"));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let mut written = self.lock();
        let flushed = written.file.flush();
        if let Some(error) = written.failed.take().or(flushed.err()) {
            log::error!("{} is not all of the recording: {error}", self.path.display());
        }
    }
}

impl Written {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        if self.failed.is_none() {
            self.failed = writeln!(self.file, "{line}").err();
        }
    }
}

impl<'a> Turn<'a> {
    /// The turn of an access, if accesses are recorded.
    pub(super) fn take(recording: Option<&'a Recording>) -> Self {
        Self(recording.map(Recording::lock))
    }

    /// Writes its line.
    pub(super) fn wrote_down(self, what: &str, at: u64, data: &[u8]) {
        if let Some(mut written) = self.0 {
            let value = data.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            written.line(format_args!("{what} {at:#x} {} {value:#x}", data.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_lines_of_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.trace");
        let recording = Recording::create(&path, 1).unwrap();
        Turn::take(Some(&recording)).wrote_down("config write", 0x42, &[0x40, 0xc0]);
        Turn::take(Some(&recording)).wrote_down("memory read", 0xc000_200c, &[1, 0, 0, 0]);
        drop(recording);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "config write 0x42 2 0xc040\nmemory read 0xc000200c 4 0x1\n");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = Recording::create(Path::new("/nowhere/at/all.trace"), 1).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all.trace"));
    }
}
