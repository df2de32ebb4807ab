//! Interrupts: what the guest programs, and what of it stands in the host.

mod layout;
mod msix;
mod relocation;
mod settle;
mod settled;

pub use layout::{MsixFinding, MsixLayout, TablePlace};
pub use msix::{Msix, PendingQuery, Vector};
pub use relocation::RelocationError;
pub(crate) use settled::Settled;
