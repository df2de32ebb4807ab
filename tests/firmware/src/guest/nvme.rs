//! A driver of an NVMe controller: two pairs of queues, MSI-X, and reads of a whole disk by DMA.
//!
//! NVM Express Base 1.4; PCI Local Bus 3.0, 6.8.2.

use super::memory::{GuestPage, PAGE};
use super::{Bar, BusError, QUIET, capability, expect, expect_none};
use crate::paravisor::Machine;
use sha2::{Digest, Sha256};
use vfio_assign_core::Width;
use vfio_assign_core::regs::{capability as id, msix};

const CAPABILITIES: u64 = 0x00;
const CONFIGURATION: u64 = 0x14;
const STATUS: u64 = 0x1c;
const ADMIN_QUEUES: u64 = 0x24;
const ADMIN_SUBMISSION: u64 = 0x28;
const ADMIN_COMPLETION: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;
/// Enabled, with entries of 64 and 16 bytes.
const ENABLED: u64 = 0x0046_0001;
const READY: u64 = 1;
const FATAL: u64 = 2;

const CREATE_SUBMISSION: u32 = 0x01;
const READ: u32 = 0x02;
const CREATE_COMPLETION: u32 = 0x05;
const IDENTIFY: u32 = 0x06;
const SET_FEATURES: u32 = 0x09;
const NUMBER_OF_QUEUES: u32 = 7;

/// Entries of each queue.
const ENTRIES: u16 = 8;
/// The guest's vectors: of the admin queue, and of the other.
const VECTORS: [u8; 2] = [0x51, 0x52];
/// Two places for its BAR.
const PLACES: [u64; 2] = [0xc400_0000, 0xf810_0000];
/// How many times the driver looks whether a command is completed.
const LOOKS: u32 = 250;

/// Pages of the guest's memory: two for each pair of queues, and what is read.
const IDENTIFIED: usize = 4;
const DATA: usize = 8;
/// Pages of one read.
const DATA_PAGES: usize = 2;

/// What is wrong with the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NvmeError {
    /// Its bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// It does not become ready, or not stop.
    #[error("Controller Status reads {0:#x}")]
    Status(u64),
    /// It does not complete a command.
    #[error("command {0:#x} is not completed")]
    NotCompleted(u32),
    /// It refuses a command.
    #[error("command {opcode:#x} is completed with status {status:#x}")]
    Refused {
        /// The command.
        opcode: u32,
        /// What it says.
        status: u32,
    },
    /// Its queues are too small.
    #[error("queues of {0} entries and one")]
    Queues(u64),
    /// It has blocks that the driver cannot read.
    #[error("blocks of 2 to the {0} bytes")]
    BlockSize(u32),
    /// A vector that is masked and has a reason to interrupt is not pending, or one that is not is.
    #[error("Pending Bit Array reads {0:#x}")]
    Pending(u64),
}

/// What the driver has found.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    /// The controller's Serial Number.
    pub(crate) serial: [u8; 20],
    /// Bytes of its first namespace.
    pub(crate) bytes: u64,
    /// Their SHA-256.
    pub(crate) digest: [u8; 32],
    /// Interrupts that the driver has taken.
    pub(crate) interrupts: u64,
}

/// What is submitted.
#[derive(Clone, Copy)]
struct Command {
    opcode: u32,
    namespace: u32,
    /// The Data Pointer.
    pages: [u64; 2],
    /// Dwords 10 to 12.
    dwords: [u32; 3],
}

/// A pair of queues: one command at a time.
struct Queues {
    number: u16,
    submission: GuestPage,
    completion: GuestPage,
    tail: u16,
    head: u16,
    phase: u32,
}

struct Driver<'a> {
    machine: &'a mut dyn Machine,
    bar: Bar,
    /// Bytes from one doorbell to the next.
    stride: u64,
    /// How many times the driver looks whether the controller is ready: as long as that says that it may take.
    looks: u64,
    /// Where the table and the Pending Bit Array are, in the same BAR.
    table: u64,
    pending: u64,
    control: u16,
    interrupts: u64,
}

/// Drives the controller: finds it, moves it, identifies it, tries its interrupts, and reads all of its disk.
pub(crate) fn drive(machine: &mut dyn Machine) -> Result<Found, NvmeError> {
    let mut bar = Bar::size(machine, 0)?;
    bar.place(machine, PLACES[0])?;
    bar.move_to(machine, PLACES[1])?;
    let capability = capability(machine, id::MSIX)?;
    let table = u64::from(machine.config_read(capability + 4, Width::Dword));
    let pending = u64::from(machine.config_read(capability + 8, Width::Dword));
    if (table | pending) & u64::from(msix::BIR) != 0 {
        return Err(BusError::NoBar((table & 7) as u16).into());
    }
    let capabilities = bar.read(machine, CAPABILITIES, Width::Qword);
    // Maximum Queue Entries Supported counts from 0.
    if capabilities & 0xffff < u64::from(ENTRIES - 1) {
        return Err(NvmeError::Queues(capabilities & 0xffff));
    }
    let stride = 4 << (capabilities >> 32 & 0xf);
    // Timeout is in units of 500 ms.
    let looks = (capabilities >> 24 & 0xff).max(1) * 500 / u64::from(QUIET);
    let control = capability + 2;
    let mut driver = Driver { machine, bar, stride, looks, table, pending, control, interrupts: 0 };
    driver.run()
}

