//! The disk that the guest gets: a file of random bytes that has no name and so is gone when the lab is.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;

/// Size of the disk.
const DISK_BYTES: u64 = 64 << 20;
/// Size of one of many disks.
const SMALL_DISK_BYTES: u64 = 16 << 20;
/// Where the guest writes, and how much.
pub(crate) const WRITE_AT: u64 = 8 << 20;
/// How much the guest writes.
pub(crate) const WRITE_BYTES: u64 = 4 << 20;
/// The line that the guest writes again and again.
pub(crate) const WRITE_LINE: &str = "written by the guest";

/// A disk's backing file.
pub(crate) struct Disk {
    file: File,
    bytes: u64,
}

impl Disk {
    /// A disk of random bytes.
    pub(crate) fn random() -> io::Result<Self> {
        Self::of(DISK_BYTES)
    }

    /// One of many, all of which are to be read.
    pub(crate) fn small() -> io::Result<Self> {
        Self::of(SMALL_DISK_BYTES)
    }

    fn of(bytes: u64) -> io::Result<Self> {
        let mut file = tempfile::tempfile()?;
        let mut source = File::open("/dev/urandom")?.take(bytes);
        io::copy(&mut source, &mut file)?;
        Ok(Self { file, bytes })
    }

    /// A path under which another process of this user can open the file while the lab lives.
    pub(crate) fn path(&self) -> String {
        path_of(&self.file)
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256 of the file as it is now.
    pub(crate) fn digest(&mut self) -> io::Result<String> {
        self.digest_with(|_, _| {})
    }

    /// SHA-256 that the file must have once the guest has written what it is told to write.
    pub(crate) fn digest_once_written(&mut self) -> io::Result<String> {
        self.digest_with(|at, block| {
            let line = format!("{WRITE_LINE}\n").into_bytes();
            for (index, byte) in block.iter_mut().enumerate() {
                let position = at + index as u64;
                if let Some(within) = position.checked_sub(WRITE_AT).filter(|&within| within < WRITE_BYTES) {
                    *byte = line[(within % line.len() as u64) as usize];
                }
            }
        })
    }

    fn digest_with(&mut self, change: impl Fn(u64, &mut [u8])) -> io::Result<String> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut hash = Sha256::new();
        let mut block = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.bytes {
            self.file.read_exact(&mut block)?;
            change(at, &mut block);
            hash.update(&block);
            at += block.len() as u64;
        }
        Ok(hexadecimal(&hash.finalize()))
    }
}

/// A path under which another process of this user can open `file` while the lab lives.
pub(crate) fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// A file without a name that holds `content`.
pub(crate) fn nameless(content: &[u8]) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(content)?;
    Ok(file)
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_digest_once_written_is_that_of_the_written_file() {
        let mut disk = Disk::random().expect("a disk");
        let expected = disk.digest_once_written().expect("reads");
        let line = format!("{WRITE_LINE}\n");
        let written: Vec<u8> = line.bytes().cycle().take(WRITE_BYTES as usize).collect();
        disk.file.write_all_at(&written, WRITE_AT).expect("writes");
        assert_eq!(disk.digest().expect("reads"), expected);
    }

    #[test]
    fn two_disks_differ() {
        let digests =
            [Disk::random(), Disk::random()].map(|disk| disk.expect("a disk").digest().expect("reads"));
        assert_ne!(digests[0], digests[1]);
    }
}
