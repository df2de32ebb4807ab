//! [`FakeHost`]: the device and its kernel behind the traits that the core calls.

use super::device::{Device, Effect};
use super::faults::{CallKind, FakeError, Faults};
use super::irqs::Irqs;
use super::kernel::Raised;
use super::shape::Shape;
use crate::access::Width;
use crate::addr::{BarIndex, ConfigOffset, GuestAddr, PhysBarOffset, VectorIndex};
use crate::caps::ConfigImage;
use crate::decoder::Decoder;
use crate::host::{
    Events, GuestRange, GuestWindows, HostError, InterruptHost, InterruptKind, MappedWindow, Message,
    PhysicalFunction, Step,
};
use crate::regs::header::Command;
use crate::regs::{capability, msix};
use alloc::vec::Vec;

/// One call of a fake host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// What it was to do.
    pub step: Step,
    /// Why it did not.
    pub failed: Option<FakeError>,
}

/// A device and its host, in memory.
#[derive(Clone, Debug)]
pub struct FakeHost {
    /// Which calls fail.
    pub faults: Faults,
    device: Device,
    irqs: Irqs,
    /// Table and Pending Bit Array in the device: BAR, first byte, bytes.
    table: Option<(BarIndex, u64, u64)>,
    pba: Option<(BarIndex, u64, u64)>,
    windows: Vec<MappedWindow>,
    traps: [Option<GuestRange>; 7],
    decoder: Decoder,
    calls: Vec<Call>,
    calls_made: u32,
}

impl FakeHost {
    /// The device of this shape, plugged in, and everything off.
    pub fn new(shape: &Shape) -> Self {
        let [table, pba] = structures(shape);
        Self {
            faults: Faults::default(),
            device: Device::new(shape),
            irqs: Irqs::new(shape),
            table,
            pba,
            windows: Vec::new(),
            traps: [None; 7],
            decoder: Decoder::default(),
            calls: Vec::new(),
            calls_made: 0,
        }
    }

    /// The device sends the message of `vector`: of MSI-X or of MSI, whichever is on.
    pub fn raise(&mut self, vector: VectorIndex) -> Raised {
        self.irqs.raise(vector, self.device.can_signal())
    }

    /// The device asserts its interrupt pin, or no longer does.
    pub fn assert_pin(&mut self, asserted: bool) {
        self.device.interrupt_status(asserted);
        self.irqs.assert_pin(asserted, self.device.may_assert());
    }

    /// Whether the device asserts its interrupt pin, and may: Interrupt Disable is clear in hardware.
    pub fn is_pin_asserted(&self) -> bool {
        self.irqs.is_asserted() && self.device.may_assert()
    }

    /// The guest ends the interrupt of its line. Whether the embedder is to tell the function: a host that resamples
    /// has done what there was to do.
    #[must_use]
    pub fn end_interrupt(&mut self) -> bool {
        self.irqs.end_interrupt(self.device.may_assert())
    }

    /// Whether the guest's line is asserted, and how often it was.
    pub fn line(&self) -> (bool, u32) {
        self.irqs.line()
    }

    /// The kind of interrupt that is on in the hardware.
    pub fn interrupt_mode(&self) -> Option<InterruptKind> {
        self.irqs.mode()
    }

    /// The device is pulled out: configuration space reads all-ones, everything else fails.
    pub fn unplug(&mut self) {
        self.device.plugged = false;
    }

    /// How many calls there ever were, on record or not.
    pub fn calls_made(&self) -> u32 {
        self.calls_made
    }

    /// The calls on record.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The calls on record, as the steps that they were; the record is empty then.
    pub fn take_steps(&mut self) -> Vec<Step> {
        self.calls.drain(..).map(|call| call.step).collect()
    }

    /// How many calls of this kind are on record.
    pub fn count(&self, kind: CallKind) -> usize {
        self.calls.iter().filter(|call| CallKind::of(call.step) == kind).count()
    }

    /// The interrupts that reached the guest, with the message that each was sent as.
    pub fn delivered(&self) -> Vec<(VectorIndex, Message)> {
        self.irqs.delivered()
    }

    /// The interrupts that reached the guest since the last time.
    pub fn take_delivered(&mut self) -> Vec<(VectorIndex, Message)> {
        let delivered = self.irqs.delivered();
        for kind in InterruptKind::ALL {
            self.irqs.of_mut(kind).forget_delivered();
        }
        delivered
    }

    /// How many events were given back while they held an interrupt.
    pub fn lost_interrupts(&self) -> u64 {
        InterruptKind::ALL.iter().map(|kind| self.irqs.of(*kind).lost()).sum()
    }

    /// The windows that the guest sees.
    pub fn windows(&self) -> &[MappedWindow] {
        &self.windows
    }

    /// The byte of the device that the guest reaches at `address` without leaving guest mode.
    pub fn seen_at(&self, address: GuestAddr) -> Option<(BarIndex, PhysBarOffset)> {
        let window = self.windows.iter().find(|window| window.guest.contains(address))?;
        let into = address.get() - window.guest.first().get();
        Some((window.bar, window.device.first().checked_add(into)?))
    }

