//! A PCI function by its folder in sysfs: configuration space, BARs, and the message that its driver was given.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use vm_memory::volatile_memory::Error as MemoryError;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// The Command register and its bits.
pub(crate) const COMMAND: u64 = 4;
/// I/O space, memory space, bus master.
pub(crate) const DECODE_AND_MASTER: u16 = 7;
/// Interrupt Disable.
pub(crate) const PIN_OFF: u16 = 1 << 10;
/// Capability id of MSI.
pub(crate) const MSI: u8 = 5;

/// Why a visit ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("there is no work called {work}")]
    Work { work: String },
    #[error("cannot {operation} {}: {source}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot map BAR {bar}: {source}")]
    Map { bar: u8, source: vm_memory::mmap::MmapRegionError },
    #[error("offset {offset:#x}: {source}")]
    Outside { offset: usize, source: MemoryError },
    #[error("the device is busy for ever: register {register:#x}")]
    Busy { register: usize },
    #[error("no capability {id:#x}")]
    NoCapability { id: u8 },
    #[error("no other function whose driver has a message interrupt")]
    NoLender,
    #[error("the interrupt does not come")]
    NoInterrupt,
}

/// A function.
pub(crate) struct Function {
    folder: PathBuf,
}

impl Function {
    /// The function in this folder.
    pub(crate) fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// A file of the folder's, by name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Has Linux turn decoding on, as a driver would, and lets the device reach memory.
    pub(crate) fn enable(&self) -> Result<(), Fault> {
        let path = self.path("enable");
        fs::write(&path, "1").map_err(|source| Fault::File { operation: "write", path, source })?;
        let command = self.config::<2>(COMMAND)?;
        self.write_config(COMMAND, &(u16::from_le_bytes(command) | DECODE_AND_MASTER).to_le_bytes())
    }

    /// Bytes of configuration space.
    pub(crate) fn config<const BYTES: usize>(&self, offset: u64) -> Result<[u8; BYTES], Fault> {
        let mut bytes = [0; BYTES];
        let (file, path) = self.open("config")?;
        let read = file.read_exact_at(&mut bytes, offset);
        read.map_err(|source| Fault::File { operation: "read", path, source })?;
        Ok(bytes)
    }

    /// Writes configuration space.
    pub(crate) fn write_config(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let (file, path) = self.open("config")?;
        file.write_all_at(bytes, offset).map_err(|source| Fault::File { operation: "write", path, source })
    }

    /// Where the capability is.
    pub(crate) fn capability(&self, id: u8) -> Result<u64, Fault> {
        let [mut at] = self.config::<1>(0x34)?;
        for _ in 0..48 {
            let [found, next] = self.config::<2>(u64::from(at))?;
            match (found == id, next) {
                (true, _) => return Ok(u64::from(at)),
                (false, 0) => break,
                (false, _) => at = next & !3,
            }
        }
        Err(Fault::NoCapability { id })
    }

    /// A memory BAR, mapped whole.
    pub(crate) fn memory(&self, bar: u8) -> Result<Bar, Fault> {
        let (file, path) = self.open(&format!("resource{bar}"))?;
        let length = file.metadata().map_err(|source| Fault::File { operation: "look at", path, source })?;
        let bytes = length.len() as usize;
        let region = MmapRegion::from_file(FileOffset::new(file, 0), bytes);
        region.map(Bar).map_err(|source| Fault::Map { bar, source })
    }

    /// An I/O BAR.
    pub(crate) fn ports(&self, bar: u8) -> Result<Ports, Fault> {
        let (file, path) = self.open(&format!("resource{bar}"))?;
        Ok(Ports { file, path })
    }

    /// Another function whose driver has an MSI interrupt: that function, and the interrupt's number in Linux.
    pub(crate) fn lender(&self) -> Result<(Self, u32), Fault> {
        let folder = self.folder.parent().unwrap_or(Path::new("/"));
        let refuse = |source| Fault::File { operation: "list", path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(refuse)? {
            let other = Self::at(entry.map_err(refuse)?.path());
            let Ok(mut numbers) = fs::read_dir(other.path("msi_irqs")) else { continue };
            let number =
                numbers.next().and_then(Result::ok).and_then(|name| name.file_name().to_str()?.parse().ok());
            let Ok(capability) = other.capability(MSI) else { continue };
            // One that has MSI-X too may have that on.
            let [on, _] = other.config::<2>(capability + 2)?;
            if let (1, Some(number)) = (on & 1, number) {
                return Ok((other, number));
            }
        }
        Err(Fault::NoLender)
    }

    fn open(&self, name: &str) -> Result<(File, PathBuf), Fault> {
        let path = self.path(name);
        match File::options().read(true).write(true).open(&path) {
            Ok(file) => Ok((file, path)),
            Err(source) => Err(Fault::File { operation: "open", path, source }),
        }
    }
}

/// A mapped memory BAR, or any other memory that is shared with a device.
pub(crate) struct Bar(pub(crate) MmapRegion);

macro_rules! accesses {
    ($read:ident, $write:ident, $atomic:ty, $value:ty) => {
        /// One access, of this width.
        pub(crate) fn $read(&self, offset: usize) -> Result<$value, Fault> {
            let register = self.0.get_atomic_ref::<$atomic>(offset);
            register.map(|it| it.load(Ordering::Relaxed)).map_err(|source| Fault::Outside { offset, source })
        }

        /// One access, of this width.
        pub(crate) fn $write(&self, offset: usize, value: $value) -> Result<(), Fault> {
            let register = self.0.get_atomic_ref::<$atomic>(offset);
            register
                .map(|it| it.store(value, Ordering::Relaxed))
                .map_err(|source| Fault::Outside { offset, source })
        }
    };
}

impl Bar {
    accesses!(read8, write8, AtomicU8, u8);
    accesses!(read16, write16, AtomicU16, u16);
    accesses!(read32, write32, AtomicU32, u32);
    accesses!(read64, write64, AtomicU64, u64);

    /// Its length.
    pub(crate) fn bytes(&self) -> usize {
        self.0.size()
    }
}

/// An I/O BAR.
pub(crate) struct Ports {
    file: File,
    path: PathBuf,
}

impl Ports {
    /// Reads 1, 2 or 4 bytes at once.
    pub(crate) fn read<const BYTES: usize>(&self, offset: u64) -> Result<[u8; BYTES], Fault> {
        let mut bytes = [0; BYTES];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|source| Fault::File { operation: "read", path: self.path.clone(), source })?;
        Ok(bytes)
    }

    /// Writes 1, 2 or 4 bytes at once.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|source| Fault::File { operation: "write", path: self.path.clone(), source })
    }
}
