//! [`Op`]: one thing that a guest, a device or a host does. Models drive a function with these, and fuzz targets.

use crate::rig::BASE;
use crate::setup::Setup;
use vfio_assign_core::fake::{CallKind, MsixPlan, Shape};
use vfio_assign_core::{BarIndex, BusMastering, MmapArea, PageSize};

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// The guest reads configuration space.
    ConfigRead {
        /// Where.
        offset: u32,
        /// Bytes.
        size: u8,
    },
    /// The guest writes configuration space.
    ConfigWrite {
        /// Where.
        offset: u32,
        /// Bytes, at most 8.
        size: u8,
        /// What.
        value: u64,
    },
    /// The guest reads memory, trapped.
    Read {
        /// Where.
        address: u64,
        /// Bytes.
        size: u8,
    },
    /// The guest writes memory, trapped.
    Write {
        /// Where.
        address: u64,
        /// Bytes, at most 8.
        size: u8,
        /// What.
        value: u64,
    },
    /// The guest reads a port.
    PortRead {
        /// Where.
        port: u16,
        /// Bytes.
        size: u8,
    },
    /// The guest writes a port.
    PortWrite {
        /// Where.
        port: u16,
        /// Bytes, at most 8.
        size: u8,
        /// What.
        value: u64,
    },
    /// The device signals an interrupt.
    Raise {
        /// The vector.
        vector: u16,
    },
    /// The device asserts its interrupt pin, or no longer does.
    Pin {
        /// Which of the two.
        asserted: bool,
    },
    /// The guest ends the interrupt of its line.
    EndInterrupt,
    /// The embedder has seen an interrupt that did not reach the guest.
    Latch {
        /// The vector.
        vector: u16,
    },
    /// In the next operation, before so many steps are taken, the device signals and the embedder sees an interrupt.
    Interrupt {
        /// The vector.
        vector: u16,
        /// The steps before it.
        after: u8,
    },
    /// The embedder settles.
    Settle,
    /// The machine stops.
    Stop {
        /// What becomes of bus mastering.
        bus_mastering: BusMastering,
    },
    /// The machine goes on, stopped or not.
    Start,
    /// The machine is reset.
    Reset,
    /// The assignment ends and another begins.
    Reassign,
    /// A host call of this kind fails, after so many that do not.
    Fail {
        /// The kind.
        kind: CallKind,
        /// Those that do not.
        after: u8,
    },
    /// The device is pulled out.
    Unplug,
}

/// Offsets at which something happens in a device like [`Shape::nvme`].
const REGISTERS: [u32; 22] = [
    0x04, 0x05, 0x06, 0x10, 0x14, 0x18, 0x1c, 0x30, 0x3c, 0x44, 0x48, 0x4a, 0x4b, 0x5c, 0x5d, 0x94, 0x9a,
    0x9c, 0xa0, 0xa4, 0xa8, 0xac,
];

/// Values that mean something there.
const VALUES: [u64; 12] =
    [0, 1, 2, 3, 6, 7, 0x8000, 0xc000, 0x4000_0000, 0x8000_0000, 0xffff_ffff, BASE << 32 | BASE];