/// Starts a controller with queues anywhere, and has it look for a command.
pub(crate) fn start(machine: &mut dyn Machine, bar: u64, submission: u64, completion: u64) {
    let queues = u64::from(ENTRIES - 1) << 16 | u64::from(ENTRIES - 1);
    for (register, width, value) in [
        (CONFIGURATION, Width::Dword, 0),
        (ADMIN_QUEUES, Width::Dword, queues),
        (ADMIN_SUBMISSION, Width::Qword, submission),
        (ADMIN_COMPLETION, Width::Qword, completion),
        (CONFIGURATION, Width::Dword, ENABLED),
        (DOORBELLS, Width::Dword, 1),
    ] {
        machine.write(bar + register, width, value);
    }
}

impl Driver<'_> {
    fn run(&mut self) -> Result<Found, NvmeError> {
        (0..4).for_each(|page| GuestPage::new(page).clear());
        let mut admin = Queues::new(0);
        let mut queues = Queues::new(1);
        self.set_up_interrupts();
        self.switch(false)?;
        self.write(ADMIN_QUEUES, Width::Dword, u64::from(ENTRIES - 1) << 16 | u64::from(ENTRIES - 1));
        self.write(ADMIN_SUBMISSION, Width::Qword, admin.submission.address());
        self.write(ADMIN_COMPLETION, Width::Qword, admin.completion.address());
        self.switch(true)?;

        let page = GuestPage::new(IDENTIFIED);
        let identify = Command { opcode: IDENTIFY, pages: [page.address(), 0], ..Command::NONE };
        // Of the controller; of its first namespace.
        self.command(&mut admin, Command { dwords: [1, 0, 0], ..identify })?;
        let serial = core::array::from_fn(|place| page.byte(4 + place));
        self.command(&mut admin, Command { namespace: 1, ..identify })?;
        let blocks = page.qword(0);
        let format = page.dword(24) >> 16 & 0xf;
        let shift = page.dword(128 + 4 * format as usize) >> 16 & 0xff;
        if !(9..=12).contains(&shift) {
            return Err(NvmeError::BlockSize(shift));
        }

        let dwords = [NUMBER_OF_QUEUES, 0, 0];
        self.command(&mut admin, Command { opcode: SET_FEATURES, dwords, ..Command::NONE })?;
        let size = u32::from(ENTRIES - 1) << 16 | u32::from(queues.number);
        // Physically contiguous, the one with interrupts of vector 1, the other completed by it.
        for (opcode, page, how) in [
            (CREATE_COMPLETION, queues.completion, 0x1_0003),
            (CREATE_SUBMISSION, queues.submission, 0x1_0001),
        ] {
            let (pages, dwords) = ([page.address(), 0], [size, how, 0]);
            self.command(&mut admin, Command { opcode, pages, dwords, ..Command::NONE })?;
        }

        self.try_masks(&mut queues)?;
        let per_read = (DATA_PAGES as u64 * PAGE) >> shift;
        let mut hash = Sha256::new();
        for first in (0..blocks).step_by(per_read as usize) {
            let count = per_read.min(blocks - first);
            self.read_blocks(&mut queues, first, count)?;
            for offset in (0..count << shift).step_by(8) {
                let page = GuestPage::new(DATA + (offset / PAGE) as usize);
                hash.update(page.qword((offset % PAGE) as usize).to_le_bytes());
            }
        }
        self.switch(false)?;
        Ok(Found {
            serial,
            bytes: blocks << shift,
            digest: hash.finalize().into(),
            interrupts: self.interrupts,
        })
    }

    /// Two vectors with messages of ours, unmasked, and MSI-X on.
    fn set_up_interrupts(&mut self) {
        for (place, vector) in VECTORS.into_iter().enumerate() {
            let entry = self.table + msix::ENTRY_SIZE * place as u64;
            self.write(entry, Width::Qword, 0xfee0_0000);
            self.write(entry + 8, Width::Dword, u64::from(vector));
            self.write(entry + 12, Width::Dword, 0);
        }
        self.machine.config_write(self.control, Width::Word, u32::from(msix::ENABLE));
    }

    /// A vector that is masked, by itself or with all others, stays pending, also while MSI-X is off; it interrupts when
    /// it is masked no longer.
    fn try_masks(&mut self, queues: &mut Queues) -> Result<(), NvmeError> {
        let mask = self.table + msix::ENTRY_SIZE + 12;
        for (whole, off_meanwhile) in [(false, false), (true, false), (false, true)] {
            self.set_mask(whole, mask, true);
            self.submit(queues, Command::read());
            expect_none(self.machine, "a vector that is masked")?;
            self.wait_for(queues, READ)?;
            let pending = self.read(self.pending, Width::Qword);
            if pending != 2 {
                return Err(NvmeError::Pending(pending));
            }
            if off_meanwhile {
                self.machine.config_write(self.control, Width::Word, 0);
                self.machine.config_write(self.control, Width::Word, u32::from(msix::ENABLE));
            }
            self.set_mask(whole, mask, false);
            expect(self.machine, VECTORS[1], "a vector that was masked")?;
            self.interrupts += 1;
            let pending = self.read(self.pending, Width::Qword);
            if pending != 0 {
                return Err(NvmeError::Pending(pending));
            }
        }
        Ok(())
    }

    fn set_mask(&mut self, whole: bool, mask: u64, masked: bool) {
        if whole {
            let value = msix::ENABLE | if masked { msix::FUNCTION_MASK } else { 0 };
            self.machine.config_write(self.control, Width::Word, u32::from(value));
        } else {
            self.write(mask, Width::Dword, u64::from(masked));
        }
    }

    /// Switches the controller on or off, and waits until it is.
    fn switch(&mut self, on: bool) -> Result<(), NvmeError> {
        self.write(CONFIGURATION, Width::Dword, if on { ENABLED } else { 0 });
        for _ in 0..self.looks {
            let status = self.read(STATUS, Width::Dword);
            if status & FATAL != 0 {
                return Err(NvmeError::Status(status));
            }
            if (status & READY != 0) == on {
                return Ok(());
            }
            expect_none(self.machine, "the controller's start")?;
        }
        Err(NvmeError::Status(self.read(STATUS, Width::Dword)))
    }

    fn read_blocks(&mut self, queues: &mut Queues, first: u64, count: u64) -> Result<(), NvmeError> {
        let dwords = [first as u32, (first >> 32) as u32, count as u32 - 1];
        self.command(queues, Command { dwords, ..Command::read() })
    }

    /// Submits a command, waits for its interrupt and takes its completion.
    fn command(&mut self, queues: &mut Queues, command: Command) -> Result<(), NvmeError> {
        self.submit(queues, command);
        expect(self.machine, VECTORS[usize::from(queues.number)], "a command")?;
        self.interrupts += 1;
        self.wait_for(queues, command.opcode)
    }

    fn submit(&mut self, queues: &mut Queues, command: Command) {
        let Command { opcode, namespace, pages, dwords } = command;
        let [ten, eleven, twelve] = dwords.map(u64::from);
        let first = u64::from(opcode) | u64::from(namespace) << 32;
        let entry = [first, 0, 0, pages[0], pages[1], ten | eleven << 32, twelve, 0];
        for (place, value) in entry.into_iter().enumerate() {
            queues.submission.set_qword(64 * usize::from(queues.tail) + 8 * place, value);
        }
        queues.tail = (queues.tail + 1) % ENTRIES;
        let doorbell = DOORBELLS + 2 * u64::from(queues.number) * self.stride;
        self.write(doorbell, Width::Dword, u64::from(queues.tail));
    }

    /// Takes a completion, which an interrupt has told of or which comes without one.
    fn wait_for(&mut self, queues: &mut Queues, opcode: u32) -> Result<(), NvmeError> {
        for _ in 0..LOOKS {
            let last = queues.completion.dword(16 * usize::from(queues.head) + 12);
            if last >> 16 & 1 == queues.phase {
                queues.head = (queues.head + 1) % ENTRIES;
                queues.phase ^= u32::from(queues.head == 0);
                let doorbell = DOORBELLS + (2 * u64::from(queues.number) + 1) * self.stride;
                self.write(doorbell, Width::Dword, u64::from(queues.head));
                let status = last >> 17;
                return if status == 0 { Ok(()) } else { Err(NvmeError::Refused { opcode, status }) };
            }
            expect_none(self.machine, "a completion that is late")?;
        }
        Err(NvmeError::NotCompleted(opcode))
    }

    fn read(&mut self, register: u64, width: Width) -> u64 {
        self.bar.read(self.machine, register, width)
    }

    fn write(&mut self, register: u64, width: Width, value: u64) {
        self.bar.write(self.machine, register, width, value);
    }
}

impl Queues {
    fn new(number: u16) -> Self {
        let page = |offset| GuestPage::new(2 * usize::from(number) + offset);
        Self { number, submission: page(0), completion: page(1), tail: 0, head: 0, phase: 1 }
    }
}

impl Command {
    const NONE: Self = Self { opcode: 0, namespace: 0, pages: [0; 2], dwords: [0; 3] };

    /// Reads a block to where data goes.
    fn read() -> Self {
        let pages = core::array::from_fn(|page| GuestPage::new(DATA + page).address());
        Self { opcode: READ, namespace: 1, pages, dwords: [0; 3] }
    }
}
