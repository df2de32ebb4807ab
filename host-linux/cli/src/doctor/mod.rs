//! `vfio-assign doctor`: every check between a fresh host and a working assignment, and what to do where one fails.

mod check;
mod device;
mod facts;
mod group;
mod json;
mod kernel;
mod limits;
mod order;
mod platform;
mod show;
mod vfio;

use clap::Args;
use vfio_assign_core::Bdf;

use crate::arguments::memory;
use crate::display;
use crate::exit::Exit;
use crate::help::Problem;
use crate::host::{HostFiles, PciFunction, named};
use check::{Check, State, Subject};
use facts::Facts;

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// The device that a guest is to have, such as 0000:04:00.0 or 04:00.0; without it only the host is looked at
    #[arg(value_name = "ADDRESS")]
    pub(crate) device: Option<Bdf>,

    /// The memory that the guest is to have, with a unit: 512M, 2G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = memory)]
    pub(crate) memory: u64,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What all checks come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Works,
    WouldNot,
    CannotTell,
}

/// Looks a host over.
pub(crate) fn doctor(host: &HostFiles, arguments: &DoctorArguments) -> Result<Exit, Problem> {
    let function = arguments.device.map(|bdf| named(host, bdf)).transpose()?;
    let (made, verdict) = examine(host, function.clone(), arguments.memory)?;
    if arguments.json {
        display::print_json(&json::Examination::of(function.as_ref(), &made, verdict))?;
    } else {
        display::print(&show::examination(function.as_ref(), &made, verdict, display::text_width()))?;
    }
    Ok(match verdict {
        Verdict::Works => Exit::Done,
        Verdict::WouldNot => Exit::No,
        Verdict::CannotTell => Exit::Unknown,
    })
}

/// All checks, and what they come to.
fn examine(
    host: &HostFiles,
    function: Option<PciFunction>,
    memory: u64,
) -> Result<(Vec<(Subject, Check)>, Verdict), Problem> {
    let made = order::examine(&Facts::gather(host, function, memory)?);
    let any = |state| made.iter().any(|(_, check)| check.state == state);
    let verdict = if any(State::Problem) {
        Verdict::WouldNot
    } else if any(State::CannotTell) {
        Verdict::CannotTell
    } else {
        Verdict::Works
    };
    Ok((made, verdict))
}
