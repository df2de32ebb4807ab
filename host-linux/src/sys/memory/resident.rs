//! Whether guest memory is in pages already, so that nobody has to look for them.

use super::GuestMemory;
use crate::sys::HostRange;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How many pages are looked at: a system call each, far less than a look at every page.
const SAMPLES: usize = 16;
/// Of an entry of pagemap: the page is in memory.
///
/// Source: Linux, Documentation/admin-guide/mm/pagemap.rst.
const PRESENT: u64 = 1 << 63;
const ENTRY: usize = size_of::<u64>();

impl GuestMemory {
    /// Whether pages here and there in `length` bytes from `offset` on are all in memory; `false`, too, where the kernel
    /// does not say.
    pub(crate) fn seems_resident(&self, offset: u64, length: u64) -> bool {
        self.range(offset, length).is_some_and(|range| sampled(&range).unwrap_or(false))
    }
}

fn sampled(range: &HostRange) -> io::Result<bool> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let page = rustix::param::page_size();
    let (first, last) = (range.address() / page, (range.address() + range.length() - 1) / page);
    let step = ((last - first) / SAMPLES).max(1);
    for number in (first..=last).step_by(step).chain([last]) {
        let mut entry = [0; ENTRY];
        pagemap.read_exact_at(&mut entry, (number * ENTRY) as u64)?;
        if u64::from_ne_bytes(entry) & PRESENT == 0 {
            return Ok(false);
        }
    }
    Ok(true)
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
    fn a_byte_is_resident_or_not() {
        let memory = memory();
        memory.prefault(SIZE / 2, 1, 1).unwrap();
        // Further away than a huge page.
        assert_eq!([SIZE / 2, SIZE - 1].map(|at| memory.seems_resident(at, 1)), [true, false]);
    }

    #[test]
    fn what_is_outside_is_not_resident() {
        assert!(!memory().seems_resident(SIZE, 1));
    }
}
