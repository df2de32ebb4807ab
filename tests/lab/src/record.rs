//! Results that are kept: a file beside the lab's source, and the table in the README that is made from it.

use serde_json::{Map, Value};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Scenarios with results by row, and what their rows are called.
const TABLES: [(&str, &str); 2] = [("zoo", "device"), ("life", "life")];
/// The columns of the tables: VFIO's interfaces.
const COLUMNS: [&str; 2] = ["group", "cdev"];
/// What stands around the tables in the README.
const BEGIN: &str = "<!-- made by `cargo lab zoo --record` and `cargo lab life --record` -->\n";
const END: &str = "<!-- end of what they make -->\n";

/// Why results could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("cannot {operation} {}: {source}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is no JSON: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{} has no lines '{begin}' and '{end}'", path.display())]
    NoPlace { path: PathBuf, begin: &'static str, end: &'static str },
}

/// Keeps the rows of one run of a scenario; rows of earlier runs that this one did not do again stay.
pub(crate) fn record(scenario: &str, column: &str, rows: &Map<String, Value>) -> Result<(), RecordError> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (path, readme) = (here.join("results.json"), here.join("../../README.md"));
    let mut results = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|source| RecordError::Json { path: path.clone(), source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Object(Map::new()),
        Err(source) => return Err(RecordError::File { operation: "read", path, source }),
    };
    for (row, result) in rows {
        results[scenario][row][column] = result.clone();
    }
    let text = format!("{results:#}\n");
    fs::write(&path, text).map_err(|source| RecordError::File { operation: "write", path, source })?;
    let refuse = |operation, source| RecordError::File { operation, path: readme.clone(), source };
    let text = fs::read_to_string(&readme).map_err(|source| refuse("read", source))?;
    let text = with_tables(&text, &results).ok_or(RecordError::NoPlace {
        path: readme.clone(),
        begin: BEGIN.trim(),
        end: END.trim(),
    })?;
    fs::write(&readme, text).map_err(|source| refuse("write", source))
}

/// The text with the tables in their place.
fn with_tables(text: &str, results: &Value) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_old, after) = rest.split_once(END)?;
    let tables: Vec<String> =
        TABLES.iter().map(|(scenario, title)| table(title, &results[*scenario])).collect();
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", tables.join("\n")))
}

/// One table.
fn table(title: &str, rows: &Value) -> String {
    let mut text = format!("| {title} | {} |\n|---|{}\n", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
    for (row, results) in rows.as_object().into_iter().flatten() {
        let cell = |column: &&str| match results[*column].as_bool() {
            Some(true) => "✓",
            Some(false) => "✗",
            None => "–",
        };
        let cells: Vec<&str> = COLUMNS.iter().map(cell).collect();
        text += &format!("| {} | {} |\n", row.replace('_', " "), cells.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_tables_take_the_place_of_older_ones() {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        let results = json!({"zoo": {"nvme": {"group": true, "cdev": false}}});
        let made = with_tables(&text, &results).expect("there is a place");
        assert!(made.contains("| nvme | ✓ | ✗ |"), "{made}");
        assert!(made.starts_with("before\n") && made.ends_with("after\n") && !made.contains("old"), "{made}");
    }

    #[test]
    fn a_text_without_a_place_is_refused() {
        assert_eq!(with_tables("nothing\n", &json!({})), None);
    }
}
