//! What L1's kernel counts of a monitor: its threads' processor time, its memory, its guest's exits, when it first ran
//! the guest.

use super::Cause;
use crate::diagnosis;
use crate::l1::{L1, L1Error};
use crate::progress::Progress;
use crate::scenarios::command::run_line;
use std::collections::BTreeMap;
use std::rc::Rc;

const TRACING: &str = "/sys/kernel/debug/tracing";
/// Mappings that are this large are the guest's memory.
const GUEST_MEMORY_KIB: u64 = 256 << 10;

/// What was counted until some moment.
pub(super) struct Counts {
    /// Nanoseconds that each thread ran.
    threads: BTreeMap<String, f64>,
    exits: BTreeMap<String, i64>,
}

impl Counts {
    /// Of the monitor that is this process.
    pub(super) fn take(l1: &mut L1, process: &str) -> Result<Self, L1Error> {
        let mut threads = BTreeMap::new();
        for thread in l1.list(&format!("/proc/{process}/task"))? {
            let text = l1.read(&format!("/proc/{process}/task/{thread}/schedstat"))?;
            let ran = text.split_whitespace().next().and_then(|word| word.parse().ok());
            threads.insert(thread, ran.unwrap_or(f64::NAN));
        }
        let folder = diagnosis::counters_folder(l1, process)?.unwrap_or_default();
        let mut exits = BTreeMap::new();
        for name in ["exits", "mmio_exits", "io_exits", "halt_exits", "irq_exits"] {
            let text = l1.read(&format!("{folder}/{name}"))?;
            exits.insert(name.to_owned(), text.trim().parse().unwrap_or_default());
        }
        Ok(Self { threads, exits })
    }

    /// Of one thread that ran so many nanoseconds, in tests.
    #[cfg(test)]
    pub(super) fn of_one_thread(nanoseconds: f64) -> Self {
        Self { threads: [("1".into(), nanoseconds)].into(), exits: BTreeMap::new() }
    }

    /// What came since then: all threads' nanoseconds, those of all but the busiest, which is the processor's, and the
    /// exits of each kind.
    pub(super) fn since(&self, before: &Self) -> Work {
        let ran = |(thread, now): (&String, &f64)| now - before.threads.get(thread).unwrap_or(&0.0);
        let times: Vec<f64> = self.threads.iter().map(ran).collect();
        let all: f64 = times.iter().sum();
        let busiest = times.iter().copied().fold(0.0, f64::max);
        let exits = self.exits.iter().map(|(name, now)| {
            (name.clone(), (now - before.exits.get(name).copied().unwrap_or_default()) as f64)
        });
        Work { all, beside: all - busiest, exits: exits.collect() }
    }
}

/// What a monitor did between two moments.
pub(super) struct Work {
    pub(super) all: f64,
    pub(super) beside: f64,
    pub(super) exits: BTreeMap<String, f64>,
}

/// KiB that a process has in memory, its guest's memory left out: all, and what it shares with nobody's file.
pub(super) fn memory(l1: &mut L1) -> Result<[f64; 2], L1Error> {
    let process = diagnosis::monitors_process(l1)?.unwrap_or_default();
    let text = l1.read(&format!("/proc/{process}/smaps"))?;
    Ok(beside_the_guest(&text))
}

fn beside_the_guest(smaps: &str) -> [f64; 2] {
    let (mut size, mut resident, mut anonymous) = (0, 0.0, 0.0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (key, value) =
            (words.next().unwrap_or_default(), words.next().and_then(|word| word.parse().ok()));
        match (key, value) {
            ("Size:", Some(kib)) => size = kib,
            ("Rss:", Some(kib)) if size < GUEST_MEMORY_KIB => resident += kib as f64,
            ("Anonymous:", Some(kib)) if size < GUEST_MEMORY_KIB => anonymous += kib as f64,
            _ => {}
        }
    }
    [resident, anonymous]
}

/// Has L1's kernel note when a program is begun and when a guest first runs. Said once: what it takes to switch this on
/// and off is what the emulator does worst.
pub(super) fn note_entries(l1: &mut L1) -> Result<(), L1Error> {
    for (file, value) in [
        ("trace_clock", "mono"),
        ("options/overwrite", "0"),
        ("buffer_size_kb", "16"),
        ("events/sched/sched_process_exec/enable", "1"),
        ("events/kvm/kvm_entry/enable", "1"),
    ] {
        l1.write(&format!("{TRACING}/{file}"), value)?;
    }
    Ok(())
}

/// Forgets what was noted. No monitor may run.
pub(super) fn forget_entries(l1: &mut L1, progress: &Rc<Progress>) -> Result<(), Cause> {
    run_line(l1, &format!("echo > {TRACING}/trace"), progress)?;
    Ok(())
}

/// Seconds from a monitor's first program to the guest's first instruction, and where that is.
pub(super) fn first_entry(l1: &mut L1) -> Result<Option<(f64, String)>, L1Error> {
    Ok(entry_in(&l1.read(&format!("{TRACING}/trace"))?))
}

fn entry_in(trace: &str) -> Option<(f64, String)> {
    let line_of = |event: &str| trace.lines().find(|line| !line.starts_with('#') && line.contains(event));
    // ` qemu-system-x86-123     [001] d..1.    12.345678: kvm_entry: vcpu 0, rip 0xfff0`
    let time = |line: &str, event: &str| {
        let (before, _) = line.split_once(event)?;
        before.trim_end().trim_end_matches(':').split_whitespace().next_back()?.parse::<f64>().ok()
    };
    let begun = line_of("sched_process_exec:").and_then(|line| time(line, "sched_process_exec:"))?;
    let entry = line_of("kvm_entry:")?;
    let place = entry.split_once("rip ").map(|(_, rest)| rest.split([' ', ',']).next().unwrap_or_default());
    Some((time(entry, "kvm_entry:")? - begun, place.unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_does_not_count() {
        let text = "7f-80 rw-p 0 00:00 0\nSize:  524288 kB\nRss:  524288 kB\nAnonymous: 524288 kB\n\
            80-81 r-xp 0 00:01 7 /lab/vfio-assign\nSize: 100 kB\nRss: 40 kB\nAnonymous: 4 kB\n";
        assert_eq!(beside_the_guest(text), [40.0, 4.0]);
    }

    #[test]
    fn the_first_entry_counts_from_the_first_program() {
        let trace = "# tracer: nop\n busybox-9 [000] .....  10.500000: sched_process_exec: filename=/bin/busybox\n \
            q-9 [000] .....  10.600000: sched_process_exec: filename=/usr/bin/q\n \
            q-12 [001] d..1.  11.000000: kvm_entry: vcpu 0, rip 0xfff0 intr_info 0x0\n \
            q-12 [001] d..1.  11.100000: kvm_entry: vcpu 0, rip 0xe05b\n";
        let (after, place) = entry_in(trace).expect("there is one");
        assert!((after - 0.5).abs() < 1e-9, "{after}");
        assert_eq!(place, "0xfff0");
    }
}
