//! What the core asks of its host, one thing at a time, and what it hears back, as plain data.

use crate::access::Width;
use crate::addr::{BarIndex, ConfigOffset, GuestAddr, GuestPort, PhysBarOffset, VectorIndex};
use crate::span::Span;
use core::fmt;

/// How a function interrupts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum InterruptKind {
    /// The interrupt pin: PCI Local Bus 3.0, 2.2.6. Its one interrupt is vector 0, and a level.
    Intx,
    /// Message Signaled Interrupts: PCI Local Bus 3.0, 6.8.1.
    Msi,
    /// MSI-X: PCI Local Bus 3.0, 6.8.2.
    Msix,
}

impl InterruptKind {
    /// Every kind, in the order of their numbers in VFIO.
    pub const ALL: [Self; 3] = [Self::Intx, Self::Msi, Self::Msix];
}

impl fmt::Display for InterruptKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intx => "INTx",
            Self::Msi => "MSI",
            Self::Msix => "MSI-X",
        })
    }
}

/// What interrupts the host can carry to the guest; the others are hidden from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostInterrupts {
    /// It can carry the interrupt pin.
    pub intx: bool,
    /// How many MSI vectors it has for the device; 0 if it cannot do MSI.
    pub msi: u16,
    /// How many MSI-X vectors it has for the device; 0 if it cannot do MSI-X.
    pub msix: u16,
    /// Whether MSI-X vectors can be added while others are in use (VFIO: `NORESIZE` is clear).
    pub resizable: bool,
}

impl HostInterrupts {
    /// Every kind, and as many vectors as a function can have.
    pub const ALL: Self = Self { intx: true, msi: 32, msix: VectorIndex::LIMIT, resizable: true };
    /// MSI-X only, with as many vectors as a function can have.
    pub const MSIX: Self = Self { intx: false, msi: 0, ..Self::ALL };
}

/// The message that an interrupt writes: PCI Local Bus 3.0, 6.8.2.6 and 6.8.2.7.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Message {
    /// Message Address.
    pub address: u64,
    /// Message Data.
    pub data: u32,
}

/// The addresses a BAR decodes: memory or ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GuestRange {
    /// Guest-physical memory.
    Memory(Span<GuestAddr>),
    /// I/O ports.
    Ports(Span<GuestPort>),
}

/// A part of a BAR that the guest can reach without leaving guest mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MappedWindow {
    /// The number of the window, from 0, the same each time it is mapped.
    pub index: usize,
    /// The BAR.
    pub bar: BarIndex,
    /// The bytes of the device's BAR, whole pages.
    pub device: Span<PhysBarOffset>,
    /// Where the guest sees them.
    pub guest: Span<GuestAddr>,
}

