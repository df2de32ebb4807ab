//! How the command talks to a person: colours where they help, tables that fit the terminal, words that wrap.

mod table;
mod wrap;

pub(crate) use table::{Align, Cell, Column, Table};
pub(crate) use wrap::wrapped;

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use crate::help::Help;

/// Something is as it must be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Something is wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Something is not known, or needs a look.
pub(crate) const UNSURE: Style = AnsiColor::Yellow.on_default();
/// What a person may type.
pub(crate) const COMMAND: Style = AnsiColor::Cyan.on_default();
/// Headings.
pub(crate) const HEADING: Style = Style::new().bold();
/// What can be skipped.
pub(crate) const QUIET: Style = Style::new().dimmed();
/// Like everything else.
pub(crate) const PLAIN: Style = Style::new();

/// A text in a style, for what is written by [`print()`], which takes styles out where they do not belong.
pub(crate) fn styled(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// How many columns there are: what `COLUMNS` says, or the terminal; none where output goes to a file or a program.
pub(crate) fn columns() -> Option<usize> {
    let terminal = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    told().or_else(terminal)
}

/// What `COLUMNS` says.
fn told() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    told.filter(|columns| *columns > 0)
}

/// How wide running text is: a line that is as long as a wide terminal is hard to read. Text in a pager ends where the
/// terminal does.
pub(crate) fn text_width() -> usize {
    let terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    told().or_else(terminal).unwrap_or(100).clamp(40, 120)
}

/// Standard output does not take what is to be said.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {source}")]
pub(crate) struct NotPrinted {
    source: io::Error,
}

impl Help for NotPrinted {
    fn help(&self) -> Option<String> {
        Some("give standard output a file or terminal that can be written".into())
    }
}

/// Writes to standard output as [`print()`] does, and says whether anybody still reads it.
pub(crate) fn print_while_read(text: &str) -> Result<bool, NotPrinted> {
    let mut output = anstream::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).map_err(|source| NotPrinted { source }),
    }
}

/// Writes to standard output. Colours go out only to a terminal, and not where `NO_COLOR` is set; a reader that has
/// seen enough is no error.
pub(crate) fn print(text: &str) -> Result<(), NotPrinted> {
    print_while_read(text).map(|_read| ())
}

/// Writes a line to standard error. Where that is closed or full there is nobody left to tell.
pub(crate) fn complain(line: impl std::fmt::Display) {
    let _nobody_to_tell = writeln!(io::stderr(), "{line}");
}

/// Writes a value as JSON, indented, to standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), NotPrinted> {
    let text = serde_json::to_string_pretty(value).map_err(|error| NotPrinted { source: error.into() })?;
    print(&format!("{text}\n"))
}

/// A name as a shell takes it for one word.
pub(crate) fn quoted(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@,".contains(&byte);
    if !name.is_empty() && name.bytes().all(plain) {
        return name.into();
    }
    format!("'{}'", name.replace('\'', "'\\''"))
}

/// A number of bytes for a person: `16 KiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut shift = 0;
    while unit + 1 < UNITS.len() && bytes >> (shift + 10) != 0 {
        unit += 1;
        shift += 10;
    }
    let whole = bytes >> shift;
    let tenths = ((bytes - (whole << shift)).saturating_mul(10)) >> shift;
    if tenths == 0 || whole >= 100 {
        format!("{whole} {}", UNITS[unit])
    } else {
        format!("{whole}.{tenths} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_fits() {
        let sizes = [0, 512, 0x4000, 0x41_0000, 0x10_0000_0000].map(size);
        assert_eq!(sizes, ["0 B", "512 B", "16 KiB", "4 MiB", "64 GiB"]);
    }

    #[test]
    fn names_are_one_word_for_a_shell() {
        let names = ["/srv/a-1", "/srv/a b", "/srv/$(id)", "it's", ""].map(quoted);
        assert_eq!(names, ["/srv/a-1", "'/srv/a b'", "'/srv/$(id)'", "'it'\\''s'", "''"]);
    }

    #[test]
    fn sizes_between_units_have_one_digit() {
        assert_eq!(size(0x2_8000 + 0x200), "160 KiB");
        assert_eq!(size(0x1800), "6 KiB");
        assert_eq!(size(0x600), "1.5 KiB");
    }
}
