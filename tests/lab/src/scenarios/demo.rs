//! The main job: a guest reads a whole disk and writes a part of it through its own nvme driver.

use super::{Cause, Choice, Failure, check_kernel_log, named, read_in_l1, seconds};
use crate::account::{Account, Device, MsixLayout};
use crate::bench::Bench;
use crate::diagnosis;
use crate::disk::Disk;
use crate::driver::{self, VFIO};
use crate::guest::{InterruptLine, Mark, Work};
use crate::host::HostOptions;
use crate::l1::{L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{Life, REPORT};
use crate::progress::Progress;
use crate::protocol::End;
use crate::report::{Report, mark};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How many accesses may leave the guest for its monitor while it reads the whole disk, which takes hundreds of
/// commands with two register writes each: some, for what a kernel does meanwhile; not one a command.
const EXITS_WHILE_READING: u64 = 16;

/// How the disk is made.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Give the disk this many MSI-X vectors (L1 has about 200 to give to a processor).
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=2048))]
    vectors: Option<u16>,
    #[command(flatten)]
    host: HostOptions,
}

impl Options {
    /// Vectors of the disk, where other than QEMU's default of 65.
    pub(crate) fn vectors(&self) -> Option<u16> {
        self.vectors
    }

    /// What L1 is.
    pub(crate) fn host(&self) -> &HostOptions {
        &self.host
    }
}

/// What was seen from outside the guest while it lived.
struct Seen {
    layout: Option<MsixLayout>,
    host_vectors: usize,
    exits: u64,
}

/// Runs it with the monitor chosen.
pub(crate) fn run(choice: Choice, options: &Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    let name = match choice {
        Choice::Ours => "demo",
        Choice::Qemu => "qemu",
    };
    named(name, carry_through(name, choice, options, progress))
}

fn carry_through(
    name: &'static str,
    choice: Choice,
    options: &Options,
    progress: &Rc<Progress>,
) -> Result<Report, Cause> {
    let bench = Bench::on(&options.host, progress, choice == Choice::Ours)?;
    let mut report = Report::new(name);
    let mut disk = Disk::random()?;
    let (before, after) = (disk.digest()?, disk.digest_once_written()?);
    let (monitor, machine) = choice.monitor(&bench, Machine::new().nvme(&disk, options.vectors));
    let mut l1 = bench.boot(&machine, Watch::total(Duration::from_secs(400)))?;
    report.figure("l1_boot_seconds", l1.boot.as_secs_f64());
    driver::bind(&mut l1, DISK_BDF, VFIO)?;
    let layout = MsixLayout::parse(&l1.read_bytes(&format!("/sys/bus/pci/devices/{DISK_BDF}/config"))?);

    progress.step(format!("{} boots the guest", monitor.name()));
    let launch = options.host.tell(&monitor, monitor.launch(DISK_BDF, Work::Demo));
    let mut life = Life::start(&mut l1, &monitor, launch, progress)?;
    let first_read = life.until(&mut l1, "first-read")?;
    life.until(&mut l1, "reading")?;
    progress.step("the guest reads the disk");
    let exits_before = mmio_exits(&mut l1)?;
    let host_vectors = host_vectors(&mut l1)?;
    let read = life.until(&mut l1, "read")?;
    let seen = Seen { layout, host_vectors, exits: mmio_exits(&mut l1)? - exits_before };
    progress.step("the guest writes a part and reads it all again");
    let written = life.until(&mut l1, "written")?;
    progress.step("the guest switches itself off");
    let (life_time, end) = life.until_end(&mut l1)?;
    let account = match choice {
        Choice::Ours => Some(serde_json::from_str::<Account>(&l1.read(REPORT)?).unwrap_or_default()),
        Choice::Qemu => None,
    };
    progress.step("L1 takes the disk back and reads it");
    let in_l1 = read_in_l1(&mut l1)?;
    let log = l1.power_off()?;
    let outside = disk.digest()?;

    report.equal("the guest reads what is on the disk", &before, digest(&read));
    report.equal("the guest reads back what it wrote", &after, digest(&written));
    report.equal("the host's file holds what the guest wrote", &after, &outside);
    report.equal("L1's own driver reads it too, once the device is back", &after, &in_l1);
    let lines = interrupts(&mut report, &life);
    let few = format!("at most {EXITS_WHILE_READING} exits");
    let name = "reading the whole disk does not leave the guest";
    report.holds(name, seen.exits <= EXITS_WHILE_READING, few, seen.exits);
    // The MSI-X table was written before that; a counter that did not see it would prove nothing.
    report.holds(
        "the counter of that sees the driver's start",
        exits_before > 0,
        "more than 0",
        exits_before,
    );
    report.figure("mmio_exits_while_reading", seen.exits);
    report.figure("host_vectors", seen.host_vectors);
    if let Some(account) = &account {
        check_account(&mut report, account, &seen, lines.len());
    }
    report.equal("the monitor ends with the guest", format!("{:?}", End::Status(0)), format!("{end:?}"));
    let faults: Vec<&str> = life.said("fault").map(|fault| fault.rest.as_str()).collect();
    report.holds("the guest met no fault", faults.is_empty(), "none", faults.join("; "));
    check_kernel_log(&mut report, &log);
    report.figure("first_guest_line_seconds", life.first_kernel_line().map(seconds));
    report.figure("first_read_seconds", seconds(first_read.at));
    report.figure("life_seconds", seconds(life_time));

    progress.clear();
    print!("{}", digests(&before, digest(&read), &outside, digest(&written)));
    print!("{}", interrupt_table(&life, &lines, &seen));
    if let Some(account) = &account {
        print!("{}", account_table(account));
    }
    println!("{}", times(&life, first_read.at, life_time));
    Ok(report)
}

