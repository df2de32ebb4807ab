//! What an assigned device costs, beside the bare calls and beside QEMU: `cargo lab bench`.
//!
//! What is measured are rows, and a goal that is missed is a row like any other: the scenario fails only where
//! something cannot be measured, or a guest does not read what is on its disk.

mod calls;
mod cargo;
mod core;
mod counters;
mod entries;
mod guest;
mod host;
mod kept;
mod memory;
mod page;
mod plot;
mod registers;
mod requests;
mod row;

pub(super) use super::Cause;
use super::{Failure, named};
use crate::bench::Bench;
use crate::progress::Progress;
use crate::report::{Report, mark};
use kept::{Kept, Measured};
use serde_json::Value;
use std::rc::Rc;

/// Runs that may hang, or lose L1, before the whole fails.
const REPEATS: usize = 2;

/// What to measure, and what to do with it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Only this part, or these [default: all].
    #[arg(long = "part", value_enum)]
    parts: Vec<Part>,
    /// Runs of each measurement.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    runs: u16,
    /// Keep the figures in the lab's source, and make docs/PERFORMANCE.md's table and plots of them.
    #[arg(long)]
    record: bool,
    /// Measure nothing; make the table and the plots of the figures that are kept.
    #[arg(long, conflicts_with_all = ["parts", "record"])]
    draw: bool,
}

/// A part of the whole, with an L1 of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The core by itself, beside crates that do something like it.
    Core,
    /// A trapped register where the device costs nothing, beside the system call and the bare access.
    Registers,
    /// The host path by itself: registers, interrupts, vectors, devices opened.
    Host,
    /// A whole guest under our command and under QEMU: when it is how far, and the monitor's memory.
    Guest,
    /// A guest's disk under both: requests a second, latency, processor time, exits.
    Requests,
    /// System calls counted, of our command and of QEMU.
    Calls,
    /// Guest memory mapped for a device, in an L1 with more of it.
    Memory,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Core => "core",
            Part::Registers => "registers",
            Part::Host => "host",
            Part::Guest => "guest",
            Part::Requests => "requests",
            Part::Calls => "calls",
            Part::Memory => "memory",
        }
    }
}

/// Measures.
pub(crate) fn run(options: &Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("bench", carry_through(options, progress))
}

fn carry_through(options: &Options, progress: &Rc<Progress>) -> Result<Report, Cause> {
    let mut report = Report::new("bench");
    let mut kept = Kept::read()?;
    if options.draw {
        let changed = page::draw(&kept)?;
        report.holds("the page is made of the figures that are kept", true, "made", changed.join(", "));
        return Ok(report);
    }
    let all = <Part as clap::ValueEnum>::value_variants().to_vec();
    let parts = if options.parts.is_empty() { all } else { options.parts.clone() };
    let bench = Bench::prepare(progress, true)?.with_meter()?.with_guest(&["nvme"])?;
    let mut figures = Vec::new();
    for part in parts {
        let measured = measure(part, &bench, options.runs, progress)?;
        progress.clear();
        show(&measured);
        let rows = &measured.rows;
        let whole = !rows.is_empty() && rows.iter().all(|row| !row.ours.is_empty());
        report.holds(&format!("{}: everything is measured", part.name()), whole, "a figure in each row", "");
        figures.push(measured.json());
        if options.record {
            kept.put(measured);
            kept.write()?;
            page::draw(&kept)?;
        }
    }
    report.figure("parts", Value::Array(figures));
    Ok(report)
}

/// One part; one that hangs or loses L1 is measured again, aloud.
fn measure(part: Part, bench: &Bench, runs: u16, progress: &Rc<Progress>) -> Result<Measured, Cause> {
    let mut repeated = Vec::new();
    loop {
        let before = load();
        let rows = match part {
            Part::Core => core::measure(progress),
            Part::Registers => registers::measure(runs, progress),
            Part::Host => host::measure(bench, runs, progress),
            Part::Guest => guest::measure(bench, runs, &mut repeated, progress),
            Part::Requests => requests::measure(bench, runs, progress),
            Part::Calls => calls::measure(bench, runs, progress),
            Part::Memory => memory::measure(bench, runs, progress),
        };
        match rows {
            Ok(rows) => {
                let name = part.name().to_owned();
                return Ok(Measured { part: name, load: [before, load()], repeated, rows });
            }
            Err(error @ (Cause::L1(_) | Cause::Life(_))) if repeated.len() < REPEATS => {
                eprintln!("{} {} is measured again in a fresh L1: {error}", mark(false), part.name());
                repeated.push(error.to_string().lines().next().unwrap_or_default().to_owned());
            }
            Err(error) => return Err(error),
        }
    }
}

/// Without this a measurement means nothing.
fn must(what: &'static str, expected: &str, got: &str) -> Result<(), Cause> {
    match expected == got {
        true => Ok(()),
        false => Err(Cause::NotSo { what, expected: expected.into(), got: got.into() }),
    }
}

/// How many processes want to run, in the mean of the last minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

/// The rows, for a person.
fn show(measured: &Measured) {
    println!("\n{}, load {:.1} before and {:.1} after", measured.part, measured.load[0], measured.load[1]);
    for row in &measured.rows {
        let ratio = page::ratio(row);
        let goal = row.is_reached().map_or("", mark);
        println!(
            "  {:<34} {:<38} {:>10} {:<5} {:>10} {:<28} {ratio:<22} {goal}",
            row.group,
            row.name,
            page::figure(row::median(&row.ours)),
            row.unit,
            page::figure(row::median(&row.theirs)),
            row.beside,
        );
    }
}
