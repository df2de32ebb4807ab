//! The core where there is no operating system: a paravisor that boots by itself, has two kinds of devices, and gives
//! them to guest drivers that know nothing of it. `cargo lab firmware` builds it, boots it and checks what it says.
//!
//! Built so that a panic aborts, it is the image. Built otherwise it is an ordinary program, for the linters.
#![cfg_attr(panic = "abort", no_std, no_main)]

mod console;
mod events;
mod guest;
mod host;
mod paravisor;
mod pci;
mod sys;

use console::{Ending, check, figure, line};
use core::fmt::Display;
use guest::{edu, hostile, nvme};
use host::{HardwareError, Tally};
use paravisor::{Paravisor, Storage, WINDOWS};
use pci::Place;
use static_cell::StaticCell;
use sys::start::LoaderError;
use vfio_assign_core::host::{Step, StepKind};
use vfio_assign_core::{AssignedFunction, Vector, Window};

/// QEMU's `edu`, vendor in the low half.
const EDU: u32 = 0x11e8_1234;
/// Mass storage, non-volatile memory, NVM Express.
const NVME: u32 = 0x01_08_02;

static STORAGE: StaticCell<Storage> = StaticCell::new();

/// All that the image does. The command line has `seed=` and `steps=` for the hostile guest.
fn run(command_line: Result<&str, LoaderError>) -> Ending {
    let Some(command_line) = check(format_args!("the loader has a command line"), command_line) else {
        return Ending::Failed;
    };
    let number = |key: &str| {
        let value = command_line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
        value.parse::<u64>().ok()
    };
    let told = number("seed").zip(number("steps")).ok_or(command_line);
    let Some((seed, steps)) = check(format_args!("the command line has seed= and steps="), told) else {
        return Ending::Failed;
    };
    figure("core_bytes_65_vectors", size_of::<AssignedFunction<[Vector; 65], [Window; WINDOWS]>>() as u64);
    figure(
        "core_bytes_2048_vectors",
        size_of::<AssignedFunction<[Vector; 2048], [Window; WINDOWS]>>() as u64,
    );
    figure("image_memory_bytes", sys::image().end - sys::image().start);
    let storage = STORAGE.init_with(|| Storage { config: [0; 4096], vectors: [Vector::RESET; 2048] });

    let Some(places) = check(format_args!("configuration space is found"), pci::places()) else {
        return Ending::Failed;
    };
    let confined = sys::iommu::set_up(&guest::memory::MEMORY, guest::memory::FIRST);
    if check(format_args!("devices are confined"), confined).is_none() {
        return Ending::Failed;
    }
    let mut passed = true;
    let (mut edus, mut disks) = (0, 0);
    for place in places {
        let done = if place.id() == EDU {
            edus += 1;
            edu(place, storage)
        } else if place.class() == NVME {
            disks += 1;
            disk(place, storage, disks, seed.wrapping_add(disks), steps)
        } else {
            Some(())
        };
        passed &= done.is_some();
    }
    let all = (edus, disks) == (1, 2);
    let devices = check(format_args!("one edu and two disks are there"), holds(all, "others are"));
    if passed && devices.is_some() { Ending::Passed } else { Ending::Failed }
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
fn disk(place: Place, storage: &mut Storage, number: u64, seed: u64, steps: u64) -> Option<()> {
    line(format_args!("device {}: nvme", place.device));
    let before = read("nvme", place, storage, number)?;
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
    check(format_args!("disk {number}: taken back from the hostile guest"), paravisor.take_back())?;
    let after = read("nvme_again", place, storage, number)?;
    check(
        format_args!("disk {number}: the next guest finds it as it was"),
        holds(before == after, "it reads something else"),
    )
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
    let core = size_of_val(&paravisor.function) + usize::from(vectors) * size_of::<Vector>();
    line(format_args!("figure {name}_{number}_core_bytes {core}"));
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
        line(format_args!("figure {name}_{number}_{what} {value}"));
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
