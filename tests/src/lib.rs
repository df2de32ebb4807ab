//! What the tests across crates have in common: a function on a fake host, and the operations that models and
//! fuzz targets drive it with.

mod rig;

pub use rig::{BASE, MESSAGE, Rig, bar, message, vector};
