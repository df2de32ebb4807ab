//! The paravisor: one guest, one assigned function, and the way between them.

use crate::events::{Lines, LinesRoom};
use crate::host::{Hardware, HardwareError};
use crate::pci::{Config, Function, PciError, Place};
use crate::sys::apic::{Wait, sleep_unless};
use crate::sys::windows::{self, APERTURE};
use crate::sys::{Room, iommu, words};
use vfio_assign_core::host::HostInterrupts;
use vfio_assign_core::{
    Access, Apertures, AssignedFunction, Bytes, Description, DescriptionError, GuestAddr, MmapArea, Options,
    PageSize, Region, ResetOutcome, Span, Target, Vector, Width, Window,
};

/// What a guest can do: all that a driver has of its machine.
pub(crate) trait Machine {
    /// Reads configuration space of the guest's only function.
    fn config_read(&mut self, offset: u16, width: Width) -> u32;
    /// Writes it.
    fn config_write(&mut self, offset: u16, width: Width, value: u32);
    /// Reads a register.
    fn read(&mut self, address: u64, width: Width) -> u64;
    /// Writes one.
    fn write(&mut self, address: u64, width: Width, value: u64);
    /// The lowest interrupt vector that has come, if one has, after waiting this many milliseconds for it; the last
    /// look is after all of them.
    fn interrupt(&mut self, milliseconds: u32) -> Option<u8>;
}

/// Windows that a function can have: a BAR of memory is one, or two around the MSI-X structures.
pub(crate) const WINDOWS: usize = 8;

/// The most vectors that a function can have.
const VECTORS: usize = 2048;

/// A function whose vectors are in a [`Storage`].
pub(crate) type Lent<'a> = AssignedFunction<&'a mut [Vector], [Window; WINDOWS]>;

/// The storage of all functions, one after the other.
pub(crate) struct Storage {
    /// A copy of configuration space.
    config: Config,
    /// As many vectors as a function can have.
    vectors: Room<{ words::<[Vector; VECTORS]>() }>,
    /// The events of its vectors.
    lines: LinesRoom,
    /// The function itself.
    function: Room<{ words::<Lent<'static>>() }>,
}

impl Storage {
    /// Storage that nobody uses yet.
    pub(crate) const fn new() -> Self {
        Self { config: [0; 4096], vectors: Room::new(), lines: Room::new(), function: Room::new() }
    }
}

/// One function as the guest sees it, and what stands behind: what is large is in a [`Storage`].
pub(crate) struct Paravisor<'a> {
    pub(crate) function: &'a mut Lent<'a>,
    pub(crate) hardware: Hardware<'a>,
    /// The guest's interrupts that have come and that it has not taken: a bit for each of its vectors.
    requested: [u64; 4],
    /// Register accesses that a window took, and those that were trapped.
    pub(crate) direct: u64,
    pub(crate) trapped: u64,
    /// Interrupts forwarded to the guest.
    pub(crate) forwarded: u64,
    /// How often the IOMMU was found to have stopped the device.
    pub(crate) stopped: u64,
}

/// Why a device cannot be given to the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssignError {
    /// The function itself.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The host.
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    /// The core.
    #[error(transparent)]
    Description(#[from] DescriptionError),
}

impl<'a> Paravisor<'a> {
    /// Gives the function to a guest.
    pub(crate) fn assign(place: Place, storage: &'a mut Storage) -> Result<Self, AssignError> {
        let Storage { config, vectors, lines, function: room } = storage;
        let device = Function::new(place, config)?;
        let hardware = Hardware::new(device, config, Lines::new(lines))?;
        let sizes = Hardware::sizes(&device);
        let areas = sizes.map(|size| [MmapArea { offset: 0, size }]);
        let regions = core::array::from_fn(|index| Region {
            size: sizes[index],
            areas: if sizes[index] == 0 { &[] } else { &areas[index] },
            msix_mappable: false,
        });
        let (first, last) = APERTURE;
        let aperture = Span::new(GuestAddr::new(first), GuestAddr::new(last));
        let apertures = Apertures { memory: [aperture, None, None], ports: None };
        let description = Description {
            config,
            regions,
            page_size: PageSize::SIZE_4K,
            interrupts: HostInterrupts { intx: false, msi: 1, ..HostInterrupts::ALL },
            options: Options { apertures, ..Options::default() },
        };
        let findings = |finding| crate::console::line(format_args!("  {finding}"));
        let vectors: &mut [Vector; VECTORS] = vectors.fill(Vector::RESET);
        let (vectors, windows) = (&mut vectors[..], [Window::default(); WINDOWS]);
        let function = AssignedFunction::new(&description, vectors, windows, findings)?;
        let function = room.put(function);
        let mut paravisor =
            Self { function, hardware, requested: [0; 4], direct: 0, trapped: 0, forwarded: 0, stopped: 0 };
        paravisor.function.attach(&mut paravisor.hardware);
        Ok(paravisor)
    }

