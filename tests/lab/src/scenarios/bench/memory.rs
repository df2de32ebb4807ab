//! Guest memory mapped for a device, by the library and by the bare call, in an L1 that has it.

use super::Cause;
use super::host::{Samples, meter};
use super::row::{Goal, Row};
use crate::bench::Bench;
use crate::driver::{self, VFIO};
use crate::l1::Watch;
use crate::machine::{DISK_BDF, Machine};
use crate::progress::Progress;
use crate::report::mark;
use std::rc::Rc;
use std::time::Duration;

/// How much is mapped, in GiB.
const SIZES: [u16; 3] = [1, 4, 16];
/// What L1 has beside it, in GiB: its kernel's own, and page tables.
const BESIDE: u16 = 2;
/// What the outer machine is to keep, in GiB.
const OUTER: u16 = 2;

/// A row that has nothing of ours: what differs in it means nothing.
const AGAIN: &str = "touched, bare ioctl again";

/// The rows.
pub(super) fn measure(bench: &Bench, runs: u16, progress: &Rc<Progress>) -> Result<Vec<Row>, Cause> {
    let free = available_gib();
    let (sizes, too_large): (Vec<_>, Vec<_>) =
        SIZES.into_iter().partition(|size| f64::from(size + BESIDE + OUTER) < free);
    for size in too_large {
        eprintln!(
            "{} NOT RUN: {size} GiB mapped: of this machine's memory {free:.1} GiB are free",
            mark(false)
        );
    }
    let largest = sizes.iter().copied().max().unwrap_or_default();
    let disk = crate::disk::Disk::small()?;
    let machine = Machine::new().memory_found(u32::from(largest + BESIDE) << 10).nvme(&disk, None);
    let mut l1 = bench.boot(&machine, Watch::total(Duration::from_secs(3600)))?;
    driver::bind(&mut l1, DISK_BDF, VFIO)?;
    let mut rows = Vec::new();
    for gib in sizes {
        let work = format!("memory-{}", u32::from(gib) << 10);
        // A GiB takes seconds.
        let runs = match gib {
            1 => runs,
            4 => runs.min(3),
            _ => 1,
        };
        let samples = meter(&mut l1, &work, runs, &[DISK_BDF.to_owned()], progress)?;
        for (key, pages) in
            [("4k", "4 KiB pages"), ("thp", "transparent huge pages"), ("huge", "hugetlb, 2 MiB")]
        {
            rows.extend(kind(&samples, &format!("{gib} GiB mapped, {pages}"), key));
        }
        if gib == largest {
            rows.extend(little(&samples));
        }
    }
    l1.power_off()?;
    Ok(rows)
}

/// What programs may still take of this machine's memory, in GiB.
fn available_gib() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / f64::from(1 << 20)
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
        row(
            "not touched, two threads",
            "fresh_library",
            "two threads and the ioctl by hand",
            "fresh_by_hand",
        ),
        row("not touched, one thread", "fresh_one_thread", "bare ioctl", "fresh_bare"),
        row("touched", "touched_library", "bare ioctl", "touched_bare").goal(Goal::RatioAtMost(1.03)),
        row(AGAIN, "touched_again", "bare ioctl", "touched_bare"),
    ]
}

/// Memory in which nearly nothing is to be done: what is done beside it, of any memory that is there.
fn little(samples: &Samples) -> [Row; 2] {
    let row = |name: &str, way: &str| {
        let us = |way: &str| samples.of(&format!("map_little_{way}"), 1e3);
        Row::new("32 KiB mapped, 4 KiB pages", name, "µs").ours(us(way)).beside("bare ioctl", us("bare"))
    };
    [row("touched", "library"), row(AGAIN, "again")]
}