    /// What is trapped for `bar`.
    pub fn trapped(&self, bar: BarIndex) -> Option<GuestRange> {
        self.traps.get(bar.position()).copied().flatten()
    }

    /// The decoder as it was last published to vCPUs.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The Command register of the hardware.
    pub fn hardware_command(&self) -> Command {
        self.device.command()
    }

    /// Whether the hardware decodes memory: its Command register says so, and it is in D0.
    pub fn decodes_memory(&self) -> bool {
        self.device.decodes_memory()
    }

    /// How often the device was reset, by whatever means.
    pub fn resets(&self) -> u32 {
        self.device.resets
    }

    /// Whether MSI-X is on in the hardware.
    pub fn interrupts_on(&self) -> bool {
        self.irqs.of(InterruptKind::Msix).is_on()
    }

    /// The vectors of any kind that signal an event, in order.
    pub fn wired(&self) -> Vec<VectorIndex> {
        InterruptKind::ALL.iter().flat_map(|kind| self.irqs.of(*kind).wired().iter().copied()).collect()
    }

    /// The vectors of any kind whose events reach the guest, in order.
    pub fn armed(&self) -> Vec<VectorIndex> {
        InterruptKind::ALL.iter().flat_map(|kind| self.irqs.of(*kind).armed().iter().copied()).collect()
    }

    /// How many vectors the kernel has allocated, how many events there are, and how many routes.
    pub fn held(&self) -> (usize, usize, usize) {
        InterruptKind::ALL.iter().fold((0, 0, 0), |(vectors, events, routes), kind| {
            let kind = self.irqs.of(*kind);
            (vectors + kind.allocated(), events + kind.events(), routes + kind.routes())
        })
    }

    /// Notes the call, and lets it fail or happen.
    fn call<T>(
        &mut self,
        step: Step,
        run: impl FnOnce(&mut Self) -> Result<T, FakeError>,
    ) -> Result<T, FakeError> {
        let planned = self.faults.strikes(CallKind::of(step));
        let result = if planned { Err(FakeError::Planned) } else { run(self) };
        self.calls_made += 1;
        self.calls.push(Call { step, failed: result.as_ref().err().copied() });
        result
    }

    fn plugged(&self) -> Result<(), FakeError> {
        if self.device.plugged { Ok(()) } else { Err(FakeError::Gone) }
    }
}

/// Where the MSI-X capability puts table and Pending Bit Array.
fn structures(shape: &Shape) -> [Option<(BarIndex, u64, u64)>; 2] {
    let image = ConfigImage::new(&shape.config);
    let Some(found) = image.capabilities().flatten().find(|found| found.id == capability::MSIX) else {
        return [None; 2];
    };
    let count = u64::from((image.dword(found.offset) >> 16) as u16 & msix::TABLE_SIZE) + 1;
    [(4, count * 16), (8, count.div_ceil(64) * 8)].map(|(at, size)| {
        let register = image.dword(found.offset.checked_add(at)?);
        let bar = BarIndex::new((register & msix::BIR) as u8)?;
        Some((bar, u64::from(register & !msix::BIR), size))
    })
}

impl HostError for FakeHost {
    type Error = FakeError;
}

impl PhysicalFunction for FakeHost {
    fn config_read(&mut self, offset: ConfigOffset, width: Width) -> Result<u32, FakeError> {
        self.call(Step::ReadConfig { offset, width }, |host| host.device.config_read(offset, width))
    }

    fn config_write(&mut self, offset: ConfigOffset, width: Width, value: u32) -> Result<(), FakeError> {
        self.call(Step::WriteConfig { offset, width, value }, |host| {
            if host.device.config_write(offset, width, value)? == Effect::FunctionReset {
                host.irqs.device_was_reset();
            }
            if host.device.can_signal() {
                host.irqs.signalling_again();
            }
            host.irqs.sample(host.device.may_assert());
            Ok(())
        })
    }

    /// The table reads all-ones, as the kernel keeps it to itself; the Pending Bit Array is the device's.
    fn bar_read(&mut self, bar: BarIndex, offset: PhysBarOffset, width: Width) -> Result<u64, FakeError> {
        self.call(Step::ReadBar { bar, offset, width }, |host| {
            let value = host.device.bar_read(bar, offset, width)?;
            if within(host.table, bar, offset).is_some() {
                return Ok(width.all_ones());
            }
            let Some(byte) = within(host.pba, bar, offset) else {
                return Ok(value);
            };
            let bits = host.irqs.of(InterruptKind::Msix).pending_bits((byte / 8 * 64) as u16);
            Ok(bits >> (byte % 8 * 8) & width.all_ones())
        })
    }

    fn bar_write(
        &mut self,
        bar: BarIndex,
        offset: PhysBarOffset,
        width: Width,
        value: u64,
    ) -> Result<(), FakeError> {
        self.call(Step::WriteBar { bar, offset, width, value }, |host| {
            if within(host.table, bar, offset).is_some() {
                return Ok(());
            }
            host.device.bar_write(bar, offset, width, value)
        })
    }

