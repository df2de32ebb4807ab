//! Memory that belongs to the guest.
//!
//! The guest and its devices change this memory at any time, so no Rust reference to it ever exists: it is
//! [copied](access) from and to.

mod access;
mod prefault;
mod resident;
mod seal;

pub use access::MemoryAccessError;

use super::range::{FilePart, HostRange};
use crate::errno::Errno;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Memory for a guest: zeroed, shared by all clones, unmapped when the last is dropped.
///
/// A DMA mapping and a memory slot made from it each keep a clone, so the memory outlives them. It is not
/// inherited by child processes (`MADV_DONTFORK`): a child's copy-on-write would leave the parent, the guest
/// and the device with different pages.
#[derive(Clone, Debug)]
pub struct GuestMemory(Arc<Owned>);

/// What [`GuestMemory`] is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MemoryBacking {
    /// Anonymous memory of this process.
    Anonymous,
    /// A file in memory, which other processes or other mappings can share.
    Memfd,
    /// The same, of huge pages that the host has set aside (`/sys/kernel/mm/hugepages`).
    Huge(HugePage),
}

/// The size of a huge page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HugePage {
    /// 2 MiB.
    Mib2,
    /// 1 GiB.
    Gib1,
}

impl HugePage {
    fn bytes(self) -> usize {
        match self {
            Self::Mib2 => 2 << 20,
            Self::Gib1 => 1 << 30,
        }
    }

    fn flag(self) -> MemfdFlags {
        match self {
            Self::Mib2 => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            Self::Gib1 => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
        }
    }
}

#[derive(Debug)]
struct Owned {
    address: NonNull<u8>,
    size: usize,
    file: Option<OwnedFd>,
    /// Whether this crate mapped the memory, and so unmaps it.
    ours: bool,
}

// SAFETY: the mapping belongs to the process, not to a thread, and goes away only on drop.
unsafe impl Send for Owned {}
// SAFETY: all access is by volatile copies; there are no Rust references into the memory.
unsafe impl Sync for Owned {}

impl GuestMemory {
    /// New memory of `size` bytes, rounded up to whole pages of its backing.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a size of 0 or one that no address space holds, else what `mmap` gave: `ENOMEM` where too few
    /// huge pages are free.
    pub fn new(size: u64, backing: MemoryBacking) -> Result<Self, Errno> {
        let size = usize::try_from(size).ok().filter(|size| *size > 0).ok_or(Errno::EINVAL)?;
        let (page, file) = match backing {
            MemoryBacking::Anonymous => (rustix::param::page_size(), None),
            MemoryBacking::Memfd => (rustix::param::page_size(), Some(MemfdFlags::empty())),
            MemoryBacking::Huge(page) => (page.bytes(), Some(page.flag())),
        };
        let size = size.checked_next_multiple_of(page).ok_or(Errno::EINVAL)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let file = file.map(|flags| {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags;
            let file = memfd_create("guest-memory", flags)?;
            ftruncate(&file, size as u64)?;
            seal::seal(&file)?;
            Ok::<_, Errno>(file)
        });
        let file = file.transpose()?;
        let none = std::ptr::null_mut();
        let address = match &file {
            None => {
                let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
                // SAFETY: no address is asked for, so nothing that exists is touched.
                unsafe { mmap_anonymous(none, size, access, flags) }?
            }
            Some(file) => {
                let flags = match backing {
                    // Huge pages that are not there must be missed here: later, touching them would end the process.
                    MemoryBacking::Huge(_) => MapFlags::SHARED,
                    _ => MapFlags::SHARED | MapFlags::NORESERVE,
                };
                // SAFETY: no address is asked for, so nothing that exists is touched.
                unsafe { mmap(none, size, access, flags, file, 0) }?
            }
        };
        Self::of_mapping(address.cast(), size, file)
    }

    /// Memory that this crate has just mapped.
    fn of_mapping(address: *mut u8, size: usize, file: Option<OwnedFd>) -> Result<Self, Errno> {
        let address = NonNull::new(address).ok_or(Errno::ENOMEM)?;
        let memory = Owned { address, size, file, ours: true };
        // SAFETY: the pages are our own; the advice changes what a child process sees, nothing here.
        unsafe { madvise(memory.address.as_ptr().cast(), memory.size, Advice::LinuxDontFork) }?;
        // Fewer pages to find, to pin and to translate. A kernel without huge pages refuses, which changes nothing.
        // SAFETY: the pages are our own; the advice changes how they are backed, not what they hold.
        let huge = unsafe { madvise(memory.address.as_ptr().cast(), memory.size, Advice::LinuxHugepage) };
        if let Err(errno) = huge {
            log::debug!("no huge pages for guest memory: {errno}");
        }
        Ok(Self(Arc::new(memory)))
    }

