//! `vfio-assign inspect`, and what is made from the definition of the arguments.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::{JoinHandle, spawn};

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
    let mut count = 0;
    for entry in fs::read_dir(capture("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "capture") {
            count += 1;
            let called = call(Path::new("/"), 80, &format!("inspect {}", path.display()));
            assert_eq!((called.status, &*called.errors), (Some(0), ""), "{}", path.display());
            let longest = called.output.lines().max_by_key(|line| line.chars().count()).unwrap();
            assert!(longest.chars().count() <= 80, "{}: {longest}", path.display());
        }
    }
    assert!(count >= 15, "{count} captures");
}

/// A run that says this of the device, once; what it was asked.
fn run(socket: &Path) -> JoinHandle<String> {
    const REPORT: &str = r#"{"bdf":"0000:04:00.0","backend":"group","interrupt_mode":"MSI-X","quarantined":false,
        "msix":{"enabled":true,"function_mask":false,"entries":[
            {"vector":0,"address":4276097024,"data":33,"masked":false,"pending":false,"event":true},
            {"vector":3,"address":4276101120,"data":16418,"masked":true,"pending":true,"event":true}]},
        "bars":[{"index":0,"size":16384,"pieces":[
            {"first":0,"last":8191,"treatment":"mapped","reason":"whole pages that the kernel offers","reads":0,"writes":0},
            {"first":8192,"last":9231,"treatment":"emulated","reason":"MSI-X table","reads":12,"writes":34}]}],
        "counters":{"config_accesses":310,"bar_accesses":46,"failed_reads":0},"host_calls":{"pread":96,"set_irqs":5}}"#;
    let listener = UnixListener::bind(socket).unwrap();
    spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"event\":\"hello\",\"version\":1}\n").unwrap();
        let mut asked = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut asked).unwrap();
        let report = REPORT.replace('\n', " ");
        stream.write_all(format!("{{\"answer\":\"report\",\"report\":{report}}}\n").as_bytes()).unwrap();
        asked
    })
}

/// The good host, on which the kernel has counted interrupts of the device.
fn interrupting() -> Tree {
    let tree = Tree::good();
    tree.apply(
        "file /proc/interrupts            CPU0  CPU1\\n 44:  1200  4  IR-PCI-MSIX-0000:04:00.0  0-edge  vfio-msix[0](0000:04:00.0)\\n 45:  0  7  IR-PCI-MSIX-0000:04:00.0  3-edge  vfio-msix[3](0000:04:00.0)",
    );
    tree
}

#[test]
fn a_running_guest_s_table_and_counters_are_shown() {
    let tree = interrupting();
    let socket = tree.at("/run.socket");
    let asked = run(&socket);
    let called = call(tree.root(), 80, &format!("inspect 04:00.0 --control {}", socket.display()));
    assert_eq!((called.status, &*called.errors), (Some(0), ""));
    assert_eq!(asked.join().unwrap(), "{\"request\":\"inspect\",\"device\":\"0000:04:00.0\"}\n");
    assert!(called.output.lines().all(|line| line.chars().count() <= 80), "{}", called.output);
    assert_golden("screens/inspect-guest-80.txt", &called.output);
}

#[test]
fn programs_get_a_running_guest_s_report_as_it_is() {
    let tree = interrupting();
    let socket = tree.at("/run.socket");
    let asked = run(&socket);
    let found = json(tree.root(), &format!("inspect --json 04:00.0 --control {}", socket.display()));
    asked.join().unwrap();
    let expected = serde_json::json!([
        { "kind": "MSI-X", "vector": 0, "count": 1204 },
        { "kind": "MSI-X", "vector": 3, "count": 7 },
    ]);
    assert_eq!(found["interrupts"], expected);
    assert_eq!(found["guest"]["msix"]["entries"][1]["pending"], true);
    assert_eq!(found["guest"]["bars"][0]["pieces"][1]["writes"], 34);
}

#[test]
fn a_run_that_is_not_there_is_an_error() {
    let called = call(Tree::good().root(), 80, "inspect 04:00.0 --control /nowhere/run");
    assert_eq!(called.status, Some(1));
    assert!(called.errors.contains("cannot reach a run at /nowhere/run"), "{}", called.errors);
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
