//! Static memory for one value after the other, of types whose lifetimes end before the memory's does, and that is zero
//! in the image whatever they are.

use core::mem::MaybeUninit;

/// Room for values of at most `WORDS` times 8 bytes.
pub(crate) struct Room<const WORDS: usize>([MaybeUninit<u64>; WORDS]);

/// How many words a value takes.
pub(crate) const fn words<T>() -> usize {
    size_of::<T>().div_ceil(size_of::<u64>())
}

impl<const WORDS: usize> Room<WORDS> {
    /// Nothing is in there.
    pub(crate) const fn new() -> Self {
        Self([MaybeUninit::uninit(); WORDS])
    }

    /// Puts a value there. When its borrow ends it is forgotten, not dropped: it must own nothing.
    pub(crate) fn put<T>(&mut self, value: T) -> &mut T {
        let first = self.first::<T>();
        // SAFETY: the memory is as large and as aligned as T; it is borrowed for as long as what is returned; it needs
        // hold no value, and what is left in it need hold none afterwards, for neither type says so.
        let place: &mut MaybeUninit<T> = unsafe { &mut *first.cast() };
        place.write(value)
    }

    /// Fills it with copies of a value, in place.
    pub(crate) fn fill<T: Copy, const COUNT: usize>(&mut self, value: T) -> &mut [T; COUNT] {
        let first = self.first::<[T; COUNT]>();
        // SAFETY: as for `put`: an array of what needs hold no value needs hold none.
        let places: &mut [MaybeUninit<T>; COUNT] = unsafe { &mut *first.cast() };
        for place in places {
            place.write(value);
        }
        // SAFETY: each of them holds a value now.
        unsafe { &mut *first }
    }

    /// The memory, which is large enough and aligned for a T.
    fn first<T>(&mut self) -> *mut T {
        const {
            assert!(words::<T>() <= WORDS, "the room is too small");
            assert!(align_of::<T>() <= align_of::<u64>(), "the room is not aligned for it");
        }
        self.0.as_mut_ptr().cast()
    }
}
