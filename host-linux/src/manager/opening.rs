//! How a VM opens a device: which interface it takes, what devices share, and what is undone where it fails.

use super::{Shared, State, Vm};
use crate::cdev::{self, Cdev, CdevError, CdevFile};
use crate::container::{Container, Guard};
use crate::device::Device;
use crate::dma::DmaError;
use crate::errno::Errno;
use crate::error::{GroupAction, GroupError, OpenError};
use crate::group::{Group, LooseGroup};
use crate::ioas::{Ioas, IommufdError};
use crate::opened::OpenedFile;
use crate::options::{Backend, DeviceOptions, VfToken, VfioFile, VmOptions};
use crate::retry::RetryPolicy;
use crate::space::AddressSpace;
use crate::sysfs::VfioDevice;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use vfio_assign_core::Bdf;

impl Vm {
    /// Opens a device. The guest's memory is mapped for it, as it is now and as it will be.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; what was done on the way is undone.
    pub fn open(&self, bdf: Bdf) -> Result<Device, OpenError> {
        self.reserve(bdf)?.open()
    }

    /// Does all of opening a device but the opening itself, in which the kernel resets the device: looks it up,
    /// opens its group or its file, and tells whoever must know, on KVM before a vCPU runs.
    ///
    /// What can be wrong with the host's set-up is found here, in little time; the device can then be opened
    /// beside the guest's boot.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; what was done on the way is undone.
    pub fn reserve(&self, bdf: Bdf) -> Result<Reservation, OpenError> {
        self.reserve_with(bdf, DeviceOptions::default())
    }

    /// [Reserves](Self::reserve) a device that needs a token, or whose file somebody else has opened.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; what was done on the way is undone.
    pub fn reserve_with(&self, bdf: Bdf, options: DeviceOptions) -> Result<Reservation, OpenError> {
        let wanted = self.look_up(bdf)?;
        if wanted.guard == Guard::None {
            return Err(OpenError::NoIommuMode { bdf });
        }
        let DeviceOptions { vf_token, file } = options;
        let backend = match &file {
            Some(VfioFile::Group(_)) => Some(Backend::Group),
            Some(VfioFile::Cdev(_)) => Some(Backend::Cdev),
            None => self.0.options.backend,
        };
        if vf_token.is_some() && backend == Some(Backend::Cdev) {
            return Err(CdevError::Token { bdf }.into());
        }
        let claim = Claim::new(&self.0, bdf)?;
        let retry = &self.0.options.retry;
        let file = file.map(|file| match file {
            VfioFile::Group(fd) | VfioFile::Cdev(fd) => fd,
        });
        let way = match backend {
            Some(Backend::Group) => self.by_group(wanted, file),
            Some(Backend::Cdev) => self.by_cdev(wanted, file, retry),
            None if vf_token.is_some() => self.by_group(wanted, None),
            None => self.by_either(wanted),
        }?;
        Ok(Reservation { way, claim, vf_token, vm: self.clone() })
    }

    /// Reserves a device that no guest is going to have. In VFIO's no-IOMMU mode there are groups only.
    pub(crate) fn reserve_to_inspect(&self, bdf: Bdf) -> Result<Reservation, OpenError> {
        let wanted = self.look_up(bdf)?;
        if wanted.guard == Guard::Iommu {
            return self.reserve(bdf);
        }
        if self.0.options.backend == Some(Backend::Cdev) {
            return Err(CdevError::Missing { bdf }.into());
        }
        let claim = Claim::new(&self.0, bdf)?;
        let way = self.by_group(wanted, None)?;
        Ok(Reservation { way, claim, vf_token: None, vm: self.clone() })
    }

    /// The device's group, and what is behind it.
    fn look_up(&self, bdf: Bdf) -> Result<Wanted, OpenError> {
        let sysfs = &self.0.options.sysfs;
        let function = sysfs.function(bdf)?;
        if !function.vfio {
            return Err(OpenError::NotVfio { bdf, driver: function.driver });
        }
        let group = function.group.ok_or(OpenError::NoIommu { bdf })?;
        let guard = if sysfs.is_no_iommu(group)? { Guard::None } else { Guard::Iommu };
        Ok(Wanted { bdf, group, guard })
    }

