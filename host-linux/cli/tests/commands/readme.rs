//! What the README shows of the command is what it prints: on hosts made of files, 80 columns wide. A line `…` there
//! stands for lines that are left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::golden::assert_golden;
use crate::run::call;
use crate::tree::Tree;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The calls of the README, each with what stands below it.
fn shown() -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = text.split("```text\n").skip(1).filter_map(|block| block.split("```").next());
    let mut shown: Vec<(String, Vec<String>)> = Vec::new();
    for block in blocks.filter(|block| block.starts_with("$ vfio-assign ")) {
        for line in block.lines() {
            match (line.strip_prefix("$ vfio-assign "), shown.last_mut()) {
                (Some(call), _) => shown.push((call.into(), Vec::new())),
                (None, Some((_, lines))) => lines.push(line.into()),
                (None, None) => unreachable!("the block begins with a call"),
            }
        }
    }
    shown
}

/// Whether lines are those of a text, but for what is left out.
fn fits(shown: &[String], printed: &[&str]) -> bool {
    match (shown, printed) {
        ([], []) => true,
        ([sign, rest @ ..], _) if sign == "…" => {
            (0..=printed.len()).any(|skipped| fits(rest, &printed[skipped..]))
        }
        ([first, rest @ ..], [line, more @ ..]) if first == line => fits(rest, more),
        _ => false,
    }
}

#[test]
fn screens_are_what_the_command_prints() {
    let tree = Tree::good();
    // What the doctor has something to say about: another function of the device, with a driver of the host.
    let troubled = Tree::good();
    troubled.apply(
        "function 0000:04:00.1 1b36:0010 010802 below=0000:00:1c.0 group=5 driver=nvme bars=w0x4000 config=nvme.capture",
    );
    let shown = shown();
    assert!(shown.len() >= 3, "{shown:?}");
    for (line, mut lines) in shown {
        let host = if line.starts_with("doctor ") { &troubled } else { &tree };
        let in_repository =
            line.replace("tests/captures", &root().join("tests/captures").display().to_string());
        let called = call(host.root(), 80, &in_repository);
        assert_eq!(called.errors, "", "{line}");
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        let printed: Vec<&str> = called.output.trim_end().lines().collect();
        assert!(
            fits(&lines, &printed),
            "`{line}` does not print\n{}\nbut\n{}",
            lines.join("\n"),
            called.output
        );
    }
}

#[test]
fn the_picture_is_what_explain_draws() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("nvme.svg");
    let capture = root().join("tests/captures/nvme.capture");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-assign"));
    let output = command.arg("explain").arg(capture).arg("--svg").arg(&picture).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_golden("../../../docs/explain-nvme.svg", &fs::read_to_string(picture).unwrap());
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains("](docs/explain-nvme.svg)"));
}
