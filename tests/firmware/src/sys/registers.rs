//! Registers of devices, at their physical addresses: those of PCI endpoints for the safe code, others in [`super`] only.

use super::iommu::Confined;
use super::ports;
use vfio_assign_core::Width;
use vfio_assign_core::regs::header::{HEADER_TYPE_DWORD, ID, REVISION_AND_CLASS};

/// Where the machine has devices and no memory: the upper 2 GiB of the first 4. The image runs in a machine with less
/// than 2 GiB of memory.
pub(super) const DEVICES: u64 = 0x8000_0000;
/// From here on are the chipset's own registers: the interrupt controllers, the IOMMU.
const CHIPSET: u64 = 0xfec0_0000;
/// The first address that is nobody's.
const DEVICES_END: u64 = 0x1_0000_0000;
/// Bytes of one function's configuration space, and of those of a whole segment.
const CONFIG: u64 = 0x1000;
const ECAM: u64 = 256 << 20;
/// Base class: bridges, those of the host among them.
const BRIDGE: u64 = 0x06;

/// Registers of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Registers {
    first: u64,
    size: u64,
}

/// Why there is no configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the host bridge says {0:#x} of ECAM: it is off, or not below the chipset's registers")]
pub(crate) struct NoEcam(u32);

/// The configuration space of function 0 of a device on bus 0, if that is an endpoint. Nothing in there moves memory or
/// another's registers: where a BAR overlaps them, they answer.
pub(crate) fn endpoint(_: Confined, device: u8) -> Result<Option<Registers>, NoEcam> {
    let ecam = ecam()?;
    let Some(config) = Registers::new(ecam + (u64::from(device % 32) << 15), CONFIG) else { return Ok(None) };
    let there = config.read(u64::from(ID.get()), Width::Word) != Width::Word.all_ones();
    let is_bridge = config.read(u64::from(REVISION_AND_CLASS.get()) + 3, Width::Byte) == BRIDGE;
    let is_endpoint = config.read(u64::from(HEADER_TYPE_DWORD.get()) + 2, Width::Byte) & 0x7f == 0;
    Ok((there && !is_bridge && is_endpoint).then_some(config))
}

/// Where configuration space begins: PCIEXBAR of Q35's host bridge, whose bit 0 says whether.
fn ecam() -> Result<u64, NoEcam> {
    let said = ports::pciexbar();
    let first = u64::from(said & !(ECAM as u32 - 1));
    let is_there = said & 1 != 0 && first >= DEVICES && first + ECAM <= CHIPSET;
    if is_there { Ok(first) } else { Err(NoEcam(said)) }
}

impl Registers {
    /// The registers in `size` bytes from `first` on; none if that is not where devices are.
    pub(super) const fn new(first: u64, size: u64) -> Option<Self> {
        match first.checked_add(size) {
            Some(end) if first >= DEVICES && end <= DEVICES_END => Some(Self { first, size }),
            _ => None,
        }
    }

    /// The registers behind an endpoint's BAR; none where anything else than BARs can be.
    pub(crate) fn of_bar(_: Confined, first: u64, size: u64) -> Option<Self> {
        let ecam = ecam().ok()?;
        let registers = Self::new(first, size)?;
        let end = first + size;
        (end <= CHIPSET && (end <= ecam || first >= ecam + ECAM)).then_some(registers)
    }

    /// The physical address of the first.
    pub(crate) const fn first(self) -> u64 {
        self.first
    }

    /// Bytes.
    pub(crate) const fn size(self) -> u64 {
        self.size
    }

    /// Reads one register; all-ones outside.
    pub(crate) fn read(self, offset: u64, width: Width) -> u64 {
        let Some(at) = self.at(offset, width) else { return width.all_ones() };
        match width {
            Width::Byte => u64::from(load::<u8>(at)),
            Width::Word => u64::from(load::<u16>(at)),
            Width::Dword => u64::from(load::<u32>(at)),
            Width::Qword => load::<u64>(at),
        }
    }

    /// Writes one register; nothing outside.
    pub(crate) fn write(self, offset: u64, width: Width, value: u64) {
        let Some(at) = self.at(offset, width) else { return };
        match width {
            Width::Byte => store(at, value as u8),
            Width::Word => store(at, value as u16),
            Width::Dword => store(at, value as u32),
            Width::Qword => store(at, value),
        }
    }

    /// A register that lies within, naturally aligned.
    fn at(self, offset: u64, width: Width) -> Option<At> {
        let bytes = width.bytes() as u64;
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.size);
        (fits && (self.first + offset).is_multiple_of(bytes)).then_some(At(self.first + offset))
    }
}

/// The address of a register: what [`Registers::at`] has made, for as many bytes as were asked for.
struct At(u64);

/// An integer as wide as a register.
trait Integer: Copy {}
impl Integer for u8 {}
impl Integer for u16 {}
impl Integer for u32 {}
impl Integer for u64 {}

fn load<T: Integer>(At(at): At) -> T {
    // SAFETY: the address is aligned and from DEVICES on, which the processor's tables map to itself up to 4 GiB and
    // where no Rust object is; any bits are a value of an integer.
    unsafe { (at as *const T).read_volatile() }
}

fn store<T: Integer>(At(at): At, value: T) {
    // SAFETY: as for `load`, no Rust object is there. What a device does to memory because of it it does to atomics:
    // it is confined, or it is the IOMMU or the local APIC, whose registers have no `Registers` outside of `sys`.
    unsafe { (at as *mut T).write_volatile(value) }
}
