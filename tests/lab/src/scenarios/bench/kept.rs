//! The figures that are kept in the lab's source, a part at a time.

use super::row::Row;
use crate::record::RecordError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// One part as it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    /// The part's name.
    pub(super) part: String,
    /// The outer machine's load before and after.
    pub(super) load: [f64; 2],
    /// Why it had to be measured again, each time.
    pub(super) repeated: Vec<String>,
    pub(super) rows: Vec<Row>,
}

impl Measured {
    /// With all that follows from the figures.
    pub(super) fn json(&self) -> Value {
        let mut value = json!(self);
        value["rows"] = self.rows.iter().map(Row::json).collect();
        value
    }
}

/// All parts that are kept.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) parts: Vec<Measured>,
}

fn path() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/performance.json").into()
}

impl Kept {
    /// What is kept; nothing where there is no file.
    pub(super) fn read() -> Result<Self, RecordError> {
        match fs::read(path()) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| RecordError::Json { path: path(), source })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(RecordError::File { operation: "read", path: path(), source }),
        }
    }

    /// Puts a part in the place of its older figures.
    pub(super) fn put(&mut self, measured: Measured) {
        match self.parts.iter_mut().find(|kept| kept.part == measured.part) {
            Some(older) => *older = measured,
            None => self.parts.push(measured),
        }
    }

    /// Keeps it.
    pub(super) fn write(&self) -> Result<(), RecordError> {
        let text = format!("{:#}\n", json!(self));
        fs::write(path(), text).map_err(|source| RecordError::File {
            operation: "write",
            path: path(),
            source,
        })
    }
}
