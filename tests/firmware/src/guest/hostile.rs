//! A guest that does whatever it likes: accesses made up from a seed, at its own function and past it.
//!
//! It also aims its device at memory that is not its own. After each step what must hold of any guest is looked at.

use super::memory::FIRST;
use super::{capability, nvme};
use crate::paravisor::{Machine, Paravisor};
use crate::sys::Registers;
use crate::sys::apic::{DEVICE_VECTORS, interrupt_self};
use crate::sys::windows::{self, PAGE};
use vfio_assign_core::regs::header::{BAR0, COMMAND, Command};
use vfio_assign_core::regs::power::PMCSR;
use vfio_assign_core::regs::{capability as id, msix};
use vfio_assign_core::{Access, BarIndex, BusMastering, Bytes, GuestAddr, GuestPort, Target, Width};

const WIDTHS: [Width; 4] = [Width::Byte, Width::Word, Width::Dword, Width::Qword];
/// Places for BARs, some of them over each other, one outside the aperture.
const PLACES: [u64; 6] = [0xc000_0000, 0xc000_4000, 0xd000_0000, 0xffe0_0000, 0xffff_c000, 0x9000_0000];

/// Where it has its device look for queues: in its own memory, in the image, elsewhere.
const TARGETS: [u64; 4] = [FIRST, 0x12_0000, 0, 1 << 40];

/// What the guest must not have brought about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Harm {
    /// The function is quarantined, although no step to take something away has failed.
    #[error("step {0}: the function is quarantined")]
    Quarantined(u64),
    /// The guest reaches pages while its function decodes no memory, or has none mapped.
    #[error("step {step}: the guest reaches {pages} pages that it has not")]
    Reaches {
        /// The step.
        step: u64,
        /// How many pages.
        pages: usize,
    },
    /// A page is not the one of the device's that the guest has there.
    #[error("step {step}: the guest reaches {device:#x} at {guest:#x}")]
    Page {
        /// The step.
        step: u64,
        /// The guest's address.
        guest: u64,
        /// The device's.
        device: u64,
    },
    /// A page of a BAR is missing, or there twice.
    #[error("step {step}: the guest reaches {pages} pages of {wanted}")]
    Pages {
        /// The step.
        step: u64,
        /// How many there are.
        pages: usize,
        /// How many its BARs have outside of the MSI-X structures.
        wanted: usize,
    },
    /// The device has other BARs than the machine gave it.
    #[error("step {step}: the device's own BAR {bar} was changed")]
    Displaced {
        /// The step.
        step: u64,
        /// Its number.
        bar: usize,
    },
}

/// Numbers made up from a seed: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A value that registers react to: few bits, many, or all of them.
    fn value(&mut self) -> u64 {
        match self.below(4) {
            0 => 1 << self.below(64),
            1 => 0,
            2 => u64::MAX,
            _ => self.next(),
        }
    }
}

/// Does `steps` things.
pub(crate) fn attack(paravisor: &mut Paravisor<'_>, seed: u64, steps: u64) -> Result<(), Harm> {
    let mut numbers = Numbers(seed);
    for step in 0..steps {
        act(paravisor, &mut numbers);
        paravisor.forward();
        harm(paravisor, step)?;
    }
    Ok(())
}

