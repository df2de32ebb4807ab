//! Whether guest memory is in pages already, so that nobody has to look for them.

use super::GuestMemory;
use super::prefault::populate;
use std::mem::MaybeUninit;

/// How many pages are looked at, far fewer than there are. Where a part f of the memory is there, all of them are with the
/// probability f^8, and then the 1 - f that are not are found one by one: of the time to find pages 4 % at most is to be
/// expected to be lost, where 8 of 9 are there.
const SAMPLES: usize = 8;

impl GuestMemory {
    /// Whether pages here and there in `length` bytes from `offset` on were all in memory; `false`, too, where that is
    /// not known. Those that were looked at are in memory afterwards, if there was room for them.
    ///
    /// The kernel is told to find each, and counts for how many it had to. To open and read what it tells of them in
    /// `/proc` takes several times as long, and to touch them ends the process where there is no page to be had.
    pub(crate) fn seems_resident(&self, offset: u64, length: u64) -> bool {
        let Some(range) = self.range(offset, length) else { return false };
        let mut places = samples(range.address(), range.length());
        let mut find = |count| {
            let found = places.by_ref().take(count).all(|address| populate(address, 1).is_ok());
            faults().filter(|_| found)
        };
        // With the first page the kernel may have to find the program's own, at the first call.
        let before = find(1);
        // Where nobody has touched anything, no more are found by this thread alone.
        before.is_some() && find(1) == before && find(SAMPLES) == before
    }
}

/// The first page, the last, and so many between them at even distances.
fn samples(address: usize, length: usize) -> impl Iterator<Item = usize> {
    let page = rustix::param::page_size();
    let (first, last) = (address / page, (address + (length - 1)) / page);
    let further = (last - first).min(SAMPLES - 1);
    (0..=further).map(move |n| (first + (last - first) * n / further.max(1)) * page)
}

/// How often the kernel had to find a page for this thread, without the disk and with it.
fn faults() -> Option<[libc::c_long; 2]> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes one structure of this type, and there is room for one.
    let answer = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    // SAFETY: numbers only, of which any bytes are a value; all were 0 before.
    let usage = unsafe { usage.assume_init() };
    (answer == 0).then_some([usage.ru_minflt, usage.ru_majflt])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::Errno;
    use crate::sys::MemoryBacking;
    use rustix::fs::{MemfdFlags, memfd_create};

    const SIZE: u64 = 64 << 20;

    fn memory() -> GuestMemory {
        GuestMemory::new(SIZE, MemoryBacking::Anonymous).unwrap()
    }

    #[test]
    fn all_pages_of_a_little_memory_are_looked_at_and_some_of_much() {
        let page = rustix::param::page_size();
        let looked_at =
            |address, length| samples(address, length).map(|address| address / page).collect::<Vec<_>>();
        assert_eq!(looked_at(3 * page + 1, 1), [3]);
        assert_eq!(looked_at(3 * page, 8 * page), (3..=10).collect::<Vec<_>>());
        assert_eq!(looked_at(3 * page, 71 * page), (3..=73).step_by(10).collect::<Vec<_>>());
    }

    #[test]
    fn memory_that_nobody_has_touched_is_not_resident() {
        assert!(!memory().seems_resident(0, SIZE));
    }

    #[test]
    fn memory_that_was_prefaulted_is_resident() {
        let memory = memory();
        memory.prefault(0, SIZE, 2).unwrap();
        assert!(memory.seems_resident(0, SIZE));
    }

    #[test]
    fn memory_of_which_a_part_was_touched_is_not_resident() {
        let memory = memory();
        memory.prefault(0, SIZE / 2, 1).unwrap();
        assert_eq!(
            [(0, SIZE), (0, SIZE / 2)].map(|(at, size)| memory.seems_resident(at, size)),
            [false, true]
        );
    }

    #[test]
    fn memory_that_only_another_mapping_has_touched_is_not_resident() {
        let there = GuestMemory::new(SIZE, MemoryBacking::Memfd).unwrap();
        there.prefault(0, SIZE, 2).unwrap();
        let here = GuestMemory::from_file(there.file().unwrap().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!([&there, &here].map(|memory| memory.seems_resident(0, SIZE)), [true, false]);
    }

    #[test]
    fn memory_whose_file_became_smaller_is_not_resident_and_not_found_and_raises_no_signal() {
        // Without a name, and made so that nobody can seal it.
        let file = std::fs::File::from(memfd_create("theirs", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(SIZE).unwrap();
        let memory = GuestMemory::from_file(file.try_clone().unwrap().into()).unwrap();
        file.set_len(0).unwrap();
        assert!(!memory.seems_resident(0, SIZE));
        assert_eq!(memory.prefault(0, SIZE, 2), Err(Errno::EFAULT));
    }

    #[test]
    fn looking_changes_no_byte() {
        let memory = memory();
        memory.write(0, &[1; 8]).unwrap();
        memory.seems_resident(0, SIZE);
        let mut found = [0xff; 16];
        memory.read(0, &mut found).unwrap();
        assert_eq!(found, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_outside_is_not_resident() {
        assert!(!memory().seems_resident(SIZE, 1));
    }
}
