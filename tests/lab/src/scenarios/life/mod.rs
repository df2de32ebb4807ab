//! What a device goes through in a long life: resets, power states, moved BARs, moved interrupts, guests that reboot,
//! monitors that are killed, several guests at once, a guest that is hostile.

mod ask;
mod control;
mod functions;
mod hostile;
mod interrupts;
mod kills;
mod lines;
mod lspci;
mod plug;
mod reboots;
mod removal;
mod several;
mod together;
mod travel;

use super::zoo::{house, modules};
use super::{Cause, Failure, check_kernel_log_of, named};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::driver::{self, VFIO};
use crate::host::HostOptions;
use crate::l1::{L1, Watch};
use crate::machine::Machine;
use crate::monitor::{Life, Monitor, REPORT};
use crate::orders::{Done, Servant};
use crate::pages;
use crate::progress::Progress;
use crate::record::record;
use crate::report::Report;
use crate::zoo::{Animal, Kind};
use clap::ValueEnum;
use std::rc::Rc;
use std::time::Duration;

/// Which parts, and how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Only this part; may be given several times [default: all].
    #[arg(long = "part", value_enum)]
    parts: Vec<Part>,
    /// Each thing a few times only.
    #[arg(long)]
    quick: bool,
    /// How long the hostile guest has [default: 600, or 15 with --quick].
    #[arg(long, value_name = "SECONDS")]
    hostile: Option<u64>,
    /// How often the monitor is killed [default: 100, or 3 with --quick].
    #[arg(long, value_name = "TIMES")]
    kills: Option<u32>,
    /// What the hostile guest makes its accesses from, and the kills their moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the results in tests/lab/results.json, and in the README's tables.
    #[arg(long, conflicts_with = "quick")]
    record: bool,
    /// Write what `lspci` shows to tests/lab/golden/lspci, for a person to read, instead of comparing it.
    #[arg(long)]
    review: bool,
    #[command(flatten)]
    host: HostOptions,
}

/// How often a part is played whose L1 is lost.
const TRIES: u32 = 3;

/// A part of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// What a guest does to its disk: drivers, resets, power, places.
    Functions,
    /// What a guest does to a network and a USB disk: resets by power state, kinds of interrupts, moved interrupts.
    Interrupts,
    /// Two functions' pins on one interrupt line.
    Lines,
    /// The guest reboots while it reads.
    Reboots,
    /// The monitor is killed at random moments.
    Kills,
    /// Four guests at once.
    Several,
    /// What `lspci` shows of each device in a guest, beside what it shows in L1.
    Lspci,
    /// Devices are put into a guest's slots and asked back.
    Plug,
    /// What the host says of a device: errors, and that it is wanted back.
    Ask,
    /// Two functions that can only be reset together.
    Together,
    /// The run is saved, and another process goes on with it.
    Travel,
    /// The disk is taken out while its guest reads.
    Removal,
    /// The same, and the kernel takes the registers out of the monitor's mappings.
    Unmapped,
    /// A guest that writes anything anywhere.
    Hostile,
}

/// How often each thing is done.
struct Scale {
    rounds: u32,
    moved_interrupts: u32,
    reboots: u32,
    kills: u32,
    hostile_seconds: u64,
    plugs: u32,
    travels: u32,
}

/// What each part gets.
struct Stage<'a> {
    options: &'a Options,
    scale: Scale,
    progress: &'a Rc<Progress>,
}

/// Some devices in an L1, bound and ready.
struct Scene {
    animals: Vec<Animal>,
    addresses: Vec<String>,
    l1: L1,
}

/// Runs it.
pub(crate) fn run(options: &Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("life", carry_through(options, progress))
}

fn carry_through(options: &Options, progress: &Rc<Progress>) -> Result<Report, Cause> {
    let scale = match options.quick {
        false => Scale {
            rounds: 50,
            moved_interrupts: 1000,
            reboots: 10,
            kills: 100,
            hostile_seconds: 600,
            plugs: 10,
            travels: 3,
        },
        true => Scale {
            rounds: 3,
            moved_interrupts: 100,
            reboots: 1,
            kills: 3,
            hostile_seconds: 15,
            plugs: 2,
            travels: 1,
        },
    };
    let scale = Scale {
        hostile_seconds: options.hostile.unwrap_or(scale.hostile_seconds),
        kills: options.kills.unwrap_or(scale.kills),
        ..scale
    };
    let stage = Stage { options, scale, progress };
    let mut report = Report::new("life");
    let mut lost = Vec::new();
    for part in Part::value_variants() {
        if options.parts.is_empty() || options.parts.contains(part) {
            report.add(stage.play(*part, &mut lost));
            // At once, for the next may take long.
            if options.record {
                record(report.name(), options.host.backend().word(), report.rows())?;
            }
        }
    }
    report.figure("backend", options.host.backend().word());
    report.figure("lost_machines", lost);
    report.figure("parts", report.rows().clone());
    Ok(report)
}

