//! The core by itself, by its own benchmark: the instructions of each case, which are the same in every run, and the
//! least time that it took.

use super::row::{Goal, Row};
use super::{Cause, cargo};
use crate::progress::Progress;
use serde::Deserialize;
use std::rc::Rc;

const BENCHMARK: [&str; 4] = ["--package", "vfio-assign-core", "--bench", "instructions"];

/// What a case is to take at most, in nanoseconds.
const GOALS: [(&str, f64); 6] = [
    ("six BARs decoded/ours", 15.0),
    ("address lookup/register", 3.0),
    ("access/config read, local", 5.0),
    ("access/table write, dword", 8.0),
    ("one area minus two holes/ours", 15.0),
    ("MSI-X bring-up, beside the host's calls/2048 vectors", 5000.0),
];

/// The group of cases in which vectors are brought up, and that in which only the host is called.
const BRING_UP: &str = "MSI-X bring-up";
const HOST_CALLS: &str = "MSI-X bring-up, the host's calls alone";

/// How the benchmark calls ours where there is somebody else's.
const OURS: &str = "ours";

/// A case as the benchmark prints it.
#[derive(Debug, Deserialize)]
struct Case {
    case: String,
    instructions: f64,
    least_nanoseconds: f64,
}

impl Case {
    fn group(&self) -> &str {
        self.case.split_once('/').map_or(&self.case, |(group, _)| group)
    }
}

/// The rows.
pub(super) fn measure(progress: &Rc<Progress>) -> Result<Vec<Row>, Cause> {
    progress.step("measuring the core, and counting its instructions under valgrind");
    Ok(rows(&with_what_is_left(cargo::bench(&BENCHMARK)?)))
}

/// The cases, and what is left of a bring-up without the host's calls.
fn with_what_is_left(mut cases: Vec<Case>) -> Vec<Case> {
    let beside = cases.iter().filter_map(|calls| {
        let vectors = calls.case.strip_prefix(HOST_CALLS)?;
        let all = cases.iter().find(|all| all.case.strip_prefix(BRING_UP) == Some(vectors))?;
        Some(Case {
            case: format!("{BRING_UP}, beside the host's calls{vectors}"),
            instructions: all.instructions - calls.instructions,
            least_nanoseconds: all.least_nanoseconds - calls.least_nanoseconds,
        })
    });
    let beside: Vec<Case> = beside.collect();
    cases.extend(beside);
    // Cases of a group stand together, in the order in which groups come first.
    let groups: Vec<String> = cases.iter().map(|case| case.group().to_owned()).collect();
    cases.sort_by_key(|case| groups.iter().position(|group| group == case.group()));
    cases
}

/// Two rows a case; those that are somebody else's stand beside ours of the same group.
fn rows(cases: &[Case]) -> Vec<Row> {
    let split = |case: &Case| -> Option<(String, String)> {
        let (group, name) = case.case.split_once('/')?;
        Some((group.to_owned(), name.to_owned()))
    };
    let mut rows = Vec::new();
    for case in cases {
        let Some((group, name)) = split(case) else { continue };
        let with_ours = cases.iter().find(|other| other.case == format!("{group}/{OURS}"));
        let others = match (name == OURS, with_ours) {
            (true, _) => cases.iter().filter(|other| split(other).is_some_and(|it| it.0 == group)).collect(),
            (false, Some(_)) if !name.starts_with(OURS) => continue,
            (false, _) => Vec::new(),
        };
        let others: Vec<&&Case> = others.iter().filter(|other| !other.case.contains("/ours")).collect();
        let goal =
            GOALS.iter().find(|(wanted, _)| *wanted == case.case).map(|(_, limit)| Goal::AtMost(*limit));
        let title = format!("core: {group}");
        let time = Row::new(&title, name.clone(), "ns").ours(vec![case.least_nanoseconds]);
        let count = Row::new(&title, name.clone(), "instructions").ours(vec![case.instructions]);
        rows.push(Row { goal, ..time.clone() });
        rows.push(count.clone());
        for other in others {
            let (_, who) = split(other).unwrap_or_default();
            rows.push(time.clone().beside(&who, vec![other.least_nanoseconds]));
            rows.push(count.clone().beside(&who, vec![other.instructions]));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = r#"{"case":"six BARs decoded/ours","instructions":90,"least_nanoseconds":14.0}
{"case":"six BARs decoded/pci_types","instructions":900,"least_nanoseconds":140.0}
{"case":"access/config read, local","instructions":50,"least_nanoseconds":6.0}
"#;

    #[test]
    fn another_crate_stands_beside_ours() {
        let rows = rows(&with_what_is_left(cargo::parse(PRINTED)));
        let with_peer: Vec<_> = rows.iter().filter(|row| row.beside == "pci_types").collect();
        assert_eq!(with_peer.iter().map(|row| row.ratio()).collect::<Vec<_>>(), [Some(0.1), Some(0.1)]);
        assert_eq!(rows.len(), 6);
    }

    #[test]
    fn the_hosts_calls_are_taken_off_a_bring_up_of_as_many_vectors() {
        let case = |group: &str, vectors, least_nanoseconds| Case {
            case: format!("{group}/{vectors} vectors"),
            instructions: 1.0,
            least_nanoseconds,
        };
        let printed = [
            case(BRING_UP, 1, 900.0),
            case(HOST_CALLS, 1, 2.0),
            case(BRING_UP, 64, 1000.0),
            case(HOST_CALLS, 64, 50.0),
        ];
        let cases = with_what_is_left(printed.into());
        let beside: Vec<_> = cases[4..].iter().map(|case| (&*case.case, case.least_nanoseconds)).collect();
        let name = |vectors| format!("MSI-X bring-up, beside the host's calls/{vectors} vectors");
        assert_eq!(beside, [(&*name(1), 898.0), (&*name(64), 950.0)]);
    }

    #[test]
    fn a_goal_is_held_to_its_case() {
        let rows = rows(&with_what_is_left(cargo::parse(PRINTED)));
        let reached: Vec<_> = rows.iter().filter_map(Row::is_reached).collect();
        assert_eq!(reached, [true, false]);
    }
}
