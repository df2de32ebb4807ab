//! Guest RAM: memory of the library's, which keeps it for KVM and for devices, written here by guest address.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use vfio_assign_core::{GuestAddr, Span};
use vfio_assign_linux::kvm::{MemorySlot, MemorySlots, SlotError};
use vfio_assign_linux::{Errno, GuestMemory, GuestRegion, MemoryBacking};

use super::layout::MemoryLayout;

/// Bytes of a file that are copied at a time.
const PIECE: usize = 256 << 10;

/// Guest RAM, in memory slots of the machine.
pub(crate) struct Ram {
    // Dropped in this order: the guest loses the memory before it goes.
    _slots: Vec<MemorySlot>,
    regions: Vec<GuestRegion>,
}

/// What RAM has in it at first.
pub(crate) enum Contents<'a> {
    /// Nothing, and it is this process's alone.
    Empty,
    /// Nothing, and another process can go on with it.
    EmptyFiles,
    /// What another process has left in the first of these files.
    Files(&'a mut dyn Iterator<Item = OwnedFd>),
}

impl Contents<'_> {
    fn memory(&mut self, bytes: u64) -> Result<GuestMemory, Errno> {
        match self {
            Self::Empty => GuestMemory::new(bytes, MemoryBacking::Anonymous),
            Self::EmptyFiles => GuestMemory::new(bytes, MemoryBacking::Memfd),
            Self::Files(files) => {
                let memory = GuestMemory::from_file(files.next().ok_or(Errno::EBADF)?)?;
                if memory.size() == bytes { Ok(memory) } else { Err(Errno::EINVAL) }
            }
        }
    }
}

/// RAM could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RamError {
    /// No memory.
    #[error("cannot map {} MiB of memory for the guest: {errno}", bytes >> 20)]
    Memory {
        /// The size that was asked for.
        bytes: u64,
        /// The kernel's answer.
        errno: Errno,
    },
    /// KVM does not take it.
    #[error(transparent)]
    Slot(#[from] SlotError),
}

/// Bytes were written where there is no RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no RAM for {length:#x} bytes at guest address {address:#x}")]
pub(crate) struct NoRam {
    address: u64,
    length: u64,
}

impl Ram {
    /// RAM where `layout` has it.
    pub(crate) fn new(
        layout: &MemoryLayout,
        contents: Contents<'_>,
        slots: &MemorySlots,
    ) -> Result<Self, RamError> {
        let mut ram = Self::unseen(layout, contents)?;
        for region in &ram.regions {
            ram._slots.push(slots.show_memory(region)?);
        }
        Ok(ram)
    }

    /// RAM that no machine sees.
    pub(super) fn unseen(layout: &MemoryLayout, contents: Contents<'_>) -> Result<Self, RamError> {
        let mut ram = Self { _slots: Vec::new(), regions: Vec::new() };
        let mut contents = contents;
        for (start, bytes) in layout.ram() {
            let refused = |errno| RamError::Memory { bytes, errno };
            let guest =
                Span::from_size(GuestAddr::new(start), bytes).ok_or(Errno::EINVAL).map_err(refused)?;
            let memory = contents.memory(bytes).map_err(refused)?;
            ram.regions.push(GuestRegion { guest, memory, offset: 0 });
        }
        Ok(ram)
    }

    /// Every part of it, to be mapped for devices.
    pub(crate) fn regions(&self) -> &[GuestRegion] {
        &self.regions
    }

    /// The files that it is in, duplicated; none where it is in no files.
    pub(crate) fn files(&self) -> std::io::Result<Option<Vec<OwnedFd>>> {
        let file = |region: &GuestRegion| region.memory.file().map(|file| file.try_clone_to_owned());
        self.regions.iter().map(file).map(Option::transpose).collect()
    }

    /// Copies bytes in.
    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Result<(), NoRam> {
        let refused = NoRam { address, length: data.len() as u64 };
        let (region, offset) = self.find(address).ok_or(refused)?;
        region.memory.write(offset, data).map_err(|_| refused)
    }

    /// Copies `length` bytes of a file in, from where the file stands.
    pub(crate) fn read_from(&self, address: u64, file: &mut File, length: u64) -> std::io::Result<()> {
        let mut piece = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
        let mut done = 0;
        while done < length {
            let rest = usize::try_from(length - done).unwrap_or(usize::MAX).min(piece.len());
            let piece = &mut piece[..rest];
            file.read_exact(piece)?;
            self.write(address + done, piece).map_err(std::io::Error::other)?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    fn find(&self, address: u64) -> Option<(&GuestRegion, u64)> {
        let region = self.regions.iter().find(|region| region.guest.contains(GuestAddr::new(address)))?;
        Some((region, region.offset + (address - region.guest.first().get())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    /// 64 KiB at 1 MiB, in no machine.
    fn ram() -> Ram {
        let guest = Span::from_size(GuestAddr::new(1 << 20), 0x1_0000).unwrap();
        let memory = GuestMemory::new(0x1_0000, MemoryBacking::Anonymous).unwrap();
        Ram { _slots: Vec::new(), regions: vec![GuestRegion { guest, memory, offset: 0 }] }
    }

    #[test]
    fn bytes_land_at_their_guest_address() {
        let ram = ram();
        ram.write((1 << 20) + 5, b"abc").unwrap();
        let mut found = [0; 3];
        ram.regions[0].memory.read(5, &mut found).unwrap();
        assert_eq!(&found, b"abc");
    }

    #[test]
    fn where_there_is_no_ram_nothing_is_written() {
        assert_eq!(ram().write(0xffff, b"ab"), Err(NoRam { address: 0xffff, length: 2 }));
    }

    #[test]
    fn past_the_end_nothing_is_written() {
        assert_eq!(ram().write(0x10_ffff, b"ab"), Err(NoRam { address: 0x10_ffff, length: 2 }));
    }

    #[test]
    fn file_is_read_from_where_it_stands() {
        let ram = ram();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        file.seek(SeekFrom::Start(4)).unwrap();
        ram.read_from(1 << 20, &mut file, 3).unwrap();
        let mut found = [0; 4];
        ram.regions[0].memory.read(0, &mut found).unwrap();
        assert_eq!(&found, b"456\0");
    }
}