impl Part {
    fn run(self, stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
        match self {
            Part::Functions => functions::run(stage, report),
            Part::Interrupts => interrupts::run(stage, report),
            Part::Lines => lines::run(stage, report),
            Part::Reboots => reboots::run(stage, report),
            Part::Kills => kills::run(stage, report),
            Part::Several => several::run(stage, report),
            Part::Lspci => lspci::run(stage, report),
            Part::Plug => plug::run(stage, report),
            Part::Ask => ask::run(stage, report),
            Part::Together => together::run(stage, report),
            Part::Travel => travel::run(stage, report),
            Part::Removal => removal::run(stage, report),
            Part::Unmapped => removal::run_unmapped(stage, report),
            Part::Hostile => hostile::run(stage, report),
        }
    }

    /// The part's row in the README's table; none for one that has rows of its own.
    fn row(self, scale: &Scale) -> Option<String> {
        Some(match self {
            Part::Functions | Part::Interrupts => return None,
            Part::Lines => "two pins on one line".into(),
            Part::Reboots => format!("guest reboots ×{}, one device without any reset", scale.reboots),
            Part::Kills => format!("SIGKILL of the monitor ×{}", scale.kills),
            Part::Several => "four guests at once".into(),
            Part::Lspci => "lspci of each device, by rules of explain".into(),
            Part::Plug => format!("hot-plug and unplug of two devices ×{}", scale.plugs),
            Part::Ask => "the host tells of an error, and wants devices back".into(),
            Part::Together => "two functions with one reset between them".into(),
            Part::Travel => format!("another process goes on with the run ×{}", scale.travels),
            Part::Removal => "surprise removal".into(),
            Part::Unmapped => "surprise removal, its registers unmapped: EFAULT".into(),
            Part::Hostile => format!("hostile guest, {} s", scale.hostile_seconds),
        })
    }
}

impl Stage<'_> {
    /// Plays a part. An L1 that is lost is the emulator's affair, see [`Machine`]: the part is played again, and the
    /// loss is told.
    fn play(&self, part: Part, lost: &mut Vec<String>) -> Report {
        let name = format!("{part:?}").to_lowercase();
        let mut attempt = 1;
        let mut report = loop {
            let mut report = Report::new("life");
            match part.run(self, &mut report) {
                Ok(()) => break report,
                Err(cause) if attempt < TRIES && cause.is_lost_machine() => {
                    eprintln!("again  life {name}: attempt {attempt} of {TRIES} lost its L1: {cause}");
                    lost.push(format!("{name}: {cause}"));
                    attempt += 1;
                }
                Err(cause) => {
                    report.holds(&format!("{name}: it can be carried through"), false, "it can", &cause);
                    break report;
                }
            }
        };
        if let Some(row) = part.row(&self.scale) {
            report.row(&row, 0);
        }
        report
    }

    /// Boots an L1 with devices of these kinds.
    fn set(&self, kinds: &[&str], memory_mib: u32, patience: Duration) -> Result<Scene, Cause> {
        let kinds: Vec<&'static Kind> = kinds.iter().filter_map(|name| Kind::named(name)).collect();
        let bench = Bench::on(&self.options.host, self.progress, true)?.with_guest(&modules(&kinds))?;
        let animals = house(&kinds)?;
        let machine = Machine::new().steady().memory(memory_mib);
        let machine = animals.iter().fold(machine, |machine, animal| animal.house(machine));
        let mut l1 = bench.boot(&machine, Watch::steady(patience))?;
        let addresses: Vec<String> = animals.iter().map(Animal::address).collect();
        for address in &addresses {
            driver::bind(&mut l1, address, VFIO)?;
        }
        Ok(Scene { animals, addresses, l1 })
    }

    /// Boots an L1 with a disk behind a root port in slot 4, that nobody has bound.
    fn set_behind_port(&self, patience: Duration) -> Result<Scene, Cause> {
        let bench = Bench::on(&self.options.host, self.progress, true)?.with_guest(&["nvme"])?;
        let disk = Disk::small()?;
        let machine = Machine::new()
            .steady()
            .device("pcie-root-port,id=p0,chassis=1,addr=4.0")
            .drive("disk", &disk)
            .device("nvme,drive=disk,serial=lab,bus=p0");
        let l1 = bench.boot(&machine, Watch::steady(patience))?;
        Ok(Scene { animals: Vec::new(), addresses: Vec::new(), l1 })
    }

    /// Boots an L1 with two devices of this kind as the two functions behind a root port, bound.
    fn set_together(&self, kind: &str, patience: Duration) -> Result<Scene, Cause> {
        let kinds: Vec<&'static Kind> = [kind; 2].iter().filter_map(|name| Kind::named(name)).collect();
        let bench = Bench::on(&self.options.host, self.progress, true)?.with_guest(&modules(&kinds))?;
        let animals = house(&kinds)?;
        let machine = Machine::new().steady().device("pcie-root-port,id=p0,chassis=1,addr=4.0");
        let house = |machine, animal: &Animal| {
            let first = if animal.number == 0 { ",multifunction=on" } else { "" };
            animal.house_at(machine, &format!("bus=p0,addr=0.{}{first}", animal.number))
        };
        let mut l1 = bench.boot(&animals.iter().fold(machine, house), Watch::steady(patience))?;
        let addresses: Vec<String> = animals.iter().map(|it| format!("0000:01:00.{}", it.number)).collect();
        for address in &addresses {
            driver::bind(&mut l1, address, VFIO)?;
        }
        Ok(Scene { animals, addresses, l1 })
    }

    /// Starts a guest with these devices.
    fn start(&self, l1: &mut L1, devices: &[String], cpus: u8, report: &str) -> Result<Life, Cause> {
        pages::give_huge(l1)?;
        let launch = self.options.host.tell(&Monitor::Ours, Monitor::serving(devices, cpus, report));
        Ok(Life::start(l1, &Monitor::Ours, launch, self.progress)?)
    }

    /// Starts a guest with all of the scene's devices and waits until it takes orders.
    fn serve(&self, scene: &mut Scene) -> Result<Servant, Cause> {
        let life = self.start(&mut scene.l1, &scene.addresses, 2, REPORT)?;
        Ok(Servant::new(life, &mut scene.l1)?)
    }
}

