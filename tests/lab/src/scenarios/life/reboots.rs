//! A guest that reboots again and again while it reads.

use super::{Stage, leave};
use crate::report::Report;
use crate::scenarios::Cause;
use std::time::Duration;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut scene = stage.set(&["nvme", "edu", "e1000e"], 2048, Duration::from_secs(3600))?;
    let mut guest = stage.serve(&mut scene)?;
    let mut faults = Vec::new();
    for reboot in 1..=stage.scale.reboots {
        stage.progress.step(format!("reboot {reboot} of {}", stage.scale.reboots));
        guest.order(&mut scene.l1, "endless 1")?;
        guest.life.until(&mut scene.l1, "round")?;
        guest.begin(&mut scene.l1, "reboot_now")?;
        guest.life.until(&mut scene.l1, "ready")?;
        faults.extend(guest.life.said("fault").map(|mark| mark.rest.clone()));
    }
    report.holds("reboots: the guest meets no fault", faults.is_empty(), "none", faults.join("; "));
    let done = guest.order(&mut scene.l1, "look 1")?;
    let expected = scene.animals[0].disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default();
    report.equal("reboots: the disk reads right after the last", expected, done.value("looked", "sha256"));
    leave(report, "reboots", &mut guest, &mut scene.l1)?;
    // Two of the three devices have no reset on the root bus but their bus's, and edu has none at all: the command
    // says so, once, and the guest goes on.
    let told = guest.life.stderr.matches("was not reset").count();
    report.equal("reboots: a device that cannot be reset is named, once", 1, told);
    scene.strike(report, "reboots", &[])
}
