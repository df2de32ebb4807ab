//! `docs/prior-bugs.md` says what happened to whom; here is checked that what it says of our tests is so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The names of the functions in the Rust files below `folder` that stand behind `#[test]`.
fn tests_below(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            names.extend(text.split("#[test]").skip(1).filter_map(name).map(str::to_owned));
        }
    }
}

/// The name of the function that `text` begins with, if it does.
fn name(text: &str) -> Option<&str> {
    let (name, _) = text.trim_start().strip_prefix("fn ")?.split_once('(')?;
    Some(name)
}

fn tests_of(folders: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    folders.iter().for_each(|folder| tests_below(&root().join(folder), &mut names));
    names
}

/// The rows of the document's tables: what happened, where, our tests.
fn rows() -> Vec<[String; 3]> {
    let text = std::fs::read_to_string(root().join("docs/prior-bugs.md")).unwrap();
    let cells = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        <[String; 3]>::try_from(cells).unwrap_or_else(|cells| panic!("a row of three cells: {cells:?}"))
    };
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what happened"));
    rows.map(cells).collect()
}

/// The names in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_document_names_exists() {
    let names = tests_of(&["core/src", "host-linux/src", "tests/tests"]);
    for [what, _, tests] in rows() {
        assert!(quoted(&tests).next().is_some(), "no test: {what}");
        for test in quoted(&tests) {
            assert!(names.contains(test), "{test} does not exist: {what}");
        }
    }
}

#[test]
fn every_test_of_a_prior_bug_is_in_the_document() {
    let named: BTreeSet<_> =
        rows().iter().flat_map(|row| quoted(&row[2]).map(str::to_owned).collect::<Vec<_>>()).collect();
    let mut missing = tests_of(&["tests/tests/prior_bugs"]);
    missing.retain(|test| !named.contains(test) && !test.contains("the_document"));
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn every_row_of_the_document_says_what_and_where() {
    let rows = rows();
    assert!(rows.len() > 80, "{} rows", rows.len());
    for [what, place, _] in rows {
        assert!(!what.is_empty() && !place.is_empty(), "{what}: {place}");
    }
}
