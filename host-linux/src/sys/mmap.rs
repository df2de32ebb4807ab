//! A part of a device, mapped into this process, and access through it.
//!
//! The address is chosen so that the kernel can use large pages: a device's memory is aligned to its size,
//! so a mapping whose address agrees with the offset modulo 1 GiB can be mapped by 1 GiB pages.

use super::fault::{self, Fault};
use super::range::HostRange;
use crate::errno::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// Where in the process's address space a mapping goes: at an address that leaves `remainder` when divided
/// by `modulus`, a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Placement {
    pub(crate) modulus: usize,
    pub(crate) remainder: usize,
}

/// A mapping of a device's registers. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<u8>,
    length: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to the process, not to a thread, and goes away only on drop.
unsafe impl Send for Mapping {}
// SAFETY: access is volatile and of device memory; there are no Rust references into it.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes of `file` from `offset` on, as exactly one area.
    ///
    /// Some drivers refuse an area of another size than they offered, so nothing is rounded here.
    pub(crate) fn new(
        file: BorrowedFd<'_>,
        offset: u64,
        length: usize,
        placement: Placement,
        writable: bool,
    ) -> Result<Self, Errno> {
        let reserved = Reservation::new(length, placement)?;
        let access = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let address = reserved.fill(file, offset, length, access)?;
        Ok(Self { address, length, writable })
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The host memory of `length` bytes from `offset` on, to be shown to a guest.
    ///
    /// Whoever has it keeps the mapping until the guest no longer sees it.
    pub(crate) fn range(&self, offset: usize, length: usize) -> Option<HostRange> {
        let end = offset.checked_add(length)?;
        if length == 0 || end > self.length {
            return None;
        }
        Some(HostRange::new(self.address.addr().get() + offset, length))
    }

    /// Reads 1, 2, 4 or 8 bytes at a multiple of as many, as one access; `None` where that is not so or the bytes are
    /// outside.
    #[inline]
    pub(crate) fn read(&self, offset: usize, width: usize) -> Option<Result<u64, Fault>> {
        let register = self.locate(offset, width)?;
        // SAFETY: the register is mapped while `self` lives, and aligned for an access of this width.
        Some(unsafe { fault::load(register, width) })
    }

    /// Writes the low 1, 2, 4 or 8 bytes at a multiple of as many, as one access; `None` where that is not so, the bytes
    /// are outside, or the mapping is for reading only.
    #[inline]
    pub(crate) fn write(&self, offset: usize, width: usize, value: u64) -> Option<Result<(), Fault>> {
        let register = self.locate(offset, width).filter(|_| self.writable)?;
        // SAFETY: as in `read`, and the mapping is writable.
        Some(unsafe { fault::store(register, width, value) })
    }

    /// The register at an offset, if an aligned access of `width` bytes there is wholly inside.
    #[inline]
    fn locate(&self, offset: usize, width: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(width)?;
        let fits = width.is_power_of_two() && width <= 8 && offset.is_multiple_of(width);
        if !fits || end > self.length {
            return None;
        }
        // SAFETY: the register is inside; the mapping starts at a page, so an aligned offset is an aligned address.
        Some(unsafe { self.address.add(offset) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.address, self.length);
    }
}

/// Address space with nothing in it, taken so that nobody else gets it.
struct Reservation {
    address: NonNull<u8>,
}

impl Reservation {
    fn new(length: usize, placement: Placement) -> Result<Self, Errno> {
        let page = rustix::param::page_size();
        // mmap hands out whole pages; what is cut off at both ends below must be whole pages, too.
        let modulus = placement.modulus.max(page);
        if length == 0 || !modulus.is_power_of_two() || !placement.remainder.is_multiple_of(page) {
            return Err(Errno::EINVAL);
        }
        let length = length.checked_next_multiple_of(page).ok_or(Errno::EINVAL)?;
        let slack = modulus - page;
        let total = length.checked_add(slack).ok_or(Errno::EINVAL)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so nothing that exists is touched.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), total, ProtFlags::empty(), flags) }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(Errno::ENOMEM)?;
        let skip = placement.remainder.wrapping_sub(start.addr().get()) & (modulus - 1);
        // SAFETY: `skip` is at most `slack`, and the reservation is `slack` longer than `length`.
        let address = unsafe { start.add(skip) };
        if skip > 0 {
            unmap(start, skip);
        }
        if skip < slack {
            // SAFETY: `skip + length` is below the reservation's length.
            unmap(unsafe { address.add(length) }, slack - skip);
        }
        Ok(Self { address })
    }

    /// Puts `length` bytes of `file` from `offset` on in the place of the reservation, which is at least as long.
    ///
    /// On failure the address space is not given back: the kernel may have unmapped it before the mapping failed, and
    /// another thread may have got it since. A range of addresses that nobody uses is the lesser harm.
    fn fill(
        self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: usize,
        access: ProtFlags,
    ) -> Result<NonNull<u8>, Errno> {
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: MAP_FIXED replaces pages of the reservation alone. The kernel chose them where nothing was, nobody
        // else knows them, and as `self` ends here nothing unmaps or fills them a second time.
        unsafe { mmap(self.address.as_ptr().cast(), length, access, flags, file, offset) }?;
        Ok(self.address)
    }
}