    fn reset(&mut self) -> Result<(), FakeError> {
        self.call(Step::ResetFunction, |host| {
            host.device.reset()?;
            host.irqs.device_was_reset();
            Ok(())
        })
    }
}

/// How far into a structure an access goes.
fn within(place: Option<(BarIndex, u64, u64)>, bar: BarIndex, offset: PhysBarOffset) -> Option<u64> {
    let (owner, first, size) = place?;
    let into = offset.get().checked_sub(first)?;
    (owner == bar && into < size).then_some(into)
}

impl GuestWindows for FakeHost {
    fn map(&mut self, window: MappedWindow) -> Result<(), FakeError> {
        self.call(Step::Map(window), |host| {
            if let Some(other) = host.windows.iter().find(|other| other.index == window.index) {
                return Err(FakeError::WindowState(other.index));
            }
            if let Some(other) = host.windows.iter().find(|other| other.guest.overlaps(window.guest)) {
                return Err(FakeError::WindowOverlap(other.index));
            }
            host.windows.push(window);
            Ok(())
        })
    }

    fn unmap(&mut self, window: MappedWindow) -> Result<(), FakeError> {
        self.call(Step::Unmap(window), |host| {
            let place = host.windows.iter().position(|other| *other == window);
            host.windows.swap_remove(place.ok_or(FakeError::WindowState(window.index))?);
            Ok(())
        })
    }

    fn trap(&mut self, bar: BarIndex, range: GuestRange, decoder: &Decoder) -> Result<(), FakeError> {
        self.call(Step::Trap { bar, range }, |host| {
            host.traps[bar.position()] = Some(range);
            host.decoder = *decoder;
            Ok(())
        })
    }

    fn untrap(&mut self, bar: BarIndex, range: GuestRange, decoder: &Decoder) -> Result<(), FakeError> {
        self.call(Step::Untrap { bar, range }, |host| {
            host.traps[bar.position()] = None;
            host.decoder = *decoder;
            Ok(())
        })
    }
}

impl InterruptHost for FakeHost {
    fn fewer(error: &FakeError) -> Option<u16> {
        match error {
            FakeError::FewerVectors(most) => Some(*most),
            _ => None,
        }
    }

    fn enable(&mut self, kind: InterruptKind) -> Result<(), FakeError> {
        self.call(Step::EnableInterrupts { kind }, |host| {
            host.plugged()?;
            host.irqs.enable(kind)
        })
    }

    /// A planned failure detaches the range, as one of the kernel's does.
    fn wire(
        &mut self,
        kind: InterruptKind,
        first: VectorIndex,
        last: VectorIndex,
        wanted: &dyn Fn(VectorIndex) -> bool,
    ) -> Result<(), FakeError> {
        let result = self.call(Step::Wire { kind, first, last }, |host| {
            host.plugged()?;
            host.irqs.wire(kind, first, last, wanted)
        });
        if result.is_err() {
            self.irqs.of_mut(kind).detach(first, last);
        } else if self.device.can_signal() {
            self.irqs.signalling_again();
        }
        self.irqs.sample(self.device.may_assert());
        result
    }

    fn disable(&mut self, kind: InterruptKind) -> Result<(), FakeError> {
        // The kernel frees what it holds, whether the device still answers or not.
        self.call(Step::DisableInterrupts { kind }, |host| host.irqs.disable(kind))
    }

    fn release(&mut self, kind: InterruptKind) -> Result<(), FakeError> {
        self.call(Step::ReleaseVectors { kind }, |host| {
            host.irqs.release(kind);
            Ok(())
        })
    }

    fn route(&mut self, kind: InterruptKind, vector: VectorIndex, message: Message) -> Result<(), FakeError> {
        self.call(Step::Route { kind, vector, message }, |host| host.irqs.of_mut(kind).route(vector, message))
    }

    fn commit_routes(&mut self) -> Result<(), FakeError> {
        self.call(Step::CommitRoutes, |host| {
            host.irqs.commit();
            Ok(())
        })
    }

    fn arm(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), FakeError> {
        self.call(Step::Arm { kind, vector }, |host| host.irqs.arm(kind, vector))
    }

    fn unmask_intx(&mut self) -> Result<(), FakeError> {
        self.call(Step::UnmaskIntx, |host| host.irqs.unmask(host.device.may_assert()))
    }

    fn disarm(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), FakeError> {
        self.call(Step::Disarm { kind, vector }, |host| host.irqs.disarm(kind, vector))
    }

    fn signal(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), FakeError> {
        self.call(Step::Signal { kind, vector }, |host| host.irqs.signal(kind, vector))
    }

    fn poll_pending(&mut self, kind: InterruptKind, first: VectorIndex, mask: u64) -> Result<u64, FakeError> {
        self.call(Step::PollPending { kind, first, mask }, |host| host.irqs.of(kind).poll(first, mask))
    }

    fn take_pending(&mut self, kind: InterruptKind, first: VectorIndex, mask: u64) -> Result<u64, FakeError> {
        self.call(Step::TakePending { kind, first, mask }, |host| host.irqs.of_mut(kind).take(first, mask))
    }
}

impl Events for FakeHost {}

#[cfg(test)]
mod tests;
