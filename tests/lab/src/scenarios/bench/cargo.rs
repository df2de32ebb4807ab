//! Benchmarks that run on this machine itself, without an L1, and print a line of JSON a case.

use super::Cause;
use crate::protocol::End;
use serde::de::DeserializeOwned;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// The cases of the benchmark that these words name.
pub(super) fn bench<T: DeserializeOwned>(words: &[&str]) -> Result<Vec<T>, Cause> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = [&["bench", "--quiet", "--locked"], words, &["--", "json"]].concat();
    let output = Command::new(cargo)
        .args(&arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()?;
    if !output.status.success() {
        let status = output.status;
        let end = status.code().map_or(End::Signal(status.signal().unwrap_or_default()), End::Status);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Cause::Program { command: format!("cargo {}", arguments.join(" ")), end, stderr });
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// One case a line; what else is printed is for people.
pub(super) fn parse<T: DeserializeOwned>(printed: &str) -> Vec<T> {
    printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
