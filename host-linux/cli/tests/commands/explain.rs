//! `vfio-assign explain` and `capture`.

use std::fs;
use std::path::{Path, PathBuf};

use vfio_assign_core::fake::Capture;

use crate::golden::assert_golden;
use crate::run::{Called, call, json};
use crate::tree::Tree;

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/captures")
}

fn explain(columns: usize, name: &str) -> Called {
    call(Path::new("/"), columns, &format!("explain {}/{name}", captures().display()))
}

#[test]
fn a_plan_fits_the_screen() {
    for (columns, name) in [(80, "nvme"), (140, "e1000e")] {
        let called = explain(columns, &format!("{name}.capture"));
        assert_eq!((called.status, &*called.errors), (Some(0), ""));
        assert!(called.output.lines().all(|line| line.chars().count() <= columns), "{}", called.output);
        assert_golden(&format!("screens/explain-{name}-{columns}.txt"), &called.output);
    }
}

/// How many captures there are at least.
const CORPUS: usize = 15;

#[test]
fn every_capture_of_the_corpus_is_explained() {
    let mut count = 0;
    for entry in fs::read_dir(captures()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".capture") {
            count += 1;
            let called = explain(80, &name);
            assert_eq!((called.status, &*called.errors), (Some(0), ""), "{name}");
            let longest = called.output.lines().max_by_key(|line| line.chars().count()).unwrap();
            assert!(longest.chars().count() <= 80, "{name}: {longest}");
        }
    }
    assert!(count >= CORPUS, "{count} captures");
}

#[test]
fn the_plan_has_the_documented_members() {
    let path = captures().join("nvme.capture");
    let plan = json(Path::new("/"), &format!("explain --json {}", path.display()));
    assert_eq!(
        (&plan["schema"], &plan["name"]),
        (&"vfio-assign/explain/1".into(), &"Red Hat QEMU NVM Express Controller".into())
    );
    let expected = serde_json::json!([
        { "kind": "MSI-X", "vectors": 65, "offered": true, "reason": "offered" },
        { "kind": "MSI", "vectors": 0, "offered": false, "reason": "not in the device" },
        { "kind": "INTx", "vectors": 1, "offered": true, "reason": "offered" },
    ]);
    assert_eq!(plan["interrupts"], expected);
    let expected = serde_json::json!({
        "first": 0x2000, "last": 0x240f, "treatment": "emulated", "reason": "MSI-X table", "page_size": null,
    });
    assert_eq!(plan["bars"][0]["pieces"][1], expected);
    let expected = serde_json::json!({
        "first": 0x10, "last": 0x27, "source": "virtual", "writes": "virtual", "rule": "Base Address Register",
    });
    let config = plan["config"].as_array().unwrap();
    assert!(config.contains(&expected));
    let mut next = 0;
    for run in config {
        assert_eq!(run["first"], next);
        next = run["last"].as_u64().unwrap() + 1;
    }
    assert_eq!(next, 4096);
}

#[test]
fn a_device_without_vfio_is_explained_from_sysfs() {
    let tree = Tree::good();
    tree.apply("driver 0000:04:00.0 nvme");
    let called = call(tree.root(), 80, "explain 04:00.0");
    assert_eq!((called.status, &*called.errors), (Some(0), ""));
    assert!(called.output.contains("as sysfs shows it"), "{}", called.output);
    assert!(called.output.contains("MSI-X  65 vectors"), "{}", called.output);
}

#[test]
fn what_users_do_not_see_is_said() {
    let tree = Tree::good();
    tree.apply("driver 0000:04:00.0 nvme");
    let config = tree.at("/sys/bus/pci/devices/0000:04:00.0/config");
    let header = fs::read(&config).unwrap()[..64].to_vec();
    fs::write(config, header).unwrap();
    let called = call(tree.root(), 120, "explain 04:00.0");
    assert_eq!(called.status, Some(0));
    assert!(called.output.contains("– MSI-X  only root sees whether the device has it"), "{}", called.output);
}

#[test]
fn a_capture_of_sysfs_is_the_shape_that_it_shows() {
    let tree = Tree::good();
    tree.apply("driver 0000:04:00.0 nvme");
    let called = call(tree.root(), 80, "capture 04:00.0");
    assert_eq!(called.status, Some(0), "{}", called.errors);
    let found: Capture = called.output.parse().unwrap();
    let text = fs::read_to_string(captures().join("nvme.capture")).unwrap();
    let expected: Capture = text.parse().unwrap();
    assert_eq!((found.config, found.regions, found.resettable), (expected.config, expected.regions, true));
}

#[test]
fn a_capture_without_ids_names_nobody() {
    let tree = Tree::good();
    tree.apply("driver 0000:04:00.0 nvme");
    let called = call(tree.root(), 80, "capture --no-ids 04:00.0");
    let found: Capture = called.output.parse().unwrap();
    assert_eq!((found.device, &*found.name, &found.config[..4]), (None, "", &[0; 4][..]));
}

#[test]
fn a_capture_that_is_cut_off_is_an_error_with_a_line() {
    let text = fs::read(captures().join("nvme.capture")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut.capture");
    // The library's tests try every byte; here it is what a person sees.
    for (end, line) in
        [(0, 1), (5, 1), (200, 4), (text.len() - 6, text.split(|byte| *byte == b'\n').count() - 2)]
    {
        fs::write(&file, &text[..end]).unwrap();
        let called = call(Path::new("/"), 80, &format!("explain {}", file.display()));
        assert_eq!(called.status, Some(1));
        let expected = format!("vfio-assign: {}: line {line}: ", file.display());
        assert!(called.errors.starts_with(&expected), "{} does not begin with {expected}", called.errors);
    }
}

#[test]
fn what_is_no_text_is_an_error_with_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("no.capture");
    fs::write(&file, b"capture 1\n\xff").unwrap();
    let called = call(Path::new("/"), 80, &format!("explain {}", file.display()));
    assert!(called.errors.contains("byte 10 is no text"), "{}", called.errors);
}

#[test]
fn a_folder_is_no_capture_and_has_some() {
    let called = call(Path::new("/"), 80, &format!("explain {}", captures().display()));
    assert_eq!(called.status, Some(1));
    assert!(called.errors.ends_with("\nhelp: name one of the captures in it\n"), "{}", called.errors);
}

#[test]
fn what_is_neither_device_nor_file_is_an_error() {
    let called = call(Path::new("/"), 80, "explain nvme0");
    assert_eq!(called.status, Some(1));
    assert!(called.errors.contains("\"nvme0\" is no PCI address"), "{}", called.errors);
}
