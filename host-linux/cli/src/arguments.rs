//! What the command is told.

use std::num::ParseIntError;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vfio_assign_linux::Backend;

use crate::bind::{BindArguments, UnbindArguments};
use crate::capture::CaptureArguments;
use crate::doctor::DoctorArguments;
use crate::exit::EXIT_STATUS;
use crate::explain::ExplainArguments;
use crate::inspect::InspectArguments;
use crate::list::ListArguments;
use crate::manual::{CompletionsArguments, ManArguments};
use crate::replay::ReplayArguments;

/// Give a Linux guest a real PCI device.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_STATUS)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Look for sysfs, proc and device files below this folder; for tests
    #[arg(long, global = true, hide = true, value_name = "FOLDER", default_value = "/")]
    pub(crate) root: PathBuf,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boot a Linux kernel in a virtual machine, with PCI devices of this host in it
    ///
    /// The guest's first serial port is this terminal. Ctrl-A x leaves; Ctrl-A Ctrl-A sends one Ctrl-A.
    #[command(after_help = "\
Examples:
  vfio-assign run --device 04:00.0 --kernel /boot/vmlinuz --initrd initrd.img --memory 2G --cpus 2
  vfio-assign run --device 04:00.0 --kernel /boot/vmlinuz --dry-run

Exit status: 0 the guest powered off, or you left with Ctrl-A x; 1 failed; 128+N signal N ended it.")]
    Run(RunArguments),

    /// Tell a run what to do while it runs
    ///
    /// The run listens where its --control says. What is said there is described in docs/control.md.
    #[command(after_help = "\
Examples:
  vfio-assign run --control /run/vm --slots 4 ...
  vfio-assign control /run/vm add 04:00.0
  vfio-assign control /run/vm events")]
    Control(ControlArguments),

    /// List the PCI functions of this host, and which of them a guest could have
    #[command(after_help = "\
Examples:
  vfio-assign list
  vfio-assign list --groups --class 01
  vfio-assign list --json | jq '.functions[] | select(.readiness == \"ready\").address'")]
    List(ListArguments),

    /// Look at all that a working assignment needs, and say what to do where something is missing
    #[command(after_help = "\
Lines that begin with # are for a shell, as root. Nothing is changed: the doctor only looks.

Examples:
  vfio-assign doctor
  vfio-assign doctor 04:00.0
  vfio-assign doctor 04:00.0 --memory 16G && vfio-assign run --device 04:00.0 ...

Exit status: 0 it would work, 3 it would not, 4 it cannot be told.")]
    Doctor(DoctorArguments),

    /// Give a device to VFIO, so that a guest can have it
    ///
    /// The driver that it has is remembered until the host restarts. Where anything fails, all is undone.
    #[command(after_help = "\
Examples:
  vfio-assign bind 04:00.0 --dry-run
  vfio-assign bind 04:00.0 --siblings")]
    Bind(BindArguments),

    /// Give a device back to the driver that it had before `bind`
    #[command(after_help = "\
Examples:
  vfio-assign unbind 04:00.0
  vfio-assign unbind 04:00.0 --siblings")]
    Unbind(UnbindArguments),

    /// Show what a guest would be given of a device, and why, before anything starts
    ///
    /// A device that VFIO has is opened for this, which resets most devices; of others sysfs tells.
    #[command(after_help = "\
Examples:
  vfio-assign explain 04:00.0
  vfio-assign explain 04:00.0 --svg bars.svg
  vfio-assign explain tests/captures/nvme.capture --json")]
    Explain(ExplainArguments),

    /// Write the shape of a device to standard output: what it looks like, never what is in it
    ///
    /// What comes out can be explained, and tests can make a device from it, without the hardware. A device that VFIO
    /// has is opened for this, which resets most devices; of others sysfs tells, and all of it only to root.
    #[command(after_help = "\
Examples:
  vfio-assign capture 04:00.0 > disk.capture
  vfio-assign capture 04:00.0 --no-ids > anonymous.capture")]
    Capture(CaptureArguments),

    /// Show the registers of a device as they are now, decoded
    ///
    /// The device is not opened, and goes on as it is. Only root sees more than the first 64 bytes. With --control also what
    /// the guest has made of it: its MSI-X table and what is pending, accesses by BAR and piece, calls to the kernel.
    #[command(after_help = "\
