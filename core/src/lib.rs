//! What a guest sees of an assigned PCI function.
#![no_std]
#![forbid(unsafe_code)]
// A panic in here is a guest or a device taking its host down. The link check shows that there is none; these
// keep the ways to one out of the source.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[cfg(feature = "fake")]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod access;
mod addr;
mod bars;
mod caps;
mod config;
mod decoder;
mod drive;
mod events;
mod explain;
#[cfg(feature = "fake")]
#[cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        reason = "a test device: a mistake in it is to stop the test"
    )
)]
pub mod fake;
mod function;
pub mod host;
mod interrupts;
mod operation;
mod pieces;
pub mod regs;
mod span;
mod windows;

pub use access::{ByteLanes, Bytes, DwordAccess, Width};
pub use addr::{
    Address, BarIndex, Bdf, BdfError, ConfigOffset, GuestAddr, GuestBarOffset, GuestPort, Iova, PageSize,
    PhysBarOffset, VectorIndex,
};
pub use bars::{Bar, BarError, BarKind, Bars};
pub use caps::{
    Capabilities, Capability, CapabilityFinding, ConfigImage, ExtendedCapabilities, ExtendedCapability,
};
pub use config::{ConfigMap, ConfigMapError, Policy, Register};
pub use decoder::{Decoded, Decoder};
pub use events::Counters;
pub use explain::{BarPiece, Reason, Treatment};
pub use function::{AssignedFunction, Description, DescriptionError, Finding, Region, ResetOutcome};
pub use interrupts::{Msix, MsixFinding, MsixLayout, PendingQuery, TablePlace, Vector};
pub use operation::{Access, Begin, Completion, Target, Token};
pub use span::Span;
pub use windows::{MmapArea, Window, WindowFinding};
