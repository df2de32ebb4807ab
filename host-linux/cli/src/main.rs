//! The command: gives a Linux guest a real PCI device.
//!
//! A user of the libraries, with nothing in it that they should hold: `arguments` is what it is told, `run` puts
//! a machine together, `machine` is the small KVM monitor, `assignment` puts devices into it.

#![forbid(unsafe_code)]

mod arguments;
mod assignment;
mod help;
mod machine;
mod report;
mod run;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser as _;

use arguments::{Arguments, Command};
use run::Ending;

fn main() -> ExitCode {
    let start = Instant::now();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_timestamp(None)
        .init();
    let Command::Run(arguments) = Arguments::parse().command;
    match run::run(&arguments, start) {
        Ok(Ending::PoweredOff | Ending::Left) => ExitCode::SUCCESS,
        Ok(Ending::Signal(signal)) => ExitCode::from(128_u8.saturating_add(signal.try_into().unwrap_or(0))),
        Err(error) => {
            eprintln!("vfio-assign: {error}");
            if let Some(help) = error.help() {
                eprintln!("help: {help}");
            }
            ExitCode::FAILURE
        }
    }
}
