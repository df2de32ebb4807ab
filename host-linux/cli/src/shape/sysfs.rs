//! The shape of a device as sysfs shows it: all that VFIO would tell, but for what of BARs it lets be mapped.

use vfio_assign_core::fake::{Capture, CapturedInterrupts, CapturedRegion};
use vfio_assign_core::regs::{capability, header, msi, msix};
use vfio_assign_core::{ConfigImage, PageSize};

use super::{DeviceShape, Source};
use crate::host::{HostFiles, PciFunction, Unreadable, folder};

/// What everybody may read of configuration space.
const HEADER: usize = 64;

pub(super) fn shape(host: &HostFiles, function: &PciFunction) -> Result<DeviceShape, Unreadable> {
    let folder = folder(function.bdf);
    let mut config = host.bytes(&format!("{folder}/config"))?.unwrap_or_default();
    let source = if config.len() <= HEADER { Source::SysfsHeader } else { Source::Sysfs };
    let size = if config.len() > 256 { 4096 } else { 256 };
    config.resize(size, 0);
    if source == Source::SysfsHeader {
        // What the list leads to is not seen, and zeros are no list.
        config[usize::from(header::STATUS.get())] &= !header::STATUS_CAPABILITIES_LIST.to_le_bytes()[0];
    }
    let capture = Capture {
        device: Some(function.bdf),
        name: function.name().into(),
        page_size: PageSize::SIZE_4K,
        regions: regions(function, &config),
        interrupts: interrupts(&config),
        resettable: host.has(&format!("{folder}/reset")),
        virtual_function: function.physical.is_some(),
        config,
    };
    Ok(DeviceShape { capture, source })
}

fn regions(function: &PciFunction, config: &[u8]) -> [CapturedRegion; 7] {
    let image = ConfigImage::new(config);
    let table = image.capabilities().flatten().find(|found| found.id == capability::MSIX);
    let table = table.and_then(|found| found.offset.checked_add(4)).map(|at| image.dword(at) & msix::BIR);
    let mut regions: [CapturedRegion; 7] = Default::default();
    for bar in &function.bars {
        let memory = bar.index < 6 && !bar.is_io();
        regions[usize::from(bar.index)] = CapturedRegion {
            size: bar.size,
            readable: true,
            writable: bar.index < 6,
            mappable: memory && bar.size >= PageSize::SIZE_4K.get(),
            // VFIO has let the table's pages be mapped since Linux 4.16.
            msix_mappable: memory && table == Some(u32::from(bar.index)),
            areas: None,
        };
    }
    regions
}

/// As VFIO tells them: what the device has, for the kernel is not asked for vectors before they are used.
fn interrupts(config: &[u8]) -> [CapturedInterrupts; 5] {
    let image = ConfigImage::new(config);
    let control = |id: u8| {
        let found = image.capabilities().flatten().find(|found| found.id == id)?;
        Some((image.dword(found.offset) >> 16) as u16)
    };
    let of = |count, noresize| CapturedInterrupts { count, noresize };
    let pin = image.dword(header::INTERRUPT_LINE) & header::INTERRUPT_PIN != 0;
    let vectors =
        control(capability::MSI).map_or(0, |control| 1 << (control >> msi::CAPABLE_SHIFT & 7).min(5));
    let table = control(capability::MSIX).map_or(0, |control| (control & msix::TABLE_SIZE) + 1);
    let express = control(capability::PCI_EXPRESS).is_some();
    [
        of(u16::from(pin), false),
        of(vectors, vectors > 0),
        of(table, false),
        of(u16::from(express), false),
        of(1, false),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_assign_core::fake::Shape;

    #[test]
    fn interrupts_are_those_that_capabilities_tell() {
        let shape = Shape::nvme(65).msi(2, true, false).pin();
        let counts = interrupts(&shape.config).map(|kind| kind.count);
        assert_eq!(counts, [1, 4, 65, 1, 1]);
    }

    #[test]
    fn what_is_not_there_is_counted_as_none() {
        assert_eq!(interrupts(&[0; 256]).map(|kind| kind.count), [0, 0, 0, 0, 1]);
    }
}
