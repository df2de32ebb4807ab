//! `vfio-assign bind` and `unbind`: what they would do and refuse. That drivers really change is for the lab.

use std::fs;

use crate::run::{call, json};
use crate::tree::Tree;

/// The good host, changed by these lines.
fn host(lines: &str) -> Tree {
    let tree = Tree::good();
    tree.apply(lines);
    tree
}

const DISK: &str = "driver 0000:04:00.0 nvme";
const SIBLING: &str = "driver 0000:04:00.0 nvme
    function 0000:04:00.1 1b36:0010 010802 below=0000:00:1c.0 group=5 driver=nvme bars=w0x4000";

#[test]
fn a_dry_run_says_what_a_shell_would_do() {
    let called = call(host(DISK).root(), 80, "bind --dry-run 04:00.0");
    let expected = "\
echo vfio-pci > /sys/bus/pci/devices/0000:04:00.0/driver_override
echo 0000:04:00.0 > /sys/bus/pci/devices/0000:04:00.0/driver/unbind
echo 0000:04:00.0 > /sys/bus/pci/drivers_probe
";
    assert_eq!((called.status, &*called.errors, &*called.output), (Some(0), "", expected));
}

#[test]
fn a_dry_run_changes_nothing() {
    let tree = host(DISK);
    assert_eq!(call(tree.root(), 80, "bind --dry-run 04:00.0").status, Some(0));
    let text = fs::read_to_string(tree.at("/sys/bus/pci/devices/0000:04:00.0/driver_override")).unwrap();
    assert_eq!((&*text, tree.at("/run").exists()), ("(null)\n", false));
}

#[test]
fn programs_get_moves_and_commands() {
    let tree = host(SIBLING);
    tree.apply("remove /sys/bus/pci/drivers/vfio-pci");
    let found = json(tree.root(), "bind --dry-run --siblings --json 04:00.0");
    let moved = |address: &str| serde_json::json!({ "address": address, "from": "nvme", "to": "vfio-pci", "found_by_kernel": false });
    assert_eq!(found["schema"], "vfio-assign/bind/1");
    assert_eq!(found["dry_run"], true);
    assert_eq!(found["moves"], serde_json::json!([moved("0000:04:00.0"), moved("0000:04:00.1")]));
    assert_eq!(found["commands"][0], "modprobe vfio-pci");
    assert_eq!(found["commands"].as_array().unwrap().len(), 7);
}

#[test]
fn a_device_that_vfio_has_is_left_alone() {
    let called = call(Tree::good().root(), 80, "bind 04:00.0");
    assert_eq!((called.status, &*called.output), (Some(0), "There is nothing to do.\n"));
}

#[test]
fn siblings_are_handled_as_told() {
    let tree = host(SIBLING);
    let called = call(tree.root(), 80, "bind --dry-run 04:00.0");
    assert_eq!(called.status, Some(1));
    assert!(called.errors.contains("0000:04:00.1 (nvme)"), "{}", called.errors);
    assert!(called.errors.contains("help: --siblings gives them to VFIO, too"), "{}", called.errors);
    let lines = |line: &str| call(tree.root(), 80, line).output.lines().count();
    assert_eq!(lines("bind --dry-run --siblings 04:00.0"), 6);
    assert_eq!(lines("bind --dry-run --alone 04:00.0"), 3);
}

#[test]
fn what_the_host_needs_is_refused_unless_forced() {
    for (device, what) in [
        ("00:1f.2", "sda1 is mounted at /"),
        ("00:19.0", "the default route goes over eth0"),
        ("00:02.0", "the host booted with it as its display"),
    ] {
        let tree = Tree::good();
        // Alone, for what is in its group does not matter here.
        let called = call(tree.root(), 80, &format!("bind --dry-run --alone {device}"));
        assert_eq!(called.status, Some(1), "{device}");
        assert!(called.errors.contains(what), "{}", called.errors);
        let forced = call(tree.root(), 80, &format!("bind --dry-run --alone --force {device}"));
        assert_eq!(forced.status, Some(0), "{}", forced.errors);
    }
}

#[test]
fn a_sibling_that_the_host_needs_is_refused_too() {
    let tree = host(SIBLING);
    tree.apply(
        "disk 0000:04:00.1 nvme1n1 259:7
        file /proc/self/mountinfo 23 22 259:7 / /srv rw - ext4 /dev/nvme1n1 rw",
    );
    let called = call(tree.root(), 80, "bind --dry-run --siblings 04:00.0");
    assert_eq!(called.status, Some(1));
    assert!(
        called.errors.contains("the host needs 0000:04:00.1: nvme1n1 is mounted at /srv"),
        "{}",
        called.errors
    );
}

#[test]
fn bridges_and_devices_without_a_group_are_refused() {
    let called = call(Tree::good().root(), 80, "bind --force 00:1c.0");
    assert!(called.errors.contains("0000:00:1c.0 is a bridge"), "{}", called.errors);
    let tree = host("remove /sys/bus/pci/devices/0000:04:00.0/iommu_group");
    let called = call(tree.root(), 80, "bind --force 04:00.0");
    assert!(called.errors.contains("in no IOMMU group"), "{}", called.errors);
}

#[test]
fn a_driver_that_does_not_take_the_device_leaves_all_as_it_was() {
    // Nobody acts on what is written to these files, which is what a kernel does whose driver fails.
    let tree = host("driver 0000:04:00.0 nvme\nfile /sys/bus/pci/drivers_probe");
    let called = call(tree.root(), 80, "bind 04:00.0");
    assert_eq!(called.status, Some(1));
    let expected = "0000:04:00.0 was not taken by vfio-pci: it is with nvme; everything is as it was";
    assert!(called.errors.contains(expected), "{}", called.errors);
    assert!(!tree.at("/run/vfio-assign/0000:04:00.0").exists());
}