    /// By its own file, where all that needs is there; else by its group.
    fn by_either(&self, wanted: Wanted) -> Result<Way, OpenError> {
        let in_containers = self.0.lock().live_spaces().iter().any(|space| space.container().is_some());
        if in_containers {
            // Another address space would lock the guest's memory a second time.
            return self.by_group(wanted, None);
        }
        match self.by_cdev(wanted, None, &RetryPolicy::once()) {
            Err(
                error @ (OpenError::Cdev(CdevError::Missing { .. } | CdevError::Open { .. })
                | OpenError::Iommufd(IommufdError::Open { .. })),
            ) => {
                log::debug!("{error}");
                log::info!("{}: opened by its group, for it cannot be opened by itself", wanted.bdf);
                self.by_group(wanted, None)
            }
            way => way,
        }
    }

    /// The group, opened if the VM does not have it yet.
    fn by_group(&self, wanted: Wanted, given: Option<OwnedFd>) -> Result<Way, OpenError> {
        let mut state = self.0.lock();
        state.forget_what_is_closed();
        let known = state.groups.iter().filter_map(Weak::upgrade);
        if let Some(group) = known.into_iter().find(|group| group.number() == wanted.group) {
            return Ok(Way::Group(group));
        }
        let VmOptions { sysfs, dev_vfio, files, retry, container, .. } = &self.0.options;
        let host = &self.0.host;
        // The container first: a host without VFIO says so at once.
        let spare = match state.live_spaces().iter().any(|space| space.container().is_some()) {
            true => None,
            false => Some(Container::open(host, dev_vfio, container.as_ref(), wanted.guard)?),
        };
        let loose = LooseGroup::open(host, sysfs, dev_vfio, wanted.guard, wanted.group, retry, given)?;
        for space in state.live_spaces() {
            if let Some(container) = space.container()
                && loose.join(container)?
            {
                return Ok(state.settled(Group::new(space, files.clone(), loose)?));
            }
        }
        let container = match spare {
            Some(container) => container,
            None => Container::open(host, dev_vfio, None, wanted.guard)?,
        };
        let space = Arc::new(self.new_space(wanted.bdf, &state, &loose, container)?);
        state.spaces.push(Arc::downgrade(&space));
        Ok(state.settled(Group::new(space, files.clone(), loose)?))
    }

    /// A new address space for the group, with all of the VM's memory in it.
    fn new_space(
        &self,
        bdf: Bdf,
        state: &State,
        group: &LooseGroup,
        container: Container,
    ) -> Result<AddressSpace, OpenError> {
        if !group.join(&container)? {
            return Err(group.refused(GroupAction::SetContainer, Errno::EINVAL).into());
        }
        let refused = |errno| -> GroupError { group.refused(GroupAction::SetIommu, errno) };
        container.set_iommu().map_err(refused)?;
        let space = AddressSpace::of_container(container);
        self.0.replay(state, &space).map_err(|error| OpenError::Memory { bdf, error })?;
        Ok(space)
    }

    /// The device's own file, and the VM's address space in iommufd, made if there is none.
    fn by_cdev(&self, wanted: Wanted, given: Option<OwnedFd>, retry: &RetryPolicy) -> Result<Way, OpenError> {
        let Wanted { bdf, group, .. } = wanted;
        let mut state = self.0.lock();
        state.forget_what_is_closed();
        let VmOptions { sysfs, dev_vfio, dev_iommu, files, iommufd, .. } = &self.0.options;
        let host = &self.0.host;
        let found: VfioDevice = sysfs.vfio_device(bdf)?.ok_or(CdevError::Missing { bdf })?;
        let known = state.live_spaces().into_iter().find(|space| space.ioas().is_some());
        let space = match known {
            Some(space) => space,
            None => {
                let ioas = Ioas::new(host, dev_iommu, iommufd.as_ref())?;
                let space = Arc::new(AddressSpace::of_ioas(ioas));
                state.spaces.push(Arc::downgrade(&space));
                space
            }
        };
        let fd = match given {
            Some(fd) => cdev::check(host, bdf, &found, fd),
            None => cdev::open(host, dev_vfio, bdf, &found, retry),
        }?;
        let file = CdevFile::new(host, bdf, group, fd, files.clone())?;
        Ok(Way::Cdev { file, space })
    }
}

/// A device that is to be opened, and its IOMMU group.
#[derive(Clone, Copy)]
struct Wanted {
    bdf: Bdf,
    group: u32,
    guard: Guard,
}

/// By what a device will be opened.
#[derive(Debug)]
enum Way {
    Group(Arc<Group>),
    Cdev {
        // Dropped in this order: the file before the address space.
        file: CdevFile,
        space: Arc<AddressSpace>,
    },
}

impl State {
    fn settled(&mut self, group: Group) -> Way {
        let group = Arc::new(group);
        self.groups.push(Arc::downgrade(&group));
        Way::Group(group)
    }

