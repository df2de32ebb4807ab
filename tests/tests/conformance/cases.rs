//! Every operation, from a state in which it has steps to take, and how to come between two of its steps.

use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::{InterruptKind, Outcome};
use vfio_assign_core::{Access, Begin, BusMastering, Bytes, GuestAddr, Target};
use vfio_assign_tests::{BASE, Rig, vector};

/// An operation, and the state that it starts from.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) rig: Rig,
    pub(crate) begin: fn(&mut Rig) -> Begin,
    /// Whether what was pending is forgotten.
    pub(crate) resets: bool,
    /// The kind of interrupt that is on before.
    pub(crate) kind: InterruptKind,
}

/// Mask Bits of MSI, where [`Shape::nvme`] has got it as its next capability.
pub(crate) const MSI_MASK: u32 = Rig::MSI + 16;
/// Pending Bits of MSI.
pub(crate) const MSI_PENDING: u32 = Rig::MSI + 20;
/// AF Control, behind that.
const AF_CONTROL: u32 = Rig::MSI + 28;

fn write(rig: &mut Rig, target: Target, data: &[u8]) -> Begin {
    rig.function.begin(Access::Write { target, data: Bytes::from_slice(data) })
}

fn config(rig: &mut Rig, offset: u32, data: &[u8]) -> Begin {
    write(rig, Target::Config(offset), data)
}

fn memory(address: u64) -> Target {
    Target::Memory(GuestAddr::new(address))
}

/// Vectors 0 and 1 are armed, 2 is wired and masked, 3 was never unmasked.
fn busy(shape: &Shape) -> Rig {
    let mut rig = Rig::started(shape);
    rig.start_interrupts(3);
    rig.mask(2);
    rig.program(3);
    rig.steps();
    rig
}

/// A function with all kinds of interrupts, its pin on.
fn on_pin() -> Rig {
    let mut rig = Rig::started(&Shape::nvme(8).msi(2, true, true).pin().advanced_features());
    rig.program_msi(0x4140);
    rig.program(0);
    rig.unmask(0);
    rig.steps();
    rig
}

/// The same with MSI on, of which vector 2 is masked.
fn on_msi() -> Rig {
    let mut rig = on_pin();
    rig.msi_control(true, 2);
    rig.config_write(MSI_MASK, 4, 4);
    rig.steps();
    rig
}

/// The same after `change`.
fn after(mut rig: Rig, change: impl FnOnce(&mut Rig)) -> Rig {
    change(&mut rig);
    rig.steps();
    rig
}

fn stop(rig: &mut Rig) {
    rig.function.stop(BusMastering::Off, &mut rig.host);
}

/// The function of the stopped `rig` is saved, given up and restored into a new one.
fn restored(shape: &Shape) -> Rig {
    let mut old = after(busy(shape), stop);
    let mut state = vec![0; old.function.saved_size()];
    old.function.save(&mut state).expect("a function that is stopped");
    old.function.detach(&mut old.host);
    let mut new = Rig::unattached(shape);
    new.host = old.host;
    new.function.restore(&state).expect("a state of the same device");
    new.steps();
    new
}

