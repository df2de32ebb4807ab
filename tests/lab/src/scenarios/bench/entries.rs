//! How long a guest itself ran, and how often KVM came back to its monitor: sums that L1's kernel keeps at KVM's
//! tracepoints, by thread.
//!
//! The kernel's own account of a guest's time (`guest_time` in `/proc/PID/stat`) is of no use in the lab: it counts the
//! timer's ticks that find the guest running, and an emulated processor that has to wait for a real one loses ticks.
//! Beside these sums it was right on a quiet machine, and 190 ms of 662 beside other work.

use super::Cause;
use super::counters::{Counts, Work};
use crate::l1::{L1, L1Error};
use std::collections::BTreeMap;

const EVENTS: &str = "/sys/kernel/debug/tracing/events/kvm";
/// The sum of the moments at which guests were left, less that of the moments at which they were entered, is how long
/// they ran: to the nanosecond, with nothing kept of each entry.
const HISTOGRAMS: [(&str, &str); 3] = [
    (ENTRY, "hist:keys=common_pid:vals=common_timestamp"),
    (EXIT, "hist:keys=common_pid:vals=common_timestamp"),
    (RETURN, "hist:keys=common_pid"),
];
const ENTRY: &str = "kvm_entry";
const EXIT: &str = "kvm_exit";
/// A call to run the guest comes back.
const RETURN: &str = "kvm_userspace_exit";
/// How often the sums are read until they are of one moment: a guest that does nothing still has its timer.
const READS: usize = 100;

/// Has L1's kernel keep the sums. They cost each entry a little.
pub(super) fn watch(l1: &mut L1) -> Result<(), L1Error> {
    HISTOGRAMS.iter().try_for_each(|(event, sums)| l1.write(&format!("{EVENTS}/{event}/trigger"), sums))
}

/// What was counted of a monitor's threads until some moment, all of it of that one moment.
pub(super) struct Entries {
    counts: Counts,
    entered: Sums,
    left: Sums,
    returned: Sums,
}

impl Entries {
    /// Until now, of the monitor that is this process and whose guest has nothing to do.
    pub(super) fn take(l1: &mut L1, process: &str) -> Result<Self, Cause> {
        let threads = l1.list(&format!("/proc/{process}/task"))?;
        for _ in 0..READS {
            let entered = sums_at(l1, ENTRY, &threads)?;
            let asleep = all_asleep(l1, process, &threads)?;
            let (left, returned) = (sums_at(l1, EXIT, &threads)?, sums_at(l1, RETURN, &threads)?);
            let counts = Counts::take(l1, process)?;
            // All were asleep, hence out of the guest, and none has entered it since: no exit is still to come.
            if asleep && sums_at(l1, ENTRY, &threads)? == entered {
                return Ok(Self { counts, entered, left, returned });
            }
        }
        Err(Cause::NotSo {
            what: "the guest has nothing to do",
            expected: "rest".into(),
            got: "entries".into(),
        })
    }

    /// What came since then. The sums begin one after the other, so only what is added to them means something.
    pub(super) fn since(&self, before: &Self) -> Result<Ran, Cause> {
        let entered = self.entered.since(&before.entered);
        let left = self.left.since(&before.left);
        let counts = [entered.count, left.count].map(|count| count.to_string());
        super::must("each entry of the guest has its exit", &counts[0], &counts[1])?;
        let work = self.counts.since(&before.counts);
        let guest = left.moments.wrapping_sub(entered.moments) as f64;
        if guest > work.all {
            let expected = format!("at most {} ns", work.all);
            return Err(Cause::NotSo {
                what: "the guest ran no longer than its monitor",
                expected,
                got: format!("{guest} ns"),
            });
        }
        Ok(Ran { work, guest, returns: self.returned.since(&before.returned).count as f64 })
    }
}

/// What a monitor and its guest did between two moments.
pub(super) struct Ran {
    /// What the scheduler and KVM count.
    pub(super) work: Work,
    /// Nanoseconds that the guest itself ran.
    pub(super) guest: f64,
    /// How often KVM came back to its monitor.
    pub(super) returns: f64,
}