    /// All of a file in memory that another process has made, as [`MemoryBacking::Memfd`] or otherwise, and handed to
    /// this one.
    ///
    /// A memfd that can be sealed can no longer be made smaller from here on. Of a file that cannot (a memfd made without
    /// `MFD_ALLOW_SEALING`, one of hugetlbfs or `/dev/shm`, which is said in the log) whoever has it must leave the size
    /// alone: where the file becomes smaller, touching what is gone ends this process by SIGBUS, and the guest by a fault.
    /// No other memory is touched. The same comes of holes in huge pages, which no seal forbids.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the file is empty or no multiple of a page, else what the kernel said.
    pub fn from_file(file: OwnedFd) -> Result<Self, Errno> {
        // First: the size is not to change after it was looked at.
        if !seal::seal_foreign(file.as_fd()) {
            log::warn!("guest memory is in a file that cannot be sealed: nobody must make it smaller");
        }
        let size = usize::try_from(fstat(&file)?.st_size).map_err(|_| Errno::EINVAL)?;
        if size == 0 || !size.is_multiple_of(rustix::param::page_size()) {
            return Err(Errno::EINVAL);
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so nothing that exists is touched.
        let address = unsafe { mmap(std::ptr::null_mut(), size, access, MapFlags::SHARED, &file, 0) }?;
        Self::of_mapping(address.cast(), size, Some(file))
    }

    /// Memory that somebody else has mapped: `size` bytes from `address` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the address or the size is no multiple of the page size, or the size is 0.
    ///
    /// # Safety
    ///
    /// The memory must be readable and writable, stay mapped until the value, its clones and everything
    /// made from them is gone, and be free of Rust references, since a guest and devices will change it.
    /// It should be `MADV_DONTFORK`.
    pub unsafe fn from_raw(address: NonNull<u8>, size: usize) -> Result<Self, Errno> {
        let page = rustix::param::page_size();
        if size == 0 || !size.is_multiple_of(page) || !address.addr().get().is_multiple_of(page) {
            return Err(Errno::EINVAL);
        }
        Ok(Self(Arc::new(Owned { address, size, file: None, ours: false })))
    }

    /// Whether both are clones of one memory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.0.size as u64
    }

    /// Whether it is this process's own and in no file: there a touch always finds a page. Of a file there may be none (its
    /// size, its file system's, a limit of huge pages), and what touches it then gets a signal.
    fn is_anonymous(&self) -> bool {
        self.0.ours && self.0.file.is_none()
    }