fn cases_of_msix() -> Vec<Case> {
    let nvme = || busy(&Shape::nvme(8));
    let noresize = || busy(&Shape::nvme(8).noresize());
    let case = |name, rig, begin| Case { name, rig, begin, resets: false, kind: InterruptKind::Msix };
    let reset = |name, rig, begin| Case { resets: true, ..case(name, rig, begin) };
    vec![
        case("config read", nvme(), |rig| {
            rig.function.begin(Access::Read { target: Target::Config(3), size: 8 })
        }),
        case("register read", nvme(), |rig| {
            rig.function.begin(Access::Read { target: memory(BASE + 0x13), size: 8 })
        }),
        case("pending bits read", nvme(), |rig| {
            rig.function.begin(Access::Read { target: memory(rig.pba(0)), size: 8 })
        }),
        case("register write", nvme(), |rig| write(rig, memory(BASE + 0x13), &[1; 8])),
        case("memory off", nvme(), |rig| config(rig, 4, &[4, 0])),
        case("memory on", after(nvme(), |rig| rig.config_write(4, 2, 4)), |rig| config(rig, 4, &[6, 0])),
        case("move", nvme(), |rig| config(rig, 0x10, &[0, 0, 0, 0xe1])),
        case("sleep", nvme(), |rig| config(rig, Rig::PMCSR, &[1])),
        case("first unmask", nvme(), |rig| write(rig, memory(rig.entry(3, 12)), &[0; 4])),
        case("growth", noresize(), |rig| write(rig, memory(rig.entry(3, 12)), &[0; 4])),
        case("mask", nvme(), |rig| write(rig, memory(rig.entry(1, 12)), &[1, 0, 0, 0])),
        case("another message", nvme(), |rig| write(rig, memory(rig.entry(1, 8)), &[0x77, 0x40, 0, 0])),
        case("function mask", nvme(), |rig| config(rig, Rig::MSIX_CONTROL, &[0, 0xc0])),
        case("function mask off", after(nvme(), |rig| rig.msix_control(true, true)), |rig| {
            config(rig, Rig::MSIX_CONTROL, &[0, 0x80])
        }),
        case("MSI-X on with nothing unmasked", Rig::nvme(8), |rig| {
            config(rig, Rig::MSIX_CONTROL, &[0, 0x80])
        }),
        case("interrupts off", nvme(), |rig| config(rig, Rig::MSIX_CONTROL, &[0, 0])),
        case("interrupts on again", after(nvme(), |rig| rig.msix_control(false, false)), |rig| {
            config(rig, Rig::MSIX_CONTROL, &[0, 0x80])
        }),
        case("settling", nvme(), |rig| {
            rig.function.handle_interrupt(InterruptKind::Msix, vector(0));
            rig.function.handle_interrupt(InterruptKind::Msix, vector(1));
            rig.function.begin_settle()
        }),
        case("stop", nvme(), |rig| rig.function.begin_stop(BusMastering::Off)),
        case("start", after(nvme(), stop), |rig| rig.function.begin_start()),
        case("restore", restored(&Shape::nvme(8)), |rig| rig.function.begin_settle()),
        case("restore without resizing", restored(&Shape::nvme(8).noresize()), |rig| {
            rig.function.begin_settle()
        }),
        reset("waking", after(nvme(), |rig| rig.config_write(Rig::PMCSR, 1, 3)), |rig| {
            config(rig, Rig::PMCSR, &[0])
        }),
        reset("function-level reset", nvme(), |rig| config(rig, Rig::DEVICE_CONTROL, &[0, 0x80])),
        reset("attach", nvme(), |rig| rig.function.begin_attach()),
        reset("machine reset", nvme(), |rig| rig.function.begin_reset()),
        reset("detach", nvme(), |rig| rig.function.begin_detach()),
    ]
}

fn cases_of_msi() -> Vec<Case> {
    let case = |name, rig, begin| Case { name, rig, begin, resets: false, kind: InterruptKind::Msi };
    let reset = |name, rig, begin| Case { resets: true, ..case(name, rig, begin) };
    let fewer = |rig: &mut Rig| rig.msi_control(true, 0);
    let waiting = |rig: &mut Rig| rig.msix_control(true, false);
    vec![
        case("MSI off", on_msi(), |rig| config(rig, Rig::MSI + 2, &[0x20, 0])),
        case("MSI masked", on_msi(), |rig| config(rig, MSI_MASK, &[7])),
        case("MSI unmasked", on_msi(), |rig| config(rig, MSI_MASK, &[0])),
        case("another message of MSI", on_msi(), |rig| config(rig, Rig::MSI + 12, &[0x80])),
        case("fewer vectors of MSI", on_msi(), |rig| config(rig, Rig::MSI + 2, &[0x11, 0])),
        case("more vectors of MSI", after(on_msi(), fewer), |rig| config(rig, Rig::MSI + 2, &[0x21, 0])),
        case("growth of MSI", after(on_pin(), fewer), |rig| config(rig, Rig::MSI + 2, &[0x21, 0])),
        case("pending bits of MSI read", on_msi(), |rig| {
            rig.function.begin(Access::Read { target: Target::Config(MSI_PENDING), size: 4 })
        }),
        case("MSI-X on over MSI", on_msi(), |rig| config(rig, Rig::MSIX_CONTROL, &[0, 0x80])),
        case("MSI-X off over MSI", after(on_msi(), waiting), |rig| config(rig, Rig::MSIX_CONTROL, &[0, 0])),
        case("settling of MSI", on_msi(), |rig| {
            rig.function.handle_interrupt(InterruptKind::Msi, vector(1));
            rig.function.begin_settle()
        }),
        case("stop of MSI", on_msi(), |rig| rig.function.begin_stop(BusMastering::Kept)),
        case("start of MSI", after(on_msi(), stop), |rig| rig.function.begin_start()),
        reset("AF reset under MSI", on_msi(), |rig| config(rig, AF_CONTROL, &[1])),
        reset("machine reset under MSI", on_msi(), |rig| rig.function.begin_reset()),
        reset("detach under MSI", on_msi(), |rig| rig.function.begin_detach()),
    ]
}

