//! A device opened to be looked at, not to be assigned: what commands use that only tell of a device.

use crate::device::{Device, RegionError};
use crate::error::OpenError;
use crate::irq::{IrqInfo, IrqKind};
use crate::kernel::Host;
use crate::manager::Vm;
use crate::options::{Backend, VmOptions};
use crate::region::{RegionIndex, RegionInfo};
use crate::{AffectedFunction, ResetError};
use vfio_assign_core::Bdf;

/// Where Command lies in configuration space, and its bit Bus Master Enable: PCI Local Bus 3.0, 6.2.2.
const COMMAND: u64 = 0x04;
const BUS_MASTER: u16 = 1 << 2;

/// A device that is open to be read.
///
/// It belongs to no virtual machine: no memory is mapped for it, it may start no DMA, its interrupts lead nowhere, and
/// there is no way to write to it or to reset it by this type. One register is written as it is opened, where the kernel
/// has left bus mastering on: Command, without Bus Master Enable. The kernel resets most devices as it opens them, and
/// whoever had the device before must have let go of it, as for an assignment.
///
/// This is the only way to open a device in VFIO's no-IOMMU mode, which no `Vm` takes: by its group, for there it has no
/// file of its own.
#[derive(Debug)]
pub struct Inspection(Device);

impl Inspection {
    /// Opens a device. Of `options`, memory's observer has nothing to observe, and KVM need not hear of it.
    ///
    /// # Errors
    ///
    /// See [`OpenError`], among them that a device without an IOMMU was to be opened by [`Backend::Cdev`]; what was done
    /// on the way is undone.
    pub fn open(host: Host, options: VmOptions, bdf: Bdf) -> Result<Self, OpenError> {
        // The VM stays here, and so without memory.
        let device = Vm::new(host, options).reserve_to_inspect(bdf)?.open()?;
        let failed = |error| OpenError::Command { bdf, error };
        let mut command = [0; 2];
        device.read(RegionIndex::CONFIG, COMMAND, &mut command).map_err(failed)?;
        let command = u16::from_le_bytes(command);
        if command & BUS_MASTER != 0 {
            let off = (command & !BUS_MASTER).to_le_bytes();
            device.write(RegionIndex::CONFIG, COMMAND, &off).map_err(failed)?;
        }
        Ok(Self(device))
    }

    /// The device's address on the host.
    pub fn bdf(&self) -> Bdf {
        self.0.bdf()
    }

    /// The number of its IOMMU group.
    pub fn group(&self) -> u32 {
        self.0.group()
    }

    /// The interface that it is open on.
    pub fn backend(&self) -> Backend {
        self.0.backend()
    }

    /// Whether the kernel can reset this function alone.
    pub fn is_resettable(&self) -> bool {
        self.0.is_resettable()
    }

    /// All regions that the device has.
    pub fn regions(&self) -> impl Iterator<Item = &RegionInfo> {
        self.0.regions()
    }

    /// A kind of interrupt, if the device has it.
    pub fn irq(&self, kind: IrqKind) -> Option<IrqInfo> {
        self.0.irq(kind)
    }

    /// The whole of configuration space as it is now.
    ///
    /// # Errors
    ///
    /// The device does not answer.
    pub fn read_config(&self) -> Result<Vec<u8>, RegionError> {
        self.0.read_config()
    }