/// Whether none of the threads runs or wants to, each looked at once.
fn all_asleep(l1: &mut L1, process: &str, threads: &[String]) -> Result<bool, L1Error> {
    for thread in threads {
        // `163 (name) S ...`
        let text = l1.read(&format!("/proc/{process}/task/{thread}/stat"))?;
        if !text.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S')) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many events of these threads there were, and the sum of their moments, in nanoseconds.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    count: u64,
    moments: u64,
}

impl Sums {
    fn since(&self, before: &Self) -> Self {
        Self { count: self.count - before.count, moments: self.moments.wrapping_sub(before.moments) }
    }
}

fn sums_at(l1: &mut L1, event: &str, threads: &[String]) -> Result<Sums, Cause> {
    let histogram = l1.read(&format!("{EVENTS}/{event}/hist"))?;
    let dropped = histogram.lines().find_map(|line| line.trim().strip_prefix("Dropped: ")).unwrap_or("0");
    super::must("the kernel counts every event", "0", dropped)?;
    Ok(sums(&histogram, threads))
}

fn sums(histogram: &str, threads: &[String]) -> Sums {
    // `{ common_pid:        163 } hitcount:       3363  common_timestamp:  334455667788`
    let line = |line: &str| -> Option<(String, BTreeMap<String, u64>)> {
        let (key, values) = line.strip_prefix("{ common_pid:")?.split_once('}')?;
        let words: Vec<&str> = values.split_whitespace().collect();
        let pairs =
            words.chunks_exact(2).filter_map(|pair| Some((pair[0].to_owned(), pair[1].parse().ok()?)));
        Some((key.trim().to_owned(), pairs.collect()))
    };
    let of_ours = histogram.lines().filter_map(line).filter(|(thread, _)| threads.contains(thread));
    of_ours.fold(Sums::default(), |all, (_, values)| {
        let value = |key: &str| values.get(key).copied().unwrap_or_default();
        Sums {
            count: all.count + value("hitcount:"),
            moments: all.moments.wrapping_add(value("common_timestamp:")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXITS: &str = "# event histogram\n#\n\n\
        { common_pid:        171 } hitcount:         26  common_timestamp:  5000000\n\
        { common_pid:        163 } hitcount:       3363  common_timestamp:  18446744073709551615\n\
        { common_pid:        164 } hitcount:          1  common_timestamp:  11\n\n\
        Totals:\n    Hits: 3390\n    Entries: 3\n    Dropped: 0\n";

    #[test]
    fn only_the_monitors_threads_count_and_their_moments_may_wrap() {
        let threads = ["160", "163", "164"].map(str::to_owned);
        assert_eq!(sums(EXITS, &threads), Sums { count: 3364, moments: 10 });
    }

    #[test]
    fn a_histogram_without_moments_has_counts() {
        let text = "{ common_pid:        163 } hitcount:          7\n";
        assert_eq!(sums(text, &["163".to_owned()]), Sums { count: 7, moments: 0 });
    }

    fn entries(ran: f64, entered: (u64, u64), left: (u64, u64), returned: u64) -> Entries {
        let sums = |(count, moments)| Sums { count, moments };
        let counts = Counts::of_one_thread(ran);
        Entries { counts, entered: sums(entered), left: sums(left), returned: sums((returned, 0)) }
    }

    #[test]
    fn the_guest_ran_from_its_entries_to_its_exits_wherever_the_sums_began() {
        // Two entries are known without their exits; then one from 1000 to 1300 and one from 2000 to 2400.
        let before = entries(50.0, (2, 900), (0, 0), 5);
        let ran = entries(950.0, (4, 3900), (2, 3700), 6).since(&before).ok();
        assert_eq!(ran.map(|ran| [ran.work.all, ran.guest, ran.returns]), Some([900.0, 700.0, 1.0]));
    }

    #[test]
    fn a_guest_that_ran_longer_than_its_monitor_is_told() {
        let before = entries(50.0, (2, 900), (0, 0), 5);
        assert!(entries(749.0, (4, 3900), (2, 3700), 6).since(&before).is_err());
    }

    #[test]
    fn an_exit_that_was_not_counted_is_told() {
        let before = entries(50.0, (2, 900), (2, 1000), 5);
        assert!(entries(9e9, (4, 3900), (3, 2300), 6).since(&before).is_err());
    }
}
