//! The core where there is no operating system: a paravisor that boots by itself, has two kinds of devices, and gives
//! them to guest drivers that know nothing of it. `cargo lab firmware` builds it, boots it and checks what it says.
//!
//! Built so that a panic aborts, it is the image. Built otherwise it is an ordinary program, for the linters.
#![cfg_attr(panic = "abort", no_std, no_main)]

mod console;
mod events;
mod guest;
mod host;
mod orders;
mod paravisor;
mod pci;
mod sys;

use console::{Ending, check, figure, line};
use core::fmt::Display;
use events::LinesRoom;
use guest::{edu, hostile, nvme};
use host::{Hardware, HardwareError, Tally};
use orders::Orders;
use paravisor::{Paravisor, Storage, WINDOWS};
use pci::Place;
use static_cell::ConstStaticCell;
use sys::start::LoaderError;
use sys::{apic, iommu, memory};
use vfio_assign_core::host::{Step, StepKind};
use vfio_assign_core::{AssignedFunction, Vector, Window};

/// QEMU's `edu`, vendor in the low half.
const EDU: u32 = 0x11e8_1234;
/// Mass storage, non-volatile memory, NVM Express.
const NVME: u32 = 0x01_08_02;
/// What the machine has to have.
const EDUS: usize = 1;
const DISKS: usize = 2;

static STORAGE: ConstStaticCell<Storage> = ConstStaticCell::new(Storage::new());

/// All that the image does, with what the loader says that it is to do. A function of its own: the stack that it takes
/// is taken once there is a guard below.
#[inline(never)]
fn run(command_line: Result<&str, LoaderError>) -> Ending {
    if carry_through(command_line).is_some() { Ending::Passed } else { Ending::Failed }
}

/// All of it; none once a check has failed.
fn carry_through(command_line: Result<&str, LoaderError>) -> Option<()> {
    let text = check(format_args!("the loader has a command line"), command_line)?;
    let orders = check(format_args!("the command line says what to do"), Orders::parse(text))?;
    let protected = memory::attempt();
    check(format_args!("no page is below a stack, and neither code nor constants are written"), protected)?;
    if orders.overflow {
        line(format_args!("the stack is to overflow"));
        line(format_args!("at {:#x} it ended", overflow(0)));
    }
    let second = check(format_args!("the timer is measured"), apic::start_timer())?;
    figure(format_args!("timer_hz"), second);
    let storage = STORAGE.take();
    sizes();

    let confined = iommu::set_up(&guest::memory::MEMORY, guest::memory::FIRST);
    let confined = check(format_args!("devices are confined"), confined)?;
    let places = check(format_args!("configuration space is found"), pci::places(confined))?;
    let places = || places.iter().flatten();
    let edus = places().filter(|place| place.id() == EDU);
    let disks = places().filter(|place| place.class() == NVME);
    let all = (edus.clone().count(), disks.clone().count()) == (EDUS, DISKS);
    check(format_args!("one edu and two disks are there"), holds(all, "others are"))?;
    for place in edus {
        edu(*place, storage)?;
    }
    for (number, place) in (1..).zip(disks) {
        disk(*place, storage, number, orders)?;
    }
    let (stack, used) = memory::stack();
    figure(format_args!("stack_bytes"), stack as u64);
    figure(format_args!("stack_bytes_used"), used as u64);
    Some(())
}