fn act(paravisor: &mut Paravisor<'_>, numbers: &mut Numbers) {
    match numbers.below(64) {
        0..12 => {
            let offset = numbers.one_of(&[64, 256, 4104]);
            let target = Target::Config(numbers.below(offset) as u32);
            any_access(paravisor, numbers, target);
        }
        12..18 => {
            let wanted = numbers.one_of(&[Command::empty(), Command::MEMORY_SPACE, Command::all()]);
            paravisor.config_write(COMMAND.get(), Width::Word, u32::from(wanted.bits()));
        }
        18..20 => {
            let place = numbers.one_of(&PLACES) as u32;
            paravisor.config_write(BAR0.get(), Width::Dword, place);
            paravisor.config_write(BAR0.get() + 4, Width::Dword, 0);
        }
        20..22 => awake(paravisor, numbers),
        22..24 => aim(paravisor, numbers),
        24..36 => register(paravisor, numbers, None),
        36..48 => {
            let msix = paravisor.function.msix().map(|msix| *msix.layout());
            let place = msix.map(|layout| numbers.one_of(&[layout.table, layout.table, layout.pba]));
            register(paravisor, numbers, place.map(|place| (place.span.first().get(), place.span.size())));
        }
        48..52 => {
            let control = paravisor.function.msix().map(|msix| msix.layout().capability.get() + 2);
            let value = numbers.one_of(&[0x8000, 0xc000, 0x8000, 0]);
            paravisor.config_write(control.unwrap_or(0), Width::Word, value);
        }
        52..54 => {
            let target = match numbers.below(2) {
                0 => Target::Memory(GuestAddr::new(numbers.value())),
                _ => Target::Port(GuestPort::new(numbers.value())),
            };
            any_access(paravisor, numbers, target);
        }
        54..60 => {
            // As if the device had interrupted, with a vector of its own or another's.
            let among = numbers.one_of(&[1, 4, DEVICE_VECTORS.len() as u64]);
            interrupt_self(DEVICE_VECTORS.start() + numbers.below(among) as u8);
        }
        60..63 => {
            let _taken = paravisor.interrupt(0);
        }
        _ => embedder(paravisor, numbers),
    }
}

/// What a driver does first: out of any power state, a BAR somewhere, a vector with a message, MSI-X on.
fn awake(paravisor: &mut Paravisor<'_>, numbers: &mut Numbers) {
    if let Ok(at) = capability(paravisor, id::POWER_MANAGEMENT) {
        paravisor.config_write(at + PMCSR, Width::Word, 0);
    }
    let place = numbers.one_of(&PLACES);
    paravisor.config_write(BAR0.get(), Width::Dword, place as u32);
    paravisor.config_write(BAR0.get() + 4, Width::Dword, 0);
    paravisor.config_write(COMMAND.get(), Width::Word, u32::from(Command::MEMORY_SPACE.bits()));
    let Some(layout) = paravisor.function.msix().map(|msix| *msix.layout()) else { return };
    paravisor.config_write(layout.capability.get() + 2, Width::Word, u32::from(msix::ENABLE));
    let vector = numbers.below(u64::from(layout.vectors).min(4));
    let entry = place + layout.table.span.first().get() + msix::ENTRY_SIZE * vector;
    for (register, value) in [(0, 0xfee0_0000), (4, 0), (8, numbers.below(256)), (12, 0)] {
        paravisor.write(entry + register, Width::Dword, value);
    }
}

/// Starts the controller with queues in memory that is the guest's, or the image's, or nobody's.
fn aim(paravisor: &mut Paravisor<'_>, numbers: &mut Numbers) {
    awake(paravisor, numbers);
    let command = Command::MEMORY_SPACE | Command::BUS_MASTER;
    paravisor.config_write(COMMAND.get(), Width::Word, u32::from(command.bits()));
    let Some(span) = BarIndex::new(0).and_then(|bar| paravisor.function.bars().memory(bar)) else { return };
    let (submission, completion) = (numbers.one_of(&TARGETS), numbers.one_of(&TARGETS));
    nvme::start(paravisor, span.first().get(), submission, completion);
}

/// An access of any length to anywhere, as an exit would tell of it.
fn any_access(paravisor: &mut Paravisor<'_>, numbers: &mut Numbers, target: Target) {
    let size = numbers.one_of(&[0, 1, 2, 3, 4, 4, 4, 8, 64, 65]);
    let access = if numbers.below(2) == 0 {
        Access::Read { target, size }
    } else {
        let bytes: [u8; 64] = core::array::from_fn(|_| numbers.value() as u8);
        Access::Write { target, data: Bytes::from_slice(&bytes[..size.min(64)]) }
    };
    let _bytes = paravisor.exit(access);
}