    /// Resets the function, as with a reset of the guest's whole machine; whether the device has a reset.
    pub(crate) fn reset(&mut self) -> bool {
        self.function.reset(&mut self.hardware) == ResetOutcome::Reset
    }

    /// An access that is trapped, as an exit of the guest's would tell of it.
    pub(crate) fn exit(&mut self, access: Access) -> Bytes {
        self.function.access(access, &mut self.hardware)
    }

    /// Takes the function away from the guest. Nothing of it may stand in the host then.
    pub(crate) fn take_back(&mut self) -> Result<(), LeftOver> {
        self.function.detach(&mut self.hardware);
        let (pages, vectors) = (windows::shown(), self.hardware.lines.count());
        let (bus_master, displaced) =
            (self.hardware.function.is_bus_master(), self.hardware.function.displaced());
        let nothing = pages == 0 && vectors == 0 && !bus_master && displaced.is_none();
        if nothing && !self.function.is_quarantined() {
            Ok(())
        } else {
            Err(LeftOver { pages, vectors, bus_master, displaced })
        }
    }

    /// Interrupts that the handlers have latched become the guest's.
    pub(crate) fn forward(&mut self) {
        self.stopped += u64::from(iommu::take_fault());
        while let Some(message) = self.hardware.lines.take() {
            let vector = message.data as u8;
            self.requested[usize::from(vector / 64)] |= 1 << (vector % 64);
            self.forwarded += 1;
        }
    }

    fn read_exit(&mut self, target: Target, width: Width) -> u64 {
        let bytes = self.exit(Access::Read { target, size: width.bytes() });
        let mut value = [0; 8];
        value[..bytes.len()].copy_from_slice(bytes.as_slice());
        u64::from_le_bytes(value)
    }

    fn write_exit(&mut self, target: Target, width: Width, value: u64) {
        let data = Bytes::from_slice(&value.to_le_bytes()[..width.bytes()]);
        let _written = self.exit(Access::Write { target, data });
    }
}

/// What is left of a function that was taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the guest still reaches {pages} pages, {vectors} vectors are taken; the device is a bus master: {bus_master}; a BAR \
     that was changed: {displaced:?}"
)]
pub(crate) struct LeftOver {
    pages: usize,
    vectors: usize,
    bus_master: bool,
    displaced: Option<usize>,
}

impl Machine for Paravisor<'_> {
    fn config_read(&mut self, offset: u16, width: Width) -> u32 {
        self.read_exit(Target::Config(u32::from(offset)), width) as u32
    }

    fn config_write(&mut self, offset: u16, width: Width, value: u32) {
        self.write_exit(Target::Config(u32::from(offset)), width, u64::from(value));
    }

    fn read(&mut self, address: u64, width: Width) -> u64 {
        if let Some(value) = windows::guest_read(address, width) {
            self.direct += 1;
            return value;
        }
        self.trapped += 1;
        self.read_exit(Target::Memory(GuestAddr::new(address)), width)
    }

    fn write(&mut self, address: u64, width: Width, value: u64) {
        if windows::guest_write(address, width, value).is_some() {
            self.direct += 1;
            return;
        }
        self.trapped += 1;
        self.write_exit(Target::Memory(GuestAddr::new(address)), width, value);
    }

    fn interrupt(&mut self, milliseconds: u32) -> Option<u8> {
        let wait = Wait::new(milliseconds);
        loop {
            let is_last = wait.is_over();
            self.forward();
            for (word, first) in self.requested.iter_mut().zip([0u8, 64, 128, 192]) {
                if *word != 0 {
                    let bit = word.trailing_zeros() as u8;
                    *word &= *word - 1;
                    return Some(first + bit);
                }
            }
            if is_last {
                return None;
            }
            sleep_unless(|| self.hardware.lines.has() || wait.is_over());
        }
    }
}
