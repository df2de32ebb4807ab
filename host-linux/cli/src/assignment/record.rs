//! `run --record`: the shape of the device, and then all that its machines decided from and what they did, as
//! `docs/captures.md` describes records.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vfio_assign_core::host::{Outcome, Step};
use vfio_assign_linux::{Device, RegionError, StepObserver};

use super::AssignmentError;
use crate::help::Help;
use crate::replay::Effect;
use crate::shape::of_open_device;

/// The file of a recording.
#[derive(Debug)]
pub(crate) struct Recording {
    path: PathBuf,
    /// Whose line is next.
    turn: Mutex<()>,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    file: BufWriter<File>,
    /// The steps of the operation under way, which come behind its line.
    effects: String,
    /// Why it is not all there; what comes behind a gap is worth nothing.
    failed: Option<io::Error>,
}

/// There is no recording.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRecorded {
    /// The file cannot be made.
    #[error("cannot record into {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A record is of one device.
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

/// The turn of an operation: no other comes between its steps and its line. Nothing where nothing is recorded.
pub(super) struct Turn<'a>(Option<(&'a Recording, MutexGuard<'a, ()>)>);

/// The end of a recording, which comes with that of the device.
pub(super) struct Ending(pub(super) Option<Arc<Recording>>);

impl Recording {
    /// Creates the file, or empties it, for a run with so many devices.
    pub(crate) fn create(path: &Path, count: usize) -> Result<Self, NotRecorded> {
        if count != 1 {
            return Err(NotRecorded::Devices { count });
        }
        let path = path.to_owned();
        match File::create(&path) {
            Ok(file) => {
                let written = Written { file: BufWriter::new(file), effects: String::new(), failed: None };
                Ok(Self { path, turn: Mutex::default(), written: Mutex::new(written) })
            }
            Err(source) => Err(NotRecorded::File { path, source }),
        }
    }

    /// Writes the shape of the device that accesses will be made to.
    pub(super) fn begin(&self, device: &Device) -> Result<(), AssignmentError> {
        let read: Result<_, RegionError> = of_open_device(device);
        let bdf = device.bdf();
        let capture = read.map_err(|error| vfio_assign_linux::AssignError::Config { bdf, error })?;
        self.lock().line(format_args!("{capture}record 1"));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StepObserver for Recording {
    fn taken(&self, step: Step, outcome: Outcome) {
        let effects = &mut self.lock().effects;
        let _infallible = writeln!(effects, "  {}", Effect::new(step, outcome));
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
    fn line(&mut self, line: fmt::Arguments<'_>) {
        if self.failed.is_none() {
            self.failed = writeln!(self.file, "{line}").err();
        }
    }
}

impl<'a> Turn<'a> {
    /// The turn of an operation, if operations are recorded.
    pub(super) fn take(recording: Option<&'a Recording>) -> Self {
        let turn = |recording: &'a Recording| recording.turn.lock().unwrap_or_else(PoisonError::into_inner);
        Self(recording.map(|recording| (recording, turn(recording))))
    }

    /// Writes what was done, and the steps that were taken for it.
    pub(super) fn did(self, what: fmt::Arguments<'_>) {
        if let Some((recording, _turn)) = self.0 {
            let mut written = recording.lock();
            let effects = std::mem::take(&mut written.effects);
            let effects = effects.trim_end();
            let between = if effects.is_empty() { "" } else { "\n" };
            written.line(format_args!("{what}{between}{effects}"));
        }
    }

    /// Writes an access.
    pub(super) fn accessed(self, what: &str, at: u64, data: &[u8]) {
        let value = data.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        self.did(format_args!("{what} {at:#x} {} {value:#x}", data.len()));
    }
}

impl Ending {
    /// The record ends here, and the device goes on elsewhere.
    pub(super) fn hand_over(&self) {
        if let Some(recording) = &self.0 {
            let mut written = recording.lock();
            written.line(format_args!("end"));
            written.failed = written.file.flush().err().or(written.failed.take());
        }
    }
}

impl Drop for Ending {
    /// The device was taken out of the guest before: those steps are the last.
    fn drop(&mut self) {
        Turn::take(self.0.as_deref()).did(format_args!("detach"));
        Turn::take(self.0.as_deref()).did(format_args!("end"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(what: impl FnOnce(Arc<Recording>)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.record");
        what(Arc::new(Recording::create(&path, 1).unwrap()));
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn an_operation_is_a_line_and_its_steps_are_below() {
        let text = recorded(|recording| {
            let turn = Turn::take(Some(&recording));
            recording.taken(Step::ResetFunction, Outcome::Failed);
            recording.taken(Step::CommitRoutes, Outcome::Done);
            turn.accessed("config write", 0x42, &[0x40, 0xc0]);
            Turn::take(Some(&recording)).accessed("memory read", 0xc000_200c, &[1, 0, 0, 0]);
        });
        let expected = "config write 0x42 2 0xc040\n  reset -> failed\n  commit-routes -> done\n\
            memory read 0xc000200c 4 0x1\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_device_s_end_is_the_record_s() {
        let text = recorded(|recording| {
            let ending = Ending(Some(recording.clone()));
            recording.taken(Step::CommitRoutes, Outcome::Done);
            drop(ending);
        });
        assert_eq!(text, "detach\n  commit-routes -> done\nend\n");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = Recording::create(Path::new("/nowhere/at/all.record"), 1).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all.record"));
    }
}
