//! What the doctor found as JSON, whose members `docs/json.md` describes.

use serde::Serialize;

use super::Verdict;
use super::check::{Check, State, Step, Subject};
use crate::host::PciFunction;

/// The schema's name, with its version at the end.
const SCHEMA: &str = "vfio-assign/doctor/1";

/// All of it.
#[derive(Serialize)]
pub(super) struct Examination {
    schema: &'static str,
    device: Option<String>,
    name: Option<String>,
    would_work: Option<bool>,
    cause: Option<&'static str>,
    checks: Vec<One>,
}

#[derive(Serialize)]
struct One {
    id: &'static str,
    title: &'static str,
    state: &'static str,
    found: String,
    meaning: String,
    after: Option<&'static str>,
    remedy: Vec<Remedy>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Remedy {
    Run(String),
    Do(String),
}

impl Examination {
    /// What was found about a device, or about the host.
    pub(super) fn of(function: Option<&PciFunction>, made: &[(Subject, Check)], verdict: Verdict) -> Self {
        let wrong = |(_, check): &&(Subject, Check)| check.state == State::Problem;
        Self {
            schema: SCHEMA,
            device: function.map(|function| function.bdf.to_string()),
            name: function.map(PciFunction::name),
            would_work: match verdict {
                Verdict::Works => Some(true),
                Verdict::WouldNot => Some(false),
                Verdict::CannotTell => None,
            },
            cause: made.iter().find(wrong).map(|(subject, _)| subject.id()),
            checks: made.iter().map(|(subject, check)| One::of(*subject, check)).collect(),
        }
    }
}

impl One {
    fn of(subject: Subject, check: &Check) -> Self {
        let after = match check.state {
            State::After(first) => Some(first.id()),
            _ => None,
        };
        let remedy = check.remedy.iter().map(|step| match step {
            Step::Run(line) => Remedy::Run(line.clone()),
            Step::Do(what) => Remedy::Do(what.clone()),
        });
        Self {
            id: subject.id(),
            title: subject.title(),
            state: match check.state {
                State::Ok => "ok",
                State::Problem => "problem",
                State::CannotTell => "cannot-tell",
                State::Unsure => "unsure",
                State::After(_) => "after",
            },
            found: check.found.clone(),
            meaning: check.meaning.clone(),
            after,
            remedy: remedy.collect(),
        }
    }
}
