//! Pages of guest memory found ahead of their use, by several threads.

use super::GuestMemory;
use crate::errno::Errno;
use rustix::mm::{Advice, madvise};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What one thread prefaults at a time: a huge page of most kernels. In between the lock of the process's address
/// space is free for others.
const PREFAULT_PIECE: usize = 2 << 20;

impl GuestMemory {
    /// Makes the kernel find pages for `length` bytes from `offset` on, with at most so many threads.
    ///
    /// Mapping memory for devices finds them too, one after the other; clearing them is most of its time.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the bytes are not all inside, or the kernel (before 5.14) cannot do it; `ENOMEM` where
    /// there are not enough pages.
    pub fn prefault(&self, offset: u64, length: u64, threads: usize) -> Result<(), Errno> {
        self.prefault_with(offset, length, threads, &|_| {})
    }

    /// The same, telling `found` of every so many bytes.
    pub(crate) fn prefault_with(
        &self,
        offset: u64,
        length: u64,
        threads: usize,
        found: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Errno> {
        let range = self.range(offset, length).ok_or(Errno::EINVAL)?;
        let pieces = range.length().div_ceil(PREFAULT_PIECE);
        let threads = threads.min(pieces);
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let start = next.fetch_add(1, Ordering::Relaxed).saturating_mul(PREFAULT_PIECE);
                if start >= range.length() {
                    return Ok(());
                }
                let length = PREFAULT_PIECE.min(range.length() - start);
                if self.is_anonymous() {
                    // Where there are huge pages this finds the whole piece, and with no lock that others may wait for.
                    self.touch(offset + start as u64);
                }
                populate(range.address() + start, length)?;
                found(length as u64);
            }
        };
        thread::scope(|scope| {
            let helpers: Vec<_> =
                (1..threads).filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
            let own = work();
            let others = helpers.into_iter().map(|helper| helper.join().unwrap_or(Err(Errno::EFAULT)));
            others.fold(own, Result::and)
        })
    }
}

/// Finds pages for memory that a [`HostRange`](crate::sys::HostRange) names.
pub(super) fn populate(address: usize, length: usize) -> Result<(), Errno> {
    let page = rustix::param::page_size();
    let start = address & !(page - 1);
    let pages = std::ptr::without_provenance_mut(start);
    // SAFETY: the range is mapped as long as its owner lives, which the caller's borrow ensures; populating
    // pages changes no byte of them.
    Ok(unsafe { madvise(pages, address + length - start, Advice::LinuxPopulateWrite) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::MemoryBacking;

    #[test]
    fn prefault_finds_every_page() {
        let size = 2 * PREFAULT_PIECE as u64 + 0x3000;
        let memory = GuestMemory::new(size, MemoryBacking::Memfd).unwrap();
        memory.prefault(0, size, 2).unwrap();
        let start = format!("{:x}-", memory.range(0, 1).unwrap().address());
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let entry = smaps.split_once(&start).unwrap().1;
        let resident = entry.lines().find(|line| line.starts_with("Rss:")).unwrap();
        assert_eq!(resident.split_whitespace().nth(1).unwrap(), (size / 1024).to_string());
    }

    #[test]
    fn prefault_past_the_end_is_refused() {
        let memory = GuestMemory::new(0x1000, MemoryBacking::Anonymous).unwrap();
        assert_eq!(memory.prefault(0, 0x1001, 1), Err(Errno::EINVAL));
    }
}
