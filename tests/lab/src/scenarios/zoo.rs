//! The zoo: every kind of device in one guest, each doing work whose content is checked from outside.

use super::{Cause, Failure, check_kernel_log_but, named};
use crate::bench::{Bench, BenchError};
use crate::driver::{self, VFIO};
use crate::guest::InterruptLine;
use crate::host::HostOptions;
use crate::l1::{L1, Watch};
use crate::machine::Machine;
use crate::monitor::{Life, Monitor, REPORT};
use crate::orders::{Done, Servant};
use crate::pages;
use crate::progress::Progress;
use crate::protocol::End;
use crate::record::record;
use crate::report::Report;
use crate::virtual_function::{self, NVME_CLI};
use crate::zoo::{Animal, Behind, Interrupts, KINDS, Kind, option_rom};
use sha2::{Digest, Sha256};
use std::rc::Rc;
use std::time::Duration;

/// What L1's kernel says of QEMU's devices as they are: the virtual function has an Interrupt Pin, which none may have.
pub(super) const OF_DEVICES: &[&str] = &["VF reports bogus INTx pin"];

/// How much goes through a network, each way.
pub(super) const NETWORK_BYTES: usize = 2 << 20;

/// Which devices, on which host.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Only this device; may be given several times [default: all].
    #[arg(long = "device", value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(KINDS.iter().map(|kind| kind.name)))]
    devices: Vec<String>,
    /// Keep the results in tests/lab/results.json, and in the README's tables.
    #[arg(long)]
    record: bool,
    #[command(flatten)]
    host: HostOptions,
}

/// Runs it.
pub(crate) fn run(options: &Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("zoo", carry_through(options, progress))
}

fn carry_through(options: &Options, progress: &Rc<Progress>) -> Result<Report, Cause> {
    let kinds = Kind::select(&options.devices);
    let mut bench = Bench::on(&options.host, progress, true)?.with_guest(&modules(&kinds))?;
    if kinds.iter().any(|kind| kind.virtual_function) {
        bench = bench.with_program(NVME_CLI, virtual_function::nvme_cli(progress).map_err(BenchError::from)?);
    }
    let mut animals = house(&kinds)?;
    let machine = animals.iter().fold(Machine::new().steady(), |machine, animal| animal.house(machine));
    let mut l1 = bench.boot(&machine, Watch::steady(Duration::from_secs(900)))?;
    let mut addresses = Vec::new();
    for animal in &animals {
        let address = animal.prepare(&mut l1)?;
        driver::bind(&mut l1, &address, VFIO)?;
        addresses.push(address);
    }
    progress.step(format!("vfio-assign boots a guest with {} devices", animals.len()));
    let launch = options.host.tell(&Monitor::Ours, Monitor::serving(&addresses, 2, REPORT));
    pages::give_huge(&mut l1)?;
    let life = Life::start(&mut l1, &Monitor::Ours, launch, progress)?;
    let mut guest = Servant::new(life, &mut l1)?;
    let mut report = Report::new("zoo");
    let mut rows = serde_json::Map::new();
    for animal in &mut animals {
        let name = animal.kind.name;
        progress.step(format!("the guest works with {name}"));
        let before = report.failures();
        work(animal, &mut guest, &mut l1, &mut report)?;
        rows.insert(name.to_owned(), (report.failures() == before).into());
    }
    progress.step("the guest switches itself off");
    guest.begin(&mut l1, "leave")?;
    let (_, end) = guest.life.until_end(&mut l1)?;
    report.equal("the monitor ends with the guest", format!("{:?}", End::Status(0)), format!("{end:?}"));
    let complaints = guest.life.stderr.clone();
    report.figure("monitor_said", complaints);
    report.figure("backend", options.host.backend().word());
    if options.record {
        record(report.name(), options.host.backend().word(), &rows)?;
    }
    report.figure("devices", rows);
    let log = l1.power_off()?;
    check_kernel_log_but(&mut report, &log, OF_DEVICES);
    Ok(report)
}

