//! A PCI device and its host that exist only in memory, by the rules of the kernel's VFIO.
//!
//! A [`Shape`] is what a device looks like before anybody opens it. A [`FakeHost`] is that device behind a
//! host: it implements every role of [`host`](crate::host), keeps a record of each call and fails those that
//! its [`Faults`] name. Nothing here depends on time or on chance.
//!
//! A [`Capture`] is a shape as text, taken from a device that exists.
//!
//! What it does not do, it refuses: a call that a real host would answer with an error, or that a driver of
//! the core has no business making (arm twice, poll an event that is not there), is an error here as well.

mod capture;
mod device;
mod faults;
mod host;
mod irqs;
mod kernel;
mod shape;

pub use capture::{Capture, CaptureError, CaptureProblem, CapturedInterrupts, CapturedRegion};
pub use faults::{CallKind, FakeError, Faults};
pub use host::{Call, FakeHost};
pub use kernel::Raised;
pub use shape::{MsixPlan, Shape};