/// Digests of a disk before and after the guest's work.
struct Expected {
    before: String,
    after: String,
}

impl Scene {
    /// What the disk of one of the devices will be.
    fn expectation(&mut self, place: usize) -> Result<Expected, Cause> {
        let (mut before, mut after) = (String::new(), String::new());
        if let Some(disk) = &mut self.animals[place].disk {
            (before, after) = (disk.digest()?, disk.digest_once_written()?);
        }
        Ok(Expected { before, after })
    }

    /// What it is now, from outside.
    fn digest(&mut self, place: usize) -> Result<String, Cause> {
        Ok(self.animals[place].disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default())
    }

    /// Switches L1 off; its kernel may have said only what the part provokes.
    fn strike(self, report: &mut Report, part: &str, provoked: &[&str]) -> Result<(), Cause> {
        let log = self.l1.power_off()?;
        let name = format!("{part}: L1's kernel has nothing to complain about");
        check_kernel_log_of(report, &name, &log, provoked);
        Ok(())
    }
}

/// An order after which the guest must have met no fault.
fn carried_out(
    report: &mut Report,
    what: &str,
    guest: &mut Servant,
    l1: &mut L1,
    order: &str,
) -> Result<Done, Cause> {
    let done = guest.order(l1, order)?;
    report.holds(what, done.faults.is_empty(), "no fault", done.faults.join("; "));
    Ok(done)
}

/// The guest reads the disk of one of the devices, writes a part, and reads it again.
fn write(
    report: &mut Report,
    what: &str,
    guest: &mut Servant,
    scene: &mut Scene,
    place: usize,
) -> Result<(), Cause> {
    let expected = scene.expectation(place)?;
    let done = guest.order(&mut scene.l1, &format!("disk {}", place + 1))?;
    written(report, what, &done, &expected, scene.digest(place)?);
    Ok(())
}

/// That must have gone well.
fn written(report: &mut Report, what: &str, done: &Done, expected: &Expected, outside: String) {
    let Expected { before, after } = expected;
    report.holds(&format!("{what} meets no fault"), done.faults.is_empty(), "none", done.faults.join("; "));
    report.equal(&format!("{what} reads right"), before, done.value("read", "sha256"));
    report.equal(&format!("{what} reads back what was written"), after, done.value("written", "sha256"));
    report.equal(&format!("{what}: the host's file holds it"), after, outside);
}

/// The guest leaves, and its monitor with it.
fn leave(report: &mut Report, what: &str, guest: &mut Servant, l1: &mut L1) -> Result<(), Cause> {
    guest.begin(l1, "leave")?;
    let (_, end) = guest.life.until_end(l1)?;
    let well = crate::protocol::End::Status(0);
    report.equal(
        &format!("{what}: the monitor ends with the guest"),
        format!("{well:?}"),
        format!("{end:?}"),
    );
    Ok(())
}
