//! What the machines of a function are made from, kept so that the plan can be explained.

use super::AssignError;
use crate::bar::MappedBars;
use crate::guest::GuestSide;
use crate::irq::IrqKind;
use crate::region::RegionIndex;
use crate::vectors::DeviceIrqs;
use vfio_assign_core::host::{HostInterrupts, InterruptKind};
use vfio_assign_core::{BarIndex, Description, MmapArea, Options, PageSize, Region};

/// A device and its host, as they were when the device was assigned.
pub(super) struct Plan {
    config: Vec<u8>,
    areas: [Vec<MmapArea>; 7],
    /// Size, and whether the pages of the MSI-X structures may be mapped.
    regions: [(u64, bool); 7],
    page_size: PageSize,
    interrupts: HostInterrupts,
}

impl Plan {
    pub(super) fn new<G: GuestSide>(
        bars: &MappedBars,
        irqs: &DeviceIrqs,
        guest: &G,
    ) -> Result<Self, AssignError> {
        let device = bars.device();
        let bdf = device.bdf();
        let config = device.read_config().map_err(|error| AssignError::Config { bdf, error })?;
        let bytes = rustix::param::page_size();
        let page_size = PageSize::new(bytes as u64).ok_or(AssignError::PageSize { bytes })?;
        let count = |kind| u16::try_from(irqs.of(kind).count()).unwrap_or(u16::MAX);
        let interrupts = HostInterrupts {
            intx: count(InterruptKind::Intx) != 0 && guest.line().is_some(),
            msi: count(InterruptKind::Msi),
            msix: count(InterruptKind::Msix),
            resizable: device.irq(IrqKind::Msix).is_some_and(|irq| !irq.noresize),
        };
        let region = |bar| device.region(RegionIndex::bar(bar));
        let regions = BarIndex::ALL.map(|bar| region(bar).map_or((0, false), |r| (r.size, r.msix_mappable)));
        Ok(Self { config, areas: BarIndex::ALL.map(|bar| bars.areas(bar)), regions, page_size, interrupts })
    }

    /// For the core, with what the embedder decides.
    pub(super) fn description<'a>(&'a self, options: Options<'a>) -> Description<'a> {
        let mut regions = [Region::default(); 7];
        for ((region, areas), (size, msix_mappable)) in regions.iter_mut().zip(&self.areas).zip(self.regions)
        {
            *region = Region { size, areas, msix_mappable };
        }
        let Self { page_size, interrupts, .. } = *self;
        Description { config: &self.config, regions, page_size, interrupts, options }
    }

    /// The most windows that there can be.
    pub(super) fn windows(&self, options: &Options<'_>) -> usize {
        // Each hole cuts an area in two: the MSI-X table and the Pending Bit Array, where the device has them and
        // where the guest sees them, and what is excluded.
        let holes = 4 + options.unmapped.len();
        (1 + holes) * self.areas.iter().map(Vec::len).sum::<usize>()
    }
}
