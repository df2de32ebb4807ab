//! Host addresses and parts of files that are fit to be handed to devices and KVM.

use std::os::fd::BorrowedFd;

/// Host addresses of guest memory or of a mapped device.
///
/// Only this folder makes one, and only of memory that has no Rust references into it. It does not keep the
/// memory alive: whoever hands it to the kernel keeps its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostRange {
    address: usize,
    length: usize,
}

impl HostRange {
    pub(super) fn new(address: usize, length: usize) -> Self {
        Self { address, length }
    }

    pub(crate) fn address(self) -> usize {
        self.address
    }

    pub(crate) fn length(self) -> usize {
        self.length
    }
}

/// A part of the file behind guest memory, to be handed to a device.
///
/// Only this folder makes one: what it names has no Rust references into it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilePart<'a> {
    file: BorrowedFd<'a>,
    start: u64,
    length: u64,
}

impl<'a> FilePart<'a> {
    pub(super) fn new(file: BorrowedFd<'a>, start: u64, length: u64) -> Self {
        Self { file, start, length }
    }

    pub(crate) fn file(self) -> BorrowedFd<'a> {
        self.file
    }

    pub(crate) fn start(self) -> u64 {
        self.start
    }

    pub(crate) fn length(self) -> u64 {
        self.length
    }
}
