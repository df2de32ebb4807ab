//! Everything the core asks of its host: the steps as data, and the traits that [`drive`] calls for them.
//!
//! An embedder chooses: implement the traits and call [`drive`], or take each [`Step`] from
//! [`next_step`] and answer with [`complete`] when it is done, from whatever thread or queue.
//!
//! [`drive`]: crate::AssignedFunction::drive
//! [`next_step`]: crate::AssignedFunction::next_step
//! [`complete`]: crate::AssignedFunction::complete

mod step;

pub use step::{GuestRange, HostInterrupts, InterruptKind, MappedWindow, Message, Outcome, Step, StepKind};

use crate::access::Width;
use crate::addr::{BarIndex, ConfigOffset, PhysBarOffset, VectorIndex};
use crate::decoder::Decoder;
use core::fmt;

/// The error that a host's calls fail with.
pub trait HostError {
    /// The error, with whatever the host knows about the cause.
    type Error: fmt::Debug;
}

/// The physical function: configuration space, the slow path into its BARs, reset.
pub trait PhysicalFunction: HostError {
    /// Reads 1, 2 or 4 bytes of configuration space, naturally aligned.
    ///
    /// # Errors
    ///
    /// The device is gone, or the host refuses.
    fn config_read(&mut self, offset: ConfigOffset, width: Width) -> Result<u32, Self::Error>;

    /// Writes 1, 2 or 4 bytes of configuration space, naturally aligned.
    ///
    /// A write that starts a function-level reset, or wakes the function, comes this way, too: a host that has no
    /// kernel to do so gives the function its time, and puts back what it has in the BARs itself.
    ///
    /// # Errors
    ///
    /// The device is gone, or the host refuses.
    fn config_write(&mut self, offset: ConfigOffset, width: Width, value: u32) -> Result<(), Self::Error>;

    /// Reads from a BAR, naturally aligned.
    ///
    /// # Errors
    ///
    /// The device is gone, or does not decode.
    fn bar_read(&mut self, bar: BarIndex, offset: PhysBarOffset, width: Width) -> Result<u64, Self::Error>;

    /// Writes to a BAR, naturally aligned.
    ///
    /// # Errors
    ///
    /// The device is gone, or does not decode.
    fn bar_write(
        &mut self,
        bar: BarIndex,
        offset: PhysBarOffset,
        width: Width,
        value: u64,
    ) -> Result<(), Self::Error>;

    /// Resets the function.
    ///
    /// # Errors
    ///
    /// It has no reset mechanism, or the reset failed.
    fn reset(&mut self) -> Result<(), Self::Error>;
}

/// The guest's physical address space.
pub trait GuestWindows: HostError {
    /// Lets the guest reach `window` without leaving guest mode.
    ///
    /// # Errors
    ///
    /// The window stays trapped.
    fn map(&mut self, window: MappedWindow) -> Result<(), Self::Error>;

    /// Takes `window` away; when this returns no vCPU can reach it.
    ///
    /// # Errors
    ///
    /// The function is quarantined: the host no longer knows what the guest can reach.
    fn unmap(&mut self, window: MappedWindow) -> Result<(), Self::Error>;

    /// Accesses to `range` are this function's. `decoder` is what vCPUs are to read from now on.
    ///
    /// # Errors
    ///
    /// The range stays undecoded.
    fn trap(&mut self, bar: BarIndex, range: GuestRange, decoder: &Decoder) -> Result<(), Self::Error>;

    /// Accesses to `range` are no longer this function's. When this returns no vCPU reads an older `decoder`.
    ///
    /// # Errors
    ///
    /// The function is quarantined.
    fn untrap(&mut self, bar: BarIndex, range: GuestRange, decoder: &Decoder) -> Result<(), Self::Error>;
}

/// The host's side of interrupts. A *wired* vector signals an event; an *armed* event reaches the guest.
///
/// One kind is on at a time: the core turns one off before it turns another on.
pub trait InterruptHost: HostError {
    /// How many vectors the host has, where `error` is that of a [`wire`](Self::wire) which was to turn the kind
    /// on and found fewer than it asked for (VFIO: `SET_IRQS` returned a positive number).
    fn fewer(error: &Self::Error) -> Option<u16>;

