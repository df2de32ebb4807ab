//! Interrupts: what the guest programs, and what of it stands in the host.

mod intx;
mod layout;
mod mode;
mod msi;
mod msix;
mod pass;
mod relocation;
mod settle;
mod settled;
mod step;
mod vector;

pub use intx::{InterruptPin, Intx, IntxFinding};
pub use layout::{MsixFinding, MsixLayout, TablePlace};
pub(crate) use mode::Interrupts;
pub(crate) use msi::MsiState;
pub use msi::{Msi, MsiFinding};
pub use msix::Msix;
pub use relocation::RelocationError;
pub(crate) use settled::Settled;
pub(crate) use vector::VectorState;
pub use vector::{PendingQuery, Vector};
