//! `vfio-assign list`.

use std::io::Read as _;
use std::process::Stdio;

use crate::golden::assert_golden;
use crate::run::{call, command, json};
use crate::tree::Tree;

#[test]
fn the_table_fits_80_columns() {
    let called = call(Tree::good().root(), 80, "list");
    assert!(called.output.lines().all(|line| line.chars().count() <= 80), "{}", called.output);
    assert_golden("screens/list-80.txt", &called.output);
}

#[test]
fn a_wide_screen_has_room_for_classes() {
    assert_golden("screens/list-140.txt", &call(Tree::good().root(), 140, "list").output);
}

#[test]
fn each_function_has_what_stands_between_it_and_a_guest() {
    let list = json(Tree::good().root(), "list --json");
    let functions = list["functions"].as_array().unwrap();
    let seen: Vec<_> = functions.iter().map(|one| (&one["address"], &one["readiness"])).collect();
    let seen: Vec<_> = seen.into_iter().map(|(a, b)| (a.as_str().unwrap(), b.as_str().unwrap())).collect();
    let expected = [
        ("0000:00:00.0", "bridge"),
        ("0000:00:02.0", "in-use"),
        ("0000:00:19.0", "in-use"),
        ("0000:00:1c.0", "bridge"),
        ("0000:00:1f.0", "bridge"),
        ("0000:00:1f.2", "in-use"),
        ("0000:04:00.0", "ready"),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_function_is_described_with_the_documented_members() {
    let list = json(Tree::good().root(), "list --json --id 1b36:0010");
    let expected = serde_json::json!({
        "schema": "vfio-assign/list/1",
        "functions": [{
            "address": "0000:04:00.0",
            "name": "Red Hat QEMU NVM Express Controller",
            "vendor": "1b36",
            "device": "0010",
            "class": "010802",
            "class_name": "Non-Volatile memory controller",
            "driver": "vfio-pci",
            "group": 5,
            "readiness": "ready",
            "uses": [],
            "bars": [{ "index": 0, "kind": "memory64", "size": 0x4000, "prefetchable": true }],
            "bar_total": 0x4000,
            "virtual_functions": null,
            "physical_function": null,
        }],
    });
    assert_eq!(list, expected);
}

#[test]
fn filters_are_and_together() {
    let tree = Tree::good();
    let addresses = |line: &str| -> Vec<String> {
        let list = json(tree.root(), line);
        let functions = list["functions"].as_array().unwrap().iter();
        functions.map(|one| one["address"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(addresses("list --json --class 01"), ["0000:00:1f.2", "0000:04:00.0"]);
    assert_eq!(addresses("list --json --class ethernet"), ["0000:00:19.0"]);
    assert_eq!(addresses("list --json --driver none"), ["0000:00:00.0"]);
    assert_eq!(addresses("list --json --class 01 --driver vfio-pci"), ["0000:04:00.0"]);
}

#[test]
fn a_group_is_shown_with_all_that_is_in_it() {
    let output = call(Tree::good().root(), 100, "list --groups --class 0106").output;
    assert!(output.starts_with("Group 3\n  00:1f.2  Intel"), "{output}");
}

#[test]
fn where_nothing_fits_that_is_said() {
    let called = call(Tree::good().root(), 80, "list --driver nouveau");
    assert_eq!(
        (called.status, &*called.output),
        (Some(0), "None of the 7 PCI functions of this host fits.\n")
    );
}

#[test]
fn a_host_without_pci_is_no_error() {
    let called = call(Tree::new("folder /sys").root(), 80, "list");
    assert_eq!(called.status, Some(0));
    assert!(called.output.contains("no PCI functions"), "{}", called.output);
}

#[test]
fn colours_do_not_go_into_a_pipe() {
    assert!(!call(Tree::good().root(), 80, "list").output.contains('\u{1b}'));
}

#[test]
fn colours_that_are_asked_for_come_unless_no_color_is_set() {
    let tree = Tree::good();
    let colours = |no_color: &str| {
        let mut command = command(tree.root());
        let output = command.arg("list").env("CLICOLOR_FORCE", "1").env("NO_COLOR", no_color).output();
        String::from_utf8(output.unwrap().stdout).unwrap().contains('\u{1b}')
    };
    assert!(colours(""));
    assert!(!colours("1"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let tree = Tree::good();
    let mut child =
        command(tree.root()).arg("list").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Nobody reads: the pipe is closed before the command can have written.
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((child.wait().unwrap().code(), &*errors), (Some(0), ""));
}

#[test]
fn a_function_that_goes_away_meanwhile_is_left_out() {
    let tree = Tree::good();
    // What is left of it is in the way no longer than a look takes.
    tree.apply("link /sys/bus/pci/devices/0000:09:00.0 /sys/devices/gone");
    let list = json(tree.root(), "list --json");
    assert_eq!(list["functions"].as_array().unwrap().len(), 7);
}

#[test]
fn bars_of_all_addresses_there_are_do_not_overflow() {
    let tree = Tree::good();
    let all = "0x0000000000000000 0xfffffffffffffffe 0x000000000014220c";
    tree.apply(&format!("file /sys/bus/pci/devices/0000:04:00.0/resource {all}\\n{all}"));
    assert_eq!(json(tree.root(), "list --json --id 1b36:0010")["functions"][0]["bar_total"], u64::MAX);
    assert_eq!(call(tree.root(), 80, "doctor 04:00.0").status, Some(3));
}

#[test]
fn a_physical_function_whose_virtual_ones_are_there_is_in_use() {
    let tree = Tree::good();
    tree.apply("file /sys/bus/pci/devices/0000:04:00.0/sriov_numvfs 4");
    assert_eq!(json(tree.root(), "list --json --id 1b36:0010")["functions"][0]["readiness"], "in-use");
}

#[test]
fn what_cannot_be_seen_is_said_and_the_rest_is_listed() {
    let tree = Tree::good();
    tree.apply("remove /proc/swaps\nfolder /proc/swaps");
    let called = call(tree.root(), 80, "list");
    assert_eq!(called.status, Some(0));
    assert!(called.errors.contains("proc/swaps: errno 21"), "{}", called.errors);
}

#[test]
fn a_bridge_is_what_has_the_header_of_one_or_leads_to_the_processor() {
    let tree = Tree::good();
    tree.apply(
        "function 0000:06:00.0 10b5:87b0 068000 group=6\nfunction 0000:07:00.0 104c:ac56 060700 group=7",
    );
    // A CardBus bridge.
    let at = tree.at("/sys/bus/pci/devices/0000:07:00.0/config");
    let mut config = std::fs::read(&at).unwrap();
    config[0x0e] = 2;
    std::fs::write(at, config).unwrap();
    let list = json(tree.root(), "list --json --class 06");
    let functions = list["functions"].as_array().unwrap().iter();
    let seen: Vec<_> = functions.map(|one| one["readiness"].as_str().unwrap()).collect();
    assert_eq!(seen, ["bridge", "bridge", "bridge", "bind", "bridge"]);
}
