//! PCI device assignment on Linux: opens devices through VFIO, maps the guest's memory for them, maps their
//! registers, leads their interrupts to eventfds.
//!
//! [`Vm`] stands for one virtual machine. It opens [`Device`]s, which share IOMMU groups and address spaces as
//! the hardware wants it, and maps [`GuestMemory`] for all of them.
//!
//! ```no_run
//! use vfio_assign_linux::{Host, Vm, VmOptions};
//!
//! let vm = Vm::new(Host::linux(), VmOptions::default());
//! let device = vm.open("0000:00:04.0".parse()?)?;
//! for region in device.regions() {
//!     println!("{}: {:#x} bytes", region.index, region.size);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod assigned;
mod bar;
mod cdev;
mod container;
mod device;
mod dma;
mod errno;
mod error;
mod events;
mod fault;
mod gate;
mod group;
mod guest;
mod host_side;
mod hot_reset;
mod info;
mod inspection;
mod ioas;
mod iommu;
mod irq;
mod kernel;
#[cfg(feature = "kvm")]
pub mod kvm;
mod lanes;
mod manager;
mod opened;
mod options;
mod passthrough;
mod progress;
mod region;
mod retry;
#[cfg(any(test, feature = "fake"))]
pub mod scripted;
mod space;
mod steps;
mod sys;
mod sysfs;
#[cfg(test)]
mod testing;
mod traffic;
mod vectors;

pub use assigned::{AssignError, AssignOptions, Assigned, Explained, Function, MISSES, MsixEntry, MsixState};
pub use bar::{MappedBars, RegisterPath, UnmappedArea, WindowMemory};
pub use cdev::CdevError;
pub use device::{Device, RegionError, ResetError};
pub use dma::{DmaError, GuestRegion};
pub use errno::Errno;
pub use error::{ContainerError, GroupAction, GroupError, OpenError};
pub use events::{DeviceEvent, DeviceEvents};
pub use fault::{FaultHandler, FaultHandlerError};
pub use gate::{MappingThread, MappingThreadError};
pub use group::VfioFiles;
pub use guest::{GuestSide, LineEnd};
pub use host_side::{Failure, HostSideError};
pub use hot_reset::{AffectedFunction, AffectedOwner};
pub use info::InfoError;
pub use inspection::Inspection;
pub use ioas::IommufdError;
pub use iommu::IommuInfo;
pub use irq::{IrqChange, IrqError, IrqInfo, IrqKind};
pub use kernel::Host;
pub use manager::{HandedDevice, HandedWay, Reservation, Vm};
pub use options::{Backend, DeviceOptions, VfToken, VfTokenError, VfioFile, VmOptions};
pub use passthrough::AccessFailures;
pub use progress::{MappingObserver, MappingProgress};
pub use region::{RegionIndex, RegionInfo};
pub use retry::{Clock, RetryPolicy};
pub use steps::StepObserver;
pub use sys::{EventFd, GuestMemory, HugePage, MemoryAccessError, MemoryBacking};
pub use sysfs::{GroupMember, HostFunction, Sysfs, SysfsError, VfioDevice};
pub use traffic::PieceAccesses;
pub use vectors::{DeviceIrqs, IrqVectors};
