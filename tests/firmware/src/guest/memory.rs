//! The guest's memory, a static of the image that the guest and its devices find at guest-physical address 1 MiB. At
//! physical address 1 MiB is the image itself, so a device that the IOMMU did not translate for would not do much good.
//!
//! Devices change it behind the compiler's back, so it is made of atomics.

use crate::sys::Page;
use core::sync::atomic::Ordering;

/// A page in bytes.
pub(crate) const PAGE: u64 = 4096;
const WORDS: usize = PAGE as usize / 8;
/// How many pages there are.
const PAGES: usize = 16;
/// Where the guest finds them.
pub(crate) const FIRST: u64 = 1 << 20;

/// All of them.
pub(crate) static MEMORY: [Page; PAGES] = [const { Page::new() }; PAGES];

/// One page of it.
#[derive(Clone, Copy)]
pub(crate) struct GuestPage(usize);

impl GuestPage {
    /// Page `number`, which wraps.
    pub(crate) fn new(number: usize) -> Self {
        Self(number % PAGES)
    }

    /// Its address, as a device is to be told.
    pub(crate) fn address(self) -> u64 {
        FIRST + PAGE * self.0 as u64
    }

    /// Zeroes it.
    pub(crate) fn clear(self) {
        MEMORY[self.0].0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// The eight bytes from `offset` on, rounded down to a multiple of eight.
    pub(crate) fn qword(self, offset: usize) -> u64 {
        MEMORY[self.0].0[offset / 8 % WORDS].load(Ordering::Acquire)
    }

    /// The dword at `offset`, a multiple of four.
    pub(crate) fn dword(self, offset: usize) -> u32 {
        (self.qword(offset) >> (8 * (offset & 4))) as u32
    }

    /// One byte.
    pub(crate) fn byte(self, offset: usize) -> u8 {
        (self.qword(offset) >> (8 * (offset & 7))) as u8
    }

    /// Writes eight bytes.
    pub(crate) fn set_qword(self, offset: usize, value: u64) {
        MEMORY[self.0].0[offset / 8 % WORDS].store(value, Ordering::Release);
    }
}
