//! Open devices that pass from one process to another, with all that they need: as when a monitor is replaced by a newer
//! one while its guest waits.
//!
//! The kernel closes a device, resets it and takes guest memory away from it when the last descriptor goes. So the first
//! process duplicates its descriptors and hands them on, and then ends without giving anything back; the second makes
//! the same of them as if it had opened them. Guest memory stays mapped for devices throughout: both processes have it
//! from the same files, at the same guest addresses.

use super::{Claim, Shared, State, Vm};
use crate::cdev::{Cdev, CdevFile};
use crate::container::Container;
use crate::device::Device;
use crate::errno::Errno;
use crate::error::OpenError;
use crate::group::{Group, LooseGroup};
use crate::ioas::Ioas;
use crate::opened::OpenedFile;
use crate::options::Backend;
use crate::space::AddressSpace;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use vfio_assign_core::Bdf;

/// An open device on its way to another process.
#[derive(Debug)]
pub struct HandedDevice {
    /// Its address on the host.
    pub bdf: Bdf,
    /// The number of its IOMMU group.
    pub group: u32,
    /// Which of the VM's address spaces it is in: devices with the same number share one.
    pub space: u32,
    /// The device, open.
    pub file: OwnedFd,
    /// What it was opened by.
    pub way: HandedWay,
}

/// What a device was opened by.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandedWay {
    /// Its group, in a container.
    Group {
        /// The group, in the container.
        group: OwnedFd,
        /// The container.
        container: OwnedFd,
    },
    /// Its own file, bound and attached.
    Cdev {
        /// The iommufd.
        iommufd: OwnedFd,
        /// The device's number in it.
        id: u32,
    },
}

impl Vm {
    /// Goes on with a device that another process had open for the same virtual machine. That process has
    /// [handed it on](Device::hand_on), and has ended.
    ///
    /// Beforehand all of the VM's memory is [added](Self::add_memory), from the files that the other process had it from,
    /// at the same guest addresses, and no device is opened otherwise: the devices' memory is taken to be mapped as it is.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. The device is closed, which resets it.
    pub fn take_over(&self, handed: HandedDevice) -> Result<Device, OpenError> {
        let HandedDevice { bdf, group, space, file, way } = handed;
        let claim = Claim::new(&self.0, bdf)?;
        let Shared { host, options, .. } = &*self.0;
        let files = options.files.clone();
        let mut state = self.0.lock();
        let file = match way {
            HandedWay::Group { group: group_fd, container } => {
                let known = state.groups.iter().filter_map(Weak::upgrade).find(|one| one.number() == group);
                let group = match known {
                    Some(group) => group,
                    None => {
                        let container = || AddressSpace::of_container(Container::handed(host, container));
                        let space = state.handed_space(Backend::Group, space, container);
                        let loose = LooseGroup::handed(host, group, group_fd);
                        let group = Arc::new(Group::new(space, files, loose)?);
                        state.groups.push(Arc::downgrade(&group));
                        group
                    }
                };
                OpenedFile::Grouped { fd: file, group }
            }
            HandedWay::Cdev { iommufd, id } => {
                let ioas = || AddressSpace::of_ioas(Ioas::handed(host, iommufd, space));
                let space = state.handed_space(Backend::Cdev, space, ioas);
                let file = CdevFile::new(host, bdf, group, file, files)?;
                OpenedFile::Cdev(Cdev::handed(space, file, id))
            }
        };
        drop(state);
        let device = Device::new(host, &options.retry, claim, file)?;
        log::info!("{bdf}: taken over, IOMMU group {}, interface {}", device.group(), device.backend());
        Ok(device)
    }
}

impl State {
    /// The address space of this number on this interface, which holds the VM's memory already. Each interface numbers
    /// its own.
    fn handed_space(
        &mut self,
        backend: Backend,
        number: u32,
        make: impl FnOnce() -> AddressSpace,
    ) -> Arc<AddressSpace> {
        let same = |space: &Arc<AddressSpace>| {
            space.handed() == Some(number) && space.container().is_some() == (backend == Backend::Group)
        };
        let known = self.live_spaces().into_iter().find(same);
        known.unwrap_or_else(|| {
            let space = Arc::new(make().with_mapped(number, &self.memory));
            self.spaces.push(Arc::downgrade(&space));
            space
        })
    }
}