/// The devices of these kinds.
pub(super) fn house(kinds: &[&'static Kind]) -> Result<Vec<Animal>, Cause> {
    let animals = kinds.iter().enumerate().map(|(number, kind)| Animal::new(kind, number));
    Ok(animals.collect::<Result<_, _>>()?)
}

/// What the guest needs for them.
pub(super) fn modules(kinds: &[&'static Kind]) -> Vec<&'static str> {
    kinds.iter().flat_map(|kind| kind.modules).copied().collect()
}

/// All that a guest does with one device.
fn work(animal: &mut Animal, guest: &mut Servant, l1: &mut L1, report: &mut Report) -> Result<(), Cause> {
    let (name, slot) = (animal.kind.name, animal.slot_in_guest());
    match animal.kind.behind {
        Behind::Disk | Behind::Memory => {
            let order = if animal.kind.behind == Behind::Disk { "disk" } else { "memory" };
            let expected = expectation(animal)?;
            let done = guest.order(l1, &format!("{order} {slot}"))?;
            store(animal, &expected, &done, report)?;
        }
        Behind::Network => network(animal, guest, l1, report)?,
        Behind::Nothing => {}
    }
    if let Some(also) = animal.kind.also {
        let done = guest.order(l1, &format!("{also} {slot}"))?;
        no_faults(report, name, also, &done);
        special(animal, also, &done, report)?;
    }
    interrupts(animal, &guest.order(l1, &format!("interrupts_of {slot}"))?, report);
    Ok(())
}

/// Digests of what is behind a device before and after the guest's work.
struct Expected {
    before: String,
    after: String,
}

fn expectation(animal: &mut Animal) -> Result<Expected, Cause> {
    let (mut before, mut after) = (String::new(), String::new());
    if let Some(disk) = &mut animal.disk {
        (before, after) = (disk.digest()?, disk.digest_once_written()?);
    }
    Ok(Expected { before, after })
}

/// A disk, or memory.
fn store(animal: &mut Animal, expected: &Expected, done: &Done, report: &mut Report) -> Result<(), Cause> {
    let name = animal.kind.name;
    no_faults(report, name, "its work", done);
    let (read, written) = (done.value("read", "sha256"), done.value("written", "sha256"));
    report.equal(&format!("{name}: the guest reads what is there"), &expected.before, read);
    report.equal(&format!("{name}: it reads back what it wrote"), &expected.after, written);
    let outside = animal.disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default();
    report.equal(&format!("{name}: the host's file holds what it wrote"), &expected.after, outside);
    Ok(())
}

/// Random bytes go out and come back.
fn network(animal: &Animal, guest: &mut Servant, l1: &mut L1, report: &mut Report) -> Result<(), Cause> {
    let (name, slot, number) = (animal.kind.name, animal.slot_in_guest(), animal.number);
    let port = animal.echo.as_ref().map_or(0, |echo| echo.port);
    let order = format!("network {slot} 10.0.{number}.15 10.0.{number}.2 {port} {NETWORK_BYTES}");
    let done = guest.order(l1, &order)?;
    no_faults(report, name, "its work", &done);
    let (sent, back) = (done.value("network", "sent"), done.value("network", "back"));
    let heard = animal.echo.as_ref().map(|echo| echo.heard().join(" ")).unwrap_or_default();
    report.equal(&format!("{name}: the network gets what the guest sends"), sent, heard);
    report.equal(&format!("{name}: the guest gets what the network sends"), sent, back);
    Ok(())
}

/// What only this device has.
fn special(animal: &mut Animal, also: &str, done: &Done, report: &mut Report) -> Result<(), Cause> {
    let name = animal.kind.name;
    let mut equal = |what: &str, expected: &str, word: &str, key: &str| {
        report.equal(&format!("{name}: {what}"), expected, done.value(word, key));
    };
    match also {
        "processors_go_and_come" => {
            let digest = animal.disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default();
            equal("it reads while processors go and come", &digest, "moved", "sha256");
            equal("and there are two of those", "2", "moved", "processors");
        }
        "large_bar" => {
            equal("its controller memory is whole", "67108864", "large", "bytes");
            equal("and keeps what is written to it", "true", "large", "kept");
        }
        "rom" => {
            let file = crate::disk::hexadecimal(&Sha256::digest(option_rom()));
            equal("the option ROM is the file", &file, "rom", "sha256");
        }
        "edu" => {
            equal("the factorial of 10", "3628800", "factorial", "is");
            equal("a page goes in by DMA and comes out", "true", "dma", "right");
            equal("each message interrupt comes", "100", "messages", "came");
            equal("each interrupt of the pin comes", "100", "pins", "came");
        }
        "testdev" => {
            equal("each write by memory is counted", "50", "memory", "counted");
            equal("each write by port is counted", "50", "ports", "counted");
            equal("the large BAR is whole", "16777216", "large", "bytes");
        }
        _ => {}
    }
    Ok(())
}

/// The driver's interrupts are of the kind that it should have, and come.
fn interrupts(animal: &Animal, done: &Done, report: &mut Report) {
    let chip = match animal.kind.interrupts {
        Interrupts::Msix => "PCI-MSIX",
        Interrupts::Msi => "PCI-MSI-",
        Interrupts::Pin => "IO-APIC",
        Interrupts::None => return,
    };
    let said = done.marks.iter().filter(|mark| mark.word == "interrupt");
    let lines: Vec<InterruptLine> = said.filter_map(|mark| InterruptLine::parse(&mark.rest)).collect();
    let count: u64 = lines.iter().map(|line| line.count).sum();
    let right = count > 0 && lines.iter().all(|line| line.chip.starts_with(chip));
    let name = format!("{}: its driver hears of it by {}", animal.kind.name, chip.trim_end_matches('-'));
    report.holds(&name, right, format!("interrupts of {chip}"), format!("{lines:?}"));
}

fn no_faults(report: &mut Report, name: &str, what: &str, done: &Done) {
    let title = format!("{name}: {what} meets no fault");
    report.holds(&title, done.faults.is_empty(), "none", done.faults.join("; "));
}
