//! Devices that are put into a guest's slots while it runs, and asked back, again and again.

use super::control::free;
use super::{Stage, leave, write};
use crate::driver;
use crate::report::Report;
use crate::scenarios::{Cause, read_in_l1};
use serde_json::json;
use std::time::Duration;

/// A disk that interrupts by MSI-X, and one by MSI with ports.
const KINDS: [&str; 2] = ["nvme", "ahci"];

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut scene = stage.set(&KINDS, 2048, Duration::from_secs(3600))?;
    let mut told = stage.serve_told(&mut scene.l1, &[], &["--slots", "2"])?;
    let addresses = scene.addresses.clone();
    for round in 1..=stage.scale.plugs {
        stage.progress.step(format!("plugged in {round} of {}", stage.scale.plugs));
        for (place, (address, name)) in addresses.iter().zip(KINDS).enumerate() {
            let what = format!("plug {round}: {name}");
            let group = driver::group_of(&mut scene.l1, address)?;
            told.done(report, &format!("{what} is put in"), &mut scene.l1, &format!("add {address}"))?;
            let is_free = free(&mut scene.l1, &group, stage.progress)?;
            report.equal(&format!("{what}: then its group is taken"), false, is_free);
            write(report, &what, &mut told.guest, &mut scene, place)?;
        }
        // In every second round the guest is at work when it is asked.
        let busy = round % 2 == 0;
        if busy {
            told.guest.order(&mut scene.l1, "endless 1")?;
            told.guest.life.until(&mut scene.l1, "round")?;
        }
        for (address, name) in addresses.iter().zip(KINDS) {
            let what = format!("plug {round}: {name}");
            let group = driver::group_of(&mut scene.l1, address)?;
            told.done(report, &format!("{what} is given up"), &mut scene.l1, &format!("remove {address}"))?;
            let is_free = free(&mut scene.l1, &group, stage.progress)?;
            report.equal(&format!("{what}: then its group is free"), true, is_free);
        }
        if busy {
            told.guest.life.until(&mut scene.l1, "stopped")?;
        }
    }
    let left = json!({"answer": "status", "paused": false, "devices": [], "free_slots": 2});
    report.equal("plug: the run says that no device is left", left, told.status(&mut scene.l1)?);
    leave(report, "plug", &mut told.guest, &mut scene.l1)?;
    let expected = scene.digest(0)?;
    report.equal("plug: L1 reads the disk as the guest left it", expected, read_in_l1(&mut scene.l1)?);
    scene.strike(report, "plug", &[])
}
