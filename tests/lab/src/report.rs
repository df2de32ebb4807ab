//! What a scenario found: checks and figures, for a person and as one line of JSON.

use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt::Display;

/// The findings of one scenario.
pub(crate) struct Report {
    scenario: &'static str,
    checks: Vec<Check>,
    figures: Map<String, Value>,
    rows: Map<String, Value>,
}

/// One thing that had to be so.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    name: String,
    passed: bool,
    expected: String,
    got: String,
    /// What a person may want to see even where the check passed.
    #[serde(skip)]
    detail: String,
}

impl Report {
    /// Nothing checked yet.
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self { scenario, checks: Vec::new(), figures: Map::new(), rows: Map::new() }
    }

    /// The scenario's name.
    pub(crate) fn name(&self) -> &'static str {
        self.scenario
    }

    /// Two values must be equal; returns whether they are.
    pub(crate) fn equal(&mut self, name: &str, expected: impl Display, got: impl Display) -> bool {
        let (expected, got) = (expected.to_string(), got.to_string());
        let passed = expected == got;
        self.push(name, passed, expected, got)
    }

    /// Something must hold, told in words; returns whether it does.
    pub(crate) fn holds(
        &mut self,
        name: &str,
        passed: bool,
        expected: impl Display,
        got: impl Display,
    ) -> bool {
        self.push(name, passed, expected.to_string(), got.to_string())
    }

    /// Shows this text under the last check, if it passed; a failed one shows what it got.
    pub(crate) fn detail(&mut self, text: &str) {
        if let Some(check) = self.checks.last_mut() {
            check.detail = text.to_owned();
        }
    }

    /// Something worth knowing that nothing depends on.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// A row of the README's table: whether all checks held of which there were `failures` bad ones before.
    pub(crate) fn row(&mut self, name: &str, failures: usize) {
        self.rows.insert(name.to_owned(), (self.failures() == failures).into());
    }

    /// All rows.
    pub(crate) fn rows(&self) -> &Map<String, Value> {
        &self.rows
    }

    /// Takes all that another report of the same scenario has found.
    pub(crate) fn add(&mut self, other: Report) {
        self.checks.extend(other.checks);
        self.figures.extend(other.figures);
        self.rows.extend(other.rows);
    }

    /// Whether something was checked and all of it held.
    pub(crate) fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.passed)
    }

    /// How many of the checks so far did not hold.
    pub(crate) fn failures(&self) -> usize {
        self.failed().count()
    }

    /// The names of those.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &str> {
        self.checks.iter().filter(|check| !check.passed).map(|check| check.name.as_str())
    }

    /// The checks as lines: the name of each, and what was wrong with those that failed.
    pub(crate) fn lines(&self) -> String {
        let mut lines = String::new();
        for check in &self.checks {
            lines.push_str(&format!("  {} {}\n", mark(check.passed), check.name));
            if check.passed {
                check.detail.lines().for_each(|line| lines.push_str(&format!("      {line}\n")));
            } else {
                lines.push_str(&format!(
                    "      expected  {}\n      got       {}\n",
                    check.expected, check.got
                ));
            }
        }
        lines
    }

    /// The last line for a person.
    pub(crate) fn verdict(&self, seconds: f64) -> String {
        let failed = self.failures();
        let all = self.checks.len();
        match failed {
            0 => format!("{} {}: {all} checks passed in {seconds:.1} s", mark(self.passed()), self.scenario),
            _ => format!(
                "{} {}: {failed} of {all} checks failed in {seconds:.1} s",
                mark(false),
                self.scenario
            ),
        }
    }

    /// One object, on one line.
    pub(crate) fn json(&self, seconds: f64) -> String {
        let mut object = Map::new();
        object.insert("scenario".into(), json!(self.scenario));
        object.insert("passed".into(), json!(self.passed()));
        object.insert("seconds".into(), json!((seconds * 10.0).round() / 10.0));
        object.insert("checks".into(), json!(self.checks));
        object.extend(self.figures.clone());
        Value::Object(object).to_string()
    }

    fn push(&mut self, name: &str, passed: bool, expected: String, got: String) -> bool {
        self.checks.push(Check { name: name.to_owned(), passed, expected, got, detail: String::new() });
        passed
    }
}

/// A check mark, or a cross.
pub(crate) fn mark(passed: bool) -> &'static str {
    if passed { "✓" } else { "✗" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_checks_has_not_passed() {
        assert!(!Report::new("nothing").passed());
    }

    #[test]
    fn one_failed_check_fails_the_scenario() {
        let mut report = Report::new("two");
        report.equal("same", 1, 1);
        report.equal("other", 1, 2);
        assert!(!report.passed());
    }

    #[test]
    fn a_detail_stands_under_its_check() {
        let mut report = Report::new("errors");
        report.equal("no such device", 1, 1);
        report.detail("there is none\nhelp: look");
        assert_eq!(report.lines(), "  ✓ no such device\n      there is none\n      help: look\n");
    }

    #[test]
    fn the_json_has_the_checks_and_the_figures() {
        let mut report = Report::new("demo");
        report.equal("digest", "a", "a");
        report.figure("l1_boot_seconds", 3.5);
        let value: Value = serde_json::from_str(&report.json(12.34)).expect("it is JSON");
        let wanted = json!({"scenario": "demo", "passed": true, "seconds": 12.3, "l1_boot_seconds": 3.5,
            "checks": [{"name": "digest", "passed": true, "expected": "a", "got": "a"}]});
        assert_eq!(value, wanted);
    }
}
