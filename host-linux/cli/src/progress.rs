//! What a person sees of a run before the guest says something: one moving line on standard error, if that is a terminal.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vfio_assign_linux::{MappingObserver, MappingProgress};

/// The line, which several threads move. Elsewhere than on a terminal nothing is shown.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    line: ProgressBar,
}

/// The line that is shown now, which log lines must not run into.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// No colours: they would tell nothing.
const STEP: &str = "{spinner} {wide_msg}";
const PINNING: &str = "{spinner} {msg}  [{bar:24}] {binary_bytes} of {binary_total_bytes} pinned";
const CHARACTERS: &str = "=> ";

impl Progress {
    /// A line on standard error, which is shown with its first step.
    pub(crate) fn new() -> Self {
        let target = match io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let progress = Self::on(target);
        *shown() = Some(progress.line.clone());
        progress
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let line = ProgressBar::with_draw_target(None, target);
        Self { line }
    }

    /// The run now does this.
    pub(crate) fn step(&self, what: impl Into<String>) {
        if self.line.is_finished() {
            return;
        }
        if self.line.length().is_none() {
            self.style(STEP);
        }
        self.line.set_message(what.into());
        self.line.enable_steady_tick(Duration::from_millis(100));
    }

    /// Takes the line away for good: what comes now is the guest's, or an error.
    pub(crate) fn clear(&self) {
        self.line.finish_and_clear();
    }

    fn style(&self, template: &str) {
        // Both templates are right, or a test fails.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.line.set_style(style.progress_chars(CHARACTERS));
        }
    }
}

impl MappingObserver for Progress {
    fn mapping(&self, MappingProgress { found, mapped, total, .. }: MappingProgress) {
        if self.line.is_finished() {
            return;
        }
        if self.line.length() != Some(total) {
            self.line.set_length(total);
            self.style(PINNING);
        }
        // What devices reach is pinned; before that the kernel finds pages, which takes most of the time.
        self.line.set_position(if mapped == 0 { found } else { mapped });
    }
}

fn shown() -> MutexGuard<'static, Option<ProgressBar>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard error for log lines, which stand above the moving line.
pub(crate) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = shown().clone();
        match line.filter(|line| !line.is_finished()) {
            Some(line) => line.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::*;

    /// A terminal of 80 columns that keeps what is written to it.
    #[derive(Clone, Debug, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl Terminal {
        fn text(&self) -> String {
            self.0.lock().unwrap().clone()
        }

        fn note(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.note(&format!("{text}|"))
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.note(text)
        }

        fn clear_line(&self) -> io::Result<()> {
            self.note("|")
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown_of(what: impl FnOnce(&Progress)) -> String {
        let terminal = Terminal::default();
        let progress = Progress::on(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        what(&progress);
        progress.line.force_draw();
        terminal.text()
    }

    #[test]
    fn both_templates_are_right() {
        assert!(ProgressStyle::with_template(STEP).is_ok() && ProgressStyle::with_template(PINNING).is_ok());
    }

    #[test]
    fn a_step_is_shown_on_one_line_without_colours() {
        let text = shown_of(|progress| progress.step("loading /boot/vmlinuz"));
        assert!(
            text.contains("loading /boot/vmlinuz") && !text.contains('\n') && !text.contains('\u{1b}'),
            "{text:?}"
        );
    }

    #[test]
    fn memory_that_is_pinned_is_a_bar() {
        let text = shown_of(|progress| {
            progress.step("booting");
            let mut so_far = MappingProgress::default();
            (so_far.found, so_far.mapped, so_far.total) = (2 << 30, 1 << 30, 4 << 30);
            progress.mapping(so_far);
        });
        assert!(text.contains("booting  [======>"), "{text:?}");
        assert!(text.contains("1.00 GiB of 4.00 GiB pinned"), "{text:?}");
    }

    #[test]
    fn what_is_cleared_is_not_shown_again() {
        let text = shown_of(|progress| {
            progress.clear();
            progress.step("booting");
            progress.mapping(MappingProgress::default());
        });
        assert!(!text.contains("booting"), "{text:?}");
    }
}
