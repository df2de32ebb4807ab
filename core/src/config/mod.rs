//! Configuration space: what the guest sees of each dword, and what its writes do.

mod capabilities;
mod map;
mod rules;

pub use map::{ConfigMap, ConfigMapError};
pub use rules::{Policy, Register};
