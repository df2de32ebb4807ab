//! The device's BARs in this process: mapped where the kernel lets us, read and written through the kernel
//! elsewhere.

use crate::device::{Device, RegionError};
use crate::errno::Errno;
use crate::fault::FaultHandler;
use crate::kernel::MapArea;
use crate::region::{RegionIndex, RegionInfo};
use crate::sys::{HostRange, Mapping, Placement};
use std::sync::Arc;
use vfio_assign_core::{BarIndex, MmapArea, PhysBarOffset, Span, Width};

/// The largest page that a mapping is placed for.
const LARGEST_PAGE: u64 = 1 << 30;

/// The BARs of a device.
#[derive(Debug)]
pub struct MappedBars {
    // Dropped in this order: mappings before the device.
    mapped: [Arc<[MappedArea]>; 7],
    failed: Vec<UnmappedArea>,
    path: RegisterPath,
    device: Arc<Device>,
}

/// How a register that is mapped in this process is accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum RegisterPath {
    /// By `pread` and `pwrite`: a device that is gone or asleep gives an error.
    #[default]
    Kernel,
    /// Through the mapping, without a call: an aligned access of 8 bytes stays one, and where the device is gone or
    /// asleep the handler makes an error of the fault.
    Mapping(FaultHandler),
}

/// An area that the kernel offered and then did not map. Its registers are accessed through the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{bar}: {:#x} bytes at {:#x} cannot be mapped: {errno}", area.size, area.offset)]
pub struct UnmappedArea {
    /// The BAR.
    pub bar: BarIndex,
    /// The area.
    pub area: MmapArea,
    /// What the kernel said.
    pub errno: Errno,
}

#[derive(Debug)]
struct MappedArea {
    area: MmapArea,
    mapping: Mapping,
}

/// A part of a mapped BAR, for a guest to see. It keeps what is mapped of that BAR.
#[derive(Clone, Debug)]
pub struct WindowMemory {
    range: HostRange,
    writable: bool,
    _areas: Arc<[MappedArea]>,
}

impl WindowMemory {
    /// The address in this process.
    pub fn address(&self) -> usize {
        self.range.address()
    }

    /// How many bytes.
    pub fn length(&self) -> usize {
        self.range.length()
    }

    /// Whether the guest may write.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    #[cfg(feature = "kvm")]
    pub(crate) fn range(&self) -> HostRange {
        self.range
    }
}

