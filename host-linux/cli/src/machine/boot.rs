//! Getting Linux to run: kernel, initial RAM disk and boot parameters in memory, the first vCPU at the entry.
//!
//! The kernel is a bzImage entered by the 64-bit boot protocol: nothing of real mode, no firmware. Files are
//! opened once and read again at each reset, so that a guest reboots into the kernel it was started with.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::{BzImage, Error as BzImageError};
use linux_loader::loader::{Error as LoaderError, KernelLoader};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::layout::{
    ACPI_TABLES, ACPI_TABLES_END, BOOT_STACK, COMMAND_LINE, ECAM, ECAM_SIZE, GDT, HIGH_MEMORY, HIGH_RAM,
    LOW_MEMORY_END, MIB, MemoryLayout, PAGE_TABLES, ZERO_PAGE,
};
use super::ram::{NoRam, Ram};
use super::registers::{CodeAndData, long_mode};
use crate::help::Help;

/// Types of memory in the map that the kernel gets.
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// `loadflags`: the command line and the heap end are given.
const CAN_USE_HEAP: u8 = 0x80;
/// `xloadflags`: the image has a 64-bit entry point.
const HAS_64_BIT_ENTRY: u16 = 1;
/// Where the 64-bit entry point lies in a loaded bzImage.
const ENTRY_64_OFFSET: u64 = 0x200;
/// `type_of_loader` without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// First version of the boot protocol with everything used here (the address of the ACPI tables: 2.14).
const OLDEST_PROTOCOL: u16 = 0x020c;
const PAGE: u64 = 4096;
/// Bytes of the kernel that are copied at a time.
const PIECE: usize = 256 << 10;

/// What cannot be booted, and why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// A file cannot be opened or read.
    #[error("cannot read the {what} {}: {source}", path.display())]
    File {
        /// Kernel or initial RAM disk.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file is a directory or a device.
    #[error("the {what} {} is not a regular file", path.display())]
    NotAFile {
        /// Kernel or initial RAM disk.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file is not a bzImage, or not one that has what is needed.
    #[error("{} is not a Linux kernel that can be booted: {reason}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// The kernel needs more memory than the guest has.
    #[error(
        "the guest's memory is too small: the kernel {} needs {needed} MiB to start, there are {available} MiB",
        path.display()
    )]
    MemoryTooSmall {
        /// The kernel.
        path: PathBuf,
        /// Memory that the kernel asks for, from address 0 on.
        needed: u64,
        /// Memory below the device window.
        available: u64,
    },
    /// The initial RAM disk does not fit beside the kernel.
    #[error(
        "the initrd {} is too large for the guest's memory: it has {size} bytes, {available} are free beside the kernel",
        path.display()
    )]
    InitrdTooLarge {
        /// The initial RAM disk.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Bytes that are left for it.
        available: u64,
    },
    /// The kernel takes shorter command lines only.
    #[error("the kernel command line has {length} bytes, this kernel takes {limit}")]
    CommandLineTooLong {
        /// Bytes of the command line.
        length: usize,
        /// Bytes that the kernel takes.
        limit: u32,
    },
    /// A NUL byte would end the command line early.
    #[error("the kernel command line has a NUL byte at {position}")]
    CommandLineNul {
        /// Where.
        position: usize,
    },
    /// Guest memory could not be written where it must exist.
    #[error("cannot write {what}: {source}")]
    Write {
        /// What.
        what: &'static str,
        /// Where, and how much.
        source: NoRam,
    },
    /// No memory to unpack the image into.
    #[error("cannot map {bytes:#x} bytes to load the kernel {}", path.display())]
    Staging {
        /// The kernel.
        path: PathBuf,
        /// How many bytes.
        bytes: u64,
    },
}

impl Help for BootError {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "check the path; it is taken relative to the current directory".into()
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "make the file readable for this user, or run the command as a user who may read it".into()
            }
            Self::File { .. } => "check the file and the disk it is on".into(),
            Self::NotAFile { .. } => "give the path of the file itself".into(),
            Self::NotAKernel { .. } => {
                "give a bzImage for x86-64, such as /boot/vmlinuz-VERSION of a distribution".into()
            }
            Self::MemoryTooSmall { needed, .. } => format!("give the guest more with --memory {needed}M"),
            Self::InitrdTooLarge { size, available, .. } => {
                let more = (size - available).div_ceil(MIB);
                format!("give the guest at least {more} MiB more with --memory, or use a smaller initrd")
            }
            Self::CommandLineTooLong { limit, .. } => format!("shorten --append to {limit} bytes"),
            Self::CommandLineNul { .. } => "remove the NUL byte from --append".into(),
            Self::Staging { .. } => "free some memory of this host, or raise `ulimit -v`".into(),
            Self::Write { .. } => "this is a fault of the monitor; please report it".into(),
        })
    }
}

/// An opened file.
struct Image {
    what: &'static str,
    path: PathBuf,
    file: File,
    size: u64,
}

