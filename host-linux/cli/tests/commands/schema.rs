//! What programs get is what `docs/json.md` says that they get: no member that is not described, and none missing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::run::json;
use crate::tree::Tree;

const DOCUMENT: &str = include_str!("../../../../docs/json.md");

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/captures")
}

/// The part of the document that describes a schema, without what is below it.
fn section(schema: &str) -> &'static str {
    let (_, behind) = DOCUMENT.split_once(&format!("## `{schema}`\n")).expect("a section of the schema");
    behind.split("\n#").next().unwrap()
}

/// The words that are written as code in a text.
fn words(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The names of all members at any depth.
fn members<'a>(value: &'a Value, names: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                names.insert(name);
                // Counters are named by what they count.
                if !["calls", "interrupts"].contains(&name.as_str()) || value.is_array() {
                    members(value, names);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| members(item, names)),
        _ => {}
    }
}

/// Compares what a call prints with the section that describes it.
fn assert_described(root: &Path, line: &str) {
    let printed = json(root, line);
    let schema = printed["schema"].as_str().unwrap_or_else(|| panic!("{line}: no schema"));
    let section = section(schema);
    let (documented, mut found) = (words(section), BTreeSet::new());
    members(&printed, &mut found);
    found.remove("schema");
    for name in &found {
        assert!(documented.contains(name), "{line}: `{name}` is not in docs/json.md");
    }
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<&str> = rows.filter_map(|row| row.split('|').nth(1)).collect();
    // Of the first table: others are of what is below the members.
    let first = section.lines().skip_while(|line| !line.starts_with("| `"));
    let first = first.take_while(|line| line.starts_with('|')).count();
    for name in rows.into_iter().take(first).flat_map(words) {
        assert!(printed.get(name).is_some() || found.contains(name), "{line}: there is no `{name}`");
    }
}

#[test]
fn every_command_prints_what_is_described() {
    let tree = Tree::good();
    let (nvme, trace) = (captures().join("nvme.capture"), captures().join("linux-nvme-msix.trace"));
    for line in [
        "list --json".to_owned(),
        "doctor --json 04:00.0".to_owned(),
        format!("explain --json {}", nvme.display()),
        format!("inspect --json {}", nvme.display()),
        "inspect --json 04:00.0".to_owned(),
        "unbind --json --dry-run 04:00.0".to_owned(),
        format!("replay --json {}", trace.display()),
    ] {
        assert_described(tree.root(), &line);
    }
}

#[test]
fn a_doctor_who_finds_something_says_it_by_the_same_members() {
    let tree = Tree::good();
    tree.apply("driver 0000:04:00.0 nvme");
    assert_described(tree.root(), "doctor --json 04:00.0");
    assert_described(tree.root(), "doctor --json");
}

#[test]
fn every_check_and_every_state_is_described() {
    let tree = Tree::good();
    tree.apply("remove /dev/kvm\nfile /proc/cmdline ro intremap=off");
    let documented = words(section("vfio-assign/doctor/1"));
    let examination = json(tree.root(), "doctor --json 04:00.0");
    let checks = examination["checks"].as_array().unwrap();
    assert_eq!(checks.len(), documented.iter().filter(|word| is_check(word, checks)).count());
    for check in checks {
        for member in ["id", "state"] {
            let word = check[member].as_str().unwrap();
            assert!(documented.contains(word), "`{word}` is not in docs/json.md");
        }
    }
}

fn is_check(word: &str, checks: &[Value]) -> bool {
    checks.iter().any(|check| check["id"] == word)
}
