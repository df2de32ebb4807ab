//! `vfio-assign inspect`: the registers of a device as they are now, decoded.

mod capabilities;
mod decode;
mod extended;
mod guest;
mod interrupts;
mod show;

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::display;
use crate::exit::Exit;
use crate::help::Problem;
use crate::host::{HostFiles, folder, named};
use crate::shape::of_file;
use decode::Registers;

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// A device, such as 0000:04:00.0 or 04:00.0, or a file that `vfio-assign capture` has written
    #[arg(value_name = "ADDRESS|CAPTURE")]
    pub(crate) what: String,

    /// Look again and again, this many seconds apart, and print what has changed
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", conflicts_with = "json")]
    pub(crate) watch: Option<u32>,

    /// Also ask the run that has the device, at the socket that it was given with --control
    #[arg(long, value_name = "SOCKET")]
    pub(crate) control: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The schema's name, with its version at the end.
const SCHEMA: &str = "vfio-assign/inspect/1";

#[derive(Serialize)]
struct Schema<'a> {
    schema: &'static str,
    #[serde(flatten)]
    registers: &'a Registers,
}

/// Looks at a device.
pub(crate) fn inspect(host: &HostFiles, arguments: &InspectArguments) -> Result<Exit, Problem> {
    let registers = read(host, arguments)?;
    if arguments.json {
        display::print_json(&Schema { schema: SCHEMA, registers: &registers })?;
        return Ok(Exit::Done);
    }
    display::print(&show::registers(&registers, display::text_width()))?;
    let Some(seconds) = arguments.watch else { return Ok(Exit::Done) };
    let mut before = registers;
    loop {
        sleep(Duration::from_secs(seconds.max(1).into()));
        let now = read(host, arguments)?;
        let changes = show::changes(&before, &now);
        if !changes.is_empty() && !display::print_while_read(&changes)? {
            return Ok(Exit::Done);
        }
        before = now;
    }
}

/// What is in the registers now. A device is not opened for this, which would reset it: sysfs shows them.
fn read(host: &HostFiles, arguments: &InspectArguments) -> Result<Registers, Problem> {
    let Ok(bdf) = arguments.what.parse() else {
        let shape = of_file(arguments.what.as_ref())?;
        return Ok(Registers::of_capture(&shape.capture));
    };
    let function = named(host, bdf)?;
    let config = host.bytes(&format!("{}/config", folder(bdf)))?.unwrap_or_default();
    let mut registers = Registers::of_function(&function, &config);
    registers.interrupts = interrupts::interrupts(host, bdf)?;
    registers.guest = arguments.control.as_deref().map(|socket| guest::guest(socket, bdf)).transpose()?;
    Ok(registers)
}
