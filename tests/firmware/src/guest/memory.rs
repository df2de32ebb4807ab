//! The guest's memory, a static of the image: guest-physical addresses are physical ones, for there is no IOMMU.
//!
//! Devices change it behind the compiler's back, so it is made of atomics.

use core::sync::atomic::{AtomicU64, Ordering};

/// A page in bytes.
pub(crate) const PAGE: u64 = 4096;
const WORDS: usize = PAGE as usize / 8;
/// How many pages there are.
const PAGES: usize = 16;

#[repr(align(4096))]
struct Page([AtomicU64; WORDS]);

static MEMORY: [Page; PAGES] = [const { Page([const { AtomicU64::new(0) }; WORDS]) }; PAGES];

/// One page of it.
#[derive(Clone, Copy)]
pub(crate) struct GuestPage(&'static Page);

impl GuestPage {
    /// Page `number`, which wraps.
    pub(crate) fn new(number: usize) -> Self {
        Self(&MEMORY[number % PAGES])
    }

    /// Its address, as a device is to be told.
    pub(crate) fn address(self) -> u64 {
        self.0.0.as_ptr() as u64
    }

    /// Zeroes it.
    pub(crate) fn clear(self) {
        self.0.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// The eight bytes from `offset` on, rounded down to a multiple of eight.
    pub(crate) fn qword(self, offset: usize) -> u64 {
        self.0.0[offset / 8 % WORDS].load(Ordering::Acquire)
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
        self.0.0[offset / 8 % WORDS].store(value, Ordering::Release);
    }

    /// Hands all of it on, a run of bytes at a time.
    pub(crate) fn bytes(self, mut take: impl FnMut(&[u8])) {
        self.0.0.iter().for_each(|word| take(&word.load(Ordering::Acquire).to_le_bytes()));
    }
}
