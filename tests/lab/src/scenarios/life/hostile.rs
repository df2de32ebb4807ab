//! A guest that writes random values of random widths into configuration space and BARs of its devices. What becomes
//! of the guest is its own affair; the monitor, L1 and the next guest must not mind.

use super::{Stage, leave};
use crate::diagnosis;
use crate::l1::L1;
use crate::monitor::LifeError;
use crate::report::Report;
use crate::scenarios::Cause;
use std::time::Duration;

/// How much the monitor may grow, in KiB, beside the guest's memory, which is pinned from the start.
const GROWTH_KIB: u64 = 16 << 10;
/// How much the monitor may say.
const WORDS_BYTES: usize = 16 << 10;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let kinds = ["nvme", "e1000e", "ahci", "edu", "pci-testdev"];
    let kinds = if stage.options.quick { &kinds[..2] } else { &kinds[..] };
    let seconds = stage.options.hostile.unwrap_or(stage.scale.hostile_seconds);
    let each = (seconds / kinds.len() as u64).max(1);
    let patience = Duration::from_secs(seconds * 3 + 600);
    let mut scene = stage.set(kinds, 2048, patience)?;
    for (slot, name) in (1..).zip(kinds) {
        stage.progress.step(format!("a hostile guest has {name} for {each} s"));
        let mut guest = stage.serve(&mut scene)?;
        let before = resident(&mut scene.l1)?;
        let order = format!("scribble {slot} {} {each}", stage.options.seed);
        let became = match guest.order(&mut scene.l1, &order) {
            Ok(done) => {
                let what = format!("hostile: the guest gets at {name}");
                report.holds(&what, done.faults.is_empty(), "no fault", done.faults.join("; "));
                done.said("scribbled").map(|mark| mark.rest.clone()).unwrap_or_default()
            }
            // The guest may have hurt itself.
            Err(
                LifeError::Stopped { .. }
                | LifeError::Panic { .. }
                | LifeError::Stuck { .. }
                | LifeError::Unwanted { .. },
            ) => {
                scene.l1.be_patient();
                "it hurt itself".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let alive = guest.life.end.is_none();
        report.holds(&format!("hostile: the monitor outlives {name} in such hands"), alive, "alive", &became);
        report.detail(&became);
        if alive {
            let grown = resident(&mut scene.l1)?.saturating_sub(before);
            let what = format!("hostile: with {name} the monitor's memory is bounded");
            report.holds(&what, grown <= GROWTH_KIB, format!("at most {GROWTH_KIB} KiB more"), grown);
            guest.life.kill(&mut scene.l1)?;
        }
        let said = guest.life.stderr.len();
        let what = format!("hostile: with {name} the monitor says little");
        report.holds(&what, said <= WORDS_BYTES, format!("at most {WORDS_BYTES} bytes"), said);
    }
    stage.progress.step("the next guest finds the disk as it is");
    let mut guest = stage.serve(&mut scene)?;
    let done = guest.order(&mut scene.l1, "look 1")?;
    let outside = scene.animals[0].disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default();
    report.equal("hostile: the next guest reads the disk right", outside, done.value("looked", "sha256"));
    leave(report, "hostile: the next", &mut guest, &mut scene.l1)?;
    // A device that is told to reach where it has no memory is stopped by the IOMMU, which L1's kernel reports.
    scene.strike(report, "hostile", &["DMAR: [DMA", "DMAR: DRHD: handling fault status"])
}

/// How much of L1's memory the monitor holds, in KiB.
fn resident(l1: &mut L1) -> Result<u64, Cause> {
    let process = diagnosis::monitors_process(l1)?.unwrap_or_default();
    let status = l1.read(&format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX))
}