fn cases_of_the_pin() -> Vec<Case> {
    let case = |name, rig, begin| Case { name, rig, begin, resets: false, kind: InterruptKind::Intx };
    let reset = |name, rig, begin| Case { resets: true, ..case(name, rig, begin) };
    let disabled = |rig: &mut Rig| rig.config_write(4, 2, 0x406);
    vec![
        case("MSI on", on_pin(), |rig| config(rig, Rig::MSI + 2, &[0x21, 0])),
        case("MSI-X on over the pin", on_pin(), |rig| config(rig, Rig::MSIX_CONTROL, &[0, 0x80])),
        case("Interrupt Disable", on_pin(), |rig| config(rig, 4, &[6, 4])),
        case("Interrupt Disable off", after(on_pin(), disabled), |rig| config(rig, 4, &[6, 0])),
        case("end of an interrupt", after(on_pin(), |rig| rig.host.assert_pin(true)), |rig| {
            let _ = rig.host.end_interrupt();
            rig.function.handle_intx_eoi();
            rig.function.begin_settle()
        }),
        case("stop of the pin", on_pin(), |rig| rig.function.begin_stop(BusMastering::Kept)),
        case("start of the pin", after(on_pin(), stop), |rig| rig.function.begin_start()),
        reset("machine reset under the pin", on_pin(), |rig| rig.function.begin_reset()),
        reset("detach under the pin", on_pin(), |rig| rig.function.begin_detach()),
    ]
}

/// Every operation.
pub(crate) fn cases() -> Vec<Case> {
    [cases_of_msix(), cases_of_msi(), cases_of_the_pin()].into_iter().flatten().collect()
}

/// Takes steps until the operation is complete or `limit` are taken; how many that were.
pub(crate) fn run(rig: &mut Rig, limit: usize) -> usize {
    let mut taken = 0;
    while let Some((token, step)) = rig.function.next_step().filter(|_| taken < limit) {
        let outcome = rig.function.perform(step, &mut rig.host).unwrap_or(Outcome::Failed);
        let _ = rig.function.complete(token, outcome);
        taken += 1;
    }
    taken
}

/// Runs each operation once for each of its steps, up to that step, and then does `interfere`.
pub(crate) fn at_every_step(mut interfere: impl FnMut(&Case, &mut Rig, usize)) {
    for case in cases() {
        let mut whole = case.rig.clone();
        assert_eq!((case.begin)(&mut whole), Begin::Steps, "{}", case.name);
        let steps = run(&mut whole, usize::MAX);
        assert!(steps > 0, "{}", case.name);
        for stop in 0..steps {
            let mut rig = case.rig.clone();
            let _ = (case.begin)(&mut rig);
            assert_eq!(run(&mut rig, stop), stop);
            interfere(&case, &mut rig, stop);
        }
    }
}

/// The same operation without interference.
pub(crate) fn undisturbed(case: &Case) -> Rig {
    let mut rig = case.rig.clone();
    let _ = (case.begin)(&mut rig);
    run(&mut rig, usize::MAX);
    rig
}
