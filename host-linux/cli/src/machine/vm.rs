//! The virtual machine before anything is in it: KVM opened, RAM mapped, interrupt controllers, processors.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Once};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, MsrList, kvm_clock_data, kvm_msi, kvm_pit_config,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use serde::{Deserialize, Serialize};
use vfio_assign_linux::kvm::{KvmVm, MemorySlots, SlotNumbers};
use vfio_assign_linux::{Errno as LinuxErrno, GuestRegion, Host};
use vmm_sys_util::errno::Error as Errno;

use super::cpuid::CpuModel;
use super::descriptor::{NoDescriptor, own_descriptor};
use super::layout::{IDENTITY_MAP, LOW_RAM_LIMIT, LayoutError, MIB, MemoryLayout, TASK_STATE};
use super::pci::PortMessage;
use super::ram::{Contents, Ram, RamError};
use super::run_loop::Vcpu;
use super::state::{ChipState, ProcessorState, SavedProcessor, Time, set_memory_types};
use crate::help::Help;

/// What could not be had from KVM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    /// `/dev/kvm` could not be opened.
    #[error("cannot open /dev/kvm: {source}")]
    Open {
        /// The kernel's answer.
        source: Errno,
    },
    /// Another generation of KVM.
    #[error("/dev/kvm speaks version {version} of its interface, 12 is needed")]
    Version {
        /// Its answer.
        version: i32,
    },
    /// The kernel has no machine for that many processors.
    #[error("{cpus} processors were asked for, KVM of this host runs at most {limit} in a guest")]
    Cpus {
        /// What was asked for.
        cpus: u8,
        /// What there is.
        limit: usize,
    },
    /// RAM does not fit into the address space.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// RAM could not be had.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// A descriptor could not be duplicated.
    #[error(transparent)]
    Descriptor(#[from] NoDescriptor),
    /// Memory slots and interrupts for devices could not be set up.
    #[error("KVM does not {what}: {errno}")]
    Devices {
        /// What it was asked for.
        what: &'static str,
        /// Its answer.
        errno: LinuxErrno,
    },
    /// The host has no XSAVE.
    #[error("the state of a processor cannot be saved on a host without XSAVE")]
    NoXsave,
    /// The state is one of another machine.
    #[error("the saved state has {count} processors, this machine has {wanted}")]
    OtherProcessors {
        /// In the state.
        count: usize,
        /// Here.
        wanted: usize,
    },
    /// A call failed.
    #[error("{call} failed: {source}")]
    Call {
        /// The request.
        call: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
    /// An event could not be made.
    #[error("cannot make an eventfd for {what}: {source}")]
    Event {
        /// For what.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More entries than a call takes.
    #[error("{count} {what} are more than KVM takes in one call")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
    },
}

impl Help for VmError {
    fn help(&self) -> Option<String> {
        let errno = |error: &Errno| io::Error::from(*error).kind();
        Some(match self {
            Self::Open { source } if errno(source) == io::ErrorKind::NotFound => {
                "load KVM with `modprobe kvm_intel` or `modprobe kvm_amd`; if that fails, turn virtualisation on in \
                 the firmware's settings, or nested virtualisation if this host is a guest itself"
                    .into()
            }
            Self::Open { source } if errno(source) == io::ErrorKind::PermissionDenied => {
                "run as root, or join the group of /dev/kvm: `usermod -aG kvm USER`, then log in again".into()
            }
            Self::Open { .. } => "another program may hold it, or KVM may be shut off; see `dmesg | grep kvm`".into(),
            Self::Version { .. } => "use Linux 2.6.22 or later".into(),
            Self::Cpus { limit, .. } => format!("give at most --cpus {limit}"),
            Self::Layout(LayoutError::TooLarge { limit, .. }) => format!("give at most --memory {}M", limit / MIB),
            Self::Ram(_) => "give the guest less with --memory, or raise the limit on memory (`ulimit -v`)".into(),
            Self::Descriptor(error) => return error.help(),
            Self::Event { .. } | Self::Devices { .. } => "raise the number of open files: `ulimit -n`".into(),
            Self::OtherProcessors { .. } => "give the arguments that the first run was given".into(),
            Self::Call { .. } | Self::TooMany { .. } | Self::NoXsave => return None,
        })
    }
}

/// Names the call that failed.
pub(crate) trait KvmCall<T> {
    /// Turns an errno into an error that names its call.
    fn during(self, call: &'static str) -> Result<T, VmError>;
}

impl<T> KvmCall<T> for Result<T, Errno> {
    fn during(self, call: &'static str) -> Result<T, VmError> {
        self.map_err(|source| VmError::Call { call, source })
    }
}

/// What KVM has of a machine, in a file.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedVm {
    clock: kvm_clock_data,
    chips: ChipState,
    processors: Vec<SavedProcessor>,
}

/// A processor and the state in which it was created.
pub(crate) struct Processor {
    pub(crate) vcpu: Vcpu,
    pub(crate) power_on: ProcessorState,
    pub(crate) number: u8,
}

/// What devices need of a machine.
#[derive(Clone)]
pub(crate) struct ForDevices {
    /// Where all calls for devices go, and are counted.
    pub(crate) host: Host,
    /// The machine.
    pub(crate) kvm: KvmVm,
    /// Its memory slots.
    pub(crate) slots: MemorySlots,
    /// Its RAM.
    pub(crate) ram: Vec<GuestRegion>,
}

/// A machine with RAM, interrupt controllers and processors, and without devices.
pub(crate) struct Vm {
    // The guest loses its RAM before the machine goes.
    ram: Ram,
    slots: MemorySlots,
    kvm_vm: KvmVm,
    host: Host,
    vm: Arc<VmFd>,
    layout: MemoryLayout,
    chips: ChipState,
    msrs: MsrList,
    processors: Vec<Processor>,
    address_bits: u8,
}

impl Vm {
    /// Makes a machine with `memory` bytes of RAM, which have these contents, and `cpus` processors.
    pub(crate) fn new(memory: u64, cpus: u8, contents: Contents<'_>) -> Result<Self, VmError> {
        let kvm = Kvm::new().map_err(|source| VmError::Open { source })?;
        let version = kvm.get_api_version();
        if version != 12 {
            return Err(VmError::Version { version });
        }
        let limit = kvm.get_max_vcpus();
        if usize::from(cpus) > limit {
            return Err(VmError::Cpus { cpus, limit });
        }
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).during("KVM_GET_SUPPORTED_CPUID")?;
        let model = CpuModel::new(&supported, cpus, kvm.check_extension(Cap::TscDeadlineTimer));
        let address_bits = model.address_bits();
        let layout = MemoryLayout::new(memory, address_bits)?;
        let vm = Arc::new(kvm.create_vm().during("KVM_CREATE_VM")?);
        vm.set_identity_map_address(IDENTITY_MAP).during("KVM_SET_IDENTITY_MAP_ADDR")?;
        vm.set_tss_address(TASK_STATE).during("KVM_SET_TSS_ADDR")?;
        vm.create_irq_chip().during("KVM_CREATE_IRQCHIP")?;
        let timer = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
        vm.create_pit2(timer).during("KVM_CREATE_PIT2")?;
        let chips = ChipState::capture(&vm)?;
        let host = Host::linux();
        let refused = |what| move |errno| VmError::Devices { what, errno };
        let own = own_descriptor("the machine", vm.as_ref())?;
        let kvm_vm =
            KvmVm::new(host.clone(), own.as_fd()).map_err(refused("give a descriptor of the machine"))?;
        let numbers = SlotNumbers::new(&kvm_vm, 0).map_err(refused("tell its limit of memory slots"))?;
        let slots = MemorySlots::new(kvm_vm.clone(), Arc::new(numbers));
        let ram = Ram::new(&layout, contents, &slots)?;
        let msrs = kvm.get_msr_index_list().during("KVM_GET_MSR_INDEX_LIST")?;
        let processors = processors(&msrs, (&vm, &kvm_vm), &model, cpus)?;
        Ok(Self { ram, slots, kvm_vm, host, vm, layout, chips, msrs, processors, address_bits })
    }

    /// The machine, for its interrupt controllers.
    pub(crate) fn fd(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// How the messages of emulated ports interrupt the machine.
    pub(crate) fn port_interrupts(&self) -> impl Fn(PortMessage) + Send + Sync + 'static {
        let vm = Arc::clone(&self.vm);
        // A guest may have it happen for ever.
        let told = Once::new();
        move |PortMessage { address, data }| {
            let [address_lo, address_hi] = [address as u32, (address >> 32) as u32];
            let message = kvm_msi { address_lo, address_hi, data, ..kvm_msi::default() };
            if let Err(errno) = vm.signal_msi(message) {
                told.call_once(|| log::debug!("a port's interrupt is lost, and others may be: {errno}"));
            }
        }
    }

    /// What devices need of the machine.
    pub(crate) fn for_devices(&self) -> ForDevices {
        ForDevices {
            host: self.host.clone(),
            kvm: self.kvm_vm.clone(),
            slots: self.slots.clone(),
            ram: self.ram.regions().to_vec(),
        }
    }

    /// Guest RAM.
    pub(crate) fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Where everything is.
    pub(crate) fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    /// The processors, to run them; they come back with [`Self::return_processors`].
    pub(crate) fn take_processors(&mut self) -> Vec<Processor> {
        std::mem::take(&mut self.processors)
    }

    /// Takes processors back that no longer run.
    pub(crate) fn return_processors(&mut self, mut processors: Vec<Processor>) {
        processors.sort_by_key(|processor| processor.number);
        self.processors = processors;
    }

    /// Puts processors, interrupt controllers and timer into their power-on state. RAM keeps its contents, as
    /// that of a real machine may.
    pub(crate) fn reset(&self) -> Result<(), VmError> {
        self.chips.restore(self.fd())?;
        for processor in &self.processors {
            processor.power_on.restore(&processor.vcpu)?;
        }
        Ok(())
    }

    /// What KVM has of the machine. No processor runs.
    pub(crate) fn save(&self) -> Result<SavedVm, VmError> {
        let save = |processor: &Processor| {
            let state = ProcessorState::capture(&processor.vcpu, &self.kvm_vm, &self.msrs, Time::Kept)?;
            state.save().ok_or(VmError::NoXsave)
        };
        let processors = self.processors.iter().map(save).collect::<Result<_, _>>()?;
        // Right after their time stamp counters, which a guest compares with it. Only the time: the rest is about the
        // host's clock at that moment.
        let clock = self.vm.get_clock().during("KVM_GET_CLOCK")?.clock;
        let clock = kvm_clock_data { clock, ..kvm_clock_data::default() };
        Ok(SavedVm { clock, chips: ChipState::capture(&self.vm)?, processors })
    }

    /// KVM has of the machine what was saved of one of the same shape.
    pub(crate) fn restore(&self, saved: SavedVm) -> Result<(), VmError> {
        let SavedVm { clock, chips, processors } = saved;
        let (count, wanted) = (processors.len(), self.processors.len());
        if count != wanted {
            return Err(VmError::OtherProcessors { count, wanted });
        }
        chips.restore(&self.vm)?;
        for (processor, saved) in self.processors.iter().zip(processors) {
            ProcessorState::of_saved(saved, &self.kvm_vm).restore(&processor.vcpu)?;
        }
        self.vm.set_clock(&clock).during("KVM_SET_CLOCK")
    }

    /// Sets the first processor to the kernel's entry, and every processor's memory types.
    pub(crate) fn enter(&self, entry: &super::boot::EntryPoint) -> Result<(), VmError> {
        for processor in &self.processors {
            set_memory_types(processor.vcpu.fd(), LOW_RAM_LIMIT, self.address_bits)?;
        }
        let Some(first) = self.processors.first() else { return Ok(()) };
        let vcpu = first.vcpu.fd();
        vcpu.set_sregs(&entry.system_registers(&first.power_on.sregs)).during("KVM_SET_SREGS")?;
        vcpu.set_regs(&entry.registers()).during("KVM_SET_REGS")
    }
}