/// What is how large.
fn sizes() {
    let image = memory::image();
    for (what, bytes) in [
        ("core_bytes_65_vectors", size_of::<AssignedFunction<[Vector; 65], [Window; WINDOWS]>>()),
        ("core_bytes_2048_vectors", size_of::<AssignedFunction<[Vector; 2048], [Window; WINDOWS]>>()),
        ("host_lines_bytes", size_of::<LinesRoom>()),
        ("host_bytes", size_of::<Hardware<'_>>()),
        ("storage_bytes", size_of::<Storage>()),
        ("image_memory_bytes", (image.end - image.start) as usize),
    ] {
        figure(format_args!("{what}"), bytes as u64);
    }
}

/// Calls itself until there is no stack.
fn overflow(depth: u64) -> u64 {
    let deeper = core::hint::black_box(depth) + 1;
    if deeper == 0 { depth } else { overflow(deeper).max(depth) }
}

/// A guest with `edu`.
fn edu(place: Place, storage: &mut Storage) -> Option<()> {
    line(format_args!("device {}: edu", place.device));
    let mut paravisor = check(format_args!("edu is assigned"), Paravisor::assign(place, storage))?;
    check(
        format_args!("edu: BAR sized and moved, MSI on and off, a factorial, DMA"),
        edu::drive(&mut paravisor),
    )?;
    account("edu", 0, &paravisor);
    check(format_args!("edu: no step failed"), no_failure(&paravisor.hardware.steps))?;
    check(format_args!("edu is taken back"), paravisor.take_back())
}

/// A guest with a disk; a hostile one; and another friendly one.
fn disk(place: Place, storage: &mut Storage, number: u64, orders: Orders) -> Option<()> {
    line(format_args!("device {}: nvme", place.device));
    let before = read("nvme", place, storage, number)?;
    attack(place, storage, number, orders)?;
    let after = read("nvme_again", place, storage, number)?;
    check(
        format_args!("disk {number}: the next guest finds it as it was"),
        holds(before == after, "it reads something else"),
    )
}

/// A hostile guest with a disk.
fn attack(place: Place, storage: &mut Storage, number: u64, orders: Orders) -> Option<()> {
    let Orders { seed, steps, .. } = orders;
    let seed = seed.wrapping_add(number);
    line(format_args!("a hostile guest: seed {seed}, {steps} steps"));
    let mut paravisor =
        check(format_args!("disk {number}: assigned to a hostile guest"), Paravisor::assign(place, storage))?;
    let attacked = hostile::attack(&mut paravisor, seed, steps);
    account("hostile", number, &paravisor);
    check(format_args!("disk {number}: the hostile guest does no harm"), attacked)?;
    let revokes = paravisor.hardware.steps[host::place(StepKind::Revoke)];
    check(format_args!("disk {number}: all is taken from the hostile guest"), no_failure(&[revokes]))?;
    let idle = [paravisor.direct, paravisor.trapped, paravisor.forwarded, paravisor.stopped].contains(&0);
    check(
        format_args!(
            "disk {number}: the hostile guest had windows, traps and interrupts, and was kept from memory"
        ),
        holds(!idle, "it lacked one of them"),
    )?;
    check(format_args!("disk {number}: taken back from the hostile guest"), paravisor.take_back())
}

/// Has a guest read all of a disk; returns its digest.
fn read(name: &str, place: Place, storage: &mut Storage, number: u64) -> Option<[u8; 32]> {
    let mut paravisor = check(format_args!("disk {number}: assigned"), Paravisor::assign(place, storage))?;
    check(format_args!("disk {number}: reset"), holds(paravisor.reset(), "it was not"))?;
    let driven = nvme::drive(&mut paravisor);
    let found = check(
        format_args!("disk {number}: BAR moved, identified, vectors masked and unmasked, all blocks read"),
        driven,
    )?;
    let serial = core::str::from_utf8(&found.serial).unwrap_or("?").trim_end();
    let vectors = paravisor.function.msix().map_or(0, |msix| msix.layout().vectors);
    line(format_args!("disk {serial} vectors {vectors} bytes {} sha256 {}", found.bytes, Hex(&found.digest)));
    account(name, number, &paravisor);
    let core = size_of_val(&*paravisor.function) + usize::from(vectors) * size_of::<Vector>();
    figure(format_args!("{name}_{number}_core_bytes"), core as u64);
    check(format_args!("disk {number}: no step failed"), no_failure(&paravisor.hardware.steps))?;
    check(format_args!("disk {number}: no DMA went astray"), holds(paravisor.stopped == 0, "some did"))?;
    let same = found.interrupts == paravisor.forwarded;
    check(
        format_args!("disk {number}: every interrupt forwarded is one that the driver waited for"),
        holds(same, "they differ"),
    )?;
    let direct = paravisor.direct > paravisor.trapped;
    check(
        format_args!("disk {number}: most register accesses are not trapped"),
        holds(direct, "more are trapped than not"),
    )?;
    check(format_args!("disk {number}: taken back"), paravisor.take_back())?;
    Some(found.digest)
}

/// Whether something holds, and what is said if it does not.
fn holds(it: bool, otherwise: &str) -> Result<(), &str> {
    if it { Ok(()) } else { Err(otherwise) }
}

/// Whether all steps of these kinds were done; the first that was not.
fn no_failure(steps: &[Tally]) -> Result<(), StepFailed> {
    let found = steps.iter().find_map(|tally| Some((tally.failed, tally.first?)));
    found.map_or(Ok(()), |(count, (step, error))| Err(StepFailed { count, step, error }))
}

/// A step that was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{count} of its kind failed, the first of them {step:?}: {error}")]
struct StepFailed {
    count: u64,
    step: Step,
    error: HardwareError,
}

/// What it took.
fn account(name: &str, number: u64, paravisor: &Paravisor<'_>) {
    let counters = paravisor.function.counters();
    let [read, revoke, forward, establish] = paravisor.hardware.steps;
    for (what, value) in [
        ("registers_direct", paravisor.direct),
        ("registers_trapped", paravisor.trapped),
        ("interrupts_forwarded", paravisor.forwarded),
        ("dma_stopped", paravisor.stopped),
        ("steps_read", read.done),
        ("steps_revoke", revoke.done),
        ("steps_forward", forward.done),
        ("steps_establish", establish.done),
        ("steps_failed", read.failed + revoke.failed + forward.failed + establish.failed),
        ("config_accesses", counters.config_accesses),
        ("bar_accesses", counters.bar_accesses),
        ("accesses_without_a_step", counters.local_accesses),
        ("missed_bytes", counters.missed_bytes),
    ] {
        figure(format_args!("{name}_{number}_{what}"), value);
    }
}

/// Bytes as lower-case hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(not(panic = "abort"))]
fn main() {
    let _entry = core::hint::black_box(run as fn(Result<&str, LoaderError>) -> Ending);
}