Examples:
  vfio-assign inspect 04:00.0
  vfio-assign inspect 04:00.0 --watch 2
  vfio-assign inspect 04:00.0 --control /run/vm --watch
  vfio-assign inspect tests/captures/e1000e.capture --json")]
    Inspect(InspectArguments),

    /// Do again what a guest did to a device, without the device, and say the first difference
    #[command(after_help = "\
Examples:
  vfio-assign run --record run.record --device 04:00.0 --kernel /boot/vmlinuz
  vfio-assign replay run.record
  vfio-assign replay tests/captures/linux-nvme-msix.trace

Exit status: 0 the core does as it did, 3 it does not.")]
    Replay(ReplayArguments),

    /// Print what a shell completes the command's arguments by
    #[command(after_help = "\
Examples:
  vfio-assign completions bash > /etc/bash_completion.d/vfio-assign")]
    Completions(CompletionsArguments),

    /// Print the manual page, or write one for each command
    #[command(after_help = "\
Examples:
  vfio-assign man | man -l -
  vfio-assign man --folder /usr/local/share/man/man1")]
    Man(ManArguments),
}

/// Which run is told what.
#[derive(Debug, Args)]
pub(crate) struct ControlArguments {
    /// The run's control socket
    pub(crate) socket: PathBuf,

    /// What to tell it.
    #[command(subcommand)]
    pub(crate) verb: ControlVerb,
}

/// What a run is told.
#[derive(Debug, Subcommand)]
pub(crate) enum ControlVerb {
    /// Show its devices, as JSON
    Status,
    /// Show what it has to tell until it ends, as JSON, a line each
    Events,
    /// Stop the guest's processors, and hold interrupts
    Pause,
    /// Let them go on
    Resume,
    /// Open a device and put it into a free slot
    Add {
        /// PCI address on the host, such as 0000:00:04.0
        device: String,
    },
    /// Ask the guest to give a device up, and wait until it has left
    Remove {
        /// PCI address on the host
        device: String,
    },
    /// Write the paused run to a file, for `run --restore` to go on with
    Save {
        /// The file
        file: PathBuf,
    },
    /// End it
    Quit,
}

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// PCI device to assign, such as 0000:00:04.0; may be given several times
    #[arg(long = "device", value_name = "ADDRESS")]
    pub(crate) devices: Vec<String>,

    /// Slots for hot-plug, each behind a PCI Express root port; those of --device are in the first. Without, they are
    /// on the root bus and stay there
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=MAX_SLOTS))]
    pub(crate) slots: u8,

    /// The kernel's interface by which devices are opened
    #[arg(long, value_name = "INTERFACE", value_enum, default_value_t = BackendArgument::Auto)]
    pub(crate) backend: BackendArgument,

    /// Linux kernel to boot, a bzImage
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: PathBuf,

    /// Initial RAM disk for the kernel
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,

    /// Kernel command line
    #[arg(long, value_name = "STRING", default_value = "console=ttyS0", allow_hyphen_values = true)]
    pub(crate) append: String,

    /// Guest memory, with a unit: 512M, 2G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = memory)]
    pub(crate) memory: u64,

    /// Guest processors
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=MAX_CPUS))]
    pub(crate) cpus: u8,

    /// Listen at this path for what `vfio-assign control` says while the guest runs
    #[arg(long, value_name = "SOCKET")]
    pub(crate) control: Option<PathBuf>,

    /// Go on with a paused run that was saved to this file, instead of booting; other arguments as the first run had them
    #[arg(long, value_name = "FILE", requires = "from", conflicts_with_all = ["devices", "record", "dry_run"])]
    pub(crate) restore: Option<PathBuf>,

    /// The control socket of the run that was saved, which hands over memory and devices, and ends
    #[arg(long, value_name = "SOCKET", requires = "restore")]
    pub(crate) from: Option<PathBuf>,

    /// Write a report of the run to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Record the device's shape, every access of the guest's that came to the monitor, every interrupt, and what was done,
    /// for `replay`; of one device that is there from the beginning
    #[arg(long, value_name = "FILE", conflicts_with = "slots")]
    pub(crate) record: Option<PathBuf>,

    /// Print at the end what left guest mode, and what that cost the host, to standard error
    #[arg(long)]
    pub(crate) stats: bool,

    /// Only look at what a run would need, as `doctor` does, and at what it would give, as `explain` does
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The kernel's two interfaces to VFIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArgument {
    /// cdev where it can be used, else group
    Auto,
    /// Groups in containers: /dev/vfio/7
    Group,
    /// A file for each device, and iommufd: /dev/vfio/devices/vfio0, since Linux 6.6
    Cdev,
}

