//! A run that is saved in the middle of its guest's work, and that another process goes on with, which takes over guest
//! memory and the open devices.

use super::control::{SOCKET, Told};
use super::{Stage, carried_out, leave, write, written};
use crate::l1::L1;
use crate::protocol::End;
use crate::report::Report;
use crate::scenarios::Cause;
use std::time::Duration;

/// Where the state is in L1.
const STATE: &str = "/run/vm.state";
/// A disk that interrupts by MSI-X, one by MSI, and a device whose pin is used.
const KINDS: [&str; 3] = ["nvme", "ahci", "edu"];

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut scene = stage.set(&KINDS, 2048, Duration::from_secs(1800))?;
    let mut told = stage.serve_told(&mut scene.l1, &scene.addresses.clone(), &[])?;
    for travel in 1..=stage.scale.travels {
        stage
            .progress
            .step(format!("the run is saved and gone on with, {travel} of {}", stage.scale.travels));
        // Each disk in turn is being read when the run is paused.
        let busy = (travel as usize + 1) % 2;
        let what = format!("travel {travel}: {}", KINDS[busy]);
        let expected = scene.expectation(busy)?;
        told.guest.begin(&mut scene.l1, &format!("disk {}", busy + 1))?;
        told.guest.life.until(&mut scene.l1, "found")?;
        told = go_on(stage, report, &format!("travel {travel}"), told, &mut scene.l1)?;
        let done = told.guest.finish(&mut scene.l1)?;
        written(report, &what, &done, &expected, scene.digest(busy)?);
        write(
            report,
            &format!("travel {travel}: {}", KINDS[1 - busy]),
            &mut told.guest,
            &mut scene,
            1 - busy,
        )?;
        let title = format!("travel {travel}: a pin works");
        let done = carried_out(report, &title, &mut told.guest, &mut scene.l1, "pins 3")?;
        report.equal(&format!("{title}, each time"), "100", done.value("pins", "came"));
    }
    let title = "travel: the guest's kernel misses no interrupt";
    carried_out(report, title, &mut told.guest, &mut scene.l1, "grievances")?;
    leave(report, "travel", &mut told.guest, &mut scene.l1)?;
    scene.strike(report, "travel", &[])
}

/// Saves the run; another process goes on with it.
fn go_on<'a>(
    stage: &Stage<'a>,
    report: &mut Report,
    what: &str,
    mut told: Told<'a>,
    l1: &mut L1,
) -> Result<Told<'a>, Cause> {
    told.done(report, &format!("{what}: the run is paused"), l1, "pause")?;
    told.done(report, &format!("{what}: it is saved"), l1, &format!("save {STATE}"))?;
    let second = stage.start_told(l1, &[], &["--restore", STATE, "--from", SOCKET])?;
    let (_, end) = told.guest.life.until_end(l1)?;
    let well = format!("{:?}", End::Status(0));
    report.equal(&format!("{what}: the first process ends"), well, format!("{end:?}"));
    Ok(told.go_on_as(second))
}
