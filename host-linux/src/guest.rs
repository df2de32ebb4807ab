//! What a device's host needs of the hypervisor: memory that the guest reaches, and interrupts that reach it.
//!
//! [`kvm`](crate::kvm) implements it with KVM; another hypervisor, or a test, does it in its own way.

use crate::bar::WindowMemory;
use crate::sys::EventFd;
use std::error::Error;
use vfio_assign_core::host::Message;
use vfio_assign_core::{GuestAddr, Span, VectorIndex};

/// One assigned function's side of the hypervisor.
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

    /// Gives back every route.
    ///
    /// # Errors
    ///
    /// Some stay.
    fn release_routes(&mut self) -> Result<(), Self::Error>;
}
