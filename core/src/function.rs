//! [`AssignedFunction`]: the machines of one PCI function put together.
//!
//! What an access does, step by step, is in `operation.rs`; the loop that drives it, in `drive.rs`.

use crate::addr::{BarIndex, ConfigOffset, PhysBarOffset, VectorIndex};
use crate::bars::Bars;
use crate::caps::ConfigImage;
use crate::config::{ConfigMap, Register};
use crate::decoder::Decoder;
use crate::description::{Description, DescriptionError, Finding};
use crate::events::Counters;
use crate::host::{GuestRange, InterruptKind};
use crate::interrupts::{Interrupts, Intx, Msi, Msix, MsixFinding, MsixLayout, TablePlace, Vector};
use crate::operation::Operation;
use crate::options::Apertures;
use crate::regs::header::Command;
use crate::regs::power::{PMCSR_STATE, PowerState};
use crate::span::Span;
use crate::windows::{Window, Windows, seen_at};

/// How the last reset of the device went.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ResetOutcome {
    /// The device was reset.
    Reset,
    /// It was not: interrupts and bus mastering are off, the rest is as the last guest left it.
    NotReset,
}

/// One PCI function as a guest sees it.
///
/// `V` stores the interrupt vectors, as many as the device has; `W` stores the windows, a few for each BAR.
/// Arrays, slices and boxes will do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssignedFunction<V, W> {
    pub(crate) map: ConfigMap,
    pub(crate) bars: Bars,
    pub(crate) apertures: Apertures,
    /// All that the guest has written; it reads back [`Command::TRACKED`] of it, and the rest from hardware.
    pub(crate) command: Command,
    pub(crate) power: PowerState,
    pub(crate) interrupts: Interrupts<V>,
    pub(crate) windows: Windows<W>,
    /// What the host traps now.
    pub(crate) decoder: Decoder,
    /// BARs whose range the host refused to trap, or to give up, a bit each.
    pub(crate) refused_traps: u8,
    /// Hardware did not take the last write to Command: what it decodes is not known.
    pub(crate) decode_unknown: bool,
    /// Hardware has not, or not yet, taken the last write to PowerState: whether it decodes is not known.
    pub(crate) power_unknown: bool,
    /// Hardware's Command and power state are to be written with the next settling.
    pub(crate) hardware_stale: bool,
    /// Interrupts are held.
    pub(crate) stopped: bool,
    /// While stopped: the device may not be a bus master, whatever the guest has written.
    pub(crate) bus_master_off: bool,
    pub(crate) gone: bool,
    pub(crate) quarantined: bool,
    pub(crate) last_reset: Option<ResetOutcome>,
    /// No operation is under way, nothing waits to be settled or tried again, and the device answers: an access that
    /// needs nothing of the host is answered at once.
    pub(crate) at_rest: bool,
    pub(crate) operation: Operation,
    pub(crate) counters: Counters,
}

/// What a function is made of, apart from what its storage is in.
struct Parts {
    map: ConfigMap,
    bars: Bars,
    layout: Option<MsixLayout>,
    msi: Option<Msi>,
    intx: Option<Intx>,
    /// What of a BAR has no device behind it.
    beyond: Option<TablePlace>,
    /// The device was left asleep, and answers nothing until `attach` has woken it.
    asleep: bool,
}

