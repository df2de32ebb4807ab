//! A guest with assigned functions, and what its drivers do.

use crate::machine::{Machine, bdf};
use crate::told::Told;
use std::path::Path;
use std::sync::Arc;
use vfio_assign_core::host::InterruptKind;
use vfio_assign_core::{BusMastering, GuestAddr, VectorIndex};
use vfio_assign_linux::kvm::{Gsi, IrqchipRoutes, KvmGuest, KvmVm, MemorySlots, Routes, SlotNumbers};
use vfio_assign_linux::scripted::{Injection, ScriptedKernel};
use vfio_assign_linux::{
    AssignOptions, Assigned, Backend, Device, DeviceOptions, HandedDevice, Inspection, IrqKind, LineEnd,
    VfioFile, Vm,
};

/// Where the guest places the BAR first.
pub(crate) const BAR: u64 = 0xd000_0000;
/// Where it moves the BAR to.
pub(crate) const OTHER_BAR: u64 = 0xd100_0000;
/// The MSI-X table in the BAR.
const TABLE: u64 = 0x2000;
/// The Pending Bit Array in the BAR.
const PENDING: u64 = 0x3000;
/// The guest's line that pins lead to.
const LINE: u32 = 10;
/// Message address and data of vector 0.
const MSIX: (u64, u32) = (0xfee0_1000, 0x4000);
const MSI: (u64, u32) = (0xfee0_2000, 0x30);

pub(crate) type Function = Assigned<KvmGuest>;

pub(crate) struct Guest<'a> {
    machine: &'a Machine,
    backend: Backend,
    pub(crate) told: &'a mut Told,
    kvm: KvmVm,
    slots: MemorySlots,
    routes: Arc<Routes>,
    pub(crate) vm: Vm,
    pub(crate) functions: Vec<Function>,
    /// A device and its function's state, on their way from a process that has ended.
    handed: Option<(HandedDevice, Vec<u8>)>,
    /// What the guest has seen in the scenario.
    seen: String,
}

impl<'a> Guest<'a> {
    /// A guest without functions.
    pub(crate) fn new(machine: &'a Machine, backend: Backend, told: &'a mut Told) -> Option<Self> {
        let kvm = machine.kvm().unwrap();
        let numbers = Arc::new(told.attempt(|| SlotNumbers::new(&kvm, 0))?);
        let routes = Arc::new(told.attempt(|| Routes::new(kvm.clone(), IrqchipRoutes::X86Full))?);
        let slots = MemorySlots::new(kvm.clone(), numbers);
        let vm = machine.vm(backend, &kvm);
        Some(Self {
            machine,
            backend,
            told,
            kvm,
            slots,
            routes,
            vm,
            functions: Vec::new(),
            handed: None,
            seen: String::new(),
        })
    }

    /// Opens the next function and assigns it, its pin to a line that KVM resamples.
    pub(crate) fn open(&mut self) {
        self.open_by(|_| DeviceOptions::default());
    }

    /// The same, by the device's own file that somebody else has opened.
    pub(crate) fn open_handed_in(&mut self) {
        self.open_by(|kernel| {
            let file = kernel.open_for_another(Path::new("/dev/vfio/devices/vfio40")).unwrap();
            DeviceOptions { file: Some(VfioFile::Cdev(file)), ..DeviceOptions::default() }
        });
    }

    /// The same, with the token that it wants.
    pub(crate) fn open_with_token(&mut self, token: &str) {
        self.open_by(|_| DeviceOptions {
            vf_token: Some(token.parse().unwrap()),
            ..DeviceOptions::default()
        });
    }

    /// Opens the first function and assigns it to nobody.
    pub(crate) fn open_bare(&mut self) -> Option<Arc<Device>> {
        let Self { told, vm, .. } = self;
        told.attempt(|| vm.open(bdf(0))).map(Arc::new)
    }

    /// Looks at the first function, as what no guest has.
    pub(crate) fn inspect(&mut self) {
        let Self { machine, told, backend, .. } = self;
        let looked = told.attempt(|| -> Result<_, Box<Failed>> {
            let options = machine.options(*backend);
            let device = Inspection::open(machine.host.clone(), options, bdf(0)).map_err(Failed::new)?;
            device.read_config().map_err(Failed::new)
        });
        self.seen = format!("inspected: {looked:02x?}");
    }

    /// How many vectors of MSI-X of the first function lead to events.
    pub(crate) fn wired_vectors(&self) -> usize {
        let wired = format!("{}: kind {} vector ", bdf(0), IrqKind::Msix.get());
        self.machine.kernel.standing().iter().filter(|line| line.starts_with(&wired)).count()
    }

