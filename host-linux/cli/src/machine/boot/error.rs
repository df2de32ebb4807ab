//! What keeps a guest from being booted, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::help::Help;
use crate::machine::layout::MIB;
use crate::machine::ram::NoRam;

/// What cannot be booted, and why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// A file cannot be opened or read.
    #[error("cannot read the {what} {}: {source}", path.display())]
    File {
        /// Kernel or initial RAM disk.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The thread that loads the files was not started.
    #[error("cannot start the thread that loads the kernel: {source}")]
    Thread {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file is a directory or a device.
    #[error("the {what} {} is not a regular file", path.display())]
    NotAFile {
        /// Kernel or initial RAM disk.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file is not a bzImage, or not one that has what is needed.
    #[error("{} is not a Linux kernel that can be booted: {reason}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// The kernel needs more memory than the guest has.
    #[error(
        "the guest's memory is too small: the kernel {} needs {needed} MiB to start, there are {available} MiB",
        path.display()
    )]
    MemoryTooSmall {
        /// The kernel.
        path: PathBuf,
        /// Memory that the kernel asks for, from address 0 on.
        needed: u64,
        /// Memory below the device window.
        available: u64,
    },
    /// The initial RAM disk does not fit beside the kernel.
    #[error(
        "the initrd {} is too large for the guest's memory: it has {size} bytes, {available} are free beside the kernel",
        path.display()
    )]
    InitrdTooLarge {
        /// The initial RAM disk.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Bytes that are left for it.
        available: u64,
    },
    /// The kernel takes shorter command lines only.
    #[error("the kernel command line has {length} bytes, this kernel takes {limit}")]
    CommandLineTooLong {
        /// Bytes of the command line.
        length: usize,
        /// Bytes that the kernel takes.
        limit: u32,
    },
    /// A NUL byte would end the command line early.
    #[error("the kernel command line has a NUL byte at {position}")]
    CommandLineNul {
        /// Where.
        position: usize,
    },
    /// Guest memory could not be written where it must exist.
    #[error("cannot write {what}: {source}")]
    Write {
        /// What.
        what: &'static str,
        /// Where, and how much.
        source: NoRam,
    },
}

impl Help for BootError {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "check the path; it is taken relative to the current directory".into()
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "make the file readable for this user, or run the command as a user who may read it".into()
            }
            Self::File { .. } => "check the file and the disk it is on".into(),
            Self::Thread { .. } => "raise the number of processes: `ulimit -u`".into(),
            Self::NotAFile { .. } => "give the path of the file itself".into(),
            Self::NotAKernel { .. } => {
                "give a bzImage for x86-64, such as /boot/vmlinuz-VERSION of a distribution".into()
            }
            Self::MemoryTooSmall { needed, .. } => format!("give the guest more with --memory {needed}M"),
            Self::InitrdTooLarge { size, available, .. } => {
                let more = (size - available).div_ceil(MIB);
                format!("give the guest at least {more} MiB more with --memory, or use a smaller initrd")
            }
            Self::CommandLineTooLong { limit, .. } => format!("shorten --append to {limit} bytes"),
            Self::CommandLineNul { .. } => "remove the NUL byte from --append".into(),
            Self::Write { .. } => "this is a fault of the monitor; please report it".into(),
        })
    }
}
