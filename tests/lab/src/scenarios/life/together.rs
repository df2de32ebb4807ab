//! Two functions that have no reset but that of their bus: when the guest reboots they are reset together, or not at all.

use super::{Scene, Stage, leave, write};
use crate::monitor::REPORT;
use crate::orders::Servant;
use crate::report::Report;
use crate::scenarios::Cause;
use serde_json::{Value, json};
use std::time::Duration;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut scene = stage.set_together("ahci", Duration::from_secs(900))?;
    let mut guest = stage.serve(&mut scene)?;
    both(report, "together: before the reboot", &mut guest, &mut scene)?;
    stage.progress.step("the guest reboots with two functions that are reset together");
    guest.begin(&mut scene.l1, "reboot_now")?;
    guest.life.until(&mut scene.l1, "ready")?;
    both(report, "together: after it", &mut guest, &mut scene)?;
    leave(report, "together", &mut guest, &mut scene.l1)?;
    let written: Value = serde_json::from_str(&scene.l1.read(REPORT)?).unwrap_or_default();
    let devices = written["devices"].as_array().into_iter().flatten();
    let resets: Vec<Value> = devices.map(|device| device["resets"].clone()).collect();
    let reset = json!({"last": "reset", "last_error": null, "failed": 0});
    report.equal("together: both were reset", json!([reset, reset]), json!(resets));
    scene.strike(report, "together", &[])
}

/// Both disks work.
fn both(report: &mut Report, what: &str, guest: &mut Servant, scene: &mut Scene) -> Result<(), Cause> {
    (0..2).try_for_each(|place| write(report, &format!("{what}, function {place}"), guest, scene, place))
}