    /// The guest's driver has used the first function as `work` does in a process which has stopped and saved it, handed
    /// it on, and ended. Interrupts of `comes` have come between.
    pub(crate) fn end_first_process(&mut self, work: fn(&mut Guest<'_>), comes: &[(IrqKind, u32)]) {
        let process = Machine::over(self.machine.kernel.process(), self.machine.sysfs.clone());
        let mut first = Guest::new(&process, self.backend, self.told).unwrap();
        first.open();
        work(&mut first);
        let function = &first.functions[0];
        function.stop(BusMastering::Kept);
        comes.iter().for_each(|(kind, vector)| process.kernel.interrupt(0, *kind, *vector));
        self.handed = Some((function.device().hand_on().unwrap(), function.save().unwrap()));
        process.kernel.end_process();
        let Guest { vm, functions, slots, routes, kvm, .. } = first;
        self.told.unheard(move || drop((functions, vm, slots, routes, kvm)));
    }

    /// Goes on with the first function.
    pub(crate) fn take_over(&mut self) {
        let Some((device, state)) = self.handed.take() else { return };
        let Self { told, vm, kvm, slots, routes, .. } = self;
        // Where that fails nothing is left to be tried again.
        let Some(device) = told.once(vm.take_over(device)) else { return };
        let side = KvmGuest::new(kvm.clone(), slots.clone(), routes.clone());
        let side = side.with_line(Gsi(LINE), LineEnd::Resampled);
        let taken = Assigned::take_over(device, side, &AssignOptions::default(), &state);
        self.functions.extend(told.once(taken));
    }

    fn open_by(&mut self, options: impl Fn(&ScriptedKernel) -> DeviceOptions) {
        let function = bdf(self.functions.len() as u8);
        let Self { machine, told, vm, kvm, slots, routes, .. } = self;
        let opened = told.attempt(|| -> Result<Function, Box<Failed>> {
            let reserved = vm.reserve_with(function, options(&machine.kernel)).map_err(Failed::new)?;
            let device = reserved.open().map_err(Failed::new)?;
            let side = KvmGuest::new(kvm.clone(), slots.clone(), routes.clone());
            let side = side.with_line(Gsi(LINE), LineEnd::Resampled);
            let assigned = Assigned::new(device, side, &AssignOptions::default()).map_err(Failed::new)?;
            Ok(assigned)
        });
        self.functions.extend(opened);
    }

    /// What is to be the same after every fault: what stands in the kernel, what reaches the guest, its registers.
    pub(crate) fn state(&mut self) -> Vec<String> {
        let mut state = self.machine.kernel.standing();
        for (place, function) in self.functions.iter().enumerate() {
            let mut registers = [0; 2];
            function.config_read(4, &mut registers);
            state.push(format!("function {place}: Command {:#x}", u16::from_le_bytes(registers)));
            for kind in [IrqKind::Intx, IrqKind::Msi, IrqKind::Msix] {
                state.extend(self.delivered(place, kind));
            }
        }
        self.check_truth(&state);
        state.push(self.seen.clone());
        state.sort();
        state
    }

    /// The vectors that reach the guest, the pin twice. Nothing else may than what the guest has set.
    fn delivered(&self, place: usize, kind: IrqKind) -> Vec<String> {
        let kernel = &self.machine.kernel;
        let vectors = self.functions[place].device().irq(kind).map_or(0, |irq| irq.count);
        let mut delivered = Vec::new();
        for vector in 0..vectors {
            let expected = match kind {
                IrqKind::Msix => Injection::Message { address: MSIX.0, data: MSIX.1 + vector },
                IrqKind::Msi => Injection::Message { address: MSI.0, data: MSI.1 + vector },
                _ => Injection::Line(LINE),
            };
            let times = if kind == IrqKind::Intx { 2 } else { 1 };
            kernel.injections();
            (0..times).for_each(|_| kernel.interrupt(place, kind, vector));
            let arrived = kernel.injections();
            if arrived.iter().any(|injection| *injection != expected) {
                delivered.push(format!("function {place}: {kind} {vector} arrives as {arrived:?}"));
            } else if !arrived.is_empty() {
                delivered.push(format!("function {place}: {kind} {vector} arrives {} times", arrived.len()));
            }
        }
        delivered
    }

    /// The device signals a vector while it is masked: the guest sees that it is pending, unmasks it, and it arrives.
    pub(crate) fn interrupt_masked(&mut self, vector: VectorIndex) {
        let kernel = &self.machine.kernel;
        let function = &self.functions[0];
        let control = BAR + TABLE + 16 * u64::from(vector.get()) + 12;
        kernel.injections();
        function.memory_write(GuestAddr::new(control), &1u32.to_le_bytes());
        kernel.interrupt(0, IrqKind::Msix, u32::from(vector.get()));
        let mut pending = [0; 8];
        function.memory_read(GuestAddr::new(BAR + PENDING), &mut pending);
        function.memory_write(GuestAddr::new(control), &0u32.to_le_bytes());
        self.seen = format!("masked: pending {pending:02x?}, then {:x?}", kernel.injections());
    }

    /// What the machines say is what the kernel has.
    fn check_truth(&mut self, state: &[String]) {
        let wrong = &mut self.told.wrong;
        wrong.extend(state.iter().filter(|line| line.contains("arrives as")).cloned());
        let slots = state.iter().filter(|line| line.starts_with("KVM: slot")).count();
        let mut windows = 0;
        for (place, function) in self.functions.iter().enumerate() {
            let decodes = self.machine.kernel.command(place) & 2 != 0;
            function.inspect(|machines, irqs, side, _| {
                let shown = side.usage().0;
                windows += shown;
                if machines.mapped_windows() != shown {
                    wrong.push(format!(
                        "function {place}: {} windows, {shown} shown",
                        machines.mapped_windows()
                    ));
                }
                if shown > 0 && !decodes && !machines.is_quarantined() {
                    wrong.push(format!("function {place}: a window is shown and nothing decodes it"));
                }
                for kind in InterruptKind::ALL {
                    let vfio = IrqKind::from(kind).get();
                    let line = format!("{}: kind {vfio} is on", function.bdf());
                    if irqs.of(kind).is_on() != state.contains(&line) {
                        wrong.push(format!("function {place}: whether {kind:?} is on is not known"));
                    }
                    let wired = format!("{}: kind {vfio} vector ", function.bdf());
                    let wired = state.iter().filter(|line| line.starts_with(&wired)).count();
                    if irqs.of(kind).is_on() && irqs.of(kind).events() < wired {
                        wrong.push(format!("function {place}: {kind:?} has {wired} vectors without events"));
                    }
                }
            });
        }
        if windows != slots {
            wrong.push(format!("{windows} windows, {slots} slots"));
        }
    }

    /// What the functions say has gone wrong.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complaints = self.functions.iter().flat_map(|function| {
            let counters = function.counters();
            let failed = counters.failed_reads
                + counters.failed_forwards
                + counters.failed_revokes
                + counters.failed_establishes;
            let passed = function.access_failures();
            let mut complaints = Vec::new();
            complaints.extend((failed > 0).then(|| format!("{failed} steps failed")));
            complaints.extend(passed.last.map(|error| error.to_string()));
            complaints.extend(function.reset_error().map(|error| error.to_string()));
            complaints.extend(function.bars().failed().iter().map(ToString::to_string));
            complaints.extend(function.events().refused().iter().map(ToString::to_string));
            complaints
        });
        complaints.chain(self.told.all()).collect()
    }
}

