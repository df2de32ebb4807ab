//! `vfio-assign replay`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::{call, json};

fn trace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/captures/linux-nvme-msix.trace")
}

#[test]
fn a_recorded_guest_is_answered_as_it_was() {
    let found = json(Path::new("/"), &format!("replay --json {}", trace().display()));
    assert_eq!(found["schema"], "vfio-assign/replay/2");
    assert_eq!((&found["difference"], &found["device_differs"]), (&serde_json::Value::Null, &0.into()));
    let lines = fs::read_to_string(trace()).unwrap();
    let accesses = lines.lines().filter(|line| line.starts_with("config r") || line.starts_with("config w"));
    let memory = lines.lines().filter(|line| line.starts_with("memory"));
    assert_eq!(found["accesses"], accesses.count() + memory.count());
    assert_eq!(found["calls"]["Wire"], 6);
}

#[test]
fn the_first_difference_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("changed.trace");
    let text = fs::read_to_string(trace()).unwrap();
    // Message Control of MSI-X, which the core answers.
    let line = 1 + text.lines().position(|line| line.starts_with("config read 0x42 2 ")).unwrap();
    let changed = text.replacen("config read 0x42 2 0x40", "config read 0x42 2 0x41", 1);
    assert_ne!(changed, text);
    fs::write(&file, changed).unwrap();
    let called = call(Path::new("/"), 80, &format!("replay {}", file.display()));
    assert_eq!((called.status, &*called.errors), (Some(3), ""));
    let expected = format!("Line {line}: `config read 0x42 2 0x41` gives 0x40 now, and 0x41 then.\n");
    assert!(called.output.starts_with(&expected), "{} is not {expected}", called.output);
}

#[test]
fn a_trace_without_a_device_asks_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bare.trace");
    fs::write(&file, "trace 1\nconfig read 0x0 2 0x1b36\n").unwrap();
    let called = call(Path::new("/"), 80, &format!("replay {}", file.display()));
    assert_eq!(called.status, Some(1));
    assert!(called.errors.contains("help: name one with --capture"), "{}", called.errors);
    let capture = trace().with_file_name("nvme.capture");
    let called =
        call(Path::new("/"), 80, &format!("replay {} --capture {}", file.display(), capture.display()));
    assert_eq!(called.status, Some(0), "{}", called.errors);
}

#[test]
fn what_is_no_trace_is_an_error_with_a_line() {
    let capture = trace().with_file_name("nvme.capture");
    let called = call(Path::new("/"), 80, &format!("replay {}", capture.display()));
    assert_eq!(called.status, Some(1));
    assert!(called.errors.contains("a record begins with the line `record 1`"), "{}", called.errors);
}

#[test]
fn what_is_cut_off_says_where_and_how_the_rest_can_be_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let capture = trace().with_file_name("nvme.capture");
    let cut = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        let line = format!("replay {} --capture {}", file.display(), capture.display());
        let called = call(Path::new("/"), 80, &line);
        assert_eq!(called.status, Some(1));
        called.errors
    };
    let record = cut("a.record", "record 1\nstart\n");
    assert!(record.contains("line 2: it ends here") && record.contains("last line `end`"), "{record}");
    let trace = cut("a.trace", "trace 1\nconfig read 0x0 2 0x1b3");
    assert!(trace.contains("line 2: it ends here") && !trace.contains("`end`"), "{trace}");
}
