//! What a person sees while the lab works: one line with the present step and the time, or both consoles with `-v`.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Reports steps to standard error; standard output is for results.
pub(crate) struct Progress {
    line: Option<ProgressBar>,
    verbose: bool,
    started: Instant,
    doing: RefCell<String>,
}

/// Whose console a line is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Console {
    L1,
    L2,
}

impl Progress {
    /// A moving line on a terminal; elsewhere a line a step.
    pub(crate) fn new(verbose: bool) -> Self {
        let line = (std::io::stderr().is_terminal() && !verbose).then(|| {
            let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}") {
                line.set_style(style);
            }
            line.enable_steady_tick(Duration::from_millis(120));
            line
        });
        Self { line, verbose, started: Instant::now(), doing: RefCell::default() }
    }

    /// The lab now does this.
    pub(crate) fn step(&self, what: impl Into<String>) {
        let what = what.into();
        match &self.line {
            Some(line) => line.set_message(what.clone()),
            None => self.print(&format!("{:6.1}s  {what}", self.started.elapsed().as_secs_f64())),
        }
        self.doing.replace(what);
    }

    /// What the lab is doing.
    pub(crate) fn doing(&self) -> String {
        self.doing.borrow().clone()
    }

    /// A piece of a console, shown with `-v` only.
    pub(crate) fn console(&self, console: Console, line: &str) {
        if self.verbose {
            let name = match console {
                Console::L1 => "L1",
                Console::L2 => "   L2",
            };
            self.print(&format!("{name} │ {}", line.trim_end()));
        }
    }

    /// Seconds since the lab started.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Takes the moving line away, before results are printed or the terminal is handed over.
    pub(crate) fn clear(&self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }

    fn print(&self, text: &str) {
        // Progress that nobody can see any more is no reason to stop.
        let _gone = writeln!(std::io::stderr(), "{text}");
    }
}