/// Why a function was not opened or not assigned.
#[derive(Debug)]
struct Failed(String);

impl Failed {
    fn new(error: impl std::error::Error) -> Box<Self> {
        Box::new(Self(error.to_string()))
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// The driver places the BAR and turns decoding and bus mastering on.
pub(crate) fn decode(function: &Function, bar: u64) {
    function.config_write(4, &[0, 0]);
    function.config_write(0x10, &(bar as u32).to_le_bytes());
    function.config_write(4, &[6, 0]);
}

/// The driver sets a vector of MSI-X, and unmasks it.
pub(crate) fn set_vector(function: &Function, bar: u64, vector: u16) {
    let entry = bar + TABLE + 16 * u64::from(vector);
    function.memory_write(GuestAddr::new(entry), &MSIX.0.to_le_bytes());
    function.memory_write(GuestAddr::new(entry + 8), &(MSIX.1 + u32::from(vector)).to_le_bytes());
    function.memory_write(GuestAddr::new(entry + 12), &0u32.to_le_bytes());
}

/// The driver uses so many vectors of MSI-X, as Linux does: on with all masked, the vectors one by one, unmasked.
pub(crate) fn use_msix(function: &Function, bar: u64, vectors: u16) {
    function.config_write(0x42, &[0, 0xc0]);
    (0..vectors).for_each(|vector| set_vector(function, bar, vector));
    function.config_write(0x42, &[0, 0x80]);
}

/// The driver ends MSI-X.
pub(crate) fn end_msix(function: &Function) {
    function.config_write(0x42, &[0, 0]);
}

/// The driver uses eight vectors of MSI.
pub(crate) fn use_msi(function: &Function) {
    function.config_write(0x54, &(MSI.0 as u32).to_le_bytes());
    function.config_write(0x58, &[0; 4]);
    function.config_write(0x5c, &(MSI.1 as u16).to_le_bytes());
    function.config_write(0x52, &[0x31, 0]);
}

/// The driver ends MSI.
pub(crate) fn end_msi(function: &Function) {
    function.config_write(0x52, &[0x30, 0]);
}
