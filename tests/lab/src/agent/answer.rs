//! Requests about files: enough to bind a driver, read a report, take a digest.

use super::boot::io_refusal;
use crate::protocol::{Answer, Bytes, Refusal, Request};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Answers a request that needs nothing but the file system.
pub(super) fn about_files(request: Request) -> Result<Answer, Refusal> {
    match request {
        Request::Write { path, bytes } => write(&path, &bytes.0),
        Request::Read { path } => {
            let content = fs::read(&path).map_err(|error| io_refusal("read", &path, &error))?;
            Ok(Answer::Content(Bytes(content)))
        }
        Request::LinkName { path } => link_name(&path),
        Request::List { path } => list(&path),
        Request::Rename { from, to } => {
            fs::rename(&from, &to).map_err(|error| io_refusal("rename", &from, &error))?;
            Ok(Answer::Done)
        }
        Request::Digest { path } => digest(&path),
        Request::AwaitPath { path, milliseconds } => await_path(&path, Duration::from_millis(milliseconds)),
        Request::Spawn { .. }
        | Request::Input { .. }
        | Request::Kill { .. }
        | Request::StopDecoding { .. }
        | Request::Nudge
        | Request::PowerOff => Err(Refusal {
            operation: "answer".into(),
            object: "a request about a process".into(),
            cause: "it is no request about files".into(),
            errno: None,
        }),
    }
}

fn write(path: &str, bytes: &[u8]) -> Result<Answer, Refusal> {
    let refuse = |error| io_refusal("write", path, &error);
    // Sysfs files exist already and must not be truncated; others are made.
    let mut file = File::options().write(true).create(true).truncate(false).open(path).map_err(refuse)?;
    file.write_all(bytes).map_err(refuse)?;
    Ok(Answer::Done)
}

fn link_name(path: &str) -> Result<Answer, Refusal> {
    let target = fs::read_link(path).map_err(|error| io_refusal("read link", path, &error))?;
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Answer::Name(name))
}

fn list(path: &str) -> Result<Answer, Refusal> {
    let refuse = |error| io_refusal("list", path, &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(refuse)? {
        names.push(entry.map_err(refuse)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(Answer::Names(names))
}

fn digest(path: &str) -> Result<Answer, Refusal> {
    let refuse = |error| io_refusal("read", path, &error);
    let mut file = File::open(path).map_err(refuse)?;
    let mut buffer = vec![0; 1 << 20];
    let mut hash = Sha256::new();
    let mut length = 0u64;
    loop {
        match file.read(&mut buffer).map_err(refuse)? {
            0 => break,
            count => {
                hash.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
    Ok(Answer::Digest { sha256: crate::disk::hexadecimal(&hash.finalize()), length })
}

fn await_path(path: &str, patience: Duration) -> Result<Answer, Refusal> {
    let deadline = Instant::now() + patience;
    while !Path::new(path).exists() {
        if Instant::now() > deadline {
            return Err(Refusal {
                operation: "wait for".into(),
                object: path.into(),
                cause: format!("not there after {} ms", patience.as_millis()),
                errno: None,
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Answer::Done)
}
