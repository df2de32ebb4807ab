//! Opens a device that is bound to vfio-pci and prints what the kernel says of it: `probe 0000:00:04.0`.

use std::process::ExitCode;
use std::sync::Arc;
use vfio_assign_core::Bdf;
use vfio_assign_linux::{Host, IrqKind, MappedBars, RegionIndex, RegisterPath, Vm, VmOptions};

fn main() -> ExitCode {
    let Some(bdf) = std::env::args().nth(1) else {
        eprintln!("usage: probe SEGMENT:BUS:DEVICE.FUNCTION");
        return ExitCode::from(2);
    };
    match probe(&bdf) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn probe(bdf: &str) -> Result<(), Box<dyn std::error::Error>> {
    let bdf: Bdf = bdf.parse()?;
    let host = Host::linux();
    let vm = Vm::new(host.clone(), VmOptions::default());
    let device = Arc::new(vm.open(bdf)?);
    println!(
        "{bdf}: IOMMU group {}, interface {}, function reset: {}",
        device.group(),
        device.backend(),
        device.is_resettable()
    );
    let bars = MappedBars::map(device.clone(), RegisterPath::Kernel, &[]);
    for region in device.regions() {
        println!(
            "{}: {:#x} bytes, readable {}, writable {}, MSI-X mappable {}",
            region.index, region.size, region.readable, region.writable, region.msix_mappable
        );
        for area in &region.areas {
            println!("  offered for mapping: {:#x} bytes at {:#x}", area.size, area.offset);
        }
        if let Some(finding) = region.finding {
            println!("  {finding}");
        }
    }
    for failed in bars.failed() {
        println!("{failed}");
    }
    for kind in IrqKind::ALL {
        if let Some(irq) = device.irq(kind) {
            println!("{kind}: {} interrupts, fixed number while on: {}", irq.count, irq.noresize);
        }
    }
    let config = device.read_config()?;
    println!("{}: {} bytes", RegionIndex::CONFIG, config.len());
    for (row, bytes) in config.chunks(16).take(4).enumerate() {
        println!("  {:03x}: {bytes:02x?}", 16 * row);
    }
    drop((bars, device));
    println!("calls: {:?}", host.calls());
    Ok(())
}
