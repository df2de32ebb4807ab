//! Two functions' pins on one interrupt line of the guest: a network works while the other function interrupts.

use super::{Stage, carried_out, leave};
use crate::report::Report;
use crate::scenarios::Cause;
use crate::scenarios::zoo::NETWORK_BYTES;
use std::time::Duration;

/// The monitor has eight lines for pins, which it deals out by slots: the first and the ninth function share one.
const KINDS: [&str; 9] = [
    "e1000",
    "pci-testdev",
    "pci-testdev",
    "pci-testdev",
    "pci-testdev",
    "pci-testdev",
    "pci-testdev",
    "pci-testdev",
    "edu",
];

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut scene = stage.set(&KINDS, 2048, Duration::from_secs(1800))?;
    let mut guest = stage.serve(&mut scene)?;
    stage.progress.step("two pins on one line");
    let port = scene.animals[0].echo.as_ref().map_or(0, |echo| echo.port);
    let order = format!("shared_line 1 {} 10.0.0.15 10.0.0.2 {port} {NETWORK_BYTES}", KINDS.len());
    let done = carried_out(report, "lines: both work at once", &mut guest, &mut scene.l1, &order)?;
    let (network, other) = (done.value("network-line", "number"), done.value("line", "number"));
    report.holds("lines: they share one", !other.is_empty() && network == other, network, other);
    let (sent, back) = (done.value("network", "sent"), done.value("network", "back"));
    report.holds("lines: what is sent comes back", !sent.is_empty() && sent == back, sent, back);
    report.equal("lines: each interrupt of the other comes", "100", done.value("pins", "came"));
    carried_out(report, "lines: no line is given up", &mut guest, &mut scene.l1, "grievances")?;
    leave(report, "lines", &mut guest, &mut scene.l1)?;
    scene.strike(report, "lines", &[])
}
