//! What the specification says about registers, and nothing else: offsets, bits and layouts.

pub mod capability;
pub mod express;
pub mod header;
pub mod msi;
pub mod msix;
pub mod power;
