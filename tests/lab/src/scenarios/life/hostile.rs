//! A guest that writes random values of random widths into configuration space and BARs of its devices. What becomes
//! of the guest is its own affair; the monitor, L1 and the next guest must not mind.

use super::{Scene, Stage, leave};
use crate::diagnosis;
use crate::l1::L1;
use crate::monitor::LifeError;
use crate::report::Report;
use crate::scenarios::Cause;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How much the monitor may grow, in KiB, beside the guest's memory, which is pinned from the start.
const GROWTH_KIB: u64 = 16 << 10;
/// How much the monitor may say.
const WORDS_BYTES: usize = 16 << 10;

/// What the guest scribbles at; the first two in a hurry.
const KINDS: [&str; 8] =
    ["nvme", "e1000e", "nvme-2048", "ahci", "edu", "pci-testdev", "qemu-xhci", "virtio-net"];

/// What has come of one device in hostile hands, over all guests that had it.
#[derive(Default)]
struct Sum {
    guests: u32,
    accesses: BTreeMap<String, u64>,
    grown: u64,
    words: usize,
}

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let kinds = if stage.options.quick { &KINDS[..2] } else { &KINDS[..] };
    let seconds = stage.scale.hostile_seconds;
    let each = Duration::from_secs((seconds / kinds.len() as u64).max(1));
    let patience = Duration::from_secs(seconds * 5 + 1200);
    let mut scene = stage.set(kinds, 2048, patience)?;
    let mut sums = serde_json::Map::new();
    for (slot, name) in (1..).zip(kinds) {
        let sum = device(stage, report, &mut scene, (slot, name), each)?;
        report.holds(
            &format!("hostile: the guest gets at {name}"),
            sum.accesses.get("configuration").is_some_and(|count| *count > 0),
            "accesses",
            format!("{:?}", sum.accesses),
        );
        let what = format!("hostile: with {name} the monitor's memory is bounded");
        report.holds(&what, sum.grown <= GROWTH_KIB, format!("at most {GROWTH_KIB} KiB more"), sum.grown);
        let what = format!("hostile: with {name} the monitor says little");
        report.holds(&what, sum.words <= WORDS_BYTES, format!("at most {WORDS_BYTES} bytes"), sum.words);
        sums.insert((*name).to_owned(), serde_json::json!({"guests": sum.guests, "accesses": sum.accesses}));
    }
    report.figure("hostile", sums);
    report.figure("hostile_seed", stage.options.seed);
    stage.progress.step("the next guest finds the disk as it is");
    let mut guest = stage.serve(&mut scene)?;
    let done = guest.order(&mut scene.l1, "look 1")?;
    let outside = scene.animals[0].disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default();
    report.equal("hostile: the next guest reads the disk right", outside, done.value("looked", "sha256"));
    leave(report, "hostile: the next", &mut guest, &mut scene.l1)?;
    // A device that is told to reach where it has no memory is stopped by the IOMMU, which L1's kernel reports.
    scene.strike(report, "hostile", &["DMAR: [DMA", "DMAR: DRHD: handling fault status"])
}

/// One device, for so long; a guest that has hurt itself is followed by one with the next seed.
fn device(
    stage: &Stage<'_>,
    report: &mut Report,
    scene: &mut Scene,
    (slot, name): (u32, &str),
    each: Duration,
) -> Result<Sum, Cause> {
    let (mut sum, mut left, mut seed) = (Sum::default(), each, stage.options.seed);
    let mut dead = Vec::new();
    while left > Duration::ZERO {
        let seconds = left.as_secs().max(1);
        stage.progress.step(format!("a hostile guest has {name} for {seconds} s, seed {seed}"));
        let mut guest = stage.serve(scene)?;
        let before = resident(&mut scene.l1)?;
        let started = Instant::now();
        let became = match guest.order(&mut scene.l1, &format!("scribble {slot} {seed} {seconds}")) {
            Ok(done) => done.faults.join("; "),
            // The guest may have hurt itself.
            Err(
                error @ (LifeError::Stopped { .. }
                | LifeError::Panic { .. }
                | LifeError::Stuck { .. }
                | LifeError::Unwanted { .. }),
            ) => {
                scene.l1.be_patient();
                error.to_string()
            }
            Err(error @ LifeError::EndedEarly { .. }) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        left = left.saturating_sub(started.elapsed().max(Duration::from_secs(1)));
        if guest.life.end.is_some() {
            dead.push(format!("seed {seed}: {became}"));
        } else {
            sum.grown = sum.grown.max(resident(&mut scene.l1)?.saturating_sub(before));
            guest.life.kill(&mut scene.l1)?;
        }
        if let Some(mark) = guest.life.said("scribbled").last() {
            for (what, count) in mark.rest.split_whitespace().filter_map(|pair| pair.split_once('=')) {
                // The others say whose words these are.
                if ["configuration", "registers", "ports"].contains(&what) {
                    *sum.accesses.entry(what.to_owned()).or_default() += count.parse().unwrap_or(0);
                }
            }
        }
        sum.words = sum.words.max(guest.life.stderr.len());
        sum.guests += 1;
        seed += 1;
    }
    let what = format!("hostile: the monitor outlives {name} in such hands");
    report.holds(&what, dead.is_empty(), "alive", dead.join("; "));
    Ok(sum)
}

/// How much of L1's memory the monitor holds, in KiB.
fn resident(l1: &mut L1) -> Result<u64, Cause> {
    let process = diagnosis::monitors_process(l1)?.unwrap_or_default();
    let status = l1.read(&format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX))
}