    /// The file behind it, which can be mapped a second time; anonymous memory has none.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.0.file.as_ref().map(AsFd::as_fd)
    }

    /// The host addresses of `length` bytes from `offset` on.
    ///
    /// Whoever has them keeps a clone of the memory until device and guest no longer use them.
    pub(crate) fn range(&self, offset: u64, length: u64) -> Option<HostRange> {
        let length = usize::try_from(length).ok().filter(|length| *length > 0)?;
        let start = self.locate(offset, length).ok()?;
        Some(HostRange::new(start.address.addr().get(), length))
    }

    /// `length` bytes of the file behind it, from `offset` on; none where there is no file.
    ///
    /// Whoever has it keeps a clone of the memory, so that nobody else is given the file's pages.
    pub(crate) fn file_part(&self, offset: u64, length: u64) -> Option<FilePart<'_>> {
        self.range(offset, length)?;
        // The memory shows its file from the start on.
        Some(FilePart::new(self.file()?, offset, length))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        // SAFETY: mapped by `GuestMemory::new`; the last owner is going, so nothing uses it any more.
        let unmapped = unsafe { munmap(self.address.as_ptr().cast(), self.size) };
        if let Err(errno) = unmapped {
            log::error!("cannot unmap {:#x} bytes of guest memory: {}", self.size, Errno::from(errno));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_memory_is_zero() {
        let memory = GuestMemory::new(0x2000, MemoryBacking::Anonymous).unwrap();
        let mut data = [0xff; 2];
        memory.read(0x1fff - 1, &mut data).unwrap();
        assert_eq!(data, [0, 0]);
    }

    #[test]
    fn size_is_whole_pages() {
        let memory = GuestMemory::new(1, MemoryBacking::Anonymous).unwrap();
        assert_eq!(memory.size(), rustix::param::page_size() as u64);
    }

    #[test]
    fn huge_pages_are_had_if_the_host_has_set_some_aside() {
        let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
        let free = std::fs::read_to_string(free).map_or(0, |text| text.trim().parse::<u64>().unwrap());
        let memory = GuestMemory::new(1, MemoryBacking::Huge(HugePage::Mib2));
        let size = memory.as_ref().map(GuestMemory::size).map_err(drop);
        assert_eq!(size, if free > 0 { Ok(2 << 20) } else { Err(()) });
    }

    #[test]
    fn size_of_nothing_is_refused() {
        assert_eq!(GuestMemory::new(0, MemoryBacking::Anonymous).map(drop), Err(Errno::EINVAL));
    }

    #[test]
    fn memfd_sees_what_was_written() {
        let memory = GuestMemory::new(0x1000, MemoryBacking::Memfd).unwrap();
        memory.write(3, b"abc").unwrap();
        let mut data = [0; 3];
        rustix::io::pread(memory.file().unwrap(), &mut data, 3).unwrap();
        assert_eq!(&data, b"abc");
    }

    #[test]
    fn file_of_new_memory_keeps_its_size() {
        let memory = GuestMemory::new(0x2000, MemoryBacking::Memfd).unwrap();
        let file = memory.file().unwrap();
        let resized = [0x1000, 0x3000].map(|size| ftruncate(file, size));
        assert_eq!(resized, [Err(rustix::io::Errno::PERM); 2]);
    }

    /// A memfd of somebody else's, of two pages.
    fn foreign(flags: MemfdFlags) -> OwnedFd {
        let file = memfd_create("foreign", MemfdFlags::CLOEXEC | flags).unwrap();
        ftruncate(&file, 0x2000).unwrap();
        file
    }

    #[test]
    fn foreign_file_can_no_longer_be_made_smaller() {
        let memory = GuestMemory::from_file(foreign(MemfdFlags::ALLOW_SEALING)).unwrap();
        assert_eq!(ftruncate(memory.file().unwrap(), 0x1000), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn file_that_another_process_has_made_is_taken_as_it_is_sealed() {
        let memory = GuestMemory::new(0x2000, MemoryBacking::Memfd).unwrap();
        memory.write(0x1fff, b"x").unwrap();
        let file = memory.file().unwrap().try_clone_to_owned().unwrap();
        let mut data = [0];
        GuestMemory::from_file(file).unwrap().read(0x1fff, &mut data).unwrap();
        assert_eq!(&data, b"x");
    }

    #[test]
    fn files_that_cannot_be_sealed_are_taken() {
        let named = tempfile::tempfile_in("/dev/shm").unwrap();
        named.set_len(0x2000).unwrap();
        let sizes = [foreign(MemfdFlags::empty()), named.into()]
            .map(|file| GuestMemory::from_file(file).map(|memory| memory.size()));
        assert_eq!(sizes, [Ok(0x2000); 2]);
    }

    #[test]
    fn clone_keeps_the_memory() {
        let memory = GuestMemory::new(0x1000, MemoryBacking::Anonymous).unwrap();
        let clone = memory.clone();
        clone.write(0, b"x").unwrap();
        drop(clone);
        let mut data = [0];
        memory.read(0, &mut data).unwrap();
        assert_eq!(&data, b"x");
    }

    #[test]
    fn memory_is_not_inherited() {
        let memory = GuestMemory::new(0x7000, MemoryBacking::Memfd).unwrap();
        let start = format!("{:x}-", memory.range(0, 1).unwrap().address());
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let entry = smaps.split_once(&start).unwrap().1;
        let flags = entry.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.contains(" dc"), "{flags}");
    }

    #[test]
    fn borrowed_memory_must_be_whole_pages() {
        let address = NonNull::<u8>::dangling();
        // SAFETY: refused before anything is touched.
        let refused = unsafe { GuestMemory::from_raw(address, 0x1000) };
        assert_eq!(refused.map(drop), Err(Errno::EINVAL));
    }
}
