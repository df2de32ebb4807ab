//! What a guest sees of an assigned PCI function: its configuration space, its BARs, its interrupts.
//!
//! [`AssignedFunction`] is a pure state machine. It is told of an access, names one [`Step`](host::Step) at a time
//! that it needs of the host, and hears how the step went. It performs no I/O, allocates nothing, and does not
//! panic: the whole crate is linked into a freestanding binary whose panic handler cannot be linked.
//!
//! ```
//! use vfio_assign_core::host::{Outcome, Step};
//! use vfio_assign_core::{
//!     Access, AssignedFunction, Bytes, Description, PageSize, Region, Target, Vector, Window,
//! };
//!
//! // A function with one BAR of 16 KiB and nothing else.
//! let mut config = [0; 256];
//! config[..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
//! let mut regions = [Region::default(); 7];
//! regions[0].size = 0x4000;
//! let description =
//!     Description { config: &config, regions, page_size: PageSize::SIZE_4K, ..Description::default() };
//! let mut function =
//!     AssignedFunction::new(&description, [Vector::RESET; 0], [Window::default(); 0], |_| {})?;
//!
//! // The guest writes Command: memory decoding and bus mastering on. Each step is the host's to take.
//! let write = Access::Write { target: Target::Config(4), data: Bytes::from_slice(&[6, 0]) };
//! let _ = function.begin(write);
//! let mut forwarded = None;
//! while let Some((token, step)) = function.next_step() {
//!     if let Step::WriteConfig { value, .. } = step {
//!         forwarded = Some(value);
//!     }
//!     let _ = function.complete(token, Outcome::Done);
//! }
//! assert_eq!(forwarded, Some(6));
//! # Ok::<(), vfio_assign_core::DescriptionError>(())
//! ```
//!
//! A host that can answer at once implements the traits of [`host`] and calls
//! [`access`](AssignedFunction::access), which runs that loop.
//!
//! Methods are of four kinds:
//!
//! | kind | promise |
//! |---|---|
//! | getters | change nothing |
//! | `begin`, `handle_*` | take any input; no `Result`, no panic |
//! | `begin_attach`, `begin_reset`, `begin_detach`, `begin_settle`, `begin_stop`, `begin_start`, `save`, `restore` | commands of the embedder |
//! | `next_step`, `complete`; `drive` and what is built on it | carry an operation through |
//!
//! An operation has at most 5 × vectors + 34 × windows + 600 steps, whatever the guest asks for and whatever fails.
//! Storage for vectors and windows is the caller's. Every method that changes something takes `&mut self`: locking is
//! the caller's, too, and most register accesses need none, see [`Decoder`].
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
mod at_once;
mod bars;
mod caps;
mod config;
mod decoder;
mod description;
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
mod options;
mod phases;
mod pieces;
mod power;
pub mod region_info;
pub mod regs;
mod saved;
mod span;
mod stop;
mod text;
mod windows;

pub use access::{ByteLanes, Bytes, DwordAccess, Width};
pub use addr::{
    Address, BarIndex, Bdf, BdfError, ConfigOffset, GuestAddr, GuestBarOffset, GuestPort, Iova, PageSize,
    PhysBarOffset, VectorIndex,
};
pub use bars::{Bar, BarError, BarKind, Bars, PinFault};
pub use caps::{
    Capabilities, Capability, CapabilityFinding, ConfigImage, ExtendedCapabilities, ExtendedCapability,
};
pub use config::{ConfigMap, ConfigMapError, Policy, Register};
pub use decoder::{Decoded, Decoder};
pub use description::{Description, DescriptionError, Finding, Region};
pub use events::Counters;
pub use explain::{
    BarPiece, ConfigPiece, Explanation, InterruptPlan, InterruptReason, Reason, Source, Treatment, Writes,
};
pub use function::{AssignedFunction, ResetOutcome};
pub use interrupts::{
    InterruptPin, Intx, IntxFinding, Msi, MsiFinding, Msix, MsixFinding, MsixLayout, PendingQuery,
    RelocationError, TablePlace, Vector,
};
pub use operation::{Access, Begin, Completion, Target, Token};
pub use options::{
    Apertures, CapabilityChoice, CapabilityId, Exclusion, Ids, Options, Pin, Placement, Relocation,
};
pub use saved::{RestoreError, SaveError, SavedSection};
pub use span::Span;
pub use stop::BusMastering;
pub use windows::{MmapArea, Window, WindowFinding};