fn processors(
    msrs: &MsrList,
    (vm, kvm_vm): (&VmFd, &KvmVm),
    model: &CpuModel,
    cpus: u8,
) -> Result<Vec<Processor>, VmError> {
    let create = |number: u8| {
        let vcpu = vm.create_vcpu(u64::from(number)).during("KVM_CREATE_VCPU")?;
        let leaves = model
            .leaves(number)
            .map_err(|_| VmError::TooMany { what: "CPUID leaves", count: KVM_MAX_CPUID_ENTRIES })?;
        vcpu.set_cpuid2(&leaves).during("KVM_SET_CPUID2")?;
        // 0 is the rate of the host's counter now. By default KVM takes the one that it found when it was loaded, and
        // where the host has measured again since (a counter whose rate need not be constant) and that was lower, Linux
        // 6.12 converts nothing: the guest's clock stands, and each timer comes as much too late as the host is up.
        if let Err(error) = vcpu.set_tsc_khz(0) {
            log::info!("processor {number}: its time stamp counter has KVM's rate: {error}");
        }
        let own = own_descriptor("a processor", &vcpu)?;
        let vcpu = Vcpu::new(vcpu, own)
            .map_err(|errno| VmError::Devices { what: "map the run page of a processor", errno })?;
        let power_on = ProcessorState::capture(&vcpu, kvm_vm, msrs, Time::Left)?;
        Ok(Processor { vcpu, power_on, number })
    };
    (0..cpus).map(create).collect()
}
