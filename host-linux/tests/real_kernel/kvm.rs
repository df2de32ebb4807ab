//! Interrupts of an assigned device in a guest on KVM: a processor in real mode that counts them.

use crate::counting::{INTERRUPT, RAM, count, machine_of, place_code, processor, run, signal, tell_to_leave};
use crate::rig::{Rig, all_descriptors, capability, figure, host_interrupts, progress, region, vm};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use vfio_assign_core::host::InterruptKind::Msix;
use vfio_assign_core::{Bdf, GuestAddr, VectorIndex};
use vfio_assign_linux::kvm::{IrqchipRoutes, KvmGuest, KvmVm, MemorySlot, MemorySlots, Routes, SlotNumbers};
use vfio_assign_linux::{AssignOptions, Assigned, EventFd, GuestMemory, GuestRegion, Host, IrqKind};

const SIGNALS: u32 = 100_000;
const CYCLES: u32 = 10_000;
/// How long one interrupt may take to reach the guest, emulated and under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the guest places BAR 0 of the device.
const BAR: u64 = 0xd000_0000;
const COMMAND: u32 = 4;
/// Capability id of MSI-X.
const MSIX: u8 = 0x11;
/// Message Control with MSI-X Enable.
const ENABLED: [u8; 2] = [0, 0x80];

/// A guest with one processor, and the disk assigned to it.
struct Machine {
    // Dropped in this order: the device, the guest's memory, the machine.
    assigned: Assigned<KvmGuest>,
    _slot: MemorySlot,
    memory: GuestMemory,
    routes: Arc<Routes>,
    host: Host,
    /// The MSI-X capability, and the guest's address of its table.
    capability: u32,
    table: u64,
    /// There until it runs.
    processor: Option<VcpuFd>,
    _vm: VmFd,
}

/// A machine with its interrupt controllers, and a descriptor of it.
pub(crate) fn machine() -> (VmFd, OwnedFd) {
    machine_of(&Kvm::new().expect("/dev/kvm opens"))
}

impl Machine {
    fn new(bdf: Bdf) -> Self {
        let kvm = Kvm::new().expect("/dev/kvm opens");
        let (vm_fd, own) = machine_of(&kvm);
        let processor = processor(&kvm, &vm_fd);
        let host = Host::linux();
        let kvm_vm = KvmVm::new(host.clone(), own.as_fd()).expect("there is a descriptor left");
        let numbers = SlotNumbers::new(&kvm_vm, 0).expect("KVM tells its limit");
        let slots = MemorySlots::new(kvm_vm.clone(), Arc::new(numbers));
        let ram = region(0, RAM);
        let slot = slots.show_memory(&ram).expect("the guest sees its memory");
        let GuestRegion { memory, .. } = ram;
        place_code(&memory);
        let routes =
            Arc::new(Routes::new(kvm_vm.clone(), IrqchipRoutes::X86Full).expect("KVM tells its limit"));
        let device = vm().open(bdf).expect("opens");
        let guest = KvmGuest::new(kvm_vm, slots, routes.clone());
        let assigned = Assigned::new(device, guest, &AssignOptions::default()).expect("it has a BAR");
        assigned.config_write(0x10, &BAR.to_le_bytes());
        assigned.config_write(COMMAND, &[2, 0]);
        let capability = capability(&assigned, MSIX);
        let mut place = [0; 4];
        assigned.config_read(capability + 4, &mut place);
        let table = BAR + u64::from(u32::from_le_bytes(place) & !7);
        Self {
            assigned,
            _slot: slot,
            memory,
            routes,
            host,
            capability,
            table,
            processor: Some(processor),
            _vm: vm_fd,
        }
    }

    /// The guest's driver sets a vector's message.
    fn set_message(&self, vector: u16) {
        let entry = self.table + u64::from(vector) * 16;
        self.assigned.memory_write(GuestAddr::new(entry), &0xfee0_0000u64.to_le_bytes());
        self.assigned.memory_write(GuestAddr::new(entry + 8), &INTERRUPT.to_le_bytes());
    }