/// Bytes that choices are made from.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Choices from these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn number(&mut self, bytes: usize) -> Option<u64> {
        let mut value = [0; 8];
        for to in &mut value[..bytes] {
            *to = self.byte()?;
        }
        Some(u64::from_le_bytes(value))
    }

    fn value(&mut self) -> Option<u64> {
        match self.byte()? {
            index @ 0..=11 => Some(VALUES[usize::from(index)]),
            // A place for a BAR, so that they meet.
            page @ 12..=43 => Some(BASE + u64::from(page) * 0x1000),
            _ => self.number(8),
        }
    }

    fn offset(&mut self) -> Option<u32> {
        match self.byte()? {
            index @ 0..=21 => Some(REGISTERS[usize::from(index)]),
            22 => Some(u32::MAX - 3),
            _ => Some(self.number(2)? as u32 & 0x1fff),
        }
    }

    fn address(&mut self) -> Option<u64> {
        let kind = self.byte()?;
        let offset = self.number(2)?;
        Some(match kind {
            // Vector Control of an entry behind the registers.
            0..=99 => BASE + 0x200c + (offset & 0x7ff) * 16,
            100..=199 => BASE + 0x2000 + (offset & 0x3fff),
            200..=249 => BASE + offset,
            250 => u64::MAX - (offset & 0xf),
            _ => offset,
        })
    }

    /// A device, like [`Shape::nvme`] and then bent.
    pub fn shape(&mut self) -> Option<Shape> {
        const COUNTS: [u16; 8] = [1, 2, 3, 33, 64, 65, 130, 300];
        let flags = self.byte()?;
        let mut shape = Shape::nvme(COUNTS[usize::from(flags & 7)]);
        if flags & 8 != 0 {
            let bar = BarIndex::BARS[2];
            let plan = MsixPlan { vectors: 40, table: (bar, 0xff0), pba: (bar, 0x1800) };
            shape = Shape::new()
                .memory_bar(BarIndex::BARS[0], 0x4000)
                .io_bar(BarIndex::BARS[1], 0x20)
                .memory_bar(bar, 0x4000)
                .memory_bar(BarIndex::BARS[3], 0x1000)
                .rom(0x1000)
                .power_management(0)
                .msix(plan)
                .pci_express();
        }
        shape.resizable = flags & 16 == 0;
        shape.virtual_function = flags & 32 != 0;
        shape.resettable = flags & 64 == 0;
        shape = shape.advanced_features().msi(2, true, true).pin();
        shape.resample = flags & 64 == 0;
        if flags & 128 != 0 {
            self.bend(&mut shape)?;
        }
        Some(shape)
    }

    /// The same, with what its embedder decides.
    pub fn setup(&mut self) -> Option<Setup> {
        let shape = self.shape()?;
        Some(Setup::decided(shape, self))
    }

    fn bend(&mut self, shape: &mut Shape) -> Option<()> {
        shape.host_vectors = u16::from(self.byte()?);
        shape.routes = usize::from(self.byte()?);
        for _ in 0..self.byte()? & 7 {
            let at = self.number(2)? as u16 & 0xfff;
            let bytes = self.number(4)?.to_le_bytes();
            shape.put(at, &bytes[..4]);
        }
        for _ in 0..self.byte()? & 3 {
            let bar = usize::from(self.byte()? % 7);
            shape.sizes[bar] = match self.byte()? {
                shift @ 0..=63 => 1 << shift,
                _ => self.number(8)?,
            };
        }
        for _ in 0..self.byte()? & 15 {
            let bar = usize::from(self.byte()? % 7);
            let (offset, size) = (self.number(3)?, self.number(3)?);
            shape.areas[bar].push(MmapArea { offset, size });
        }
        if self.byte()? & 1 != 0 {
            shape.page_size = PageSize::SIZE_16K;
        }
        Some(())
    }
}

/// The operations that are left, to the end of the bytes.
impl Iterator for Choices<'_> {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        let op = match self.byte()? % 28 {
            0..=1 => Op::ConfigRead { offset: self.offset()?, size: self.byte()? % 10 },
            2..=7 => Op::ConfigWrite { offset: self.offset()?, size: self.byte()? % 9, value: self.value()? },
            8..=9 => Op::Read { address: self.address()?, size: self.byte()? },
            10..=14 => Op::Write { address: self.address()?, size: self.byte()? % 9, value: self.value()? },
            15 => Op::PortRead { port: self.number(2)? as u16, size: self.byte()? },
            16 => {
                Op::PortWrite { port: self.number(2)? as u16, size: self.byte()? % 9, value: self.value()? }
            }
            17 => Op::Raise { vector: self.number(2)? as u16 },
            18 => Op::Latch { vector: self.number(2)? as u16 },
            19 => Op::Interrupt { vector: self.number(2)? as u16, after: self.byte()? },
            24 => Op::Pin { asserted: self.byte()? & 1 != 0 },
            25 => Op::EndInterrupt,
            26 => {
                let off = self.byte()? & 1 != 0;
                Op::Stop { bus_mastering: if off { BusMastering::Off } else { BusMastering::Kept } }
            }
            27 => Op::Start,
            20 => Op::Settle,
            21 => Op::Reset,
            22 => Op::Reassign,
            _ => match self.byte()? {
                255 => Op::Unplug,
                kind => {
                    let kind = CallKind::ALL[usize::from(kind) % CallKind::ALL.len()];
                    Op::Fail { kind, after: self.byte()? % 8 }
                }
            },
        };
        Some(op)
    }
}
