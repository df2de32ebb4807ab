//! What the doctor found, as a person reads it.

use std::fmt::Write as _;

use super::Verdict;
use super::check::{Check, State, Step, Subject};
use crate::display::{BAD, COMMAND, GOOD, HEADING, QUIET, UNSURE, styled, wrapped};
use crate::host::PciFunction;

/// As wide as the longest title.
const TITLE: usize = 20;

/// All of it.
pub(super) fn examination(
    function: Option<&PciFunction>,
    made: &[(Subject, Check)],
    verdict: Verdict,
    width: usize,
) -> String {
    let mut text = String::new();
    let heading = match function {
        Some(function) => format!("{} {}", function.bdf, function.name()),
        None => "This host".into(),
    };
    let _infallible = writeln!(text, "{}\n", styled(HEADING, heading));
    for (subject, check) in made {
        text.push_str(&one(*subject, check, width));
    }
    text.push('\n');
    text.push_str(&summary(function, made, verdict, width));
    text
}

fn one(subject: Subject, check: &Check, width: usize) -> String {
    let (mark, style) = match check.state {
        State::Ok => ("✓", GOOD),
        State::Problem => ("✗", BAD),
        State::CannotTell | State::Unsure => ("?", UNSURE),
        State::After(_) => ("·", QUIET),
    };
    let lead = format!("{mark} {:<TITLE$} ", subject.title());
    let lines = wrapped(&lead, &check.found, width);
    // The style goes around the mark alone, so that widths are counted without it.
    let mut text = lines.replacen(mark, &styled(style, mark), 1);
    let indent = " ".repeat(4);
    if !check.meaning.is_empty() {
        text.push_str(&wrapped(&indent, &check.meaning, width));
    }
    for step in &check.remedy {
        text.push_str(&match step {
            // A line to be copied is never broken.
            Step::Run(line) => format!("{indent}{}\n", styled(COMMAND, format!("# {line}"))),
            Step::Do(what) => wrapped(&format!("{indent}→ "), what, width),
        });
    }
    text
}

fn summary(
    function: Option<&PciFunction>,
    made: &[(Subject, Check)],
    verdict: Verdict,
    width: usize,
) -> String {
    let first = |state: State| {
        made.iter().find(|(_, check)| check.state == state).map(|(subject, _)| subject.title())
    };
    let count = |state: State| made.iter().filter(|(_, check)| check.state == state).count();
    let what = if function.is_some() { "Giving it to a guest" } else { "Giving a device to a guest" };
    let (style, line) = match verdict {
        Verdict::Works if function.is_some() => (GOOD, format!("{what} would work.")),
        Verdict::Works => (
            GOOD,
            "This host can give devices to guests. `vfio-assign doctor ADDRESS` looks at one of them.".into(),
        ),
        Verdict::WouldNot => {
            let count = match count(State::Problem) {
                1 => "1 problem".into(),
                count => format!("{count} problems"),
            };
            let first = first(State::Problem).unwrap_or_default();
            (BAD, format!("{what} would not work: {count}. Begin with: {first}."))
        }
        Verdict::CannotTell => {
            let first = first(State::CannotTell).unwrap_or_default();
            (UNSURE, format!("Whether it would work cannot be told. What is missing first: {first}."))
        }
    };
    wrapped("", &line, width).lines().fold(String::new(), |text, line| text + &styled(style, line) + "\n")
}