/// Unmaps pages of a mapping that this file made.
fn unmap(address: NonNull<u8>, length: usize) {
    // SAFETY: only called for pages of our own mappings that nothing uses any more.
    let unmapped = unsafe { munmap(address.as_ptr().cast(), length) };
    if let Err(errno) = unmapped {
        log::error!("cannot unmap {length:#x} bytes at {address:p}: {}", Errno::from(errno));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    const PAGE: Placement = Placement { modulus: 0x1000, remainder: 0 };

    /// A file in memory that holds `pages` pages; byte n is the low byte of n.
    fn region(pages: usize) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..pages * 0x1000).map(|n| n as u8).collect();
        file.write_all(&content).unwrap();
        file
    }

    #[test]
    fn address_agrees_with_the_offset_modulo_2_mib() {
        let place = Placement { modulus: 0x20_0000, remainder: 0x3000 };
        let mapping = Mapping::new(region(1).as_fd(), 0, 0x1000, place, true).unwrap();
        assert_eq!(mapping.address.addr().get() % 0x20_0000, 0x3000);
    }

    #[test]
    fn read_sees_the_file_from_its_offset_on() {
        let mapping = Mapping::new(region(2).as_fd(), 0x1000, 0x1000, PAGE, false).unwrap();
        assert_eq!(mapping.read(4, 4), Some(Ok(0x0706_0504)));
    }

    #[test]
    fn eight_bytes_are_written_and_read_back() {
        let mapping = Mapping::new(region(1).as_fd(), 0, 0x1000, PAGE, true).unwrap();
        assert_eq!(mapping.write(0xff8, 8, 0x0102_0304_0506_0708), Some(Ok(())));
        assert_eq!(mapping.read(0xff8, 8), Some(Ok(0x0102_0304_0506_0708)));
    }

    #[test]
    fn access_across_the_end_is_refused() {
        let mapping = Mapping::new(region(1).as_fd(), 0, 0x1000, PAGE, true).unwrap();
        assert_eq!(mapping.read(0x1000, 1), None);
    }

    #[test]
    fn access_that_wraps_is_refused() {
        let mapping = Mapping::new(region(1).as_fd(), 0, 0x1000, PAGE, true).unwrap();
        assert_eq!(mapping.read(usize::MAX - 3, 4), None);
    }

    #[test]
    fn unaligned_access_is_refused() {
        let mapping = Mapping::new(region(1).as_fd(), 0, 0x1000, PAGE, true).unwrap();
        assert_eq!(mapping.write(2, 4, 0), None);
    }

    #[test]
    fn width_of_three_is_refused() {
        let mapping = Mapping::new(region(1).as_fd(), 0, 0x1000, PAGE, true).unwrap();
        assert_eq!(mapping.read(0, 3), None);
    }

    #[test]
    fn write_to_a_mapping_for_reading_is_refused() {
        let mapping = Mapping::new(region(1).as_fd(), 0, 0x1000, PAGE, false).unwrap();
        assert_eq!(mapping.write(0, 1, 1), None);
    }

    #[test]
    fn range_past_the_end_is_none() {
        let mapping = Mapping::new(region(1).as_fd(), 0, 0x1000, PAGE, true).unwrap();
        assert!(mapping.range(0x800, 0x801).is_none());
    }

    #[test]
    fn failed_mapping_unmaps_nothing() {
        const LENGTH: usize = 0x3000;
        let file = tempfile::tempfile().unwrap();
        let reserved = Reservation::new(LENGTH, PAGE).unwrap();
        let first = reserved.address.addr().get();
        // An offset that is no multiple of the page is refused.
        assert_eq!(reserved.fill(file.as_fd(), 0x10, LENGTH, ProtFlags::READ), Err(Errno::EINVAL));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let is_reserved = maps.lines().any(|line| {
            let (range, access) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            number(start) <= first && first + LENGTH <= number(end) && access.starts_with("---p")
        });
        assert!(is_reserved, "{first:#x} in\n{maps}");
    }
}
