//! Bugs that others had, each as a test of how this project answers.

mod device_bars;
mod device_capabilities;
mod device_gone;
mod device_msix;
mod document;
mod guest_access;
mod guest_bars;
mod guest_interrupts;
mod guest_power;
mod host;