/// Accesses that made L1's KVM leave the guest for the monitor, so far.
fn mmio_exits(l1: &mut L1) -> Result<u64, Cause> {
    let process = diagnosis::monitors_process(l1)?.unwrap_or_default();
    let folder = diagnosis::counters_folder(l1, &process)?.unwrap_or_default();
    let text = l1.read(&format!("{folder}/mmio_exits"))?;
    Ok(text.trim().parse().unwrap_or(u64::MAX))
}

/// How many of the host's interrupt vectors VFIO holds for the device at this moment.
fn host_vectors(l1: &mut L1) -> Result<usize, Cause> {
    let text = l1.read("/proc/interrupts")?;
    Ok(text.lines().filter(|line| line.contains("vfio-msi") && line.contains(DISK_BDF)).count())
}

fn digest(mark: &Mark) -> &str {
    mark.value("sha256").unwrap_or("nothing")
}

/// The guest's lines of `/proc/interrupts` from before and after its work.
fn interrupt_lines(life: &Life, word: &str) -> Vec<InterruptLine> {
    life.said(word).filter_map(|mark| InterruptLine::parse(&mark.rest)).collect()
}

/// Checks the guest's interrupts and returns them as they were in the end.
fn interrupts(report: &mut Report, life: &Life) -> Vec<InterruptLine> {
    let (before, after) = (interrupt_lines(life, "before"), interrupt_lines(life, "after"));
    let total = |lines: &[InterruptLine]| lines.iter().map(|line| line.count).sum::<u64>();
    let msix = !after.is_empty() && after.iter().all(InterruptLine::is_msix);
    let chips: Vec<&str> = after.iter().map(|line| line.chip.as_str()).collect();
    report.holds("the guest's nvme driver is on MSI-X", msix, "PCI-MSIX", chips.join(", "));
    let grown = total(&after) > total(&before) && before.len() == after.len();
    report.holds("its interrupts arrive", grown, format!("more than {}", total(&before)), total(&after));
    report.figure("guest_vectors", after.len());
    report.figure("guest_interrupts", total(&after));
    after
}

