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
mod inspect;
mod life;
mod list;
mod machine;
mod manual;
mod open_files;
mod progress;
mod replay;
mod report;
mod run;
mod saved;
mod shape;
mod stats;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser as _;

use arguments::{Arguments, Command, RunArguments};
use doctor::DoctorArguments;
use exit::Exit;
use explain::ExplainArguments;
use help::Problem;
use host::HostFiles;
use run::Ending;

fn main() -> ExitCode {
    let start = Instant::now();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_timestamp(None)
        .target(env_logger::Target::Pipe(Box::new(progress::LogLines)))
        .init();
    match command(&Arguments::parse(), start) {
        Ok(exit) => exit.into(),
        Err(error) => {
            display::complain(format_args!("vfio-assign: {error}"));
            if let Some(help) = error.help() {
                display::complain(format_args!("help: {help}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn command(arguments: &Arguments, start: Instant) -> Result<Exit, Problem> {
    let host = HostFiles::at(&arguments.root);
    match &arguments.command {
        Command::Run(arguments) if arguments.dry_run => dry_run(&host, arguments),
        Command::Run(arguments) => {
            open_files::raise_limit();
            Ok(match run::run(arguments, start)? {
                Ending::PoweredOff | Ending::Left | Ending::HandedOver => Exit::Done,
                Ending::Signal(signal) => Exit::Signal(signal),
            })
        }
        Command::Control(arguments) => control::control(arguments).map(|()| Exit::Done),
        Command::List(arguments) => list::list(&host, arguments),
        Command::Doctor(arguments) => doctor::doctor(&host, arguments),
        Command::Bind(arguments) => bind::bind(&host, arguments),
        Command::Unbind(arguments) => bind::unbind(&host, arguments),
        Command::Explain(arguments) => explain::explain(&host, arguments),
        Command::Inspect(arguments) => inspect::inspect(&host, arguments),
        Command::Completions(arguments) => manual::completions(arguments),
        Command::Man(arguments) => manual::man(arguments),
        Command::Replay(arguments) => replay::replay(arguments),
        Command::Capture(arguments) => capture::capture(&host, arguments),
    }
}

/// What `run` would find and give, without running: the doctor and the plan of each device.
fn dry_run(host: &HostFiles, arguments: &RunArguments) -> Result<Exit, Problem> {
    let devices = assignment::addresses(&arguments.devices)?;
    if devices.is_empty() {
        return doctor::doctor(
            host,
            &DoctorArguments { device: None, memory: arguments.memory, json: false },
        );
    }
    let mut exit = Exit::Done;
    for bdf in devices {
        let device = DoctorArguments { device: Some(bdf), memory: arguments.memory, json: false };
        let found = doctor::doctor(host, &device)?;
        if exit != Exit::No && found != Exit::Done {
            exit = found;
        }
        display::print("\n")?;
        let (what, backend) = (bdf.to_string(), arguments.backend);
        explain::explain(host, &ExplainArguments { what, backend, svg: None, json: false })?;
    }
    Ok(exit)
}