    fn mask(&self, vector: u16, masked: bool) {
        let control = GuestAddr::new(self.table + u64::from(vector) * 16 + 12);
        self.assigned.memory_write(control, &u32::from(masked).to_le_bytes());
    }

    fn set_enabled(&self, control: [u8; 2]) {
        self.assigned.config_write(self.capability + 2, &control);
    }

    /// The event of a vector, as the device's interrupt would signal it.
    fn event(&self, vector: u16) -> OwnedFd {
        let vector = VectorIndex::new(vector).expect("a vector of MSI-X");
        self.assigned.inspect(|_, irqs, _, failure| {
            let event = irqs.of(Msix).event(vector);
            let event = event.unwrap_or_else(|| panic!("vector {vector} is not wired: {failure:?}"));
            event.as_fd().try_clone_to_owned().expect("there is a descriptor left")
        })
    }
}

/// A machine whose vector 1 is delivered, with what a test does from several threads.
struct Delivering {
    machine: Machine,
    event: OwnedFd,
    memory: GuestMemory,
    guest: Running,
}

impl Delivering {
    fn new(bdf: Bdf) -> Self {
        let mut machine = Machine::new(bdf);
        machine.set_message(1);
        machine.mask(1, false);
        machine.set_enabled(ENABLED);
        let (event, memory) = (machine.event(1), machine.memory.clone());
        let processor = machine.processor.take().expect("it does not run yet");
        let guest = Running::start(processor, memory.clone());
        Self { machine, event, memory, guest }
    }
}

/// A guest that runs, on a thread that nobody has to wait for: one whose interrupts are lost never leaves.
struct Running {
    memory: GuestMemory,
    /// Nothing comes here; it ends with the thread.
    left: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Running {
    fn start(processor: VcpuFd, memory: GuestMemory) -> Self {
        let (leaving, left) = channel();
        let thread = thread::spawn(move || {
            let _leaving: Sender<()> = leaving;
            run(processor, || true);
        });
        Self { memory, left, thread }
    }

    /// Has it leave after the interrupt that `event` sends; what was seen instead, where it does not.
    fn leave(self, event: impl AsFd, patience: Duration) -> Result<(), (Self, String)> {
        tell_to_leave(&self.memory);
        signal(event);
        if self.left.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            let ran = count(&self.memory);
            return Err((self, format!("not interrupted for {patience:?}; the handler has run {ran} times")));
        }
        self.thread.join().expect("the guest does what it was told to");
        Ok(())
    }

    /// Has it leave after the last interrupt of a test.
    fn end(self, event: impl AsFd) {
        if let Err((_, seen)) = self.leave(event, PATIENCE) {
            panic!("the guest does not leave: {seen}");
        }
    }
}

/// Waits until the handler has run so often; gives how often it has.
fn reached(memory: &GuestMemory, wanted: u32) -> u32 {
    let started = Instant::now();
    loop {
        let reached = count(memory);
        if reached >= wanted || started.elapsed() > PATIENCE {
            return reached;
        }
        thread::yield_now();
    }
}

