//! The shape of a device that VFIO has, as VFIO tells it.

use vfio_assign_core::fake::{Capture, CapturedInterrupts, CapturedRegion};
use vfio_assign_core::{MmapArea, PageSize};
use vfio_assign_linux::{Backend, Host, Inspection, IrqKind, VmOptions};

use super::{DeviceShape, ShapeError, Source};
use crate::host::{HostFiles, PciFunction};

pub(super) fn shape(
    files: &HostFiles,
    backend: Option<Backend>,
    function: &PciFunction,
) -> Result<DeviceShape, ShapeError> {
    let bdf = function.bdf;
    let options = VmOptions { sysfs: files.sysfs(), backend, ..VmOptions::default() };
    let device = Inspection::open(Host::linux(), options, bdf)?;
    let mut regions: [CapturedRegion; 7] = Default::default();
    for region in device.regions() {
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
        let found = device.irq(kind);
        CapturedInterrupts {
            count: found.map_or(0, |irq| irq.count.try_into().unwrap_or(u16::MAX)),
            noresize: found.is_some_and(|irq| irq.noresize),
        }
    });
    let config = device.read_config().map_err(|source| ShapeError::Config { bdf, source })?;
    let bytes = rustix::param::page_size() as u64;
    let capture = Capture {
        device: Some(bdf),
        name: function.name().into(),
        config,
        page_size: PageSize::new(bytes).unwrap_or(PageSize::SIZE_4K),
        regions,
        interrupts,
        resettable: device.is_resettable(),
        virtual_function: function.physical.is_some(),
    };
    Ok(DeviceShape { capture, source: Source::Vfio })
}
