//! Guest memory mapped for a device, by the library and by the bare call, in an L1 that has it.

use super::Cause;
use super::host::{Samples, meter};
use super::row::{Goal, Row};
use crate::bench::Bench;
use crate::driver::{self, VFIO};
use crate::l1::Watch;
use crate::machine::{DISK_BDF, Machine};
use crate::progress::Progress;
use std::rc::Rc;
use std::time::Duration;

/// How much is mapped, in GiB. L1's memory is the outer machine's: 16 GiB would leave that nothing to run on.
const SIZES: [u16; 2] = [1, 4];
/// What L1 has, in MiB: the largest of them, and as much again as its kernel wants for page tables and itself.
const L1_MEMORY: u32 = 6 << 10;

/// The rows.
pub(super) fn measure(bench: &Bench, runs: u16, progress: &Rc<Progress>) -> Result<Vec<Row>, Cause> {
    let disk = crate::disk::Disk::small()?;
    let machine = Machine::new().memory(L1_MEMORY).nvme(&disk, None);
    let mut l1 = bench.boot(&machine, Watch::total(Duration::from_secs(3600)))?;
    driver::bind(&mut l1, DISK_BDF, VFIO)?;
    let mut rows = Vec::new();
    for gib in SIZES {
        let work = format!("memory-{}", gib << 10);
        // A GiB takes seconds.
        let runs = if gib > 1 { runs.min(3) } else { runs };
        let samples = meter(&mut l1, &work, runs, &[DISK_BDF.to_owned()], progress)?;
        for (key, pages) in
            [("4k", "4 KiB pages"), ("thp", "transparent huge pages"), ("huge", "hugetlb, 2 MiB")]
        {
            rows.extend(kind(&samples, &format!("{gib} GiB mapped, {pages}"), key));
        }
    }
    l1.power_off()?;
    Ok(rows)
}

/// One kind of memory.
fn kind(samples: &Samples, group: &str, key: &str) -> Vec<Row> {
    let row = |name: &str, ours: &str, beside: &str, theirs: &str| {
        let of = |state: &str| samples.of(&format!("map_{key}_{state}"), 1e6);
        Row::new(group, name, "ms").ours(of(ours)).beside(beside, of(theirs))
    };
    vec![
        row("not touched, two threads", "fresh_library", "bare ioctl", "fresh_bare")
            .goal(Goal::RatioAtMost(0.667)),
        row("not touched, one thread", "fresh_one_thread", "bare ioctl", "fresh_bare"),
        row("touched", "touched_library", "bare ioctl", "touched_bare").goal(Goal::RatioAtMost(1.03)),
    ]
}
