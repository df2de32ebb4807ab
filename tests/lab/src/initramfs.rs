//! Initial file systems for L1 and the guest: cpio archives in the kernel's `newc` format.
//!
//! They are not compressed: the emulated machine loads a large archive faster than it unpacks a small one.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An archive being written.
#[derive(Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    files: BTreeSet<String>,
    entries: u32,
}

/// Why a program could not be put into an archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot run ldd on {}: {source}", path.display())]
    Ldd { path: PathBuf, source: io::Error },
    #[error("{} needs {library}, which this machine does not have", path.display())]
    NoLibrary { path: PathBuf, library: String },
}

const FOLDER: u32 = 0o040_755;
const PLAIN: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;

impl Initramfs {
    /// An empty folder.
    pub(crate) fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.folders.contains(path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.folders.insert(path.to_owned());
        self.entry(path, FOLDER, &[]);
    }

    /// A file to read.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.add(path, PLAIN, content);
    }

    /// A file to run.
    pub(crate) fn executable(&mut self, path: &str, content: &[u8]) {
        self.add(path, EXECUTABLE, content);
    }

    /// A program of this machine, with the shared libraries it needs at the paths where it looks for them.
    pub(crate) fn program(&mut self, path: &str, program: &Path) -> Result<(), ProgramError> {
        self.executable(path, &read(program)?);
        let listed = Command::new("ldd")
            .arg(program)
            .env("LC_ALL", "C")
            .output()
            .map_err(|source| ProgramError::Ldd { path: program.to_owned(), source })?;
        // For a static program ldd fails and lists nothing, which is right.
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            match library(line) {
                Library::At(found) => self.executable(found, &read(Path::new(found))?),
                Library::Missing(name) => {
                    return Err(ProgramError::NoLibrary {
                        path: program.to_owned(),
                        library: name.to_owned(),
                    });
                }
                Library::None => {}
            }
        }
        Ok(())
    }

    /// The archive, ended as the kernel wants it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn add(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_matches('/');
        if !self.files.insert(path.to_owned()) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.entry(path, mode, content);
    }

    /// One entry: 110 bytes of header in hexadecimal, the name, the content, each padded to 4 bytes.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (inode, links) = (self.entries, 1);
        let (length, name_length) = (content.len() as u32, name.len() as u32 + 1);
        let fields = [inode, mode, 0, 0, links, 0, length, 0, 0, 0, 0, name_length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// What a line of ldd's output says.
enum Library<'a> {
    At(&'a str),
    Missing(&'a str),
    None,
}

fn library(line: &str) -> Library<'_> {
    let line = line.trim();
    let (name, found) = line.split_once(" => ").unwrap_or((line, line));
    match found.split_whitespace().next() {
        Some(path) if path.starts_with('/') => Library::At(path),
        Some("not") => Library::Missing(name),
        _ => Library::None,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ProgramError> {
    std::fs::read(path).map_err(|source| ProgramError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_padded_to_four_bytes() {
        let mut archive = Initramfs::default();
        archive.file("a", b"12345");
        // 110 header + "a\0" = 112, content 5 + 3.
        assert_eq!(archive.bytes.len(), 120);
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut archive = Initramfs::default();
        archive.file("/x/y/z", b"");
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        let places = ["x\0", "x/y\0", "x/y/z\0", "TRAILER!!!\0"].map(|name| text.find(name).expect(name));
        assert!(places.is_sorted());
    }

    #[test]
    fn a_file_is_written_once() {
        let mut archive = Initramfs::default();
        archive.file("same", b"1");
        let length = archive.bytes.len();
        archive.file("same", b"2");
        assert_eq!(archive.bytes.len(), length);
    }

    #[test]
    fn ldd_names_the_libraries() {
        assert!(matches!(library("\tlibc.so.6 => /lib/libc.so.6 (0x7f)"), Library::At("/lib/libc.so.6")));
        assert!(matches!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x7f)"),
            Library::At("/lib64/ld-linux-x86-64.so.2")
        ));
        assert!(matches!(library("\tlinux-vdso.so.1 (0x7f)"), Library::None));
        assert!(matches!(library("\tlibx.so => not found"), Library::Missing("libx.so")));
    }
}