impl MappedBars {
    /// Maps every area that the kernel offers, exactly as it is offered. BARs in `excluded` are not mapped.
    ///
    /// An area that cannot be mapped is no error: see [`Self::failed`].
    pub fn map(device: Arc<Device>, path: RegisterPath, excluded: &[BarIndex]) -> Self {
        let mut bars = Self { mapped: Default::default(), failed: Vec::new(), path, device };
        for bar in BarIndex::BARS.into_iter().filter(|bar| !excluded.contains(bar)) {
            bars.map_bar(bar);
        }
        bars
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The areas of a BAR that are mapped.
    pub fn areas(&self, bar: BarIndex) -> Vec<MmapArea> {
        self.mapped[bar.position()].iter().map(|mapped| mapped.area).collect()
    }

    /// The areas that the kernel offered and did not map.
    pub fn failed(&self) -> &[UnmappedArea] {
        &self.failed
    }

    /// A part of a BAR for the guest to see, if it lies in one mapped area.
    pub fn window(&self, bar: BarIndex, part: Span<PhysBarOffset>) -> Option<WindowMemory> {
        let size = usize::try_from(part.size()).ok()?;
        let (mapped, offset) = self.find(bar, part.first(), size)?;
        let range = mapped.mapping.range(offset, size)?;
        let writable = self.device.region(RegionIndex::bar(bar))?.writable;
        Some(WindowMemory { range, writable, _areas: self.mapped[bar.position()].clone() })
    }

    /// Reads a register.
    ///
    /// # Errors
    ///
    /// There is no such BAR, or the device does not answer.
    #[inline]
    pub fn read(&self, bar: BarIndex, offset: PhysBarOffset, width: Width) -> Result<u64, RegionError> {
        let through = self.through(bar, offset, width.bytes());
        match through.and_then(|(mapped, at)| mapped.mapping.read(at, width.bytes())) {
            Some(read) => read.map_err(|_| fault(bar, offset, width)),
            None => {
                let mut data = [0; 8];
                self.device.read(RegionIndex::bar(bar), offset.get(), &mut data[..width.bytes()])?;
                Ok(u64::from_le_bytes(data))
            }
        }
    }

    /// Writes a register.
    ///
    /// # Errors
    ///
    /// There is no such BAR, or the device does not answer.
    #[inline]
    pub fn write(
        &self,
        bar: BarIndex,
        offset: PhysBarOffset,
        width: Width,
        value: u64,
    ) -> Result<(), RegionError> {
        let through = self.through(bar, offset, width.bytes());
        match through.and_then(|(mapped, at)| mapped.mapping.write(at, width.bytes(), value)) {
            Some(written) => written.map_err(|_| fault(bar, offset, width)),
            None => {
                let data = value.to_le_bytes();
                self.device.write(RegionIndex::bar(bar), offset.get(), &data[..width.bytes()])
            }
        }
    }

    fn map_bar(&mut self, bar: BarIndex) {
        let Some(region) = self.device.region(RegionIndex::bar(bar)) else {
            return;
        };
        let mut mapped = Vec::new();
        for area in usable(region) {
            match self.device.map_area(place(region, area)) {
                Ok(mapping) => mapped.push(MappedArea { area, mapping }),
                Err(errno) => {
                    let failed = UnmappedArea { bar, area, errno };
                    log::warn!("{}: {failed}; its registers are trapped", self.device.bdf());
                    self.failed.push(failed);
                }
            }
        }
        self.mapped[bar.position()] = mapped.into();
    }

    /// The area to access a register through, if that is the way.
    #[inline]
    fn through(&self, bar: BarIndex, offset: PhysBarOffset, size: usize) -> Option<(&MappedArea, usize)> {
        match self.path {
            RegisterPath::Kernel => None,
            RegisterPath::Mapping(_) => self.find(bar, offset, size),
        }
    }

    /// The area that holds `size` bytes from `offset` on, and their place in it.
    #[inline]
    fn find(&self, bar: BarIndex, offset: PhysBarOffset, size: usize) -> Option<(&MappedArea, usize)> {
        self.mapped[bar.position()].iter().find_map(|mapped| {
            let within = usize::try_from(offset.get().checked_sub(mapped.area.offset)?).ok()?;
            (within.checked_add(size)? <= mapped.mapping.length()).then_some((mapped, within))
        })
    }
}

/// The device did not answer through its mapping.
fn fault(bar: BarIndex, offset: PhysBarOffset, width: Width) -> RegionError {
    RegionError::Fault { region: RegionIndex::bar(bar), offset: offset.get(), length: width.bytes() }
}

/// The offered areas that are inside the region and can be mapped as they are.
fn usable(region: &RegionInfo) -> impl Iterator<Item = MmapArea> {
    let page = rustix::param::page_size() as u64;
    let inside = move |area: &MmapArea| {
        let end = area.offset.checked_add(area.size);
        area.size > 0 && area.offset.is_multiple_of(page) && end.is_some_and(|end| end <= region.size)
    };
    region.areas.iter().copied().filter(inside)
}

/// A BAR is aligned to its size in physical memory, so an address that agrees with the offset in the BAR,
/// modulo a page size, agrees with the physical address.
fn place(region: &RegionInfo, area: MmapArea) -> MapArea {
    let modulus = region.size.checked_next_power_of_two().unwrap_or(LARGEST_PAGE).min(LARGEST_PAGE);
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    MapArea {
        offset: region.offset.wrapping_add(area.offset),
        length: number(area.size),
        placement: Placement { modulus: number(modulus), remainder: number(area.offset & (modulus - 1)) },
        writable: region.writable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDevice;

    fn region(size: u64, areas: &[(u64, u64)]) -> RegionInfo {
        let areas = areas.iter().map(|(offset, size)| MmapArea { offset: *offset, size: *size });
        RegionInfo {
            index: RegionIndex::bar(BarIndex::BARS[0]),
            size,
            offset: 0x100_0000_0000,
            readable: true,
            writable: true,
            msix_mappable: false,
            areas: areas.collect(),
            finding: None,
        }
    }

    #[test]
    fn areas_that_are_none_are_left_out() {
        let offered =
            [(0, 0), (0x800, 0x1000), (0x3000, 0x2000), (u64::MAX - 0xfff, 0x2000), (0x1000, 0x1000)];
        let found: Vec<_> = usable(&region(0x4000, &offered)).collect();
        assert_eq!(found, [MmapArea { offset: 0x1000, size: 0x1000 }]);
    }

    #[test]
    fn small_bar_is_placed_by_its_size() {
        let area = place(&region(0x4000, &[]), MmapArea { offset: 0x3000, size: 0x1000 });
        assert_eq!(area.placement, Placement { modulus: 0x4000, remainder: 0x3000 });
        assert_eq!(area.offset, 0x100_0000_3000);
    }

    #[test]
    fn huge_bar_is_placed_by_1_gib() {
        let area = MmapArea { offset: 0x4010_0000, size: 0x1000 };
        let placement = place(&region(1 << 34, &[]), area).placement;
        assert_eq!(placement, Placement { modulus: 1 << 30, remainder: 0x10_0000 });
    }

    const BAR0: BarIndex = BarIndex::BARS[0];

    fn mapping() -> RegisterPath {
        RegisterPath::Mapping(FaultHandler::install().unwrap())
    }

    fn write_and_read(path: RegisterPath, width: Width) -> u64 {
        let test = TestDevice::open();
        let bars = MappedBars::map(test.device.clone(), path, &[]);
        let offset = PhysBarOffset::new(0x3ff8);
        bars.write(BAR0, offset, width, 0x8877_6655_4433_2211).unwrap();
        bars.read(BAR0, offset, Width::Qword).unwrap()
    }

    #[test]
    fn a3_kernel_path_writes_the_width_and_no_more() {
        assert_eq!(write_and_read(RegisterPath::Kernel, Width::Word), 0x2211);
    }

    #[test]
    fn a3_mapping_path_writes_the_width_and_no_more() {
        assert_eq!(write_and_read(mapping(), Width::Word), 0x2211);
    }

    #[test]
    fn a3_mapping_path_makes_no_call() {
        let test = TestDevice::open();
        let bars = MappedBars::map(test.device.clone(), mapping(), &[]);
        let before = test.device.host().calls();
        bars.read(BAR0, PhysBarOffset::new(0), Width::Qword).unwrap();
        assert_eq!(test.device.host().calls(), before);
    }

    #[test]
    fn a3_device_that_does_not_answer_through_its_mapping_is_an_error() {
        let test = TestDevice::open();
        let bars = MappedBars::map(test.device.clone(), mapping(), &[]);
        test.kernel.unplug();
        let region = RegionIndex::bar(BAR0);
        let fault = RegionError::Fault { region, offset: 8, length: 4 };
        let offset = PhysBarOffset::new(8);
        assert_eq!(bars.read(BAR0, offset, Width::Dword), Err(fault));
        assert_eq!(bars.write(BAR0, offset, Width::Dword, 0), Err(fault));
    }

    #[test]
    fn excluded_bar_is_accessed_through_the_kernel() {
        let test = TestDevice::open();
        let bars = MappedBars::map(test.device.clone(), mapping(), &[BAR0]);
        bars.read(BAR0, PhysBarOffset::new(0), Width::Dword).unwrap();
        assert_eq!((bars.areas(BAR0), test.device.host().calls()["pread"]), (vec![], 1));
    }

    #[test]
    fn area_that_is_not_mapped_is_noted_and_accessed_through_the_kernel() {
        let test = TestDevice::open();
        test.kernel.fail("map_area", Errno::ENOMEM);
        let bars = MappedBars::map(test.device.clone(), mapping(), &[]);
        let area = MmapArea { offset: 0, size: 0x4000 };
        assert_eq!(bars.failed(), [UnmappedArea { bar: BAR0, area, errno: Errno::ENOMEM }]);
        assert_eq!(bars.read(BAR0, PhysBarOffset::new(0), Width::Dword), Ok(0));
    }

    #[test]
    fn window_outside_the_area_is_none() {
        let test = TestDevice::open();
        let bars = MappedBars::map(test.device.clone(), RegisterPath::Kernel, &[]);
        let outside = Span::from_size(PhysBarOffset::new(0x3000), 0x2000).unwrap();
        assert!(bars.window(BAR0, outside).is_none());
    }

    #[test]
    fn access_past_the_bar_is_refused() {
        let test = TestDevice::open();
        let bars = MappedBars::map(test.device.clone(), mapping(), &[]);
        let region = RegionIndex::bar(BAR0);
        let outside = RegionError::Outside { region, offset: 0x4000, length: 4, size: 0x4000 };
        assert_eq!(bars.read(BAR0, PhysBarOffset::new(0x4000), Width::Dword), Err(outside));
    }
}
