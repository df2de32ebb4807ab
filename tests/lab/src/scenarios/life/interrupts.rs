//! What one guest does to a network and to a USB disk: resets by power state, other kinds of interrupts, and interrupts
//! that move from processor to processor while they come.

use super::{Scene, Stage, carried_out, leave};
use crate::guest::InterruptLine;
use crate::orders::Servant;
use crate::report::Report;
use crate::scenarios::Cause;
use crate::scenarios::zoo::NETWORK_BYTES;
use std::time::Duration;

const NETWORK: usize = 0;
const USB: usize = 1;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut scene = stage.set(&["e1000e", "qemu-xhci"], 2048, Duration::from_secs(3600))?;
    let mut guest = stage.serve(&mut scene)?;
    network(stage, report, &mut guest, &mut scene)?;
    stage.progress.step("a USB disk is read while its interrupts move");
    let before = report.failures();
    let moves = stage.scale.moved_interrupts;
    let order = format!("moving_interrupts {0} {moves} look {0}", USB + 1);
    let done = carried_out(report, "USB: its interrupts move", &mut guest, &mut scene.l1, &order)?;
    let digest = scene.animals[USB].disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default();
    report.equal("USB: the disk reads right meanwhile", digest, done.value("looked", "sha256"));
    report.row(&format!("USB disk: its interrupts move ×{moves} while it is read"), before);
    let before = report.failures();
    carried_out(report, "e1000e, USB: no interrupt is missed", &mut guest, &mut scene.l1, "grievances")?;
    leave(report, "interrupts", &mut guest, &mut scene.l1)?;
    scene.strike(report, "interrupts", &[])?;
    report.row("e1000e, USB: nothing lost, no complaint of either kernel", before);
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