/// One thing the host is to do. Steps come one at a time, in an order that matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Step {
    /// Read the device's configuration space: exactly these bytes, once.
    ReadConfig {
        /// The first byte, naturally aligned.
        offset: ConfigOffset,
        /// How many bytes: 1, 2 or 4.
        width: Width,
    },
    /// Read a BAR of the device: exactly these bytes, once.
    ReadBar {
        /// The BAR.
        bar: BarIndex,
        /// The first byte, naturally aligned.
        offset: PhysBarOffset,
        /// How many bytes.
        width: Width,
    },
    /// Which of these vectors' events are signalled? Bit 0 is vector `first`. Nothing is consumed.
    PollPending {
        /// The kind of interrupt.
        kind: InterruptKind,
        /// A multiple of 64.
        first: VectorIndex,
        /// The vectors that are asked about.
        mask: u64,
    },
    /// Write the device's configuration space: exactly these bytes, once.
    WriteConfig {
        /// The first byte, naturally aligned.
        offset: ConfigOffset,
        /// How many bytes: 1, 2 or 4.
        width: Width,
        /// The value, in the low bytes.
        value: u32,
    },
    /// Write a BAR of the device: exactly these bytes, once.
    WriteBar {
        /// The BAR.
        bar: BarIndex,
        /// The first byte, naturally aligned.
        offset: PhysBarOffset,
        /// How many bytes.
        width: Width,
        /// The value, in the low bytes.
        value: u64,
    },
    /// Reset the device.
    ResetFunction,
    /// Take a window away from the guest; afterwards no vCPU can reach it.
    Unmap(MappedWindow),
    /// Accesses to this range are no longer this function's.
    Untrap {
        /// The BAR.
        bar: BarIndex,
        /// Its old range.
        range: GuestRange,
    },
    /// The vector's event no longer reaches the guest; an interrupt that comes now stays in the event.
    Disarm {
        /// The kind of interrupt.
        kind: InterruptKind,
        /// The vector.
        vector: VectorIndex,
    },
    /// Which of these vectors' events are signalled? Consumes the signals. Bit 0 is vector `first`.
    TakePending {
        /// The kind of interrupt.
        kind: InterruptKind,
        /// A multiple of 64.
        first: VectorIndex,
        /// The vectors that are asked about.
        mask: u64,
    },
    /// The kind off in the device. Events and routes are kept.
    DisableInterrupts {
        /// The kind of interrupt.
        kind: InterruptKind,
    },
    /// Give back every event and every route that this function has for the kind.
    ReleaseVectors {
        /// The kind of interrupt.
        kind: InterruptKind,
    },
    /// Accesses to this range are this function's.
    Trap {
        /// The BAR.
        bar: BarIndex,
        /// Its range.
        range: GuestRange,
    },
    /// Let the guest reach a window without leaving guest mode.
    Map(MappedWindow),
    /// The kind on in the device, with no vector that signals an event. No other kind is on.
    EnableInterrupts {
        /// The kind of interrupt.
        kind: InterruptKind,
    },
    /// Let these vectors signal events, those that [`wants_event`](crate::AssignedFunction::wants_event) names;
    /// turns the kind on in the device if it is off, no other being on. The others of the range signal nothing.
    Wire {
        /// The kind of interrupt.
        kind: InterruptKind,
        /// The first vector.
        first: VectorIndex,
        /// The last vector.
        last: VectorIndex,
    },
    /// Note the message of a vector; takes effect with [`Step::CommitRoutes`].
    Route {
        /// The kind of interrupt, not INTx.
        kind: InterruptKind,
        /// The vector.
        vector: VectorIndex,
        /// Its message.
        message: Message,
    },
    /// All messages noted take effect.
    CommitRoutes,
    /// The vector's event reaches the guest from now on, and so does what it already holds.
    Arm {
        /// The kind of interrupt.
        kind: InterruptKind,
        /// The vector.
        vector: VectorIndex,
    },
    /// The device may assert its pin again; the host masked it when it last did. Until the guest has ended that
    /// interrupt the host need not have done anything.
    UnmaskIntx,
    /// Signal the vector's event once, as if the device had.
    Signal {
        /// The kind of interrupt.
        kind: InterruptKind,
        /// The vector.
        vector: VectorIndex,
    },
}

/// What a failed step means for the access that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StepKind {
    /// A hardware read: exactly once, never coalesced, never retried.
    Read,
    /// A hardware write: exactly once, never coalesced, never retried.
    Forward,
    /// Takes something away from the guest: must be acknowledged before the access completes.
    Revoke,
    /// Sets something up: may fail, and is then missing.
    Establish,
}

impl Step {
    /// Whether it is one of a single vector.
    pub(crate) fn is_of_vector(&self) -> bool {
        matches!(self, Self::Disarm { .. } | Self::Route { .. } | Self::Signal { .. } | Self::Arm { .. })
    }

    /// The kind of this step.
    pub fn kind(self) -> StepKind {
        match self {
            Self::ReadConfig { .. } | Self::ReadBar { .. } | Self::PollPending { .. } => StepKind::Read,
            Self::WriteConfig { .. } | Self::WriteBar { .. } | Self::ResetFunction => StepKind::Forward,
            Self::Unmap(_)
            | Self::Untrap { .. }
            | Self::Disarm { .. }
            | Self::TakePending { .. }
            | Self::DisableInterrupts { .. }
            | Self::ReleaseVectors { .. } => StepKind::Revoke,
            Self::Trap { .. }
            | Self::Map(_)
            | Self::EnableInterrupts { .. }
            | Self::Wire { .. }
            | Self::Route { .. }
            | Self::CommitRoutes
            | Self::Arm { .. }
            | Self::UnmaskIntx
            | Self::Signal { .. } => StepKind::Establish,
        }
    }
}

/// How a step went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is done, and this is what was read.
    Value(u64),
    /// It failed, or went only half way.
    Failed,
    /// A [`Step::Wire`] that was to turn the kind on: the host has only so many vectors, and none is wired.
    Fewer(u16),
}

impl Outcome {
    /// Whether the step is done.
    pub fn is_done(self) -> bool {
        !matches!(self, Self::Failed | Self::Fewer(_))
    }

    /// What was read; 0 if that is nothing.
    pub(crate) fn value(self) -> u64 {
        match self {
            Self::Value(value) => value,
            Self::Done | Self::Failed | Self::Fewer(_) => 0,
        }
    }
}
