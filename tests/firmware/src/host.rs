//! What the core asks of its host, answered by bare hardware: this is what an embedder writes.

use crate::events::{LineError, Lines};
use crate::pci::{Function, PciError};
use crate::sys::Registers;
use crate::sys::apic::message_address;
use crate::sys::iommu::{self, IommuError};
use crate::sys::windows::{self, WindowError};
use vfio_assign_core::host::{
    Events, GuestRange, GuestWindows, HostError, InterruptHost, InterruptKind, MappedWindow, Message,
    PhysicalFunction, Step, StepKind,
};
use vfio_assign_core::regs::{capability, msi, msix};
use vfio_assign_core::{
    BarError, BarIndex, Bars, ConfigImage, ConfigOffset, Decoder, MsixLayout, PhysBarOffset, VectorIndex,
    Width,
};

/// The host's side of one function.
pub(crate) struct Hardware<'a> {
    pub(crate) function: Function,
    msi: Option<ConfigOffset>,
    msix: Option<(MsixLayout, Registers)>,
    pub(crate) lines: Lines<'a>,
    /// What became of steps, by [`StepKind`].
    pub(crate) steps: [Tally; 4],
}

/// What became of one kind of steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    /// The first that failed.
    pub(crate) first: Option<(Step, HardwareError)>,
}

/// Why the host did not do something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum HardwareError {
    /// The function.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The IOMMU.
    #[error(transparent)]
    Iommu(#[from] IommuError),
    /// A window.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// Its BARs make no sense.
    #[error(transparent)]
    Bars(#[from] BarError),
    /// There is nothing behind the BAR.
    #[error("{0} has no registers")]
    NoBar(BarIndex),
    /// The device has no such interrupts.
    #[error("the device has no {0}")]
    NoKind(InterruptKind),
    /// An event.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The message goes to no processor, or is none that a driver has a handler for.
    #[error("a message of {data:#x} to {address:#x} is no interrupt")]
    NotAnInterrupt {
        /// Its address.
        address: u64,
        /// Its data.
        data: u32,
    },
}

impl<'a> Hardware<'a> {
    /// The host's side of a function; `config` is a copy of its configuration space, `lines` are for its events.
    pub(crate) fn new(function: Function, config: &[u8], lines: Lines<'a>) -> Result<Self, HardwareError> {
        iommu::admit(function.device)?;
        let config = ConfigImage::new(config);
        let bars = Bars::new(config, &Self::sizes(&function))?;
        let layout = MsixLayout::new(config, &bars, |_| {});
        let msix = layout.and_then(|layout| Some((layout, function.bar(layout.table.bar.position())?)));
        let msi = config.capabilities().flatten().find(|found| found.id == capability::MSI);
        let msi = msi.map(|found| found.offset);
        Ok(Self { function, msi, msix, lines, steps: [Tally::default(); 4] })
    }

    /// The sizes of a function's regions. Its expansion ROM is not handed on.
    pub(crate) fn sizes(function: &Function) -> [u64; 7] {
        core::array::from_fn(|index| function.bar(index).map_or(0, Registers::size))
    }

    /// Where the MSI-X table and the Pending Bit Array are, as the function itself has it: the BAR's number, the first
    /// byte, and the byte after the last.
    pub(crate) fn structures(&self) -> [Option<(usize, u64, u64)>; 2] {
        let at = |distance| self.msix.and_then(|(layout, _)| layout.capability.checked_add(distance));
        let read = |distance, width| at(distance).map(|at| self.function.read(at, width));
        let vectors = u64::from(read(2, Width::Word).unwrap_or(0) & 0x7ff) + 1;
        [(4, 16 * vectors), (8, vectors.div_ceil(64) * 8)].map(|(register, size)| {
            let place = read(register, Width::Dword)?;
            let first = u64::from(place & !7);
            Some(((place & 7) as usize, first, first + size))
        })
    }

    fn bar(&self, bar: BarIndex) -> Result<Registers, HardwareError> {
        self.function.bar(bar.position()).ok_or(HardwareError::NoBar(bar))
    }

    /// MSI on with this vector of the processor, or off.
    fn set_msi(&self, to: Option<u8>) -> Result<(), HardwareError> {
        let missing = HardwareError::NoKind(InterruptKind::Msi);
        let capability = self.msi.ok_or(missing)?;
        let at = |offset| capability.checked_add(offset).ok_or(missing);
        let control = self.function.read(at(2)?, Width::Word) & !u32::from(msi::ENABLED | msi::ENABLE);
        self.function.write(at(2)?, Width::Word, control);
        let Some(to) = to else { return Ok(()) };
        let data = if control & u32::from(msi::WIDE) == 0 { 8 } else { 12 };
        self.function.write(at(4)?, Width::Dword, message_address() as u32);
        if data == 12 {
            self.function.write(at(8)?, Width::Dword, 0);
        }
        self.function.write(at(data)?, Width::Word, u32::from(to));
        self.function.write(at(2)?, Width::Word, control | u32::from(msi::ENABLE));
        Ok(())
    }

    /// MSI-X on or off; turned on, it has every vector masked.
    fn set_msix(&self, on: bool) -> Result<(), HardwareError> {
        let (layout, table) = self.msix.ok_or(HardwareError::NoKind(InterruptKind::Msix))?;
        let at = layout.capability.checked_add(2).ok_or(HardwareError::NoKind(InterruptKind::Msix))?;
        let control = self.function.read(at, Width::Word) & !u32::from(msix::ENABLE | msix::FUNCTION_MASK);
        if !on {
            self.function.write(at, Width::Word, control);
            return Ok(());
        }
        self.function.write(at, Width::Word, control | u32::from(msix::ENABLE | msix::FUNCTION_MASK));
        self.function.while_decoding(|| {
            for vector in 0..layout.vectors {
                table.write(entry(&layout, vector) + 12, Width::Dword, u64::from(msix::CONTROL_MASK_BIT));
            }
        });
        self.function.write(at, Width::Word, control | u32::from(msix::ENABLE));
        Ok(())
    }

    fn is_msix_on(&self) -> bool {
        let at = self.msix.and_then(|(layout, _)| layout.capability.checked_add(2));
        at.is_some_and(|at| self.function.read(at, Width::Word) & u32::from(msix::ENABLE) != 0)
    }

    /// One entry of the device's own MSI-X table: to this vector of the processor, or masked.
    fn set_entry(&self, vector: u16, to: Option<u8>) {
        let Some((layout, table)) = self.msix else { return };
        let entry = entry(&layout, vector);
        table.write(entry + 12, Width::Dword, u64::from(msix::CONTROL_MASK_BIT));
        if let Some(to) = to {
            table.write(entry, Width::Dword, message_address());
            table.write(entry + 4, Width::Dword, 0);
            table.write(entry + 8, Width::Dword, u64::from(to));
            table.write(entry + 12, Width::Dword, 0);
        }
    }
}

impl Drop for Hardware<'_> {
    fn drop(&mut self) {
        // Whose device it is next is not known: it reaches nothing. A stuck IOMMU tells whoever comes next.
        let _stuck = iommu::expel(self.function.device);
    }
}

