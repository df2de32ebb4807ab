//! A call of the command.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The command, told to look for the host's files below `root`.
pub(crate) fn command(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-assign"));
    command.arg("--root").arg(root).stdin(Stdio::null());
    for variable in ["COLUMNS", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_LOG", "TERM"] {
        command.env_remove(variable);
    }
    command
}

/// What a call printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) status: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// Calls the command with the words of `line`, on a screen of `columns` columns.
pub(crate) fn call(root: &Path, columns: usize, line: &str) -> Called {
    let mut command = command(root);
    command.env("COLUMNS", columns.to_string()).args(line.split(' '));
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Called { status: status.code(), output: text(stdout), errors: text(stderr) }
}

/// Calls the command, which must succeed and say nothing on standard error, and reads what it prints as JSON.
pub(crate) fn json(root: &Path, line: &str) -> serde_json::Value {
    let called = call(root, 80, line);
    assert_eq!(called.errors, "", "{line}");
    serde_json::from_str(&called.output).unwrap_or_else(|error| panic!("{line}: {error}\n{}", called.output))
}