    fn forget_what_is_closed(&mut self) {
        self.groups.retain(|group| group.strong_count() > 0);
        self.spaces.retain(|space| space.strong_count() > 0);
    }
}

/// A device that its VM may open, with all ready for it. Dropping it gives that back.
#[derive(Debug)]
pub struct Reservation {
    // Dropped in this order: the group or the file before the device may be assigned again.
    way: Way,
    claim: Claim,
    vf_token: Option<VfToken>,
    vm: Vm,
}

impl Reservation {
    /// The device's address on the host.
    pub fn bdf(&self) -> Bdf {
        self.claim.bdf
    }

    /// Opens the device, which the kernel resets.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; the reservation is given back.
    pub fn open(self) -> Result<Device, OpenError> {
        let Self { vm, claim, way, vf_token } = self;
        let bdf = claim.bdf;
        let Shared { host, options, .. } = &*vm.0;
        let file = match way {
            Way::Group(group) => {
                let name = device_name(bdf, vf_token.as_ref());
                let opened = options.retry.run(&bdf, || group.device(&name));
                let fd = opened.map_err(|errno| OpenError::Device { bdf, errno })?;
                OpenedFile::Grouped { fd, group }
            }
            Way::Cdev { space, file } => {
                let bound = options.retry.run(&bdf, || file.bind(&space));
                let id = bound.map_err(|errno| not_bound(options, bdf, file.group(), errno))?;
                let mut cdev = Cdev::new(space, file, id);
                vm.0.join(bdf, &mut cdev)?;
                OpenedFile::Cdev(cdev)
            }
        };
        let device = Device::new(host, &options.retry, claim, file)?;
        log::info!("{bdf}: opened, IOMMU group {}, interface {}", device.group(), device.backend());
        Ok(device)
    }
}

impl Shared {
    /// Attaches a device to its address space, which holds the VM's memory from then on.
    fn join(&self, bdf: Bdf, cdev: &mut Cdev) -> Result<(), OpenError> {
        // Under the lock, so that memory which is added meanwhile is mapped before or after, and once.
        let state = self.lock();
        cdev.attach()?;
        let space = cdev.space();
        if !space.is_ready() {
            // Not before a device is attached: only now does the kernel know what can be reached.
            self.replay(&state, space).map_err(|error| OpenError::Memory { bdf, error })?;
            space.set_ready();
        }
        Ok(())
    }
}

/// The device as its group is asked for it.
fn device_name(bdf: Bdf, token: Option<&VfToken>) -> CString {
    let name = match token {
        Some(token) => format!("{bdf} vf_token={}", token.as_str()),
        None => bdf.to_string(),
    };
    CString::new(name).expect("neither an address nor a UUID has a zero byte")
}

/// Why a device's file was not bound; where its group is the reason, the group is named.
fn not_bound(options: &VmOptions, bdf: Bdf, group: u32, errno: Errno) -> OpenError {
    if [Errno::EBUSY, Errno::EPERM].contains(&errno) {
        match options.sysfs.group_members(group) {
            Ok(members) if members.iter().any(|member| member.in_the_way) => {
                return GroupError::NotViable { group, members }.into();
            }
            Ok(_) => {}
            Err(error) => log::warn!("IOMMU group {group}: {error}"),
        }
    }
    match errno {
        Errno::EBUSY => GroupError::InUse { group, path: options.dev_vfio.join(group.to_string()) }.into(),
        errno => CdevError::Bind { bdf, group, errno }.into(),
    }
}

/// A device's place among those of its VM: while it exists the VM does not open the device again.
#[derive(Debug)]
pub(crate) struct Claim {
    vm: Arc<Shared>,
    bdf: Bdf,
}

impl Claim {
    pub(super) fn new(vm: &Arc<Shared>, bdf: Bdf) -> Result<Self, OpenError> {
        let mut state = vm.lock();
        if state.devices.contains(&bdf) {
            return Err(OpenError::Twice { bdf });
        }
        state.devices.push(bdf);
        Ok(Self { vm: vm.clone(), bdf })
    }

    pub(crate) fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// Waits until all of the VM's memory is mapped for devices.
    pub(crate) fn wait_for_memory(&self) -> Result<(), DmaError> {
        self.vm.gate.wait()
    }

    /// The VM's open groups.
    pub(crate) fn groups(&self) -> Vec<Arc<Group>> {
        self.vm.lock().groups.iter().filter_map(Weak::upgrade).collect()
    }

    /// The VM's devices, and those that it is about to open.
    pub(crate) fn devices(&self) -> Vec<Bdf> {
        self.vm.lock().devices.clone()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.vm.lock().devices.retain(|bdf| *bdf != self.bdf);
    }
}
