//! A run of addresses: inclusive at both ends, never empty, never wrapping.
//!
//! An inclusive end lets a span reach the last byte of the address space, and makes the empty span and the
//! wrapped span impossible to write down.

use crate::addr::{Address, PageSize};
use crate::text::say;
use core::fmt;

/// The addresses from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span<A> {
    first: A,
    last: A,
}

impl<A: Address> Span<A> {
    /// The addresses from `first` to `last`, or `None` if `last` comes before `first`.
    #[inline]
    pub fn new(first: A, last: A) -> Option<Self> {
        if last < first {
            return None;
        }
        Some(Self { first, last })
    }

    /// The `size` bytes from `first` on, or `None` if that is no byte or passes the end of the space.
    #[inline]
    pub fn from_size(first: A, size: u64) -> Option<Self> {
        let last = first.get().checked_add(size.checked_sub(1)?)?;
        Some(Self { first, last: A::new(last) })
    }

    /// The first address.
    #[inline]
    pub fn first(self) -> A {
        self.first
    }

    /// The last address, which belongs to the span.
    #[inline]
    pub fn last(self) -> A {
        self.last
    }

    /// The number of bytes; `u64::MAX` also for the whole of the space, which has one more.
    pub fn size(self) -> u64 {
        self.last.get().wrapping_sub(self.first.get()).saturating_add(1)
    }

    /// Whether `address` lies in the span.
    #[inline]
    pub fn contains(self, address: A) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether all of `other` lies in the span.
    #[inline]
    pub fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether the two have an address in common.
    #[inline]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The addresses that both have.
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// The addresses from the first to the last of both.
    #[must_use]
    pub(crate) fn hull(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// What is left of the span without `other`: the part before it, and the part after it.
    #[inline]
    pub fn subtract(self, other: Self) -> (Option<Self>, Option<Self>) {
        if !self.overlaps(other) {
            return (Some(self), None);
        }
        let before = other.first.get().checked_sub(1).and_then(|last| Self::new(self.first, A::new(last)));
        let after = other.last.get().checked_add(1).and_then(|first| Self::new(A::new(first), self.last));
        (before, after)
    }

    /// The span grown to whole pages at both ends.
    pub fn align_out(self, page: PageSize) -> Self {
        Self { first: A::new(self.first.get() & !page.mask()), last: A::new(self.last.get() | page.mask()) }
    }

    /// The whole pages within the span, if there is one.
    pub fn align_in(self, page: PageSize) -> Option<Self> {
        let first = self.first.get().checked_add(page.mask())? & !page.mask();
        let end = match self.last.get().checked_add(1) {
            Some(end) => end & !page.mask(),
            // The span reaches the end of the space, which is the end of a page.
            None => return Self::new(A::new(first), self.last),
        };
        Self::new(A::new(first), A::new(end.checked_sub(1)?))
    }

    /// The same number of bytes, starting at `first` in another space.
    pub fn moved_to<B: Address>(self, first: B) -> Option<Span<B>> {
        let last = first.get().checked_add(self.last.get().wrapping_sub(self.first.get()))?;
        Some(Span { first, last: B::new(last) })
    }
}

impl<A: Address> fmt::Debug for Span<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(f, ("%x..=%x", [self.first.get(), self.last.get(), 0]))
    }
}

impl<A: Address> fmt::Display for Span<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::GuestAddr;

    fn span(first: u64, last: u64) -> Span<GuestAddr> {
        Span::new(GuestAddr::new(first), GuestAddr::new(last)).unwrap()
    }

    #[test]
    fn size_zero_is_no_span() {
        assert_eq!(Span::from_size(GuestAddr::new(0x1000), 0), None);
    }

    #[test]
    fn wrapping_size_is_no_span() {
        assert_eq!(Span::from_size(GuestAddr::new(u64::MAX), 2), None);
    }

    #[test]
    fn last_byte_of_the_space_is_reached() {
        assert_eq!(Span::from_size(GuestAddr::new(u64::MAX), 1), Some(span(u64::MAX, u64::MAX)));
    }

    #[test]
    fn subtract_from_the_middle_leaves_both_sides() {
        assert_eq!(span(0, 9).subtract(span(3, 5)), (Some(span(0, 2)), Some(span(6, 9))));
    }

    #[test]
    fn subtract_of_a_stranger_leaves_all() {
        assert_eq!(span(0, 9).subtract(span(10, 12)), (Some(span(0, 9)), None));
    }

    #[test]
    fn subtract_of_everything_leaves_nothing() {
        assert_eq!(span(3, 5).subtract(span(0, u64::MAX)), (None, None));
    }

    #[test]
    fn align_out_grows_both_ends() {
        assert_eq!(span(0x1fff, 0x2000).align_out(PageSize::SIZE_4K), span(0x1000, 0x2fff));
    }

    #[test]
    fn align_in_of_a_part_of_a_page_is_nothing() {
        assert_eq!(span(0x1001, 0x1fff).align_in(PageSize::SIZE_4K), None);
    }

    #[test]
    fn align_in_at_the_end_of_the_space() {
        let whole = span(u64::MAX - 0xfff, u64::MAX);
        assert_eq!(whole.align_in(PageSize::SIZE_4K), Some(whole));
    }
}
