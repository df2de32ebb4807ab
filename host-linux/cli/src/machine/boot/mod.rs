//! Getting Linux to run: kernel, initial RAM disk and boot parameters in memory, the first vCPU at the entry.
//!
//! The kernel is a bzImage entered by the 64-bit boot protocol: nothing of real mode, no firmware. Files are
//! opened once and read again at each reset, so that a guest reboots into the kernel it was started with.

mod error;
mod zero_page;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::loader::bootparam::setup_header;
use vfio_assign_core::{GuestAddr, Span};
use vm_memory::ByteValued as _;

use super::layout::{
    BOOT_STACK, COMMAND_LINE, GDT, HIGH_MEMORY, LOW_MEMORY_END, MIB, MemoryLayout, PAGE_TABLES, ZERO_PAGE,
};
use super::ram::Ram;
use super::registers::{CodeAndData, long_mode};

pub(crate) use error::BootError;
use zero_page::boot_parameters;

/// The setup header's place in the file, and what marks it: `HdrS`.
const HEADER_OFFSET: u64 = 0x1f1;
const HEADER_MARK: u32 = 0x5372_6448;
/// Sizes in the file are in sectors, or in paragraphs.
const SECTOR: u64 = 512;
const PARAGRAPH: u64 = 16;
/// `loadflags`: the image is loaded at 1 MiB.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: the image has a 64-bit entry point.
const HAS_64_BIT_ENTRY: u16 = 1;
/// Where the 64-bit entry point lies in a loaded bzImage.
const ENTRY_64_OFFSET: u64 = 0x200;
/// First version of the boot protocol with everything used here (the address of the ACPI tables: 2.14).
const OLDEST_PROTOCOL: u16 = 0x020c;
const PAGE: u64 = 4096;

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

    /// Copies the file from `offset` to its end into guest memory.
    fn copy(&mut self, offset: u64, ram: &Ram, address: u64) -> Result<(), BootError> {
        self.file.seek(SeekFrom::Start(offset)).map_err(|source| self.failed(source))?;
        ram.read_from(address, &mut self.file, self.size - offset).map_err(|source| self.failed(source))
    }
}

/// What the guest boots.
pub(crate) struct BootImages {
    kernel: Image,
    initrd: Option<Image>,
    command_line: CString,
}

impl BootImages {
    /// Opens the files.
    pub(crate) fn open(kernel: &Path, initrd: Option<&Path>, command_line: &str) -> Result<Self, BootError> {
        let command_line = CString::new(command_line)
            .map_err(|error| BootError::CommandLineNul { position: error.nul_position() })?;
        Ok(Self {
            kernel: Image::open("kernel", kernel)?,
            initrd: initrd.map(|path| Image::open("initrd", path)).transpose()?,
            command_line,
        })
    }

    /// Finds a place for everything, or says why it cannot boot.
    pub(crate) fn plan(&mut self, layout: &MemoryLayout) -> Result<Plan, BootError> {
        let header = read_header(&mut self.kernel)?;
        let end = self.kernel_end(&header, layout)?;
        let initrd = self.place_initrd(&header, layout, end)?;
        self.check_command_line(&header)?;
        let size = self.kernel.size;
        let initrd_size = self.initrd.as_ref().map_or(0, |image| image.size);
        Ok(Plan {
            header,
            initrd,
            starts_in: [(HIGH_MEMORY, size), (initrd.unwrap_or(0), initrd_size), (end - size, size)],
        })
    }

    /// Puts everything into `ram` and says where the first vCPU starts.
    pub(crate) fn load(&mut self, ram: &Ram, layout: &MemoryLayout) -> Result<EntryPoint, BootError> {
        let Plan { header, initrd, .. } = self.plan(layout)?;
        self.kernel.copy(setup_size(&header), ram, HIGH_MEMORY)?;
        if let (Some(image), Some(start)) = (&mut self.initrd, initrd) {
            image.copy(0, ram, start)?;
        }
        write(ram, "the command line", COMMAND_LINE, self.command_line.to_bytes_with_nul())?;
        let initrd = initrd.zip(self.initrd.as_ref().map(|image| image.size));
        let params = boot_parameters(header, layout, initrd);
        write(ram, "the boot parameters", ZERO_PAGE, params.as_slice())?;
        let tables = long_mode();
        write(ram, "the page tables", PAGE_TABLES, &tables.page_tables)?;
        write(ram, "the descriptor table", GDT, &tables.descriptors)?;
        Ok(EntryPoint { address: HIGH_MEMORY + ENTRY_64_OFFSET, segments: tables.segments })
    }

