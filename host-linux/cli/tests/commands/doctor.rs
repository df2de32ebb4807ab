//! `vfio-assign doctor`: for each broken set-up in `tests/doctor`, what it says and what it names first.
//!
//! A file there has lines of a host (`tree.rs`) that are carried out on the good one, `cause ID` for the check that is
//! the cause (or `none`), perhaps `call WORDS` for another call than `doctor 04:00.0`, and after `---` the output.

use std::fs;
use std::path::Path;

use crate::golden::assert_golden;
use crate::run::{call, json};
use crate::tree::Tree;

/// How many set-ups there are to be at least.
const SET_UPS: usize = 25;

struct SetUp {
    name: String,
    head: String,
    cause: String,
    call: String,
    tree: Tree,
}

fn set_ups() -> Vec<SetUp> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doctor");
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names.iter().map(|path| set_up(path)).collect()
}

fn set_up(path: &Path) -> SetUp {
    let text = fs::read_to_string(path).unwrap();
    let (head, _) = text.split_once("---\n").unwrap();
    let word = |word: &str| head.lines().find_map(|line| line.strip_prefix(word)).map(str::to_owned);
    let lines = head.lines().filter(|line| !line.starts_with("cause ") && !line.starts_with("call "));
    let tree = Tree::good();
    tree.apply(&lines.collect::<Vec<_>>().join("\n"));
    SetUp {
        name: format!("doctor/{}", path.file_name().unwrap().to_str().unwrap()),
        head: head.into(),
        cause: word("cause ").expect("a cause"),
        call: word("call ").unwrap_or_else(|| "doctor 04:00.0".into()),
        tree,
    }
}

#[test]
fn each_set_up_is_described_as_a_person_reads_it() {
    let set_ups = set_ups();
    assert!(set_ups.len() >= SET_UPS);
    for SetUp { name, head, call: line, tree, .. } in &set_ups {
        let called = call(tree.root(), 100, line);
        assert_eq!(called.errors, "", "{name}");
        let longest = called.output.lines().filter(|line| !line.trim_start().starts_with('#'));
        assert_eq!(longest.filter(|line| line.chars().count() > 100).count(), 0, "{name}: {}", called.output);
        let status = called.status.unwrap();
        assert_golden(name, &format!("{head}---\n{}exit status {status}\n", called.output));
    }
}

#[test]
fn the_cause_comes_first() {
    for SetUp { name, cause, call: line, tree, .. } in set_ups() {
        let found = json(tree.root(), &format!("{line} --json"));
        let problems = found["checks"].as_array().unwrap().iter().filter(|check| check["state"] == "problem");
        let first = problems.clone().next().map(|check| check["id"].as_str().unwrap());
        let expected = (cause != "none").then_some(&*cause);
        assert_eq!((first, found["cause"].as_str()), (expected, expected), "{name}");
        assert_eq!(found["would_work"], serde_json::json!(cause == "none"), "{name}");
        assert!(problems.clone().all(|check| check["remedy"] != serde_json::json!([])), "{name}: no remedy");
    }
}

#[test]
fn the_exit_status_says_whether_it_would_work() {
    let status = |lines: &str| {
        let tree = Tree::good();
        tree.apply(lines);
        call(tree.root(), 80, "doctor 04:00.0").status
    };
    assert_eq!(status(""), Some(0));
    assert_eq!(status("driver 0000:04:00.0 nvme"), Some(3));
    assert_eq!(status("remove /proc/interrupts"), Some(4));
}

#[test]
fn without_a_device_the_host_is_looked_at() {
    assert_golden("screens/doctor-host-80.txt", &call(Tree::good().root(), 80, "doctor").output);
}

#[test]
fn a_device_that_is_not_there_has_others_that_may_be_meant() {
    let called = call(Tree::good().root(), 80, "doctor 04:00.1");
    assert_eq!(called.status, Some(1));
    let expected = "vfio-assign: there is no PCI function 0000:04:00.1 on this host; did you mean 0000:04:00.0 \
        (Red Hat QEMU NVM Express Controller)";
    assert!(called.errors.starts_with(expected), "{}", called.errors);
}

#[test]
fn a_configuration_space_that_cannot_be_read_is_not_one_that_does_not_answer() {
    for lines in
        ["remove /sys/bus/pci/devices/0000:04:00.0/config", "ones /sys/bus/pci/devices/0000:04:00.0/config 0"]
    {
        let tree = Tree::good();
        tree.apply(lines);
        let called = call(tree.root(), 80, "doctor 04:00.0");
        assert_eq!(called.status, Some(4), "{}", called.output);
        assert!(!called.output.contains("/remove"), "{}", called.output);
    }
}
