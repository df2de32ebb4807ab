//! One interrupt vector: what the guest has programmed, and what stands for it in the host.

use crate::host::Message;
use bitflags::bitflags;

bitflags! {
    /// The state of one vector.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct VectorState: u16 {
        /// The guest has masked it.
        const MASKED = 1 << 0;
        /// An interrupt has arrived and waits to be delivered.
        const LATCHED = 1 << 1;
        /// The host vector signals an event.
        const WIRED = 1 << 2;
        /// The host was told the message. Always set for INTx, which has none.
        const ROUTED = 1 << 3;
        /// The host has not yet committed the message that it was told.
        const UNCOMMITTED = 1 << 4;
        /// The event reaches the guest.
        const ARMED = 1 << 5;
        /// The host could not wire, route or arm it: not tried again before the guest's next attempt.
        const REFUSED = 1 << 6;
        /// The guest has enabled fewer vectors: of MSI alone.
        const UNUSED = 1 << 7;
        /// It was wired before the function stopped, or was saved, and is to be wired again, masked or not: of MSI-X
        /// alone, as the others take all their vectors at once.
        const KEPT = 1 << 8;

        const _ = !0;
    }
}

impl VectorState {
    /// What of an MSI-X vector is the guest's, and not the host's.
    pub(crate) const SAVED: Self = Self::MASKED.union(Self::LATCHED).union(Self::KEPT);
}

/// One vector, with what stands for it in the host.
///
/// An embedder provides the storage, as many as the device has MSI-X vectors, and never looks inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vector {
    pub(super) address: u64,
    pub(super) data: u32,
    pub(crate) state: VectorState,
}

const _: () = assert!(size_of::<Vector>() == 16);

impl Vector {
    /// An entry of the MSI-X table after reset: zero and masked.
    pub const RESET: Self = Self::with(VectorState::MASKED);

    /// A vector without a message.
    pub(super) const fn with(state: VectorState) -> Self {
        Self { address: 0, data: 0, state }
    }

    /// The message that the guest has programmed.
    pub(super) fn message(self) -> Message {
        Message { address: self.address, data: self.data }
    }

    /// The guest programs this message; whether it is another one. The host does not know it then.
    pub(super) fn set_message(&mut self, message: Message) -> bool {
        let changed = message != self.message();
        if changed {
            Message { address: self.address, data: self.data } = message;
            self.state.remove(VectorState::ROUTED | VectorState::UNCOMMITTED);
        }
        changed
    }

    /// The state after a reset. What the host could not cut off is not forgotten: the next teardown tries again.
    pub(super) fn reset_to(&mut self, state: VectorState) {
        *self = Self::with(state | (self.state & VectorState::ARMED));
    }
}

impl Default for Vector {
    fn default() -> Self {
        Self::RESET
    }
}

/// Where the pending bits of 64 vectors are to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingQuery {
    /// Bits that are known to be set.
    pub known: u64,
    /// Bits that the host must poll: the vector signals an event that reaches nobody.
    pub poll: u64,
    /// Bits that are in the device's own Pending Bit Array: the vector was never wired.
    pub hardware: u64,
}