    /// Turns the kind on in the device, with no vector wired.
    ///
    /// # Errors
    ///
    /// It stays off. A host that has fewer vectors than one has failed.
    fn enable(&mut self, kind: InterruptKind) -> Result<(), Self::Error>;

    /// Wires those vectors from `first` to `last` that `wanted` names, and unwires the others of them, in one
    /// call to the kernel. Turns the kind on if it is off.
    ///
    /// # Errors
    ///
    /// None of the range is wired. A host that has fewer vectors has failed, and [`fewer`](Self::fewer) says so.
    fn wire(
        &mut self,
        kind: InterruptKind,
        first: VectorIndex,
        last: VectorIndex,
        wanted: &dyn Fn(VectorIndex) -> bool,
    ) -> Result<(), Self::Error>;

    /// Turns the kind off in the device; events and routes are kept.
    ///
    /// # Errors
    ///
    /// The function is quarantined.
    fn disable(&mut self, kind: InterruptKind) -> Result<(), Self::Error>;

    /// Gives back every event and every route that this function has for the kind.
    ///
    /// # Errors
    ///
    /// Something could not be given back; nothing follows from it for the guest.
    fn release(&mut self, kind: InterruptKind) -> Result<(), Self::Error>;

    /// Notes the message of a wired vector of MSI or MSI-X, to take effect with [`commit_routes`](Self::commit_routes).
    ///
    /// # Errors
    ///
    /// The message is none that the host can route, or there is no room for it: the vector stays unarmed.
    fn route(
        &mut self,
        kind: InterruptKind,
        vector: VectorIndex,
        message: Message,
    ) -> Result<(), Self::Error>;

    /// All messages noted take effect, in one call to the kernel.
    ///
    /// # Errors
    ///
    /// The old messages stay in effect.
    fn commit_routes(&mut self) -> Result<(), Self::Error>;

    /// The vector's event reaches the guest from now on, and so does what it already holds.
    ///
    /// An event of INTx asserts the guest's line. When the guest ends that interrupt the line is let go and the
    /// pin unmasked: by the host itself (KVM's resample event), or by the core, which the embedder tells by
    /// [`handle_intx_eoi`](crate::AssignedFunction::handle_intx_eoi).
    ///
    /// # Errors
    ///
    /// The vector stays unarmed.
    fn arm(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), Self::Error>;

    /// The device may assert its pin again, and does if it still has a reason to.
    ///
    /// # Errors
    ///
    /// It stays masked; the next settling tries again.
    fn unmask_intx(&mut self) -> Result<(), Self::Error>;

    /// The vector's event no longer reaches the guest; what comes now stays in it. A line that it has asserted
    /// is let go.
    ///
    /// # Errors
    ///
    /// The function is quarantined.
    fn disarm(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), Self::Error>;

    /// Signals the vector's event once.
    ///
    /// # Errors
    ///
    /// The interrupt stays pending.
    fn signal(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), Self::Error>;

    /// Which of the vectors `first` + n, for each bit n of `mask`, have a signalled event. Consumes nothing.
    ///
    /// # Errors
    ///
    /// The guest reads those pending bits as 0.
    fn poll_pending(
        &mut self,
        kind: InterruptKind,
        first: VectorIndex,
        mask: u64,
    ) -> Result<u64, Self::Error>;

    /// The same, and consumes the signals.
    ///
    /// # Errors
    ///
    /// The interrupts that those events hold are lost, and counted.
    fn take_pending(
        &mut self,
        kind: InterruptKind,
        first: VectorIndex,
        mask: u64,
    ) -> Result<u64, Self::Error>;
}

/// What happens while a function is driven; every method has a default that does nothing.
pub trait Events: HostError {
    /// A step failed; `error` is what the host said. The guest can make this happen as often as it likes:
    /// count, do not log.
    fn step_failed(&mut self, step: Step, error: &Self::Error) {
        let _ = (step, error);
    }

    /// A step was taken.
    fn step_done(&mut self, step: Step) {
        let _ = step;
    }
}

/// A host with all roles.
pub trait Host: PhysicalFunction + GuestWindows + InterruptHost + Events {}

impl<H: PhysicalFunction + GuestWindows + InterruptHost + Events> Host for H {}