impl Image {
    fn open(what: &'static str, path: &Path) -> Result<Self, BootError> {
        let failed = |source| BootError::File { what, path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(BootError::NotAFile { what, path: path.to_owned() });
        }
        Ok(Self { what, path: path.to_owned(), file, size: metadata.len() })
    }

    fn failed(&self, source: io::Error) -> BootError {
        BootError::File { what: self.what, path: self.path.clone(), source }
    }

    /// The loader does not keep the system's answer: reads once more to get it.
    fn why_unreadable(&mut self) -> BootError {
        let read = self.file.seek(SeekFrom::Start(0)).and_then(|_| io::copy(&mut self.file, &mut io::sink()));
        match read {
            Err(source) => self.failed(source),
            Ok(size) if size != self.size => self.failed(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => self.failed(io::Error::other("it changed while it was read")),
        }
    }
}

/// What the guest boots.
pub(crate) struct BootImages {
    kernel: Image,
    initrd: Option<Image>,
    command_line: String,
}

impl BootImages {
    /// Opens the files.
    pub(crate) fn open(kernel: &Path, initrd: Option<&Path>, command_line: &str) -> Result<Self, BootError> {
        if let Some(position) = command_line.bytes().position(|byte| byte == 0) {
            return Err(BootError::CommandLineNul { position });
        }
        Ok(Self {
            kernel: Image::open("kernel", kernel)?,
            initrd: initrd.map(|path| Image::open("initrd", path)).transpose()?,
            command_line: command_line.to_owned(),
        })
    }

    /// Puts everything into `ram` and says where the first vCPU starts.
    pub(crate) fn load(&mut self, ram: &Ram, layout: &MemoryLayout) -> Result<EntryPoint, BootError> {
        let (header, kernel) = self.load_kernel(ram, layout)?;
        let initrd = self.load_initrd(ram, layout, &header, kernel.end)?;
        self.write_command_line(ram, &header)?;
        let params = boot_parameters(header, layout, initrd);
        write(ram, "the boot parameters", ZERO_PAGE, params.as_slice())?;
        let tables = long_mode();
        write(ram, "the page tables", PAGE_TABLES, &tables.page_tables)?;
        write(ram, "the descriptor table", GDT, &tables.descriptors)?;
        Ok(EntryPoint { address: kernel.start + ENTRY_64_OFFSET, segments: tables.segments })
    }

    fn load_kernel(
        &mut self,
        ram: &Ram,
        layout: &MemoryLayout,
    ) -> Result<(setup_header, std::ops::Range<u64>), BootError> {
        let refused = |path: &Path, reason| BootError::NotAKernel { path: path.to_owned(), reason };
        let too_small = |path: &Path, end: u64| BootError::MemoryTooSmall {
            path: path.to_owned(),
            needed: end.div_ceil(MIB),
            available: layout.low / MIB,
        };
        let kernel = &mut self.kernel;
        if HIGH_MEMORY + kernel.size > layout.low {
            // Too large even before it is unpacked; a file that is no kernel is better called that.
            if !looks_like_bzimage(kernel)? {
                return Err(refused(&kernel.path, "it has no setup header of a bzImage"));
            }
            return Err(too_small(&kernel.path, HIGH_MEMORY + kernel.size));
        }
        // The loader has a memory of its own, of which what it loads is then copied.
        let no_memory = || BootError::Staging { path: kernel.path.clone(), bytes: kernel.size };
        let range = (GuestAddress(HIGH_MEMORY), usize::try_from(kernel.size).map_err(|_| no_memory())?);
        let staging = GuestMemoryMmap::<()>::from_ranges(&[range]).map_err(|_| no_memory())?;
        let start = Some(GuestAddress(HIGH_MEMORY));
        let loaded = BzImage::load(&staging, start, &mut kernel.file, start);
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(LoaderError::Bzimage(BzImageError::ReadBzImageCompressedKernel)) => {
                return Err(kernel.why_unreadable());
            }
            Err(_) => return Err(refused(&kernel.path, "it has no setup header of a bzImage")),
        };
        let Some(header) = loaded.setup_header else {
            return Err(refused(&kernel.path, "it has no setup header of a bzImage"));
        };
        let (version, flags) = (header.version, header.xloadflags);
        if version < OLDEST_PROTOCOL {
            return Err(refused(&kernel.path, "its boot protocol is older than 2.12 (Linux 3.8)"));
        }
        if flags & HAS_64_BIT_ENTRY == 0 {
            return Err(refused(&kernel.path, "it has no 64-bit entry point, so it is a 32-bit kernel"));
        }
        // The kernel unpacks itself to its preferred address or where it was loaded, whichever is higher.
        let end = HIGH_MEMORY.max(header.pref_address).saturating_add(u64::from(header.init_size));
        if end > layout.low {
            return Err(too_small(&kernel.path, end));
        }
        let mut piece = vec![0; PIECE];
        let mut address = HIGH_MEMORY;
        while address < loaded.kernel_end {
            let length = PIECE.min(usize::try_from(loaded.kernel_end - address).unwrap_or(PIECE));
            staging
                .read_slice(&mut piece[..length], GuestAddress(address))
                .map_err(|error| kernel.failed(io::Error::other(error)))?;
            write(ram, "the kernel", address, &piece[..length])?;
            address += length as u64;
        }
        Ok((header, loaded.kernel_load.0..end))
    }

