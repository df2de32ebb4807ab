//! Four guests at once, each with a device of its own, all at work in the same moment.

use super::{Stage, leave};
use crate::orders::Servant;
use crate::report::Report;
use crate::scenarios::Cause;
use std::time::Duration;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let kinds = ["nvme", "nvme-2048", "virtio-blk", "qemu-xhci"];
    let mut scene = stage.set(&kinds, 4096, Duration::from_secs(1800))?;
    stage.progress.step("four guests boot");
    let mut lives = Vec::new();
    for (number, address) in scene.addresses.iter().enumerate() {
        let file = format!("/tmp/report{number}.json");
        lives.push(stage.start(&mut scene.l1, std::slice::from_ref(address), 1, &file)?);
    }
    let mut guests = Vec::new();
    for life in lives {
        guests.push(Servant::new(life, &mut scene.l1)?);
    }
    stage.progress.step("four guests work");
    for guest in &mut guests {
        guest.begin(&mut scene.l1, "disk 1")?;
    }
    for (guest, animal) in guests.iter_mut().zip(&mut scene.animals) {
        let done = guest.finish(&mut scene.l1)?;
        let name = animal.kind.name;
        let what = format!("several: the guest with {name} meets no fault");
        report.holds(&what, done.faults.is_empty(), "none", done.faults.join("; "));
        let outside = animal.disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default();
        let what = format!("several: the guest with {name} reads back what it wrote");
        report.equal(&what, outside, done.value("written", "sha256"));
    }
    for guest in &mut guests {
        leave(report, "several", guest, &mut scene.l1)?;
    }
    scene.strike(report, "several", &[])
}