impl Device {
    /// What another process needs to go on with the device, which stays open here. This process is to end without
    /// dropping anything of the VM's, for that would give the device back: by `std::process::exit`, or a signal.
    ///
    /// The machines of the function are [stopped](crate::Assigned::stop) and [saved](crate::Assigned::save) first.
    ///
    /// # Errors
    ///
    /// `EMFILE` where RLIMIT_NOFILE is reached.
    pub fn hand_on(&self) -> Result<HandedDevice, Errno> {
        let copy = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|error| Errno::of(&error).unwrap_or(Errno::EBADF))
        };
        let (space, way) = match self.opened() {
            OpenedFile::Grouped { group, .. } => {
                let container = group.space().container().ok_or(Errno::EBADF)?.fd();
                let way = HandedWay::Group { group: copy(group.fd())?, container: copy(container)? };
                // A container has no number but that of its descriptor.
                (container.as_raw_fd().unsigned_abs(), way)
            }
            OpenedFile::Cdev(cdev) => {
                let ioas = cdev.space().ioas().ok_or(Errno::EBADF)?;
                (ioas.id(), HandedWay::Cdev { iommufd: copy(ioas.fd())?, id: cdev.id() })
            }
        };
        Ok(HandedDevice { bdf: self.bdf(), group: self.group(), space, file: copy(self.fd())?, way })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{ScriptedFunction, ScriptedKernel};
    use crate::sysfs::tests::FakeSysfs;
    use crate::testing::{TestDevice, TestKernel};
    use crate::{GuestMemory, GuestRegion, MemoryBacking, VmOptions};
    use vfio_assign_core::{GuestAddr, Span};

    /// A VM of another process with 8 KiB of memory, and its kernel's calls so far forgotten.
    fn other(test: &TestDevice) -> (TestKernel, Vm) {
        let kernel = test.kernel.clone();
        let vm = Vm::new(kernel.host(), VmOptions::default());
        let guest = Span::from_size(GuestAddr::new(0), 0x2000).unwrap();
        let memory = GuestMemory::new(0x2000, MemoryBacking::Memfd).unwrap();
        vm.add_memory(&[GuestRegion { guest, memory, offset: 0 }]).unwrap();
        kernel.calls();
        (kernel, vm)
    }

    #[test]
    fn nothing_is_opened_reset_or_mapped_again() {
        let test = TestDevice::open();
        let (kernel, vm) = other(&test);
        let device = vm.take_over(test.device.hand_on().unwrap()).unwrap();
        let asks = |call: &String| call.starts_with("device_info") || call.contains("_info");
        let others: Vec<_> = kernel.calls().into_iter().filter(|call| !asks(call)).collect();
        assert_eq!((others, device.bdf(), vm.open_groups_and_spaces()), (vec![], test.device.bdf(), (1, 1)));
    }

    #[test]
    fn memory_that_was_mapped_before_is_unmapped_when_it_is_removed() {
        let test = TestDevice::open();
        let (kernel, vm) = other(&test);
        let _device = vm.take_over(test.device.hand_on().unwrap()).unwrap();
        kernel.calls();
        // The kernel of this test has not seen it mapped, and says that nothing was.
        vm.remove_memory(Span::from_size(GuestAddr::new(0), 0x2000).unwrap()).unwrap_err();
        assert_eq!(kernel.calls(), ["unmap_dma 0x0 0x2000"]);
    }

    #[test]
    fn a_device_is_taken_over_once() {
        let test = TestDevice::open();
        let (_kernel, vm) = other(&test);
        let _device = vm.take_over(test.device.hand_on().unwrap()).unwrap();
        let second = vm.take_over(test.device.hand_on().unwrap()).unwrap_err();
        assert_eq!(second, OpenError::Twice { bdf: test.device.bdf() });
    }

    #[test]
    fn address_spaces_of_two_interfaces_are_two_whatever_their_numbers() {
        let addresses = ["0000:00:04.0", "0000:00:05.0"];
        let function = |(place, bdf): (u32, &&str)| ScriptedFunction::new(bdf.parse().unwrap(), 7 + place);
        let functions: Vec<_> = (0..).zip(&addresses).map(function).collect();
        let sysfs = FakeSysfs::new().add(addresses[0], Some("vfio-pci"), Some(7));
        let sysfs = sysfs.add(addresses[1], Some("vfio-pci"), Some(8));
        let sysfs = sysfs.add_cdev(addresses[1], functions[1].cdev_name(), 1);
        let kernel = ScriptedKernel::new(&functions);
        let opened = [Backend::Group, Backend::Cdev].into_iter().zip(addresses).map(|(backend, bdf)| {
            let options = VmOptions { sysfs: sysfs.sysfs(), backend: Some(backend), ..VmOptions::default() };
            Vm::new(kernel.host(), options).open(bdf.parse().unwrap()).unwrap()
        });
        let opened: Vec<_> = opened.collect();
        let vm = Vm::new(kernel.host(), VmOptions::default());
        let take =
            |device: &Device| vm.take_over(HandedDevice { space: 1, ..device.hand_on().unwrap() }).unwrap();
        let _taken: Vec<_> = opened.iter().map(take).collect();
        assert_eq!(vm.open_groups_and_spaces(), (1, 2));
    }
}