/// Where a vector's entry is in the table's BAR.
fn entry(layout: &MsixLayout, vector: u16) -> u64 {
    layout.table.span.first().get() + msix::ENTRY_SIZE * u64::from(vector)
}

impl HostError for Hardware<'_> {
    type Error = HardwareError;
}

impl PhysicalFunction for Hardware<'_> {
    fn config_read(&mut self, offset: ConfigOffset, width: Width) -> Result<u32, HardwareError> {
        Ok(self.function.read(offset, width))
    }

    fn config_write(&mut self, offset: ConfigOffset, width: Width, value: u32) -> Result<(), HardwareError> {
        self.function.write_on_behalf(offset, width, value);
        Ok(())
    }

    fn bar_read(&mut self, bar: BarIndex, offset: PhysBarOffset, width: Width) -> Result<u64, HardwareError> {
        Ok(self.bar(bar)?.read(offset.get(), width))
    }

    fn bar_write(
        &mut self,
        bar: BarIndex,
        offset: PhysBarOffset,
        width: Width,
        value: u64,
    ) -> Result<(), HardwareError> {
        self.bar(bar)?.write(offset.get(), width, value);
        Ok(())
    }

    fn reset(&mut self) -> Result<(), HardwareError> {
        Ok(self.function.reset()?)
    }
}

impl GuestWindows for Hardware<'_> {
    fn map(&mut self, window: MappedWindow) -> Result<(), HardwareError> {
        Ok(windows::show(window, self.bar(window.bar)?)?)
    }

    fn unmap(&mut self, window: MappedWindow) -> Result<(), HardwareError> {
        windows::hide(window.guest);
        Ok(())
    }

    // What no window covers is trapped in any case, and the only function of this machine is asked. There is one
    // processor, which reads the decoder in the function itself.
    fn trap(&mut self, _: BarIndex, _: GuestRange, _: &Decoder) -> Result<(), HardwareError> {
        Ok(())
    }

    fn untrap(&mut self, _: BarIndex, _: GuestRange, _: &Decoder) -> Result<(), HardwareError> {
        Ok(())
    }
}

