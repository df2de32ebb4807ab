//! The shape of a device that VFIO has, as VFIO tells it.

use vfio_assign_core::fake::{Capture, CapturedInterrupts, CapturedRegion};
use vfio_assign_core::{MmapArea, PageSize};
use vfio_assign_linux::{
    Backend, Device, Host, Inspection, IrqInfo, IrqKind, RegionError, RegionInfo, VmOptions,
};

use super::{DeviceShape, ShapeError, Source, scrub};
use crate::host::{HostFiles, PciFunction};

pub(super) fn shape(
    files: &HostFiles,
    backend: Option<Backend>,
    function: &PciFunction,
) -> Result<DeviceShape, ShapeError> {
    let bdf = function.bdf;
    let options = VmOptions { sysfs: files.sysfs(), backend, ..VmOptions::default() };
    let device = Inspection::open(Host::linux(), options, bdf)?;
    let config = device.read_config().map_err(|source| ShapeError::Config { bdf, source })?;
    let mut capture = captured(device.regions(), |kind| device.irq(kind), config);
    capture.device = Some(bdf);
    capture.name = function.name().into();
    capture.resettable = device.is_resettable();
    capture.virtual_function = function.physical.is_some();
    Ok(DeviceShape { capture, source: Source::Vfio })
}

/// The shape of a device that is open, without what is not shape.
pub(crate) fn of_open_device(device: &Device) -> Result<Capture, RegionError> {
    let mut capture = captured(device.regions(), |kind| device.irq(kind), device.read_config()?);
    capture.device = Some(device.bdf());
    capture.resettable = device.is_resettable();
    scrub(&mut capture.config);
    Ok(capture)
}

/// What VFIO tells of a device.
fn captured<'a>(
    told: impl Iterator<Item = &'a RegionInfo>,
    irq: impl Fn(IrqKind) -> Option<IrqInfo>,
    config: Vec<u8>,
) -> Capture {
    let mut regions: [CapturedRegion; 7] = Default::default();
    for region in told {
        let index = region.index.get() as usize;
        let Some(captured) = regions.get_mut(index) else { continue };
        let whole = region.areas[..] == [MmapArea { offset: 0, size: region.size }];
        *captured = CapturedRegion {
            size: region.size,
            readable: region.readable,
            writable: region.writable,
            mappable: !region.areas.is_empty(),
            msix_mappable: region.msix_mappable,
            areas: (!whole && !region.areas.is_empty()).then(|| region.areas.clone()),
        };
    }
    let interrupts = IrqKind::ALL.map(|kind| {
        let found = irq(kind);
        CapturedInterrupts {
            count: found.map_or(0, |irq| irq.count.try_into().unwrap_or(u16::MAX)),
            noresize: found.is_some_and(|irq| irq.noresize),
        }
    });
    let page_size = PageSize::new(rustix::param::page_size() as u64).unwrap_or(PageSize::SIZE_4K);
    Capture {
        device: None,
        name: "".into(),
        config,
        page_size,
        regions,
        interrupts,
        resettable: false,
        virtual_function: false,
    }
}
