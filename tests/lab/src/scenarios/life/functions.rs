//! What one guest does to its disk, again and again; after each the disk must read as before.

use super::{Stage, carried_out, leave};
use crate::report::Report;
use crate::scenarios::Cause;
use std::time::Duration;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut scene = stage.set(&["nvme"], 2048, Duration::from_secs(3600))?;
    let mut guest = stage.serve(&mut scene)?;
    let rounds = stage.scale.rounds;
    // The last two have a number of rounds of their own, in the guest's program.
    let changes = [
        ("its driver leaves and comes back", format!("again {rounds} rebind 1"), rounds),
        ("the guest resets it", format!("again {rounds} flr 1"), rounds),
        ("it is removed and found again", format!("again {rounds} remove_and_rescan 1"), rounds),
        ("it sleeps in D3hot and wakes", "sleep_and_wake 1".into(), 50),
        ("its BAR moves while it decodes", "move 1".into(), 50),
    ];
    let expected = scene.animals[0].disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default();
    for (what, order, times) in changes {
        let before = report.failures();
        stage.progress.step(format!("nvme: {what}"));
        carried_out(report, &format!("nvme: {what}"), &mut guest, &mut scene.l1, &order)?;
        let done = guest.order(&mut scene.l1, "look 1")?;
        let read = done.value("looked", "sha256");
        report.equal(&format!("nvme: {what}; then it reads right"), &expected, read);
        report.row(&format!("nvme: {what} ×{times}"), before);
    }
    let before = report.failures();
    carried_out(report, "nvme: no interrupt is missed", &mut guest, &mut scene.l1, "grievances")?;
    leave(report, "functions", &mut guest, &mut scene.l1)?;
    scene.strike(report, "functions", &[])?;
    report.row("nvme: nothing lost, no complaint of either kernel", before);
    Ok(())
}
