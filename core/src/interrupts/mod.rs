//! Interrupts: what the guest programs, and what of it stands in the host.

mod layout;
mod msix;
mod settle;
mod settled;

pub use layout::{MsixFinding, MsixLayout, TablePlace};
pub use msix::{Msix, PendingQuery, Vector};
pub(crate) use settled::Settled;