impl Parts {
    /// The parts of a function with storage for so many vectors.
    #[inline(never)]
    fn new(
        description: &Description<'_>,
        storage: usize,
        finding: &mut dyn FnMut(Finding),
    ) -> Result<Self, DescriptionError> {
        let image = ConfigImage::new(description.config);
        let options = &description.options;
        let host = description.interrupts;
        let mut map = ConfigMap::build(image, options, finding)?;
        let mut sizes = [0; 7];
        for (size, region) in sizes.iter_mut().zip(&description.regions) {
            *size = region.size;
        }
        let mut bars = Bars::new(image, &sizes)?;
        let mut layout = MsixLayout::build(image, &bars, finding);
        let mut msi = Msi::new(image, host.msi.max(1), finding);
        let mut intx = Intx::new(image, finding);
        let offered = |at: ConfigOffset, register| map.register(at) == Some(register);
        let has_msi = msi.as_ref().is_some_and(|msi| offered(msi.capability(), Register::MsiControl));
        let has_msix = layout.as_ref().is_some_and(|found| offered(found.capability, Register::MsixControl));
        let mut carried = |kind, has: bool, carries: bool| {
            if has && !carries {
                finding(Finding::NotCarried(kind));
            }
            has && carries
        };
        if carried(InterruptKind::Intx, intx.is_some(), host.intx) {
            map.show_interrupt_pin();
        } else {
            intx = None;
        }
        if !carried(InterruptKind::Msi, has_msi, host.msi != 0) {
            msi = None;
            map.hide_msi();
        }
        if !carried(InterruptKind::Msix, has_msix, host.msix != 0) {
            layout = None;
        }
        if let Some(MsixLayout { vectors: device, .. }) = layout
            && usize::from(device) > storage
        {
            finding(MsixFinding::StorageTooSmall { device, storage }.into());
            layout = None;
        }
        if layout.is_none() {
            map.hide_msix();
        }
        let asleep = map.power_control().is_some_and(|at| image.dword(at) & PMCSR_STATE != 0);
        let beyond = match (&mut layout, options.relocation) {
            (Some(layout), Some(to)) => layout.relocate(&mut bars, to)?,
            _ => None,
        };
        bars.pin(image, &options.pinned)?;
        Ok(Self { map, bars, layout, msi, intx, beyond, asleep })
    }
}

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// The function in its state after power-on. `finding` hears what is odd about the device.
    ///
    /// Nothing stands in the host yet: [`attach`](Self::attach) it first.
    ///
    /// # Errors
    ///
    /// The device cannot be given to a guest.
    pub fn new(
        description: &Description<'_>,
        vectors: V,
        windows: W,
        mut finding: impl FnMut(Finding),
    ) -> Result<Self, DescriptionError> {
        let parts = Parts::new(description, vectors.as_ref().len(), &mut finding);
        let mut windows = Windows::new(windows, description.page_size);
        // Taken apart only when all is planned: moved once, and the core is to be small.
        if let Ok(parts) = &parts {
            windows.plan_all(description, &parts.bars, parts.layout.as_ref(), &mut finding);
        }
        let Parts { map, bars, layout, msi, intx, beyond, asleep } = parts?;
        let emulated =
            [layout.as_ref().map(|found| found.table), layout.as_ref().map(|found| found.pba), beyond];
        let msix = layout.map(|layout| Msix::new(layout, vectors, description.interrupts.resizable));
        Ok(Self {
            map,
            bars,
            apertures: description.options.apertures,
            command: Command::empty(),
            power: PowerState::D0,
            interrupts: Interrupts::new(msix, msi, intx),
            windows,
            decoder: Decoder::new(emulated),
            refused_traps: 0,
            decode_unknown: false,
            power_unknown: asleep,
            hardware_stale: false,
            stopped: false,
            bus_master_off: false,
            gone: false,
            quarantined: false,
            last_reset: None,
            at_rest: false,
            operation: Operation::IDLE,
            counters: Counters::default(),
        })
    }

    /// What vCPUs may read without asking the function: what the host traps now.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The BARs as the guest sees them.
    pub fn bars(&self) -> &Bars {
        &self.bars
    }

    /// MSI-X, if the guest is offered it.
    pub fn msix(&self) -> Option<&Msix<V>> {
        self.interrupts.msix.as_ref()
    }

    /// MSI, if the guest is offered it.
    pub fn msi(&self) -> Option<&Msi> {
        self.interrupts.msi.as_ref()
    }

    /// The interrupt pin, if the guest is offered it.
    pub fn intx(&self) -> Option<&Intx> {
        self.interrupts.intx.as_ref()
    }

    /// The kind of interrupt that the guest uses: MSI-X if it has enabled that, else MSI if it has enabled that,
    /// else the pin if there is one and the function is attached.
    pub fn interrupt_mode(&self) -> Option<InterruptKind> {
        self.interrupts.mode()
    }

    /// Those bits of the Command register that the guest reads as it wrote them.
    pub fn command(&self) -> Command {
        self.command & Command::TRACKED
    }

    /// The power state that the guest has put the function in.
    pub fn power(&self) -> PowerState {
        self.power
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many windows the guest can reach now.
    pub fn mapped_windows(&self) -> usize {
        self.windows.live()
    }

    /// Whether something could not be taken away from the guest. Its vCPUs must not go on before the function
    /// has been [detached](Self::detach).
    pub fn is_quarantined(&self) -> bool {
        self.quarantined
    }

    /// Whether the device is gone.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// How the last reset went, if there was one.
    pub fn last_reset(&self) -> Option<ResetOutcome> {
        self.last_reset
    }

    /// Whether the host is to give an event to `vector` when it carries out a
    /// [`Wire`](crate::host::Step::Wire) step.
    pub fn wants_event(&self, kind: InterruptKind, vector: VectorIndex) -> bool {
        self.interrupts.wants_event(kind, vector)
    }

    /// What is emulated inside BARs: the MSI-X table and the Pending Bit Array.
    pub(crate) fn emulated(&self) -> Option<(TablePlace, TablePlace)> {
        self.interrupts.msix.as_ref().map(|msix| (msix.layout().table, msix.layout().pba))
    }

    /// What `bar` is to decode.
    // One copy of it: the core is to be small.
    #[inline(never)]
    pub(crate) fn wanted_range(&self, bar: BarIndex) -> Option<GuestRange> {
        if self.gone || self.power != PowerState::D0 {
            return None;
        }
        let memory = self.command.contains(Command::MEMORY_SPACE);
        let io = self.command.contains(Command::IO_SPACE);
        if let Some(range) = self.bars.memory(bar) {
            return (memory && self.apertures.has_memory(range)).then_some(GuestRange::Memory(range));
        }
        let range = self.bars.ports(bar)?;
        (io && self.apertures.has_ports(range)).then_some(GuestRange::Ports(range))
    }

    /// Where the guest is to see a part of `bar`: nowhere if a BAR of a lower index decodes any of it.
    pub(crate) fn wanted_window(
        &self,
        bar: BarIndex,
        part: Span<PhysBarOffset>,
    ) -> Option<Span<crate::addr::GuestAddr>> {
        if self.decode_unknown || self.power_unknown {
            return None;
        }
        let Some(GuestRange::Memory(range)) = self.wanted_range(bar) else {
            return None;
        };
        let guest = seen_at(part, range.first())?;
        let hidden = BarIndex::BARS.iter().take_while(|lower| **lower < bar).any(|lower| {
            matches!(self.wanted_range(*lower), Some(GuestRange::Memory(other)) if other.overlaps(guest))
        });
        if hidden { None } else { Some(guest) }
    }

    /// Whether the host has refused to trap `bar`, or to give it up, and decoding has not changed since.
    pub(crate) fn trap_refused(&self, bar: BarIndex) -> bool {
        self.refused_traps & 1u8.wrapping_shl(u32::from(bar.get())) != 0
    }

    /// What the guest wants decoded has changed: what was refused is worth another try.
    #[inline(never)]
    pub(crate) fn decode_changed(&mut self) {
        self.refused_traps = 0;
        self.windows.decode_changed();
    }

    /// Registers as after reset; what stands in the host follows with the next settling.
    pub(crate) fn reset_registers(&mut self) {
        self.command = Command::empty();
        // Until hardware is awake as well.
        self.power_unknown |= self.power != PowerState::D0;
        self.power = PowerState::D0;
        self.bars.reset();
        self.decode_changed();
        self.interrupts.turn_off();
    }
}
