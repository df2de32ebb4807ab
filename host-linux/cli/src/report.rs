//! The report of a run, for programs: what `--report` writes.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::help::Help;
use crate::machine::vcpu::Exits;

/// The report's content.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Each assigned device, in the order of the command line.
    pub(crate) devices: Vec<serde_json::Value>,
    /// What ended the run: `power-off`, `left`, `signal` or `failed`.
    pub(crate) ended: &'static str,
    /// How often the guest rebooted.
    pub(crate) reboots: u64,
    /// How often the guest was left, and for what.
    pub(crate) exits: Exits,
    /// Times since the first line of the command's `main`.
    pub(crate) milliseconds: Times,
}

/// Times in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Times {
    /// Until the machine was ready to enter the guest.
    pub(crate) ready: Option<f64>,
    /// Until the guest wrote its first byte to the console; none if it never did.
    pub(crate) first_guest_output: Option<f64>,
    /// Until the guest was gone.
    pub(crate) life: f64,
}

impl Times {
    /// Milliseconds between two moments.
    pub(crate) fn between(start: Instant, end: Instant) -> f64 {
        let elapsed: Duration = end.saturating_duration_since(start);
        // Microseconds are as fine as anything here can be measured.
        elapsed.as_micros() as f64 / 1000.0
    }
}

/// The report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report {}: {source}", path.display())]
pub(crate) struct ReportError {
    path: PathBuf,
    source: io::Error,
}

impl Help for ReportError {
    fn help(&self) -> Option<String> {
        Some("give --report a path in a folder that exists and can be written".into())
    }
}

/// The file, opened before the guest starts so that a wrong path is known early.
pub(crate) struct ReportFile {
    path: PathBuf,
    file: File,
}

impl ReportFile {
    /// Creates the file, or empties it.
    pub(crate) fn create(path: &Path) -> Result<Self, ReportError> {
        let path = path.to_owned();
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(ReportError { path, source }),
        }
    }

    /// Writes the report as one line of JSON.
    pub(crate) fn write(self, report: &Report) -> Result<(), ReportError> {
        let mut file = BufWriter::new(self.file);
        let written = serde_json::to_writer(&mut file, report).map_err(io::Error::from);
        written
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.flush())
            .map_err(|source| ReportError { path: self.path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_one_line_with_the_documented_members() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let milliseconds = Times { ready: Some(1.0), first_guest_output: None, life: 2.5 };
        let report =
            Report { devices: vec![], ended: "power-off", reboots: 0, exits: Exits::default(), milliseconds };
        ReportFile::create(path.path()).unwrap().write(&report).unwrap();
        let text = std::fs::read_to_string(path.path()).unwrap();
        let value: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(value["milliseconds"]["life"], 2.5);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = ReportFile::create(Path::new("/nowhere/at/all.json")).err().unwrap();
        assert!(error.to_string().contains("/nowhere/at/all.json"));
    }
}
