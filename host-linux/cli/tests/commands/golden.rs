//! Texts that people read, compared whole with files that people have read.

use std::fs;
use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Compares a text with `tests/NAME`. With `UPDATE_GOLDEN=1` in the environment the file is written instead: look at
/// what has changed before you keep it.
pub(crate) fn assert_golden(name: &str, actual: &str) {
    let path = path(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(actual == expected, "{name} is no longer\n{expected}\nbut\n{actual}");
}
