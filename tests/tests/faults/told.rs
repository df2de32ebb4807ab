//! What a run was told: errors that calls gave, and lines of the log.

use std::error::Error;
use std::sync::{Mutex, Once};

/// The log's warnings and errors, since they were last taken.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Warn {
            LINES.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// What a run was told.
#[derive(Default)]
pub(crate) struct Told {
    errors: Vec<String>,
    /// What should not have been.
    pub(crate) wrong: Vec<String>,
}

impl Told {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        static COLLECT: Once = Once::new();
        COLLECT.call_once(|| {
            log::set_logger(&Collector).unwrap();
            log::set_max_level(log::LevelFilter::Warn);
        });
        LINES.lock().unwrap().clear();
        Self::default()
    }

    /// Does something, a second time where it has failed; that must succeed.
    pub(crate) fn attempt<T, E: Error>(&mut self, mut work: impl FnMut() -> Result<T, E>) -> Option<T> {
        let first = match work() {
            Ok(value) => return Some(value),
            Err(error) => error.to_string(),
        };
        if first.is_empty() {
            self.wrong.push("an error without words".into());
        }
        self.errors.push(first);
        let second = work();
        if let Err(error) = &second {
            self.wrong.push(format!("a second attempt fails: {error}"));
        }
        second.ok()
    }

    /// Does something that may be refused for good.
    pub(crate) fn once<T, E: Error>(&mut self, done: Result<T, E>) -> Option<T> {
        done.map_err(|error| self.errors.push(error.to_string())).ok()
    }

    /// Does something whose log nobody reads.
    pub(crate) fn unheard(&self, work: impl FnOnce()) {
        let before = LINES.lock().unwrap().len();
        work();
        LINES.lock().unwrap().truncate(before);
    }

    /// All that was told so far.
    pub(crate) fn all(&self) -> Vec<String> {
        self.errors.iter().chain(LINES.lock().unwrap().iter()).cloned().collect()
    }
}
