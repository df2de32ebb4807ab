//! A trapped register where the device costs nothing: its BAR is a memfd, and its kernel is scripted.

use super::row::{Goal, Row};
use super::{Cause, cargo};
use crate::progress::Progress;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::rc::Rc;

const BENCHMARK: [&str; 6] = ["--package", "vfio-assign-linux", "--features", "fake", "--bench", "registers"];

/// What an access takes at most beside the bare one, in nanoseconds.
const BESIDE: f64 = 20.0;
/// What part of the system call's time it takes at most.
const OF_THE_CALL: f64 = 0.125;

/// A case as the benchmark prints it.
#[derive(Debug, Deserialize)]
struct Case {
    case: String,
    least_nanoseconds: f64,
}

/// The rows.
pub(super) fn measure(runs: u16, progress: &Rc<Progress>) -> Result<Vec<Row>, Cause> {
    progress.step("measuring registers on a memfd");
    let mut cases = Vec::new();
    for _ in 0..runs {
        cases.extend(cargo::bench::<Case>(&BENCHMARK)?);
    }
    Ok(rows(cases))
}

fn rows(cases: Vec<Case>) -> Vec<Row> {
    let mut times = BTreeMap::<String, Vec<f64>>::new();
    for Case { case, least_nanoseconds } in cases {
        times.entry(case).or_default().push(least_nanoseconds);
    }
    let accesses = [("read", "pread", "load"), ("write", "pwrite", "store")];
    accesses
        .iter()
        .flat_map(|(verb, call, bare)| access(&times, verb, call, &format!("bare {bare}")))
        .collect()
}

fn access(times: &BTreeMap<String, Vec<f64>>, verb: &str, call: &str, bare: &str) -> [Row; 4] {
    let of = |way: &str| times.get(&format!("register {verb}/{way}")).cloned().unwrap_or_default();
    let row = |name: String| Row::new("trapped register, memfd", name, "ns");
    let ours = of("library, through its mapping");
    let added = ours.iter().zip(of(bare)).map(|(ours, bare)| ours - bare).collect();
    let name = format!("{verb}, library through its mapping");
    let beside = |who: &str| row(name.clone()).ours(ours.clone()).beside(who, of(who));
    [
        beside(call).goal(Goal::RatioAtMost(OF_THE_CALL)),
        beside(bare),
        beside(&format!("{bare}, in a lock")),
        row(format!("{name}, less the {bare}")).ours(added).goal(Goal::AtMost(BESIDE)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_taken_run_by_run_and_held_to_its_goal() {
        let printed = |run: [(&str, f64); 4]| {
            run.map(|(way, time)| Case { case: format!("register read/{way}"), least_nanoseconds: time })
        };
        let ways = ["library, through its mapping", "bare load", "pread", "bare load, in a lock"];
        let run = |times: [f64; 4]| printed(std::array::from_fn(|place| (ways[place], times[place])));
        let cases = run([17.0, 2.0, 340.0, 12.0]).into_iter().chain(run([34.0, 4.0, 272.0, 24.0]));
        let rows = rows(cases.collect());
        let read: Vec<_> = rows.iter().take(4).map(|row| (row.is_reached(), &*row.ours)).collect();
        let both = &[17.0, 34.0][..];
        assert_eq!(read, [(Some(true), both), (None, both), (None, both), (Some(false), &[15.0, 30.0])]);
    }
}
