//! What the core is told of a device when it is opened, and what it finds wrong or odd about it.

use crate::addr::{BarIndex, PageSize};
use crate::bars::{BarError, Bars};
use crate::caps::{CapabilityFinding, ConfigImage};
use crate::config::ConfigMapError;
use crate::decoder::physical;
use crate::host::{HostInterrupts, InterruptKind};
use crate::interrupts::{IntxFinding, MsiFinding, MsixFinding, MsixLayout, RelocationError, TablePlace};
use crate::options::Options;
use crate::text::say;
use crate::windows::{Holes, MmapArea, WindowFinding};
use core::fmt;

/// A region of the device, as the host knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Region<'a> {
    /// Size in bytes; 0 is an absent region.
    pub size: u64,
    /// The parts that the kernel lets the host mmap.
    pub areas: &'a [MmapArea],
    /// Whether the kernel lets the host mmap the pages of the device's MSI-X structures, too (VFIO:
    /// `VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`).
    pub msix_mappable: bool,
}

/// What the core must know of a device: read once, when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// Its configuration space, 64 to 4096 bytes.
    pub config: &'a [u8],
    /// Its regions, by [`BarIndex`].
    pub regions: [Region<'a>; 7],
    /// The page size of host and guest mappings.
    pub page_size: PageSize,
    /// The interrupts that the host can carry to the guest.
    pub interrupts: HostInterrupts,
    /// What the embedder decides.
    pub options: Options<'a>,
}

impl<'a> Description<'a> {
    /// What no window is to cover: what is emulated, the structures of the device's that the guest must not reach,
    /// and what the embedder has excluded.
    pub(crate) fn holes(&self, bars: &Bars, layout: Option<&MsixLayout>) -> Holes<'a> {
        let emulated =
            |place: TablePlace| Some((place.bar, place.span.moved_to(physical(place.span.first()))?));
        let relocated = layout.is_some() && self.options.relocation.is_some();
        let mappable = |bar: BarIndex| self.regions.get(bar.position()).is_some_and(|r| r.msix_mappable);
        let hardware = MsixLayout::hardware_places(ConfigImage::new(self.config), bars);
        let [device_table, device_pba] =
            hardware.map(|place| place.filter(|(bar, _)| !(relocated && mappable(*bar))));
        let table = layout.and_then(|layout| emulated(layout.table));
        let pba = layout.and_then(|layout| emulated(layout.pba));
        Holes { structures: [table, pba, device_table, device_pba], excluded: self.options.unmapped }
    }
}

impl Default for Description<'_> {
    /// Nothing, with pages of 4 KiB, on a host that can do MSI-X and add vectors.
    fn default() -> Self {
        Self {
            config: &[],
            regions: [Region::default(); 7],
            page_size: PageSize::SIZE_4K,
            interrupts: HostInterrupts::MSIX,
            options: Options::default(),
        }
    }
}

/// Why a device cannot be given to a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptionError {
    /// Its configuration space is none of a function that can be assigned.
    #[error(transparent)]
    Config(#[from] ConfigMapError),
    /// Its BARs make no sense.
    #[error(transparent)]
    Bars(#[from] BarError),
    /// The MSI-X table cannot be where the embedder wants it.
    #[error(transparent)]
    Relocation(#[from] RelocationError),
}

/// Something odd about a device that does not keep it from being assigned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// A capability list.
    #[error(transparent)]
    Capability(#[from] CapabilityFinding),
    /// MSI-X.
    #[error(transparent)]
    Msix(#[from] MsixFinding),
    /// MSI.
    #[error(transparent)]
    Msi(#[from] MsiFinding),
    /// The interrupt pin.
    #[error(transparent)]
    Intx(#[from] IntxFinding),
    /// The device has this kind of interrupt, and the host cannot carry it: it is hidden from the guest.
    #[error(fmt = not_carried)]
    NotCarried(InterruptKind),
    /// The mapping plan.
    #[error(transparent)]
    Window(#[from] WindowFinding),
    /// An I/O BAR is larger than the specification allows.
    #[error(fmt = large_io_bar)]
    LargeIoBar {
        /// The BAR.
        bar: BarIndex,
        /// Its size in ports.
        size: u64,
    },
}

fn not_carried(kind: &InterruptKind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    say(
        f,
        match kind {
            InterruptKind::Intx => {
                ("the device has INTx, which this host cannot carry to the guest: it is hidden", [0; 3])
            }
            InterruptKind::Msi => {
                ("the device has MSI, which this host cannot carry to the guest: it is hidden", [0; 3])
            }
            InterruptKind::Msix => {
                ("the device has MSI-X, which this host cannot carry to the guest: it is hidden", [0; 3])
            }
        },
    )
}

fn large_io_bar(bar: &BarIndex, size: &u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    say(f, ("%b has %x I/O ports, more than 256", [bar.number(), *size, 0]))
}