    /// Where the memory ends that the kernel needs to start.
    fn kernel_end(&self, header: &setup_header, layout: &MemoryLayout) -> Result<u64, BootError> {
        let kernel = &self.kernel;
        let (pref_address, init_size) = (header.pref_address, header.init_size);
        // The kernel unpacks itself to its preferred address or where it was loaded, whichever is higher.
        let end = HIGH_MEMORY.max(pref_address).saturating_add(u64::from(init_size));
        let end = end.max(HIGH_MEMORY + kernel.size);
        if end > layout.low {
            return Err(BootError::MemoryTooSmall {
                path: kernel.path.clone(),
                needed: end.div_ceil(MIB),
                available: layout.low / MIB,
            });
        }
        Ok(end)
    }

    fn place_initrd(
        &self,
        header: &setup_header,
        layout: &MemoryLayout,
        kernel_end: u64,
    ) -> Result<Option<u64>, BootError> {
        let Some(initrd) = &self.initrd else { return Ok(None) };
        let limit = layout.low.min(u64::from(header.initrd_addr_max) + 1);
        let start = limit.checked_sub(initrd.size).map(|start| start & !(PAGE - 1));
        let start = start.filter(|&start| start >= kernel_end).ok_or_else(|| BootError::InitrdTooLarge {
            path: initrd.path.clone(),
            size: initrd.size,
            available: limit.saturating_sub(kernel_end) & !(PAGE - 1),
        })?;
        Ok(Some(start))
    }

    fn check_command_line(&self, header: &setup_header) -> Result<(), BootError> {
        let room = u32::try_from(LOW_MEMORY_END - COMMAND_LINE).unwrap_or(u32::MAX) - 1;
        let limit = header.cmdline_size.min(room);
        let length = self.command_line.as_bytes().len();
        if length > limit as usize {
            return Err(BootError::CommandLineTooLong { length, limit });
        }
        Ok(())
    }
}

/// Where what the guest boots goes.
pub(crate) struct Plan {
    header: setup_header,
    initrd: Option<u64>,
    starts_in: [(u64, u64); 3],
}

impl Plan {
    /// What the guest starts in: the kernel, its initial RAM disk, and the end of the memory in which the kernel unpacks
    /// itself, where it first moves to.
    pub(crate) fn starts_in(&self) -> Vec<Span<GuestAddr>> {
        self.starts_in
            .iter()
            .filter_map(|&(start, size)| Span::from_size(GuestAddr::new(start), size))
            .collect()
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

/// The setup header, if it is one of a kernel that can be booted from this file.
fn read_header(kernel: &mut Image) -> Result<setup_header, BootError> {
    let refused = |kernel: &Image, reason| Err(BootError::NotAKernel { path: kernel.path.clone(), reason });
    let mut header = setup_header::default();
    kernel.file.seek(SeekFrom::Start(HEADER_OFFSET)).map_err(|source| kernel.failed(source))?;
    match kernel.file.read_exact(header.as_mut_slice()) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return refused(kernel, "it is too short");
        }
        other => other.map_err(|source| kernel.failed(source))?,
    }
    let (mark, version, flags) = (header.header, header.version, header.xloadflags);
    if mark != HEADER_MARK || header.loadflags & LOADED_HIGH == 0 {
        return refused(kernel, "it has no setup header of a bzImage");
    }
    if version < OLDEST_PROTOCOL {
        return refused(kernel, "its boot protocol is older than 2.12 (Linux 3.8)");
    }
    if flags & HAS_64_BIT_ENTRY == 0 {
        return refused(kernel, "it has no 64-bit entry point, so it is a 32-bit kernel");
    }
    let paragraphs = header.syssize;
    if kernel.size < setup_size(&header) + u64::from(paragraphs) * PARAGRAPH {
        return refused(kernel, "it is cut off: its header says that it is longer");
    }
    Ok(header)
}

/// Bytes of the file before what is loaded: the boot sector, and real-mode code that is not used.
fn setup_size(header: &setup_header) -> u64 {
    // Zero stands for four, for ever.
    let sectors = if header.setup_sects == 0 { 4 } else { header.setup_sects };
    (u64::from(sectors) + 1) * SECTOR
}