impl From<BackendArgument> for Option<Backend> {
    fn from(argument: BackendArgument) -> Self {
        match argument {
            BackendArgument::Auto => None,
            BackendArgument::Group => Some(Backend::Group),
            BackendArgument::Cdev => Some(Backend::Cdev),
        }
    }
}

/// Interrupt controllers of more processors need 32-bit ids, which the firmware tables here do not have.
const MAX_CPUS: i64 = 254;
/// Slots of the root bus, but for the host bridge's.
const MAX_SLOTS: i64 = 31;
/// A kernel does not even unpack in less.
pub(crate) const LEAST_MEMORY: u64 = 16 << 20;

/// Why a size of memory was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MemoryArgument {
    /// Not a number before the unit.
    #[error("give a whole number and a unit, such as 512M or 2G: {0}")]
    Number(#[from] ParseIntError),
    /// No unit, or an unknown one.
    #[error(
        "give a unit after the number: M (mebibytes), G (gibibytes) or T (tebibytes), such as 512M or 2G"
    )]
    Unit,
    /// More than 64 bits.
    #[error("more than any machine can have")]
    TooLarge,
    /// Less than a kernel needs.
    #[error("too small: give at least 16M")]
    TooSmall,
}

/// A size with a unit, in bytes.
pub(crate) fn memory(text: &str) -> Result<u64, MemoryArgument> {
    let split = text.find(|character: char| !character.is_ascii_digit()).ok_or(MemoryArgument::Unit)?;
    let (number, unit) = text.split_at(split);
    let shift = match unit {
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        _ => return Err(MemoryArgument::Unit),
    };
    let number: u64 = number.parse()?;
    let bytes = number.checked_mul(1 << shift).ok_or(MemoryArgument::TooLarge)?;
    if bytes < LEAST_MEMORY { Err(MemoryArgument::TooSmall) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<RunArguments, clap::Error> {
        match Arguments::try_parse_from(line.split(' '))?.command {
            Command::Run(run) => Ok(run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clap_accepts_the_definition() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_device_may_be_given_several_times() {
        let run = parse("vfio-assign run --kernel k --device 0000:00:04.0 --device 0000:00:05.0").unwrap();
        assert_eq!(run.devices, ["0000:00:04.0", "0000:00:05.0"]);
    }

    #[test]
    fn without_options_the_guest_is_small_and_has_a_console() {
        let run = parse("vfio-assign run --kernel k").unwrap();
        assert_eq!((run.memory, run.cpus, run.append.as_str()), (512 << 20, 1, "console=ttyS0"));
    }

    #[test]
    fn the_interface_is_chosen_or_named() {
        let backend = |line| Option::from(parse(line).unwrap().backend);
        assert_eq!(backend("vfio-assign run --kernel k"), None);
        assert_eq!(backend("vfio-assign run --kernel k --backend cdev"), Some(Backend::Cdev));
        assert_eq!(backend("vfio-assign run --kernel k --backend group"), Some(Backend::Group));
    }

    #[test]
    fn the_kernel_is_needed() {
        assert!(parse("vfio-assign run").is_err());
    }

    #[test]
    fn no_processor_is_refused() {
        assert!(parse("vfio-assign run --kernel k --cpus 0").is_err());
    }

    #[test]
    fn too_many_processors_are_refused() {
        assert!(parse("vfio-assign run --kernel k --cpus 255").is_err());
    }

    #[test]
    fn gibibytes_are_gibibytes() {
        assert_eq!(memory("2G"), Ok(2 << 30));
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        assert_eq!(memory("512"), Err(MemoryArgument::Unit));
    }

    #[test]
    fn an_unknown_unit_is_refused() {
        assert_eq!(memory("512K"), Err(MemoryArgument::Unit));
    }

    #[test]
    fn a_unit_alone_is_refused() {
        assert!(matches!(memory("M"), Err(MemoryArgument::Number(_))));
    }

    #[test]
    fn a_size_beyond_64_bits_is_refused() {
        assert_eq!(memory("99999999999G"), Err(MemoryArgument::TooLarge));
    }

    #[test]
    fn a_size_that_no_kernel_fits_in_is_refused() {
        assert_eq!(memory("15M"), Err(MemoryArgument::TooSmall));
    }
}