impl InterruptHost for Hardware<'_> {
    fn fewer(_: &HardwareError) -> Option<u16> {
        None
    }

    // MSI has no mask to begin with: it goes on when its vector is wired.
    fn enable(&mut self, kind: InterruptKind) -> Result<(), HardwareError> {
        match kind {
            InterruptKind::Msix => self.set_msix(true),
            InterruptKind::Msi => self.set_msi(None),
            InterruptKind::Intx => Err(HardwareError::NoKind(kind)),
        }
    }

    fn wire(
        &mut self,
        kind: InterruptKind,
        first: VectorIndex,
        last: VectorIndex,
        wanted: &dyn Fn(VectorIndex) -> bool,
    ) -> Result<(), HardwareError> {
        let range = || (first.get()..=last.get()).filter_map(VectorIndex::new);
        self.lines.give(range().filter(|vector| wanted(*vector)))?;
        let to = |vector| wanted(vector).then(|| self.lines.host_vector(vector).ok()).flatten();
        match kind {
            InterruptKind::Msi => return self.set_msi(to(first)),
            InterruptKind::Msix if !self.is_msix_on() => self.set_msix(true)?,
            InterruptKind::Msix => {}
            InterruptKind::Intx => return Err(HardwareError::NoKind(kind)),
        }
        self.function.while_decoding(|| range().for_each(|vector| self.set_entry(vector.get(), to(vector))));
        Ok(())
    }

    fn disable(&mut self, kind: InterruptKind) -> Result<(), HardwareError> {
        match kind {
            InterruptKind::Msix => self.set_msix(false),
            InterruptKind::Msi => self.set_msi(None),
            InterruptKind::Intx => Err(HardwareError::NoKind(kind)),
        }
    }

    fn release(&mut self, _: InterruptKind) -> Result<(), HardwareError> {
        self.lines.clear();
        Ok(())
    }

    fn route(
        &mut self,
        _: InterruptKind,
        vector: VectorIndex,
        message: Message,
    ) -> Result<(), HardwareError> {
        // Intel SDM volume 3, 11.11: bits 31:20 of a message to a local APIC, and what is delivered by it: bits 10:8,
        // fixed or to the processor of lowest priority.
        let Message { address, data } = message;
        if address >> 20 != 0xfee || data >> 8 & 7 > 1 {
            return Err(HardwareError::NotAnInterrupt { address, data });
        }
        self.lines.line(vector)?.noted = Some(message);
        Ok(())
    }

    fn commit_routes(&mut self) -> Result<(), HardwareError> {
        self.lines.commit();
        Ok(())
    }

    fn arm(&mut self, _: InterruptKind, vector: VectorIndex) -> Result<(), HardwareError> {
        self.lines.line(vector)?.armed = true;
        Ok(())
    }

    fn unmask_intx(&mut self) -> Result<(), HardwareError> {
        Err(HardwareError::NoKind(InterruptKind::Intx))
    }

    fn disarm(&mut self, _: InterruptKind, vector: VectorIndex) -> Result<(), HardwareError> {
        self.lines.line(vector)?.armed = false;
        Ok(())
    }

    fn signal(&mut self, _: InterruptKind, vector: VectorIndex) -> Result<(), HardwareError> {
        Ok(self.lines.signal(vector)?)
    }

    fn poll_pending(
        &mut self,
        _: InterruptKind,
        first: VectorIndex,
        mask: u64,
    ) -> Result<u64, HardwareError> {
        Ok(self.lines.poll(first, mask))
    }

    fn take_pending(
        &mut self,
        _: InterruptKind,
        first: VectorIndex,
        mask: u64,
    ) -> Result<u64, HardwareError> {
        Ok(self.lines.take_signals(first, mask))
    }
}

impl Events for Hardware<'_> {
    fn step_done(&mut self, step: Step) {
        self.steps[place(step.kind())].done += 1;
    }

    fn step_failed(&mut self, step: Step, error: &HardwareError) {
        let tally = &mut self.steps[place(step.kind())];
        tally.failed += 1;
        tally.first.get_or_insert((step, *error));
    }
}

/// The place of a kind of steps in [`Hardware::steps`].
pub(crate) fn place(kind: StepKind) -> usize {
    match kind {
        StepKind::Read => 0,
        StepKind::Revoke => 1,
        StepKind::Forward => 2,
        StepKind::Establish => 3,
    }
}