    fn load_initrd(
        &mut self,
        ram: &Ram,
        layout: &MemoryLayout,
        header: &setup_header,
        kernel_end: u64,
    ) -> Result<Option<(u64, u64)>, BootError> {
        let Some(initrd) = &mut self.initrd else { return Ok(None) };
        let limit = layout.low.min(u64::from(header.initrd_addr_max) + 1);
        let start = limit.checked_sub(initrd.size).map(|start| start & !(PAGE - 1));
        let start = start.filter(|&start| start >= kernel_end).ok_or_else(|| BootError::InitrdTooLarge {
            path: initrd.path.clone(),
            size: initrd.size,
            available: limit.saturating_sub(kernel_end) & !(PAGE - 1),
        })?;
        initrd.file.seek(SeekFrom::Start(0)).map_err(|source| initrd.failed(source))?;
        ram.read_from(start, &mut initrd.file, initrd.size).map_err(|source| initrd.failed(source))?;
        Ok(Some((start, initrd.size)))
    }

    fn write_command_line(&self, ram: &Ram, header: &setup_header) -> Result<(), BootError> {
        let room = u32::try_from(LOW_MEMORY_END - COMMAND_LINE).unwrap_or(u32::MAX) - 1;
        let limit = header.cmdline_size.min(room);
        let length = self.command_line.len();
        if length > limit as usize {
            return Err(BootError::CommandLineTooLong { length, limit });
        }
        let mut bytes = self.command_line.clone().into_bytes();
        bytes.push(0);
        write(ram, "the command line", COMMAND_LINE, &bytes)
    }
}

/// Where the first vCPU starts, and in which segments.
#[derive(Clone, Copy)]
pub(crate) struct EntryPoint {
    address: u64,
    segments: CodeAndData,
}

impl EntryPoint {
    /// The general registers that the 64-bit boot protocol asks for.
    pub(crate) fn registers(&self) -> kvm_regs {
        kvm_regs {
            rip: self.address,
            rsi: ZERO_PAGE,
            rsp: BOOT_STACK,
            rbp: BOOT_STACK,
            // Bit 1 is always set.
            rflags: 2,
            ..kvm_regs::default()
        }
    }

    /// The system registers: 64-bit mode with an identity map, flat segments.
    pub(crate) fn system_registers(&self, power_on: &kvm_sregs) -> kvm_sregs {
        let data: kvm_segment = self.segments.data;
        let mut sregs = *power_on;
        self.segments.enter_long_mode(&mut sregs);
        sregs.cs = self.segments.code;
        (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
        (sregs.fs, sregs.gs) = (data, data);
        sregs
    }
}

/// Whether the file has the mark of a setup header; for a better error only.
fn looks_like_bzimage(kernel: &mut Image) -> Result<bool, BootError> {
    use std::io::Read as _;
    let mut mark = [0; 4];
    kernel.file.seek(SeekFrom::Start(0x202)).map_err(|source| kernel.failed(source))?;
    Ok(kernel.file.read_exact(&mut mark).is_ok() && &mark == b"HdrS")
}

/// The zero page: the image's own setup header with the loader's fields filled, and the memory map.
fn boot_parameters(
    mut header: setup_header,
    layout: &MemoryLayout,
    initrd: Option<(u64, u64)>,
) -> boot_params {
    header.type_of_loader = LOADER_UNDEFINED;
    header.loadflags |= CAN_USE_HEAP;
    header.heap_end_ptr = 0xfe00;
    header.cmd_line_ptr = COMMAND_LINE as u32;
    if let Some((start, size)) = initrd {
        header.ramdisk_image = start as u32;
        header.ramdisk_size = size as u32;
    }
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: ACPI_TABLES, ..boot_params::default() };
    let map = memory_map(layout);
    for (entry, (addr, size, type_)) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: *addr, size: *size, r#type: *type_ };
    }
    params.e820_entries = map.len() as u8;
    params
}

/// The memory map as (address, size, type).
fn memory_map(layout: &MemoryLayout) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, LOW_MEMORY_END, E820_RAM),
        (LOW_MEMORY_END, 0xa_0000 - LOW_MEMORY_END, E820_RESERVED),
        (ACPI_TABLES, ACPI_TABLES_END - ACPI_TABLES, E820_RESERVED),
        (HIGH_MEMORY, layout.low.saturating_sub(HIGH_MEMORY), E820_RAM),
        (ECAM, ECAM_SIZE, E820_RESERVED),
    ];
    if layout.high != 0 {
        map.push((HIGH_RAM, layout.high, E820_RAM));
    }
    map
}

fn write(ram: &Ram, what: &'static str, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    ram.write(address, bytes).map_err(|source| BootError::Write { what, source })
}
