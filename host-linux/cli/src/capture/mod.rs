//! `vfio-assign capture`: the shape of a device as text, never what is in it.

use clap::Args;
use vfio_assign_core::Bdf;

use crate::arguments::BackendArgument;
use crate::display;
use crate::exit::Exit;
use crate::help::Problem;
use crate::host::HostFiles;
use crate::shape::{Source, of_device, scrub, without_ids};

/// What to capture.
#[derive(Debug, Args)]
pub(crate) struct CaptureArguments {
    /// The device, such as 0000:04:00.0 or 04:00.0
    #[arg(value_name = "ADDRESS")]
    pub(crate) device: Bdf,

    /// The kernel's interface by which a device that VFIO has is opened
    #[arg(long, value_name = "INTERFACE", value_enum, default_value_t = BackendArgument::Auto)]
    pub(crate) backend: BackendArgument,

    /// Leave out who made the device and what it is: ids, name and address
    #[arg(long)]
    pub(crate) no_ids: bool,
}

/// Captures a device.
pub(crate) fn capture(host: &HostFiles, arguments: &CaptureArguments) -> Result<Exit, Problem> {
    let mut shape = of_device(host, arguments.backend.into(), arguments.device)?;
    let capture = &mut shape.capture;
    scrub(&mut capture.config);
    if arguments.no_ids {
        without_ids(&mut capture.config);
        (capture.device, capture.name) = (None, "".into());
    }
    if shape.source != Source::Vfio {
        display::complain(format_args!("vfio-assign: this is the device {}", shape.source.text()));
    }
    display::print(&shape.capture.to_string())?;
    Ok(Exit::Done)
}