/// Numbers that look random and are the same each time: xorshift64.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// One thread signals, each time when the last signal has reached the handler; another masks and unmasks. Whatever the
/// two hit upon, each signal runs the handler.
///
/// KVM itself has the handler run twice for a few of the signals that come while the vector is being armed: an irqfd
/// hears of signals from the moment when it is assigned, and is then asked whether one is pending, which a signal that
/// is just being heard still is (Linux 6.12, virt/kvm/eventfd.c, `kvm_irqfd_assign` and `irqfd_wakeup`).
#[test]
fn no_signal_is_lost_while_the_vector_is_masked_and_unmasked() {
    let Some(rig) = Rig::get() else { return };
    let Delivering { machine, event, memory, guest } = Delivering::new(rig.nvme);
    let started = Instant::now();
    // Odd while the vector is being armed.
    let armings = AtomicU32::new(0);
    let (masks, armed_amid, twice) = thread::scope(|scope| {
        let signaller = scope.spawn(|| {
            let (mut armed_amid, mut twice) = (0u32, 0u32);
            for sent in 1..=SIGNALS {
                let before = armings.load(Ordering::SeqCst);
                signal(&event);
                let after = armings.load(Ordering::SeqCst);
                armed_amid += u32::from(before % 2 == 1 || before != after);
                let wanted = sent + twice;
                let seen = reached(&memory, wanted);
                assert!(seen >= wanted, "after signal {sent} the handler has run {seen} times, not {wanted}");
                // The second time may come later than the next signal.
                twice = seen - sent;
                assert!(
                    twice <= armed_amid,
                    "{twice} twice, {armed_amid} signals while the vector was armed"
                );
                if sent % 1000 == 0 {
                    progress(format_args!("{sent} signals in {:.1} s", started.elapsed().as_secs_f64()));
                }
            }
            (armed_amid, twice)
        });
        let (mut masks, mut state) = (0u32, 0x2545_f491_4f6c_dd1d);
        while !signaller.is_finished() {
            machine.mask(1, true);
            masks += 1;
            (0..random(&mut state) % 4).for_each(|_| thread::yield_now());
            armings.fetch_add(1, Ordering::SeqCst);
            machine.mask(1, false);
            armings.fetch_add(1, Ordering::SeqCst);
            (0..random(&mut state) % 16).for_each(|_| thread::yield_now());
        }
        let signalled = signaller.join();
        guest.end(&event);
        let (armed_amid, twice) = signalled.expect("each signal runs the handler");
        (masks, armed_amid, twice)
    });
    // Were each of them delivered twice, it would not be KVM's.
    assert!(
        twice * 20 <= armed_amid,
        "{twice} of {armed_amid} signals while the vector was armed came twice"
    );
    figure("kvm_signals", SIGNALS);
    figure("kvm_signals_while_armed", armed_amid);
    figure("kvm_signals_twice", twice);
    figure("kvm_masks", masks);
    figure("kvm_signals_seconds", format_args!("{:.1}", started.elapsed().as_secs_f64()));
}

/// Where nothing comes in between, there is nothing that KVM could hear twice.
#[test]
fn a_pending_interrupt_is_delivered_once_however_often_its_vector_is_masked() {
    let Some(rig) = Rig::get() else { return };
    let Delivering { machine, event, memory, guest } = Delivering::new(rig.nvme);
    let wrong = (1..=1000).find(|&sent| {
        machine.mask(1, true);
        signal(&event);
        machine.mask(1, false);
        let seen = reached(&memory, sent);
        // Taking an irqfd away waits for what it was about to deliver.
        machine.mask(1, true);
        machine.mask(1, false);
        seen != sent || count(&memory) != sent
    });
    assert_eq!(wrong, None, "the first signal that was not delivered once");
    guest.end(&event);
    assert!((1000..=1001).contains(&count(&memory)), "{} times", count(&memory));
}

#[test]
fn signals_while_masked_are_one_pending_interrupt() {
    let Some(rig) = Rig::get() else { return };
    let Delivering { machine, event, memory, guest } = Delivering::new(rig.nvme);
    machine.mask(1, true);
    (0..5).for_each(|_| signal(&event));
    assert_eq!(count(&memory), 0);
    machine.mask(1, false);
    assert_eq!(reached(&memory, 1), 1);
    guest.end(&event);
    assert!((1..=2).contains(&count(&memory)), "{} times", count(&memory));
}

/// What the tests above rely on where something is wrong.
#[test]
fn a_guest_whose_interrupt_is_lost_is_not_waited_for_for_ever() {
    let Some(rig) = Rig::get() else { return };
    let Delivering { machine: _machine, event, guest, .. } = Delivering::new(rig.nvme);
    let nowhere = EventFd::new().expect("there is a descriptor left");
    let Err((guest, seen)) = guest.leave(&nowhere, Duration::from_millis(100)) else {
        panic!("it leaves without an interrupt");
    };
    assert!(seen.contains("has run 0 times"), "{seen}");
    guest.end(&event);
}