    /// The functions that a hot reset of this one would reset, itself among them.
    ///
    /// # Errors
    ///
    /// There is no such reset, or the kernel does not tell.
    pub fn hot_reset_set(&self) -> Result<Vec<AffectedFunction>, ResetError> {
        self.0.hot_reset_set()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdev::CdevError;
    use crate::error::OpenError;
    use crate::scripted::{ScriptedFunction, ScriptedKernel};
    use crate::sysfs::tests::FakeSysfs;
    use crate::testing::TestKernel;

    fn bdf() -> Bdf {
        "0000:00:04.0".parse().unwrap()
    }

    fn function() -> ScriptedFunction {
        ScriptedFunction::new(bdf(), 7)
    }

    /// A host with this function, and options by which it is found there.
    fn host(function: ScriptedFunction) -> (ScriptedKernel, VmOptions, FakeSysfs) {
        let sysfs = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7));
        let sysfs = match function.has_iommu() {
            true => sysfs.add_cdev("0000:00:04.0", function.cdev_name(), 0),
            false => {
                sysfs.set_group_name(7, "vfio-noiommu");
                sysfs
            }
        };
        let options = VmOptions { sysfs: sysfs.sysfs(), ..VmOptions::default() };
        (ScriptedKernel::new(&[function]), options, sysfs)
    }

    #[test]
    fn device_is_read_and_given_back_on_both_interfaces() {
        for backend in [Backend::Group, Backend::Cdev] {
            let (kernel, options, _sysfs) = host(function());
            let options = VmOptions { backend: Some(backend), ..options };
            let device = Inspection::open(kernel.host(), options, bdf()).unwrap();
            assert_eq!(
                (device.backend(), device.read_config().map(|config| config.len())),
                (backend, Ok(256))
            );
            assert_eq!(device.irq(IrqKind::Msix).map(|irq| irq.count), Some(64));
            drop(device);
            assert_eq!(kernel.standing(), [""; 0]);
        }
    }

    #[test]
    fn device_without_an_iommu_is_inspected_and_never_assigned() {
        let (kernel, options, _sysfs) = host(function().without_iommu());
        let refused = Vm::new(kernel.host(), options.clone()).open(bdf()).map(drop);
        assert_eq!(refused, Err(OpenError::NoIommuMode { bdf: bdf() }));
        assert_eq!(kernel.calls(), [""; 0]);
        let device = Inspection::open(kernel.host(), options, bdf()).unwrap();
        assert_eq!(device.read_config().map(|config| config.len()), Ok(256));
        drop(device);
        assert_eq!(kernel.standing(), [""; 0]);
    }

    #[test]
    fn device_without_an_iommu_is_not_opened_by_its_group_where_its_own_file_was_asked_for() {
        let (kernel, options, _sysfs) = host(function().without_iommu());
        let options = VmOptions { backend: Some(Backend::Cdev), ..options };
        let refused = Inspection::open(kernel.host(), options, bdf()).map(drop);
        assert_eq!(refused, Err(OpenError::Cdev(CdevError::Missing { bdf: bdf() })));
        assert_eq!(kernel.calls(), [""; 0]);
    }

    #[test]
    fn nothing_is_mapped_wired_or_reset() {
        let (kernel, options, _sysfs) = host(function());
        let _device = Inspection::open(kernel.host(), options, bdf()).unwrap();
        let forbidden = ["map", "irqs", "reset", "pwrite", "eventfd", "kvm"];
        let calls = kernel.calls();
        let made = calls.iter().filter(|call| forbidden.iter().any(|part| call.contains(part)));
        assert_eq!(made.collect::<Vec<_>>(), [&""; 0]);
    }

    #[test]
    fn bus_mastering_that_is_on_is_switched_off() {
        let (_, options, _sysfs) = host(function());
        let kernel = TestKernel::default();
        kernel.set_command(0x0406);
        let _device = Inspection::open(kernel.host(), options, bdf()).unwrap();
        let writes: Vec<_> = kernel.calls().into_iter().filter(|call| call.starts_with("pwrite")).collect();
        assert_eq!(writes, ["pwrite 0x10004 [02, 04]"]);
    }

    #[test]
    fn device_that_may_go_on_with_dma_is_closed() {
        let (kernel, options, _sysfs) = host(function());
        let before = Inspection::open(kernel.host(), options.clone(), bdf()).map(|_| kernel.calls()).unwrap();
        let read = before.iter().rposition(|call| *call == "pread").unwrap();
        kernel.fail(read, crate::scripted::CallFault::Errno(crate::Errno::EIO));
        let refused = Inspection::open(kernel.host(), options, bdf()).map(drop);
        assert!(matches!(refused, Err(OpenError::Command { .. })), "{refused:?}");
        assert_eq!(kernel.standing(), [""; 0]);
    }
}
