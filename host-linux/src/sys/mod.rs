//! What cannot be said in safe Rust: `ioctl`, `mmap`, access through mappings, and the handler of its faults.
//!
//! Every function here is safe to call unless it says otherwise; the rest of the crate has no `unsafe`.
//! Nothing in this folder decides anything: it makes one system call and gives back what the kernel said.

#![expect(unsafe_code, reason = "system calls that take memory, and accesses through mappings, need it")]

mod eventfd;
pub(crate) mod fault;
mod ioctl;
pub(crate) mod iommufd;
#[cfg(feature = "kvm")]
pub(crate) mod kvm;
mod memory;
mod mmap;
mod range;
#[cfg(feature = "kvm")]
mod run_page;
mod uapi;
pub(crate) mod vfio;
#[cfg(all(feature = "kvm", target_arch = "x86_64"))]
pub(crate) mod xsave;

pub use eventfd::EventFd;
pub use memory::{GuestMemory, HugePage, MemoryAccessError, MemoryBacking};
pub(crate) use mmap::{Mapping, Placement};
pub(crate) use range::{FilePart, HostRange};
#[cfg(feature = "kvm")]
pub use run_page::RunPage;