#[test]
fn the_former_driver_is_remembered() {
    let tree = Tree::good();
    tree.apply("file /run/vfio-assign/0000:04:00.0 {\"id\":\"0x1b36 0x0010  \",\"driver\":\"nvme\",\"override\":null}");
    let called = call(tree.root(), 80, "unbind --dry-run 04:00.0");
    let expected = "\
echo nvme > /sys/bus/pci/devices/0000:04:00.0/driver_override
echo 0000:04:00.0 > /sys/bus/pci/devices/0000:04:00.0/driver/unbind
echo 0000:04:00.0 > /sys/bus/pci/drivers_probe
echo > /sys/bus/pci/devices/0000:04:00.0/driver_override
";
    assert_eq!((called.status, &*called.errors, &*called.output), (Some(0), "", expected));
}

#[test]
fn without_a_memory_the_kernel_finds_a_driver() {
    let called = call(Tree::good().root(), 80, "unbind --dry-run 04:00.0");
    let expected = "\
echo > /sys/bus/pci/devices/0000:04:00.0/driver_override
echo 0000:04:00.0 > /sys/bus/pci/devices/0000:04:00.0/driver/unbind
echo 0000:04:00.0 > /sys/bus/pci/drivers_probe
";
    assert_eq!(called.output, expected);
}

#[test]
fn a_memory_that_is_none_is_named() {
    let tree = Tree::good();
    tree.apply("file /run/vfio-assign/0000:04:00.0 nvme");
    let called = call(tree.root(), 80, "unbind 04:00.0");
    assert_eq!(called.status, Some(1));
    assert!(called.errors.contains("run/vfio-assign/0000:04:00.0"), "{}", called.errors);
    assert!(called.errors.contains("help: remove the file"), "{}", called.errors);
}

#[test]
fn a_device_that_a_process_has_is_not_taken_from_it() {
    for file in ["/dev/vfio/5", "/dev/vfio/devices/vfio0"] {
        let tree =
            host(&format!("file /proc/1234/comm qemu-system-x86\nlink /proc/1234/fd/17 {file}\nfile {file}"));
        let called = call(tree.root(), 80, "unbind --dry-run 04:00.0");
        assert_eq!(called.status, Some(1));
        let expected = format!("process 1234 (qemu-system-x86) has {file} open");
        assert!(called.errors.contains(&expected), "{}", called.errors);
        assert_eq!(call(tree.root(), 80, "unbind --dry-run --force 04:00.0").status, Some(0));
    }
}

#[test]
fn a_device_that_vfio_does_not_have_is_not_given_back() {
    let called = call(host(DISK).root(), 80, "unbind 04:00.0");
    assert_eq!((called.status, &*called.output), (Some(0), "There is nothing to do.\n"));
}

#[test]
fn a_physical_function_is_not_taken_from_its_virtual_ones() {
    let tree = host(DISK);
    tree.apply("file /sys/bus/pci/devices/0000:04:00.0/sriov_numvfs 4");
    let called = call(tree.root(), 80, "bind --dry-run 04:00.0");
    assert_eq!(called.status, Some(1));
    assert!(called.errors.contains("it has virtual functions (4)"), "{}", called.errors);
}

#[test]
fn what_may_be_needed_is_refused_unless_forced() {
    let tree = host(DISK);
    tree.apply("disk 0000:04:00.0 nvme0n1 259:1\nremove /dev/nvme0n1");
    let called = call(tree.root(), 80, "bind --dry-run 04:00.0");
    assert_eq!(called.status, Some(1));
    assert!(called.errors.contains("dev/nvme0n1: ENOENT"), "{}", called.errors);
    assert_eq!(call(tree.root(), 80, "bind --dry-run --force 04:00.0").status, Some(0));
}

const REMEMBERED: &str =
    "file /run/vfio-assign/0000:04:00.0 {\"id\":\"0x1b36 0x0010  \",\"driver\":\"nvme\",\"override\":null}";

#[test]
fn the_driver_of_another_card_at_the_address_is_not_remembered() {
    let tree = host(REMEMBERED);
    tree.apply("file /sys/bus/pci/devices/0000:04:00.0/subsystem_vendor 0x1af4");
    let found = json(tree.root(), "unbind --dry-run --json 04:00.0");
    assert_eq!(found["moves"][0]["found_by_kernel"], true);
}

#[test]
fn what_was_ended_half_way_is_given_back() {
    let tree =
        host("driver 0000:04:00.0 none\nfile /sys/bus/pci/devices/0000:04:00.0/driver_override vfio-pci");
    assert_eq!(call(tree.root(), 80, "unbind --dry-run 04:00.0").output, "There is nothing to do.\n");
    tree.apply(REMEMBERED);
    let found = json(tree.root(), "unbind --dry-run --json 04:00.0");
    assert_eq!(
        (&found["moves"][0]["from"], &found["moves"][0]["to"]),
        (&serde_json::json!(null), &"nvme".into())
    );
}

#[test]
fn what_was_ended_half_way_keeps_the_driver_that_it_had() {
    let tree =
        host("driver 0000:04:00.0 none\nfile /sys/bus/pci/devices/0000:04:00.0/driver_override vfio-pci");
    tree.apply(REMEMBERED);
    let memory = || fs::read_to_string(tree.at("/run/vfio-assign/0000:04:00.0")).unwrap();
    let before = memory();
    // It fails for want of a `drivers_probe`, and is undone.
    assert_eq!(call(tree.root(), 80, "bind 04:00.0").status, Some(1));
    assert_eq!(memory(), before);
}
