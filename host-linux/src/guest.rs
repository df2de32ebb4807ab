//! What a device's host needs of the hypervisor: memory that the guest reaches, and interrupts that reach it.
//!
//! [`kvm`](crate::kvm) implements it with KVM; another hypervisor, or a test, does it in its own way.

use crate::bar::WindowMemory;
use crate::sys::EventFd;
use std::error::Error;
use vfio_assign_core::host::Message;
use vfio_assign_core::{GuestAddr, Span, VectorIndex};

/// Who unmasks a function's pin when the guest has ended its interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LineEnd {
    /// The hypervisor, by an event that leads to VFIO.
    Resampled,
    /// The monitor, which calls [`Assigned::handle_intx_eoi`](crate::Assigned::handle_intx_eoi).
    Told,
}

/// One assigned function's side of the hypervisor.
///
/// A function uses messages or its pin, and the routes and events of one kind are given back before those of
/// another come.
pub trait GuestSide {
    /// The hypervisor's error.
    type Error: Error + Clone + Send + 'static;

    /// Shows `memory` to the guest at `guest`, as window number `index`, and keeps it as long.
    ///
    /// # Errors
    ///
    /// The guest does not see it.
    fn map(&mut self, index: usize, guest: Span<GuestAddr>, memory: WindowMemory) -> Result<(), Self::Error>;

    /// Takes window number `index` away; when this returns no vCPU reaches it.
    ///
    /// # Errors
    ///
    /// The guest may still reach it.
    fn unmap(&mut self, index: usize) -> Result<(), Self::Error>;

    /// Notes the message of a vector, to take effect with [`commit_routes`](Self::commit_routes).
    ///
    /// # Errors
    ///
    /// The message is none that the hypervisor can route, or there is no room for it.
    fn route(&mut self, vector: VectorIndex, message: Message) -> Result<(), Self::Error>;

    /// All messages noted take effect.
    ///
    /// # Errors
    ///
    /// The old ones stay in effect.
    fn commit_routes(&mut self) -> Result<(), Self::Error>;

    /// `event` interrupts the guest with the vector's message from now on; a signal that it holds, too.
    ///
    /// # Errors
    ///
    /// It does not.
    fn arm(&mut self, vector: VectorIndex, event: &EventFd) -> Result<(), Self::Error>;

    /// `event` no longer interrupts the guest; signals stay in it.
    ///
    /// # Errors
    ///
    /// It may still.
    fn disarm(&mut self, vector: VectorIndex, event: &EventFd) -> Result<(), Self::Error>;

    /// Who ends interrupts on the guest's line that the function's pin leads to; `None` if it leads to none, and the
    /// pin is hidden from the guest.
    fn line(&self) -> Option<LineEnd> {
        None
    }

    /// `event` asserts the function's line from now on; a signal that it holds, too. When the guest has ended the
    /// interrupt the line is let go, and `resample` signalled if the line is [`LineEnd::Resampled`].
    ///
    /// # Errors
    ///
    /// It does not.
    fn arm_line(&mut self, event: &EventFd, resample: Option<&EventFd>) -> Result<(), Self::Error>;

    /// `event` no longer asserts the line, which is let go; signals stay in it.
    ///
    /// # Errors
    ///
    /// It may still.
    fn disarm_line(&mut self, event: &EventFd) -> Result<(), Self::Error>;

    /// Gives back every route.
    ///
    /// # Errors
    ///
    /// Some stay.
    fn release_routes(&mut self) -> Result<(), Self::Error>;
}