/// Holds the command's own account against what L1 and the guest show.
fn check_account(report: &mut Report, account: &Account, seen: &Seen, guest_vectors: usize) {
    let nothing = Device::default();
    let device = account.devices.first().unwrap_or(&nothing);
    let registers = device.bars.iter().find(|bar| bar.index == 0);
    let whole = !device.bars.is_empty() && device.bars.iter().all(|bar| bar.is_whole());
    report.holds(
        "the account covers every BAR once",
        whole,
        "pieces without gap or overlap",
        format!("{:x?}", device.bars),
    );
    let window = registers.and_then(|bar| bar.pieces.first());
    let is_window = window.is_some_and(|piece| piece.is_mapped() && piece.first == 0 && piece.last >= 0xfff);
    report.holds("BAR0's register page is a window", is_window, "0x0.. mapped", format!("{window:x?}"));
    let pages = seen.layout.as_ref().map(|layout| layout.pages(0)).unwrap_or_default();
    let needless = registers.map(|bar| bar.needless_traps(&pages)).unwrap_or_default();
    let sparing = registers.is_some() && needless.is_empty();
    let trapping = if sparing { format!("{pages:x?}") } else { format!("{pages:x?} and {needless:?}") };
    report.holds("only the MSI-X pages of BAR0 trap", sparing, format!("{pages:x?}"), trapping);
    let offered = seen.layout.as_ref().map(|layout| layout.vectors);
    report.equal(
        "the guest is offered every vector",
        format!("{offered:?}"),
        format!("{:?}", device.vectors.offered),
    );
    // Counted while the guest lived: when it is off, its driver has given its vectors back.
    report.equal("the host vectors wired are those that the guest uses", guest_vectors, seen.host_vectors);
    report.holds(
        "the host calls are counted",
        !device.host_calls.is_empty(),
        "counts by name",
        counts(&device.host_calls),
    );
    report.figure("exits", serde_json::json!(account.exits));
    report.figure("milliseconds", serde_json::json!(account.milliseconds));
    report.figure("host_calls", serde_json::json!(device.host_calls));
}

/// Digests side by side.
fn digests(before: &str, read: &str, outside: &str, written: &str) -> String {
    let short = |digest: &str| digest.get(..16).unwrap_or(digest).to_owned();
    let row = |name: &str, host: &str, guest: &str| {
        format!("  {name:<26}{:<20}{:<20}{}\n", short(host), short(guest), mark(host == guest))
    };
    let head = format!("\n  {:<26}{:<20}{:<20}\n", "sha256 of the disk", "host's file", "guest's nvme0n1");
    head + &row("as it was made", before, read) + &row("after the guest wrote", outside, written)
}

/// The guest's interrupts, before and after.
fn interrupt_table(life: &Life, after: &[InterruptLine], seen: &Seen) -> String {
    let before = interrupt_lines(life, "before");
    let mut text = format!("\n  {:<26}{:<20}{:<20}\n", "guest's interrupts", "before I/O", "after I/O");
    for line in after {
        let earlier =
            before.iter().find(|earlier| earlier.name == line.name).map_or(0, |earlier| earlier.count);
        text += &format!("  {:<26}{earlier:<20}{:<20}{}\n", line.name, line.count, line.chip);
    }
    let offered = seen.layout.as_ref().map_or(0, |layout| layout.vectors);
    text + &format!(
        "  {:<26}{offered} offered, {} used, {} held by the host\n",
        "vectors",
        after.len(),
        seen.host_vectors
    )
}

/// What of each BAR went which way, and what the host was asked to do.
fn account_table(account: &Account) -> String {
    let mut text = String::new();
    for device in &account.devices {
        text += "\n  BAR   from     to       treatment  reason\n";
        for bar in &device.bars {
            for piece in &bar.pieces {
                let (first, last) = (piece.first, piece.last);
                text += &format!(
                    "  {:<5} {first:<#8x} {last:<#8x} {:<10} {}\n",
                    bar.index, piece.treatment, piece.reason
                );
            }
        }
        text += &format!("\n  {:<26}{}\n", "host calls", wrapped(&counts(&device.host_calls)));
    }
    text + &format!("  {:<26}{}\n", "exits to the monitor", wrapped(&counts(&account.exits)))
}

/// Counts by name, the largest first, without those that are zero.
fn counts(counts: &BTreeMap<String, u64>) -> String {
    let mut pairs: Vec<(&String, &u64)> = counts.iter().filter(|(_, count)| **count > 0).collect();
    pairs.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    pairs.into_iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// A list broken into lines that stand under each other in the tables here.
fn wrapped(list: &str) -> String {
    const WIDTH: usize = 76;
    let mut lines = vec![String::new()];
    for item in list.split_inclusive(", ") {
        match lines.last_mut() {
            Some(line) if line.len() + item.trim_end().len() <= WIDTH => line.push_str(item),
            _ => lines.push(item.to_owned()),
        }
    }
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join(&format!("\n  {:<26}", ""))
}

fn times(life: &Life, first_read: u64, life_time: u64) -> String {
    let first_line = life.first_kernel_line().map_or(f64::NAN, seconds);
    let (first_read, life_time) = (seconds(first_read), seconds(life_time));
    format!(
        "  {:<26}kernel's first line {first_line:.2} s, first read {first_read:.2} s, off {life_time:.2} s\n",
        "from the monitor's start"
    )
}
