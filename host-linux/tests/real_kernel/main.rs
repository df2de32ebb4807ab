//! The library against a real kernel: VFIO's rules as the kernel has them, not as a fake does.
//!
//! These tests open devices, which must be named in the environment; `cargo lab test` does so in an emulated machine.
//! Elsewhere each says that it is not run, and passes. They share the devices and count what the process has open, so
//! they run one after another (`--test-threads=1`).

mod assigned;
mod card;
#[cfg(feature = "kvm")]
mod counting;
mod device;
mod dma;
mod edu;
#[cfg(feature = "kvm")]
mod embedding;
mod events;
mod handed_in;
mod handed_on;
mod hot_reset;
mod irqs;
#[cfg(feature = "kvm")]
mod kvm;
mod memory;
mod rig;
mod rules;
mod sharing;
#[cfg(feature = "kvm")]
mod timing;
mod token;
mod unguarded;
