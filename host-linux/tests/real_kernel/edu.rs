//! QEMU's `edu` as a guest drives it: `docs/specs/edu.rst` in QEMU's source.

use crate::rig::{capability, vm};
use std::os::fd::{AsFd, OwnedFd};
use vfio_assign_core::host::{InterruptKind, Message};
use vfio_assign_core::{Bdf, GuestAddr, Span, VectorIndex};
use vfio_assign_linux::{AssignOptions, Assigned, Errno, EventFd, GuestSide, LineEnd, Vm, WindowMemory};

/// Where the guest places BAR 0.
const BAR: u64 = 0xd000_0000;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_LENGTH: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
/// The device's own memory, as its DMA engine addresses it.
const OWN_MEMORY: u64 = 0x4_0000;
/// Interrupt status bit of a DMA that is done.
const DMA_DONE: u32 = 0x100;

const COMMAND: u32 = 4;
/// Memory and bus master.
const MEMORY_AND_MASTER: [u8; 2] = [6, 0];
/// Capability id of MSI.
const MSI: u8 = 5;

/// A hypervisor that has one guest interrupt line and no guest: what would interrupt it is read from the events.
pub(crate) struct NoGuest {
    line: Option<LineEnd>,
    /// By which the hypervisor says that the guest has ended the line's interrupt.
    pub(crate) resample: Option<OwnedFd>,
}

impl GuestSide for NoGuest {
    type Error = Errno;

    fn map(&mut self, _: usize, _: Span<GuestAddr>, _: WindowMemory) -> Result<(), Errno> {
        Ok(())
    }

    fn unmap(&mut self, _: usize) -> Result<(), Errno> {
        Ok(())
    }

    fn route(&mut self, _: VectorIndex, _: Message) -> Result<(), Errno> {
        Ok(())
    }

    fn commit_routes(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    fn arm(&mut self, _: VectorIndex, _: &EventFd) -> Result<(), Errno> {
        Ok(())
    }

    fn disarm(&mut self, _: VectorIndex, _: &EventFd) -> Result<(), Errno> {
        Ok(())
    }

    fn line(&self) -> Option<LineEnd> {
        self.line
    }

    fn arm_line(&mut self, _: &EventFd, resample: Option<&EventFd>) -> Result<(), Errno> {
        let duplicate = |event: &EventFd| event.as_fd().try_clone_to_owned();
        self.resample = resample.map(|event| duplicate(event).expect("there is a descriptor left"));
        Ok(())
    }

    fn disarm_line(&mut self, _: &EventFd) -> Result<(), Errno> {
        self.resample = None;
        Ok(())
    }

    fn release_routes(&mut self) -> Result<(), Errno> {
        Ok(())
    }
}

/// The device, placed and decoding, its pin leading to such a line.
pub(crate) struct Edu {
    pub(crate) assigned: Assigned<NoGuest>,
    pub(crate) vm: Vm,
}

/// Waits for an assigned device's interrupt; gives how often it came, 0 if it did not.
pub(crate) fn wait(assigned: &Assigned<NoGuest>, kind: InterruptKind) -> u64 {
    with_event(assigned, kind, crate::rig::wait)
}

fn with_event<T>(assigned: &Assigned<NoGuest>, kind: InterruptKind, look: impl FnOnce(&EventFd) -> T) -> T {
    assigned.inspect(|_, irqs, _, failure| {
        let event = irqs.of(kind).event(VectorIndex::default());
        look(event.unwrap_or_else(|| panic!("{kind:?} is not wired: {failure:?}")))
    })
}

impl NoGuest {
    /// One with this line.
    pub(crate) fn with(line: Option<LineEnd>) -> Self {
        Self { line, resample: None }
    }
}

impl Edu {
    /// Writing there raises an interrupt; the bits written stay in the status until they are acknowledged.
    pub(crate) const RAISE: u64 = BAR + 0x60;
    pub(crate) const ACKNOWLEDGE: u64 = BAR + 0x64;

    pub(crate) fn with_line(bdf: Bdf, line: Option<LineEnd>) -> Self {
        Self::of_vm(vm(), bdf, line)
    }

    /// The same, in a VM that may have others.
    pub(crate) fn of_vm(vm: Vm, bdf: Bdf, line: Option<LineEnd>) -> Self {
        let device = vm.open(bdf).expect("opens");
        let guest = NoGuest::with(line);
        let assigned = Assigned::new(device, guest, &AssignOptions::default()).expect("it has a BAR");
        assigned.config_write(0x10, &(BAR as u32).to_le_bytes());
        assigned.config_write(COMMAND, &MEMORY_AND_MASTER);
        Self { assigned, vm }
    }

    /// The same with MSI on.
    pub(crate) fn with_msi(bdf: Bdf) -> Self {
        let edu = Self::with_line(bdf, None);
        let capability = capability(&edu.assigned, MSI);
        edu.assigned.config_write(capability + 4, &0xfee0_0000u64.to_le_bytes());
        edu.assigned.config_write(capability + 12, &0x41u16.to_le_bytes());
        edu.assigned.config_write(capability + 2, &[1, 0]);
        edu
    }

    pub(crate) fn raise(&self, status: u32) {
        self.write(Self::RAISE, u64::from(status), 4);
    }

    pub(crate) fn acknowledge(&self, status: u32) {
        self.write(Self::ACKNOWLEDGE, u64::from(status), 4);
    }

    /// Copies from guest memory into the device's own, and waits for its interrupt.
    pub(crate) fn fetch(&self, from: u64, length: u64) -> u64 {
        self.copy(from, OWN_MEMORY, length, 0)
    }

    /// Copies from the device's own memory into the guest's, and waits for its interrupt.
    pub(crate) fn store(&self, to: u64, length: u64) -> u64 {
        self.copy(OWN_MEMORY, to, length, 2)
    }

    /// Gives how often the interrupt came.
    fn copy(&self, from: u64, to: u64, length: u64, direction: u64) -> u64 {
        self.write(BAR + DMA_SOURCE, from, 8);
        self.write(BAR + DMA_DESTINATION, to, 8);
        self.write(BAR + DMA_LENGTH, length, 8);
        // Start, and interrupt at the end.
        self.write(BAR + DMA_COMMAND, 1 | direction | 4, 8);
        let came = self.wait(InterruptKind::Msi);
        self.acknowledge(DMA_DONE);
        came
    }

    /// Waits for the interrupt; gives how often it came, 0 if it did not.
    pub(crate) fn wait(&self, kind: InterruptKind) -> u64 {
        wait(&self.assigned, kind)
    }

    /// Whether the interrupt has come and was not taken yet.
    pub(crate) fn has_come(&self, kind: InterruptKind) -> bool {
        with_event(&self.assigned, kind, |event| event.is_signalled().expect("eventfds can be polled"))
    }

    /// Registers from 0x80 on are 8 bytes, those below 4.
    fn write(&self, address: u64, value: u64, width: usize) {
        let written = self.assigned.memory_write(GuestAddr::new(address), &value.to_le_bytes()[..width]);
        assert!(written, "it decodes");
    }
}
