//! What one guest does to its functions, again and again; after each the device must work as before.

use super::{Scene, Stage, carried_out, leave};
use crate::guest::InterruptLine;
use crate::orders::Servant;
use crate::report::Report;
use crate::scenarios::Cause;
use crate::scenarios::zoo::NETWORK_BYTES;
use std::time::Duration;

const NVME: usize = 0;
const NETWORK: usize = 1;
const USB: usize = 2;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut scene = stage.set(&["nvme", "e1000e", "qemu-xhci"], 2048, Duration::from_secs(7200))?;
    let mut guest = stage.serve(&mut scene)?;
    let all = report.failures();
    disk(stage, report, &mut guest, &mut scene)?;
    network(stage, report, &mut guest, &mut scene)?;
    stage.progress.step("a disk is read while its interrupts move");
    let before = report.failures();
    let order = format!("moving_interrupts {0} {1} look {0}", USB + 1, stage.scale.moved_interrupts);
    let done =
        carried_out(report, "USB's interrupts move while a disk is read", &mut guest, &mut scene.l1, &order)?;
    let digest = digest(&mut scene, USB)?;
    report.equal("the disk reads right meanwhile", digest, done.value("looked", "sha256"));
    report.row(
        &format!("USB disk: its interrupts move ×{} while it is read", stage.scale.moved_interrupts),
        before,
    );
    carried_out(report, "the guest's kernel misses no interrupt", &mut guest, &mut scene.l1, "grievances")?;
    leave(report, "functions", &mut guest, &mut scene.l1)?;
    scene.strike(report, "functions", &[])?;
    report.row("nothing lost and nothing in the kernels' logs after all these", all);
    Ok(())
}

/// What is done to the disk.
fn disk(stage: &Stage<'_>, report: &mut Report, guest: &mut Servant, scene: &mut Scene) -> Result<(), Cause> {
    let rounds = stage.scale.rounds;
    let slot = NVME + 1;
    // The last two have a number of rounds of their own, in the guest's program.
    let changes = [
        ("its driver leaves and comes back", format!("again {rounds} rebind {slot}"), rounds),
        ("the guest resets it", format!("again {rounds} flr {slot}"), rounds),
        ("it is removed and found again", format!("again {rounds} remove_and_rescan {slot}"), rounds),
        ("it sleeps in D3hot and wakes", format!("sleep_and_wake {slot}"), 50),
        ("its BAR moves while it decodes", format!("move {slot}"), 50),
    ];
    let expected = digest(scene, NVME)?;
    for (what, order, times) in changes {
        let before = report.failures();
        stage.progress.step(format!("nvme: {what}"));
        carried_out(report, &format!("nvme: {what}"), guest, &mut scene.l1, &order)?;
        let done = guest.order(&mut scene.l1, &format!("look {slot}"))?;
        report.equal(
            &format!("nvme: {what}; then it reads right"),
            &expected,
            done.value("looked", "sha256"),
        );
        report.row(&format!("nvme: {what} ×{times}"), before);
    }
    Ok(())
}

/// What is done to the network.
fn network(
    stage: &Stage<'_>,
    report: &mut Report,
    guest: &mut Servant,
    scene: &mut Scene,
) -> Result<(), Cause> {
    let slot = NETWORK + 1;
    let before = report.failures();
    stage.progress.step("e1000e: the guest resets it by its power state");
    let order = format!("again {} pm_reset {slot}", stage.scale.rounds);
    carried_out(report, "e1000e: the guest resets it by its power state", guest, &mut scene.l1, &order)?;
    exchange(report, "e1000e: after the resets", guest, scene, "")?;
    report.row(&format!("e1000e: the guest resets it by its power state ×{}", stage.scale.rounds), before);
    let before = report.failures();
    // Told to take MSI, the driver tries an interrupt, which QEMU's device never sends, in L1 itself as little as here;
    // so MSI goes on and off again and the pin comes after it.
    for (mode, chip, by) in
        [(0, "IO-APIC", "the pin"), (1, "IO-APIC", "MSI and then the pin"), (2, "PCI-MSIX", "MSI-X")]
    {
        let what = format!("e1000e: its driver takes {by}");
        stage.progress.step(&what);
        carried_out(report, &what, guest, &mut scene.l1, &format!("interrupt_mode {slot} {mode}"))?;
        exchange(report, &what, guest, scene, "")?;
        let done = guest.order(&mut scene.l1, &format!("interrupts_of {slot}"))?;
        let lines: Vec<InterruptLine> =
            done.marks.iter().filter_map(|it| InterruptLine::parse(&it.rest)).collect();
        let right = lines.iter().any(|it| it.count > 0) && lines.iter().all(|it| it.chip.starts_with(chip));
        report.holds(&format!("{what}, and is interrupted so"), right, chip, format!("{lines:?}"));
    }
    report.row("e1000e: its driver goes from MSI-X to the pin, to MSI, and back", before);
    let before = report.failures();
    stage.progress.step("e1000e: its interrupts move while it works");
    let moving = format!("moving_interrupts {slot} {} ", stage.scale.moved_interrupts);
    exchange(report, "e1000e: while its interrupts move", guest, scene, &moving)?;
    report.row(
        &format!("e1000e: its interrupts move ×{} while it works", stage.scale.moved_interrupts),
        before,
    );
    Ok(())
}

/// Random bytes go out and come back.
fn exchange(
    report: &mut Report,
    what: &str,
    guest: &mut Servant,
    scene: &mut Scene,
    before: &str,
) -> Result<(), Cause> {
    let port = scene.animals[NETWORK].echo.as_ref().map_or(0, |echo| echo.port);
    let slot = NETWORK + 1;
    let order = format!("{before}network {slot} 10.0.{NETWORK}.15 10.0.{NETWORK}.2 {port} {NETWORK_BYTES}");
    let done = carried_out(report, &format!("{what}: no fault"), guest, &mut scene.l1, &order)?;
    let (sent, back) = (done.value("network", "sent"), done.value("network", "back"));
    report.holds(&format!("{what}: what is sent comes back"), !sent.is_empty() && sent == back, sent, back);
    Ok(())
}

fn digest(scene: &mut Scene, animal: usize) -> Result<String, Cause> {
    Ok(scene.animals[animal].disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default())
}
