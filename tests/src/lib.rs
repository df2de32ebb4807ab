//! What the tests across crates have in common: a function on a fake host, the operations that models and fuzz
//! targets drive it with, and what must hold after each.

mod bound;
mod bytewise;
mod interrupts;
mod kinds;
mod op;
mod rig;
mod saved;
mod setup;
mod world;

pub use bound::{BOUND, most_host_calls};
pub use bytewise::{Bytewise, Interrupts, Placed, Space, memory_at};
pub use interrupts::MsixModel;
pub use kinds::{KindOp, Kinds};
pub use op::{Choices, Op};
pub use rig::{BASE, MESSAGE, Rig, bar, message, vector};
pub use saved::{is_fair, restoring_is_unseen, sealed};
pub use setup::Setup;
pub use world::World;

/// The README, so that its example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