/// An access to a register of the first BAR, or to a part of it, by whatever way the page tables have for it.
fn register(paravisor: &mut Paravisor<'_>, numbers: &mut Numbers, part: Option<(u64, u64)>) {
    let Some(span) = BarIndex::new(0).and_then(|bar| paravisor.function.bars().memory(bar)) else {
        return;
    };
    let (first, size) = part.unwrap_or((0, span.size()));
    let width = numbers.one_of(&WIDTHS);
    let address = (span.first().get() + first + numbers.below(size)) & !(width.bytes() as u64 - 1);
    if numbers.below(3) == 0 {
        let _value = paravisor.read(address, width);
    } else {
        let value = numbers.value();
        paravisor.write(address, width, value);
    }
}

/// What the embedder does meanwhile.
fn embedder(paravisor: &mut Paravisor<'_>, numbers: &mut Numbers) {
    let Paravisor { function, hardware, .. } = paravisor;
    match numbers.below(64) {
        0 => {
            let _outcome = function.reset(hardware);
        }
        1 => {
            function.detach(hardware);
            function.attach(hardware);
        }
        2..16 => function.stop(BusMastering::Kept, hardware),
        16..40 => function.start(hardware),
        _ => function.settle(hardware),
    }
}

fn harm(paravisor: &Paravisor<'_>, step: u64) -> Result<(), Harm> {
    let function = &paravisor.function;
    if function.is_quarantined() {
        return Err(Harm::Quarantined(step));
    }
    let pages = windows::shown();
    let decodes = function.command().contains(Command::MEMORY_SPACE);
    if pages != 0 && !(decodes && function.mapped_windows() != 0) {
        return Err(Harm::Reaches { step, pages });
    }
    if let Some(bar) = paravisor.hardware.function.displaced() {
        return Err(Harm::Displaced { step, bar });
    }
    let mut walked = 0;
    for (guest, device) in windows::pages() {
        if !is_guests(paravisor, guest, device) {
            return Err(Harm::Page { step, guest, device });
        }
        walked += 1;
    }
    let wanted = if function.mapped_windows() == 0 { 0 } else { whole_pages(paravisor) };
    if (walked, pages) != (wanted, wanted) {
        return Err(Harm::Pages { step, pages, wanted });
    }
    Ok(())
}

/// Whether a BAR of the guest's is at this address, this page of the device's is what it has there, and neither the
/// MSI-X table nor the Pending Bit Array is in it.
fn is_guests(paravisor: &Paravisor<'_>, guest: u64, device: u64) -> bool {
    BarIndex::ALL.iter().any(|bar| {
        let Some(span) = paravisor.function.bars().memory(*bar) else { return false };
        let Some(registers) = paravisor.hardware.function.bar(bar.position()) else { return false };
        let Some(offset) = guest.checked_sub(span.first().get()) else { return false };
        offset < registers.size()
            && device == registers.first() + offset
            && is_mappable(paravisor, bar.position(), offset)
    })
}

/// How many pages a guest has that reaches all it may.
fn whole_pages(paravisor: &Paravisor<'_>) -> usize {
    let of = |bar: &BarIndex| {
        let placed = paravisor.function.bars().memory(*bar).is_some();
        let registers = paravisor.hardware.function.bar(bar.position()).filter(|_| placed);
        let offsets = (0..registers.map_or(0, Registers::size)).step_by(PAGE as usize);
        offsets.filter(|offset| is_mappable(paravisor, bar.position(), *offset)).count()
    };
    BarIndex::ALL.iter().map(of).sum()
}

/// Whether neither of the MSI-X structures is in this page of a BAR.
fn is_mappable(paravisor: &Paravisor<'_>, bar: usize, offset: u64) -> bool {
    let within =
        |(place, first, end): (usize, u64, u64)| place == bar && first < offset + PAGE && offset < end;
    !paravisor.hardware.structures().into_iter().flatten().any(within)
}
