//! The command: gives a Linux guest a real PCI device.
//!
//! A user of the libraries, with nothing in it that they should hold: `arguments` is what it is told, `run` puts
//! a machine together, `machine` is the small KVM monitor, `assignment` puts devices into it. The other commands have
//! a folder each; `host` is what they see of this host, `display` how they talk to a person.

#![forbid(unsafe_code)]

mod arguments;
mod assignment;
mod bind;
mod capture;
mod control;
mod display;
mod doctor;
mod exit;
mod explain;
mod help;
mod host;
mod list;
mod machine;
mod replay;
mod report;
mod run;
mod shape;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser as _;

use arguments::{Arguments, Command};
use exit::Exit;
use help::Problem;
use host::HostFiles;
use run::Ending;

fn main() -> ExitCode {
    let start = Instant::now();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_timestamp(None)
        .init();
    match command(&Arguments::parse(), start) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("vfio-assign: {error}");
            if let Some(help) = error.help() {
                eprintln!("help: {help}");
            }
            ExitCode::FAILURE
        }
    }
}

fn command(arguments: &Arguments, start: Instant) -> Result<Exit, Problem> {
    let host = HostFiles::at(&arguments.root);
    match &arguments.command {
        Command::Run(arguments) => Ok(match run::run(arguments, start)? {
            Ending::PoweredOff | Ending::Left => Exit::Done,
            Ending::Signal(signal) => Exit::Signal(signal),
        }),
        Command::Control(arguments) => control::control(arguments).map(|()| Exit::Done),
        Command::List(arguments) => list::list(&host, arguments),
        Command::Doctor(arguments) => doctor::doctor(&host, arguments),
        Command::Bind(arguments) => bind::bind(&host, arguments),
        Command::Unbind(arguments) => bind::unbind(&host, arguments),
        Command::Explain(arguments) => explain::explain(&host, arguments),
        Command::Replay(arguments) => replay::replay(arguments),
        Command::Capture(arguments) => capture::capture(&host, arguments),
    }
}
