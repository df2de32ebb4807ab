//! Copies from and to guest memory, while the guest and its devices change it.

use super::{GuestMemory, Owned};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is copied at a time where it can be.
const WORD: usize = size_of::<u64>();

/// Bytes outside the memory were asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{length:#x} bytes at offset {offset:#x} are not all inside guest memory of {size:#x} bytes")]
pub struct MemoryAccessError {
    /// The first byte asked for.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// The size of the memory.
    pub size: u64,
}

impl GuestMemory {
    /// Copies bytes out, from `offset` on.
    ///
    /// # Errors
    ///
    /// Where they are not all inside.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), MemoryAccessError> {
        let start = self.locate(offset, data.len())?;
        let head = start.bytes_to_word().min(data.len());
        let (head, body) = data.split_at_mut(head);
        let (words, tail) = body.as_chunks_mut::<WORD>();
        let (first_word, first_tail) = (head.len(), head.len() + words.len() * WORD);
        head.iter_mut().enumerate().for_each(|(n, byte)| *byte = start.load(n));
        words.iter_mut().enumerate().for_each(|(n, word)| {
            *word = start.load::<u64>(first_word + n * WORD).to_ne_bytes();
        });
        tail.iter_mut().enumerate().for_each(|(n, byte)| *byte = start.load(first_tail + n));
        Ok(())
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Errors
    ///
    /// Where they would not all be inside.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), MemoryAccessError> {
        let start = self.locate(offset, data.len())?;
        let head = start.bytes_to_word().min(data.len());
        let (head, body) = data.split_at(head);
        let (words, tail) = body.as_chunks::<WORD>();
        let (first_word, first_tail) = (head.len(), head.len() + words.len() * WORD);
        head.iter().enumerate().for_each(|(n, byte)| start.store(n, *byte));
        words.iter().enumerate().for_each(|(n, word)| {
            start.store(first_word + n * WORD, u64::from_ne_bytes(*word));
        });
        tail.iter().enumerate().for_each(|(n, byte)| start.store(first_tail + n, *byte));
        Ok(())
    }

    /// Writes to the word at or after `offset`, if it is inside, without changing it.
    pub(super) fn touch(&self, offset: u64) {
        if let Ok(word) = self.locate(offset.next_multiple_of(WORD as u64), WORD) {
            word.touch();
        }
    }

    pub(super) fn locate(&self, offset: u64, length: usize) -> Result<Located<'_>, MemoryAccessError> {
        let refused = MemoryAccessError { offset, length: length as u64, size: self.size() };
        let start = usize::try_from(offset).map_err(|_| refused)?;
        let end = start.checked_add(length).ok_or(refused)?;
        if end > self.0.size {
            return Err(refused);
        }
        // SAFETY: `start` is at most the memory's size.
        let address = unsafe { self.0.address.add(start) };
        Ok(Located { address, length, memory: PhantomData })
    }
}

/// Bytes that are inside the memory.
pub(super) struct Located<'a> {
    pub(super) address: NonNull<u8>,
    length: usize,
    memory: PhantomData<&'a Owned>,
}

/// What may be copied at a time: any bytes are a value of it.
trait Plain: Copy {}

impl Plain for u8 {}
impl Plain for u64 {}

impl Located<'_> {
    /// How many bytes come before the first that is aligned to a word.
    fn bytes_to_word(&self) -> usize {
        self.address.align_offset(WORD)
    }

    fn load<T: Plain>(&self, at: usize) -> T {
        let place = self.place::<T>(at);
        // SAFETY: inside and aligned, as `place` has checked; mapped while the memory lives; any bytes are a value;
        // no references exist.
        unsafe { place.read_volatile() }
    }

    fn store<T: Plain>(&self, at: usize, value: T) {
        let place = self.place::<T>(at);
        // SAFETY: inside and aligned, as `place` has checked; mapped while the memory lives; no references exist.
        unsafe { place.write_volatile(value) };
    }

    /// Writes to the first word what is there.
    fn touch(&self) {
        let place = self.place::<u64>(0);
        // SAFETY: inside and aligned, as `place` has checked; mapped while the memory lives; no references exist, and
        // what the guest does at the same time is a race of bytes that no Rust code relies on.
        let word = unsafe { AtomicU64::from_ptr(place.as_ptr()) };
        // An exchange that is compiled as a write in any case; it can only put back what it found.
        let _found = word.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn place<T>(&self, at: usize) -> NonNull<T> {
        assert!(at.checked_add(size_of::<T>()).is_some_and(|end| end <= self.length));
        // SAFETY: the assertion keeps it inside.
        let place = unsafe { self.address.add(at) }.cast::<T>();
        assert!(place.is_aligned());
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::MemoryBacking;

    #[test]
    fn write_across_the_end_is_refused() {
        let memory = GuestMemory::new(0x1000, MemoryBacking::Anonymous).unwrap();
        let refused = MemoryAccessError { offset: 0xfff, length: 2, size: 0x1000 };
        assert_eq!(memory.write(0xfff, &[0; 2]), Err(refused));
    }

    #[test]
    fn odd_bytes_come_out_as_they_went_in() {
        let memory = GuestMemory::new(0x1000, MemoryBacking::Anonymous).unwrap();
        let data: Vec<u8> = (1..=29).collect();
        memory.write(3, &data).unwrap();
        let mut found = [0; 31];
        memory.read(2, &mut found).unwrap();
        assert_eq!((found[0], &found[1..30], found[30]), (0, &data[..], 0));
    }
}
