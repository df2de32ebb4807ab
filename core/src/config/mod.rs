//! Configuration space: what the guest sees of each dword, and what its writes do.

mod capabilities;
mod map;
mod rules;

pub(crate) use capabilities::rule_of;
pub use map::{ConfigMap, ConfigMapError};
pub use rules::{Policy, Register};