fn write(ram: &Ram, what: &'static str, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    ram.write(address, bytes).map_err(|source| BootError::Write { what, source })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::NamedTempFile;

    use super::*;
    use crate::machine::ram::Contents;

    /// A file that looks like a kernel with `paragraphs` of code, changed by `change`.
    fn kernel(paragraphs: u32, change: impl FnOnce(&mut setup_header)) -> NamedTempFile {
        let mut header = setup_header {
            setup_sects: 1,
            syssize: paragraphs,
            header: HEADER_MARK,
            version: 0x020f,
            loadflags: LOADED_HIGH,
            xloadflags: HAS_64_BIT_ENTRY,
            initrd_addr_max: 0x7fff_ffff,
            cmdline_size: 2047,
            pref_address: 16 * MIB,
            init_size: 8 << 20,
            ..setup_header::default()
        };
        change(&mut header);
        let mut bytes = vec![0; HEADER_OFFSET as usize];
        bytes.extend_from_slice(header.as_slice());
        bytes.resize(2 * SECTOR as usize, 0);
        bytes.resize(bytes.len() + (u64::from(paragraphs) * PARAGRAPH) as usize, 0xc3);
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    /// Loads a kernel and an initial RAM disk of so many bytes into a guest of `memory` bytes.
    fn load(kernel: &NamedTempFile, initrd: Option<u64>, memory: u64, line: &str) -> Result<Ram, BootError> {
        let disk = initrd.map(|size| {
            let file = NamedTempFile::new().unwrap();
            file.as_file().set_len(size).unwrap();
            file
        });
        let layout = MemoryLayout::new(memory, 40).unwrap();
        let ram = Ram::unseen(&layout, Contents::Empty).unwrap();
        let disk = disk.as_ref().map(NamedTempFile::path);
        BootImages::open(kernel.path(), disk, line)?.load(&ram, &layout)?;
        Ok(ram)
    }

    fn refusal(kernel: &NamedTempFile) -> String {
        load(kernel, None, 64 * MIB, "").err().unwrap().to_string()
    }

    fn bytes<const N: usize>(ram: &Ram, address: u64) -> [u8; N] {
        let mut data = [0; N];
        ram.regions()[0].memory.read(address, &mut data).unwrap();
        data
    }

    #[test]
    fn the_kernel_s_code_is_loaded_at_one_mebibyte() {
        let ram = load(&kernel(4, |_| ()), None, 64 * MIB, "").unwrap();
        assert_eq!(bytes(&ram, HIGH_MEMORY + 60), [0xc3, 0xc3, 0xc3, 0xc3, 0, 0]);
    }

    #[test]
    fn the_command_line_ends_in_zero() {
        let ram = load(&kernel(4, |_| ()), None, 64 * MIB, "quiet").unwrap();
        assert_eq!(&bytes::<6>(&ram, COMMAND_LINE), b"quiet\0");
    }

    #[test]
    fn the_zero_page_says_where_the_initrd_is() {
        let ram = load(&kernel(4, |_| ()), Some(5000), 64 * MIB, "").unwrap();
        let (image, size): ([u8; 4], [u8; 4]) =
            (bytes(&ram, ZERO_PAGE + 0x218), bytes(&ram, ZERO_PAGE + 0x21c));
        assert_eq!((u32::from_le_bytes(image), u32::from_le_bytes(size)), (0x3ff_e000, 5000));
    }

    #[test]
    fn an_initrd_that_reaches_into_the_kernel_is_refused() {
        let error = load(&kernel(4, |_| ()), Some(40 * MIB + 1), 64 * MIB, "").err().unwrap();
        assert!(matches!(error, BootError::InitrdTooLarge { available, .. } if available == 40 * MIB));
    }

    #[test]
    fn an_initrd_that_just_fits_is_loaded() {
        assert!(load(&kernel(4, |_| ()), Some(40 * MIB), 64 * MIB, "").is_ok());
    }

    #[test]
    fn a_kernel_that_needs_more_memory_says_how_much() {
        let error = load(&kernel(4, |_| ()), None, 16 * MIB, "").err().unwrap();
        assert!(matches!(error, BootError::MemoryTooSmall { needed: 24, available: 16, .. }));
    }

    #[test]
    fn a_command_line_that_the_kernel_does_not_take_is_refused() {
        let error = load(&kernel(4, |_| ()), None, 64 * MIB, &"x".repeat(2048)).err().unwrap();
        assert!(matches!(error, BootError::CommandLineTooLong { length: 2048, limit: 2047 }));
    }

    #[test]
    fn a_file_without_a_header_is_no_kernel() {
        assert!(refusal(&kernel(4, |header| header.header = 0)).contains("no setup header"));
    }

    #[test]
    fn an_empty_file_is_no_kernel() {
        assert!(refusal(&NamedTempFile::new().unwrap()).contains("too short"));
    }

    #[test]
    fn a_32_bit_kernel_is_refused() {
        assert!(refusal(&kernel(4, |header| header.xloadflags = 0)).contains("32-bit"));
    }

    #[test]
    fn a_kernel_that_is_cut_off_is_refused() {
        assert!(refusal(&kernel(4, |header| header.syssize = 5)).contains("cut off"));
    }
}
