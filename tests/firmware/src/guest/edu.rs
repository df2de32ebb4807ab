//! A driver of QEMU's `edu`: MSI, a factorial, and a DMA engine with memory of its own.

use super::memory::GuestPage;
use super::{Bar, BusError, capability, expect, expect_none};
use crate::paravisor::Machine;
use vfio_assign_core::Width;
use vfio_assign_core::regs::{capability as id, msi};

const IDENTIFICATION: u64 = 0x00;
const LIVENESS: u64 = 0x04;
const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const INTERRUPT_STATUS: u64 = 0x24;
const INTERRUPT_RAISE: u64 = 0x60;
const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
/// Interrupt when a factorial is there.
const STATUS_INTERRUPT: u64 = 0x80;
const DMA_TO_DEVICE: u64 = 0x5;
const DMA_TO_MEMORY: u64 = 0x7;
/// Where the device's own memory is, as its DMA engine sees it.
const OWN_MEMORY: u64 = 0x4_0000;

/// The guest's vector for it.
const VECTOR: u8 = 0x41;
/// Two places for its BAR.
const PLACES: [u64; 2] = [0xd000_0000, 0xe570_0000];

/// What is wrong with the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum EduError {
    /// Its bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Its BAR is of another size.
    #[error("BAR 0 has {0:#x} bytes")]
    Size(u64),
    /// A register reads another value than it must.
    #[error("register {register:#x} reads {found:#x}, not {wanted:#x}")]
    Register {
        /// Its offset.
        register: u64,
        /// What it reads.
        found: u64,
        /// What it must read.
        wanted: u64,
    },
    /// What went through the device's memory came back changed.
    #[error("qword {place} came back as {found:#x}, not {wanted:#x}")]
    Dma {
        /// Which.
        place: usize,
        /// What came back.
        found: u64,
        /// What was sent.
        wanted: u64,
    },
}

/// Drives the device through everything it can.
pub(crate) fn drive(machine: &mut dyn Machine) -> Result<(), EduError> {
    let mut bar = Bar::size(machine, 0)?;
    if bar.size != 1 << 20 {
        return Err(EduError::Size(bar.size));
    }
    bar.place(machine, PLACES[0])?;
    read_back(machine, &bar, IDENTIFICATION, 0x0100_00ed)?;
    bar.move_to(machine, PLACES[1])?;
    read_back(machine, &bar, IDENTIFICATION, 0x0100_00ed)?;
    bar.write(machine, LIVENESS, Width::Dword, 0x1234_5678);
    read_back(machine, &bar, LIVENESS, !0x1234_5678 & 0xffff_ffff)?;

    set_msi(machine, true)?;
    raise(machine, &bar)?;
    expect(machine, VECTOR, "an interrupt that the driver raised")?;
    acknowledge(machine, &bar);
    // Without MSI, and with no pin, it says nothing.
    set_msi(machine, false)?;
    raise(machine, &bar)?;
    expect_none(machine, "one raised while MSI is off")?;
    acknowledge(machine, &bar);
    set_msi(machine, true)?;

    bar.write(machine, STATUS, Width::Dword, STATUS_INTERRUPT);
    bar.write(machine, FACTORIAL, Width::Dword, 10);
    expect(machine, VECTOR, "a factorial")?;
    acknowledge(machine, &bar);
    read_back(machine, &bar, FACTORIAL, 3_628_800)?;
    transfer(machine, &bar)
}

/// Sends half a page through the device's memory and back.
fn transfer(machine: &mut dyn Machine, bar: &Bar) -> Result<(), EduError> {
    const HALF: usize = 2048;
    let page = GuestPage::new(0);
    let pattern = |place: usize| 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(place as u64 + 1);
    page.clear();
    (0..HALF).step_by(8).for_each(|at| page.set_qword(at, pattern(at)));
    let below = page.address();
    for (source, destination, command) in
        [(below, OWN_MEMORY, DMA_TO_DEVICE), (OWN_MEMORY, below + HALF as u64, DMA_TO_MEMORY)]
    {
        bar.write(machine, DMA_SOURCE, Width::Qword, source);
        bar.write(machine, DMA_DESTINATION, Width::Qword, destination);
        bar.write(machine, DMA_COUNT, Width::Qword, HALF as u64);
        bar.write(machine, DMA_COMMAND, Width::Qword, command);
        expect(machine, VECTOR, "a transfer")?;
        acknowledge(machine, bar);
    }
    for at in (0..HALF).step_by(8) {
        let (found, wanted) = (page.qword(HALF + at), pattern(at));
        if found != wanted {
            return Err(EduError::Dma { place: at / 8, found, wanted });
        }
    }
    Ok(())
}

/// MSI on, with our vector, or off.
fn set_msi(machine: &mut dyn Machine, on: bool) -> Result<(), BusError> {
    let at = capability(machine, id::MSI)?;
    let control = machine.config_read(at + 2, Width::Word) & !u32::from(msi::ENABLE);
    let data = if control & u32::from(msi::WIDE) == 0 { 8 } else { 12 };
    machine.config_write(at + 4, Width::Dword, 0xfee0_0000);
    machine.config_write(at + data, Width::Word, u32::from(VECTOR));
    machine.config_write(at + 2, Width::Word, control | if on { u32::from(msi::ENABLE) } else { 0 });
    Ok(())
}

/// Has the device interrupt.
fn raise(machine: &mut dyn Machine, bar: &Bar) -> Result<(), EduError> {
    bar.write(machine, INTERRUPT_RAISE, Width::Dword, 2);
    read_back(machine, bar, INTERRUPT_STATUS, 2)
}

/// Lets it go on.
fn acknowledge(machine: &mut dyn Machine, bar: &Bar) {
    let status = bar.read(machine, INTERRUPT_STATUS, Width::Dword);
    bar.write(machine, INTERRUPT_ACKNOWLEDGE, Width::Dword, status);
}

fn read_back(machine: &mut dyn Machine, bar: &Bar, register: u64, wanted: u64) -> Result<(), EduError> {
    let found = bar.read(machine, register, Width::Dword);
    if found == wanted { Ok(()) } else { Err(EduError::Register { register, found, wanted }) }
}