/// What an assigned device holds of the host.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    host_interrupts: usize,
    irq_numbers: usize,
    routes: usize,
    guest: (usize, usize),
}

impl Held {
    fn by(machine: &Machine, bdf: Bdf) -> Self {
        Self {
            descriptors: all_descriptors(),
            host_interrupts: host_interrupts(bdf),
            irq_numbers: std::fs::read_dir("/proc/irq").expect("proc is mounted").count(),
            routes: machine.routes.usage().1,
            guest: machine.assigned.inspect(|_, _, guest, _| guest.usage()),
        }
    }
}

/// How many interrupts the kernel has allocated for the device's messages.
fn allocated(bdf: Bdf) -> usize {
    std::fs::read_dir(format!("/sys/bus/pci/devices/{bdf}/msi_irqs")).map_or(0, Iterator::count)
}

#[test]
fn m5_vectors_taken_of_the_host_are_the_high_water_mark_of_those_in_use() {
    let Some(rig) = Rig::get() else { return };
    let machine = Machine::new(rig.nvme);
    let irq = machine.assigned.device().irq(IrqKind::Msix).expect("MSI-X");
    assert_eq!(irq.count, 2048);
    machine.set_enabled(ENABLED);
    // Vector 0, by which MSI-X goes on.
    assert_eq!((host_interrupts(rig.nvme), allocated(rig.nvme)), (0, 1));
    for (place, vector) in [3, 5, 40, 200].into_iter().enumerate() {
        let before = allocated(rig.nvme);
        machine.set_message(vector);
        machine.mask(vector, false);
        let (used, needed) = (place + 1, usize::from(vector) + 1);
        assert_eq!(host_interrupts(rig.nvme), used);
        let expected = if irq.noresize { needed.max(2 * before) } else { 1 + used };
        assert_eq!(allocated(rig.nvme), expected, "vector {vector}, NORESIZE: {}", irq.noresize);
    }
    let most = allocated(rig.nvme);
    [3, 5, 40, 200].into_iter().for_each(|vector| machine.mask(vector, true));
    assert_eq!((host_interrupts(rig.nvme), allocated(rig.nvme)), (4, most));
    machine.set_enabled([0, 0]);
    assert_eq!((host_interrupts(rig.nvme), allocated(rig.nvme)), (0, 0));
    figure("msix_allocated_for_4_used_up_to_200", most);
}

#[test]
fn switching_msix_on_and_off_ten_thousand_times_leaves_nothing() {
    let Some(rig) = Rig::get() else { return };
    let machine = Machine::new(rig.nvme);
    for vector in 0..2 {
        machine.set_message(vector);
        machine.mask(vector, false);
    }
    let before = Held::by(&machine, rig.nvme);
    let started = Instant::now();
    for cycle in 1..=CYCLES {
        machine.set_enabled(ENABLED);
        assert_eq!(machine.assigned.inspect(|_, irqs, _, _| irqs.of(Msix).events()), 2, "cycle {cycle}");
        machine.set_enabled([0, 0]);
        if cycle % 500 == 0 {
            progress(format_args!("{cycle} cycles in {:.1} s", started.elapsed().as_secs_f64()));
        }
    }
    assert_eq!(Held::by(&machine, rig.nvme), before);
    let calls = machine.host.calls();
    assert_eq!(calls.get("kvm-irqfd-assign"), Some(&u64::from(2 * CYCLES)));
    assert_eq!(calls.get("kvm-irqfd-deassign"), calls.get("kvm-irqfd-assign"));
    figure("msix_cycles", CYCLES);
    figure("msix_cycles_seconds", format_args!("{:.1}", started.elapsed().as_secs_f64()));
}
