//! `vfio-assign inspect`, and what is made from the definition of the arguments.

use std::fs;
use std::path::{Path, PathBuf};

use crate::golden::assert_golden;
use crate::run::{call, json};
use crate::tree::Tree;

fn capture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/captures").join(name)
}

#[test]
fn registers_are_decoded() {
    let called = call(Path::new("/"), 80, &format!("inspect {}", capture("e1000e.capture").display()));
    assert_eq!((called.status, &*called.errors), (Some(0), ""));
    assert!(called.output.lines().all(|line| line.chars().count() <= 80), "{}", called.output);
    assert_golden("screens/inspect-e1000e-80.txt", &called.output);
}

#[test]
fn programs_get_the_same() {
    let found = json(Tree::good().root(), "inspect --json 04:00.0");
    assert_eq!((&found["schema"], &found["readable"]), (&"vfio-assign/inspect/1".into(), &4096.into()));
    let parts = found["parts"].as_array().unwrap();
    let msix = parts.iter().find(|part| part["name"] == "MSI-X").unwrap();
    assert_eq!(msix["offset"], 0x40);
    assert_eq!(msix["fields"][0], serde_json::json!({ "name": "vectors", "value": "65" }));
}

#[test]
fn every_capture_of_the_corpus_is_decoded() {
    for entry in fs::read_dir(capture("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "capture") {
            let called = call(Path::new("/"), 80, &format!("inspect {}", path.display()));
            assert_eq!((called.status, &*called.errors), (Some(0), ""), "{}", path.display());
        }
    }
}

#[test]
fn what_users_do_not_see_is_said() {
    let tree = Tree::good();
    let config = tree.at("/sys/bus/pci/devices/0000:04:00.0/config");
    let header = fs::read(&config).unwrap()[..64].to_vec();
    fs::write(config, header).unwrap();
    let called = call(tree.root(), 80, "inspect 04:00.0");
    assert!(called.output.contains("Only root sees what is behind the first 64 bytes"), "{}", called.output);
}

#[test]
fn a_dry_run_is_the_doctor_and_the_plan() {
    let tree = Tree::good();
    tree.apply("driver 0000:04:00.0 nvme");
    let called = call(tree.root(), 80, "run --dry-run --kernel k --device 04:00.0");
    assert_eq!(called.status, Some(3), "{}", called.errors);
    assert!(called.output.contains("Begin with: driver."), "{}", called.output);
    assert!(called.output.contains("MSI-X  65 vectors"), "{}", called.output);
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let called = call(Path::new("/"), 80, &format!("completions {shell}"));
        assert_eq!(called.status, Some(0), "{}", called.errors);
        for command in ["doctor", "bind", "explain", "inspect"] {
            assert!(called.output.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let called = call(Path::new("/"), 80, &format!("man --folder {}", folder.path().display()));
    assert_eq!(called.status, Some(0), "{}", called.errors);
    for command in
        ["", "-run", "-list", "-doctor", "-bind", "-unbind", "-explain", "-capture", "-inspect", "-replay"]
    {
        let page = fs::read_to_string(folder.path().join(format!("vfio-assign{command}.1"))).unwrap();
        assert!(page.contains(".SH NAME"), "{command}");
    }
}
