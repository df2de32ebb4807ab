//! Whether guest memory is in pages already, so that nobody has to look for them.

use super::GuestMemory;
use std::mem::MaybeUninit;

/// How many pages are looked at, far fewer than there are.
const SAMPLES: usize = 16;

impl GuestMemory {
    /// Whether pages here and there in `length` bytes from `offset` on were all in memory; `false`, too, where that is
    /// not known. Those that were looked at are in memory afterwards.
    ///
    /// They are written to, which changes nothing, and the kernel counts for how many it had to find a page. To open and
    /// read what it tells of them in `/proc` takes several times as long.
    pub(crate) fn seems_resident(&self, offset: u64, length: u64) -> bool {
        let Some(range) = self.range(offset, length) else { return false };
        let mut places = samples(offset, range.length() as u64);
        let mut touch = |count| {
            places.by_ref().take(count).for_each(|place| self.touch(place));
            faults()
        };
        // With the first page the kernel may have to find the program's own, at the first call.
        let before = touch(1);
        // Where nobody has touched anything, no more are found by this thread alone.
        before.is_some() && touch(1) == before && touch(SAMPLES) == before
    }
}

/// Places in the first page, in the last, and in so many between them at even distances.
fn samples(offset: u64, length: u64) -> impl Iterator<Item = u64> {
    let page = rustix::param::page_size() as u64;
    let (first, last) = (offset / page, (offset + (length - 1)) / page);
    let further = (last - first).min(SAMPLES as u64 - 1);
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
    use crate::sys::MemoryBacking;

    const SIZE: u64 = 64 << 20;

    fn memory() -> GuestMemory {
        GuestMemory::new(SIZE, MemoryBacking::Anonymous).unwrap()
    }

    #[test]
    fn all_pages_of_a_little_memory_are_looked_at_and_some_of_much() {
        let page = rustix::param::page_size() as u64;
        let looked_at =
            |offset, length| samples(offset, length).map(|place| place / page).collect::<Vec<_>>();
        assert_eq!(looked_at(3 * page + 1, 1), [3]);
        assert_eq!(looked_at(3 * page, 16 * page), (3..=18).collect::<Vec<_>>());
        assert_eq!(looked_at(3 * page, 151 * page), (3..=153).step_by(10).collect::<Vec<_>>());
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
