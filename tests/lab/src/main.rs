//! The lab: real VFIO, real KVM and a real guest, on a machine that has neither the hardware nor the rights.
//!
//! An emulated machine (L1) with an IOMMU and nested virtualisation boots Linux; in it a monitor, ours or QEMU,
//! boots a guest (L2) whose own driver drives an assigned device. `cargo lab --help` lists the scenarios. The same
//! program is process 1 of L1.

mod account;
mod agent;
mod bench;
mod build;
mod diagnosis;
mod disk;
mod driver;
mod echo;
mod guest;
mod host;
mod initramfs;
mod l1;
mod machine;
mod modules;
mod monitor;
mod orders;
mod packages;
mod pages;
mod progress;
mod protocol;
mod qmp;
mod random;
mod record;
mod report;
mod scenarios;
mod uapi;
mod virtual_function;
mod wire;
mod zoo;

use clap::{Parser, Subcommand};
use progress::Progress;
use scenarios::bench as benchmarks;
use scenarios::zoo as the_zoo;
use scenarios::{
    Choice, Failure, boot, captures, demo, errors, exec, firmware, kernel, life, lifecycle, operator, shell,
    test, versus,
};
use std::process::ExitCode;
use std::rc::Rc;

/// Runs the project against real VFIO and KVM inside an emulated machine.
#[derive(Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
    /// Print one JSON object as the last line of standard output.
    #[arg(long, global = true)]
    json: bool,
    /// Show both consoles while they run.
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Subcommand)]
enum Scenario {
    /// A guest reads and writes a real NVMe disk through its own driver, under vfio-assign.
    Demo(demo::Options),
    /// The same under QEMU, which shows that the lab itself is in order.
    Qemu(demo::Options),
    /// The guest reboots; the monitor is killed in the middle of I/O and run again.
    Lifecycle(lifecycle::Options),
    /// Wrong input to vfio-assign: every error must name its object and a way out.
    Errors,
    /// An operator follows the doctor on a host that nobody has prepared, until a guest has the disk, and gives it back.
    Operator,
    /// Captures devices that QEMU emulates, and compares them with those in tests/captures.
    Captures(captures::Options),
    /// vfio-assign boots a guest without a device.
    Boot,
    /// Leaves you in the guest's shell.
    Shell(shell::Options),
    /// Runs a command of your own in L1, with the disk lent to user space.
    Exec(exec::Options),
    /// Builds L1's own kernel, which has iommufd, and checks the library's layouts against its headers.
    Kernel,
    /// The library's tests against a real kernel, in L1.
    Test(test::Options),
    /// The core without an operating system: a paravisor that boots by itself, with guest drivers of its own.
    Firmware(firmware::Options),
    /// What devices go through in a long life: resets, reboots, kills, several guests, a hostile one.
    Life(life::Options),
    /// Every kind of device in one guest, each doing work whose content is checked.
    Zoo(the_zoo::Options),
    /// A guest's life under vfio-assign against the same guest's under QEMU.
    VersusQemu(versus::Options),
    /// What an assigned device costs, beside the bare calls and beside QEMU.
    Bench(benchmarks::Options),
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return agent::run();
    }
    let arguments = Arguments::parse();
    let progress = Rc::new(Progress::new(arguments.verbose));
    let outcome = match &arguments.scenario {
        Scenario::Demo(options) => demo::run(Choice::Ours, options, &progress),
        Scenario::Qemu(options) => demo::run(Choice::Qemu, options, &progress),
        Scenario::Lifecycle(options) => lifecycle::run(options, &progress),
        Scenario::Errors => errors::run(&progress),
        Scenario::Operator => operator::run(&progress),
        Scenario::Captures(options) => captures::run(*options, &progress),
        Scenario::Boot => boot::run(&progress),
        Scenario::Shell(options) => shell::run(options, &progress),
        Scenario::Exec(options) => exec::run(options, &progress),
        Scenario::Kernel => kernel::run(&progress),
        Scenario::Test(options) => test::run(options, &progress),
        Scenario::Firmware(options) => firmware::run(options, &progress),
        Scenario::Life(options) => life::run(options, &progress),
        Scenario::Zoo(options) => the_zoo::run(options, &progress),
        Scenario::VersusQemu(options) => versus::run(options, &progress),
        Scenario::Bench(options) => benchmarks::run(options, &progress),
    };
    progress.clear();
    match outcome {
        Ok(report) => {
            println!("{}{}", report.lines(), report.verdict(progress.seconds()));
            if arguments.json {
                println!("{}", report.json(progress.seconds()));
            }
            if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => fail(&failure, &arguments, &progress),
    }
}

/// Says what went wrong; where JSON was asked for there is an object in any case.
fn fail(failure: &Failure, arguments: &Arguments, progress: &Progress) -> ExitCode {
    eprintln!("{} {failure}", report::mark(false));
    if arguments.json {
        println!("{}", failure.report().json(progress.seconds()));
    }
    ExitCode::from(failure.status())
}
