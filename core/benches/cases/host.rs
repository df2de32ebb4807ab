//! A host that takes every step at once and does nothing, and the functions that are measured against it.

use std::convert::Infallible;
use std::hint::black_box;
use vfio_assign_core::host::{
    Events, GuestRange, GuestWindows, HostError, InterruptHost, InterruptKind, MappedWindow, Message,
    PhysicalFunction,
};
use vfio_assign_core::{
    Access, AssignedFunction, BarIndex, Bytes, ConfigOffset, Decoder, Description, MmapArea, PageSize,
    PhysBarOffset, Region, Target, Vector, VectorIndex, Width, Window,
};

/// Where the guest has placed BAR 0.
pub(crate) const BASE: u64 = 0xfe00_0000;
/// Where the MSI-X table is in it.
pub(crate) const TABLE: u32 = 0x2000;
/// Message Control of MSI-X in the configuration space below.
pub(crate) const MSIX_CONTROL: u32 = 0x52;

/// The host.
pub(crate) struct Host;

impl HostError for Host {
    type Error = Infallible;
}

impl PhysicalFunction for Host {
    fn config_read(&mut self, offset: ConfigOffset, _: Width) -> Result<u32, Infallible> {
        Ok(u32::from(black_box(offset).get()))
    }
    fn config_write(&mut self, offset: ConfigOffset, _: Width, _: u32) -> Result<(), Infallible> {
        black_box(offset);
        Ok(())
    }
    fn bar_read(&mut self, _: BarIndex, offset: PhysBarOffset, _: Width) -> Result<u64, Infallible> {
        Ok(black_box(offset).get())
    }
    fn bar_write(&mut self, _: BarIndex, at: PhysBarOffset, _: Width, _: u64) -> Result<(), Infallible> {
        black_box(at);
        Ok(())
    }
    fn reset(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl GuestWindows for Host {
    fn map(&mut self, window: MappedWindow) -> Result<(), Infallible> {
        black_box(window);
        Ok(())
    }
    fn unmap(&mut self, window: MappedWindow) -> Result<(), Infallible> {
        black_box(window);
        Ok(())
    }
    fn trap(&mut self, _: BarIndex, _: GuestRange, decoder: &Decoder) -> Result<(), Infallible> {
        black_box(decoder);
        Ok(())
    }
    fn untrap(&mut self, _: BarIndex, _: GuestRange, decoder: &Decoder) -> Result<(), Infallible> {
        black_box(decoder);
        Ok(())
    }
}

impl InterruptHost for Host {
    fn fewer(error: &Infallible) -> Option<u16> {
        match *error {}
    }
    fn enable(&mut self, _: InterruptKind) -> Result<(), Infallible> {
        Ok(())
    }
    fn wire(
        &mut self,
        _: InterruptKind,
        first: VectorIndex,
        last: VectorIndex,
        _: &dyn Fn(VectorIndex) -> bool,
    ) -> Result<(), Infallible> {
        black_box((first, last));
        Ok(())
    }
    fn disable(&mut self, _: InterruptKind) -> Result<(), Infallible> {
        Ok(())
    }
    fn release(&mut self, _: InterruptKind) -> Result<(), Infallible> {
        Ok(())
    }
    fn route(&mut self, _: InterruptKind, vector: VectorIndex, _: Message) -> Result<(), Infallible> {
        black_box(vector);
        Ok(())
    }
    fn commit_routes(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
    fn arm(&mut self, _: InterruptKind, vector: VectorIndex) -> Result<(), Infallible> {
        black_box(vector);
        Ok(())
    }
    fn unmask_intx(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
    fn disarm(&mut self, _: InterruptKind, vector: VectorIndex) -> Result<(), Infallible> {
        black_box(vector);
        Ok(())
    }
    fn signal(&mut self, _: InterruptKind, vector: VectorIndex) -> Result<(), Infallible> {
        black_box(vector);
        Ok(())
    }
    fn poll_pending(&mut self, _: InterruptKind, _: VectorIndex, _: u64) -> Result<u64, Infallible> {
        Ok(0)
    }
    fn take_pending(&mut self, _: InterruptKind, _: VectorIndex, _: u64) -> Result<u64, Infallible> {
        Ok(0)
    }
}

impl Events for Host {}

/// Configuration space of a controller with a 64-bit BAR of 64 KiB, power management, MSI-X with so many vectors,
/// and PCI Express.
pub(crate) fn config(vectors: u16) -> [u8; 4096] {
    let mut config = [0; 4096];
    let mut put = |at: usize, bytes: &[u8]| config[at..][..bytes.len()].copy_from_slice(bytes);
    put(0x00, &[0x36, 0x1b, 0x10, 0x00, 0x06, 0x04, 0x10, 0x00, 0x02, 0x02, 0x08, 0x01]);
    put(0x10, &[0x04]);
    put(0x34, &[0x40]);
    put(0x40, &[0x01, 0x50, 0x03, 0x00]);
    put(0x50, &[0x11, 0x60]);
    put(0x52, &(vectors - 1).to_le_bytes());
    put(0x54, &TABLE.to_le_bytes());
    put(0x58, &0xa000_u32.to_le_bytes());
    put(0x60, &[0x10, 0x00, 0x02, 0x00, 0x00, 0x80, 0x00, 0x10]);
    config
}

/// A function in the state that a guest's driver finds it in.
pub(crate) type Function = AssignedFunction<Vec<Vector>, [Window; 8]>;

/// What of BAR 0 the kernel lets the host mmap.
pub(crate) const AREA: [MmapArea; 1] = [MmapArea { offset: 0, size: 0x1_0000 }];

/// The device of this configuration space.
pub(crate) fn description(config: &[u8]) -> Description<'_> {
    let mut regions = [Region::default(); 7];
    regions[0] = Region { size: 0x1_0000, areas: &AREA, msix_mappable: false };
    Description { config, regions, page_size: PageSize::SIZE_4K, ..Description::default() }
}

/// The function attached, with its BAR placed and decoding on.
pub(crate) fn decoding(vectors: u16, host: &mut Host) -> Function {
    let config = config(vectors);
    let storage = vec![Vector::RESET; usize::from(vectors)];
    let made = AssignedFunction::new(&description(&config), storage, [Window::default(); 8], |_| {});
    let mut function = made.expect("this configuration space is one of a function that can be assigned");
    function.attach(host);
    write_config(&mut function, host, 0x10, &BASE.to_le_bytes());
    write_config(&mut function, host, 0x04, &[6, 0]);
    assert_ne!(function.mapped_windows(), 0, "decoding is on");
    function
}

/// The guest writes to configuration space.
pub(crate) fn write_config(function: &mut Function, host: &mut Host, offset: u32, data: &[u8]) {
    let data = Bytes::from_slice(data);
    let _ = function.access(Access::Write { target: Target::Config(offset), data }, host);
}
