//! docs/PERFORMANCE.md: the table between its two marks, and the plots beside it, made of the figures that are kept.

use super::kept::{Kept, Measured};
use super::plot;
use super::row::{Goal, Row, median, spread};
use crate::record::RecordError;
use std::fs;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- made by `cargo lab bench --record` -->\n";
const END: &str = "<!-- end of what it makes -->\n";
const PAGE: &str = "PERFORMANCE.md";

/// Makes the page and the plots anew; says which files are made.
pub(super) fn draw(kept: &Kept) -> Result<Vec<String>, RecordError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let file = |operation, path: &Path| {
        let path: PathBuf = path.into();
        move |source| RecordError::File { operation, path, source }
    };
    let page = folder.join(PAGE);
    let text = fs::read_to_string(&page).map_err(file("read", &page))?;
    let text = with_table(&text, kept).ok_or(RecordError::NoPlace {
        path: page.clone(),
        begin: BEGIN.trim(),
        end: END.trim(),
    })?;
    let mut made = vec![(PAGE.to_owned(), text)];
    made.extend(plot::all(kept));
    for (name, text) in &made {
        let path = folder.join(name);
        fs::write(&path, text).map_err(file("write", &path))?;
    }
    Ok(made.into_iter().map(|(name, _)| name).collect())
}

/// The text with the tables in their place.
fn with_table(text: &str, kept: &Kept) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_old, after) = rest.split_once(END)?;
    let parts: String = kept.parts.iter().map(part).collect();
    Some(format!("{before}{BEGIN}\n{parts}{END}{after}"))
}

fn part(measured: &Measured) -> String {
    let [before, after] = measured.load;
    let again = match measured.repeated.len() {
        0 => String::new(),
        times => format!("; measured again {times}× after L1 hung or died"),
    };
    let runs = measured.rows.iter().map(|row| row.ours.len()).max().unwrap_or_default();
    let figures = if runs == 1 { "one figure".into() } else { format!("up to {runs} figures") };
    let mut text = format!(
        "### {}\n\n`cargo lab bench --part {0}`, {figures} a row, load {before:.1} before and {after:.1} after{again}.\n\n\
         | what | ours | beside it | theirs | ratio | goal |\n|---|---|---|---|---|---|\n",
        measured.part
    );
    let mut group = "";
    for row in &measured.rows {
        if row.group != group {
            group = &row.group;
            text += &format!("| **{group}** | | | | | |\n");
        }
        text += &line(row);
    }
    text + "\n"
}

fn line(row: &Row) -> String {
    let ratio = ratio(row);
    let sign = match row.is_reached() {
        Some(true) => "✓ ",
        Some(false) => "✗ ",
        None => "",
    };
    let goal = match row.goal {
        Some(Goal::RatioAtMost(limit)) => format!("{sign}at most {limit}×"),
        Some(Goal::RatioAtLeast(limit)) => format!("{sign}at least {limit}×"),
        Some(Goal::AtMost(limit)) => format!("{sign}at most {limit} {}", row.unit),
        None => String::new(),
    };
    let cell = |values: &[f64]| match values {
        [] => String::new(),
        [one] => format!("{} {}", figure(*one), row.unit),
        several => {
            let (low, high) = spread(several);
            format!("{} {} ({} – {})", figure(median(several)), row.unit, figure(low), figure(high))
        }
    };
    let (ours, theirs) = (cell(&row.ours), cell(&row.theirs));
    format!("| {} | {ours} | {} | {theirs} | {ratio} | {goal} |\n", row.name, row.beside)
}

/// The middle ratio, and in brackets where it is likely to be.
pub(super) fn ratio(row: &Row) -> String {
    match (row.ratio(), row.interval()) {
        (None, _) => String::new(),
        (Some(ratio), None) => format!("{}×", figure(ratio)),
        (Some(ratio), Some(it)) => format!("{}× ({} – {})", figure(ratio), figure(it.low), figure(it.high)),
    }
}

/// Three digits that mean something.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => String::new(),
        f64::INFINITY => "∞".into(),
        0.0 => "0".into(),
        size if size < 0.001 => format!("{value:.1e}"),
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => grouped(value.round() as i64),
    }
}

/// A number with a comma after each three digits.
fn grouped(value: i64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        let left = digits.len() - place;
        if place > 0 && left.is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let texts = [0.0, 0.12345, 1.2345, 12.345, 123.45, 1_234_567.0].map(figure);
        assert_eq!(texts, ["0", "0.123", "1.23", "12.3", "123", "1,234,567"]);
    }

    #[test]
    fn a_goal_that_is_missed_is_shown_as_missed() {
        let row = Row::new("g", "life", "s").ours(vec![3.0]).beside("QEMU", vec![2.0]);
        let text = line(&row.goal(Goal::RatioAtMost(0.7)));
        assert_eq!(text, "| life | 3.00 s | QEMU | 2.00 s | 1.50× | ✗ at most 0.7× |\n");
    }

    #[test]
    fn a_ratio_of_pairs_is_shown_with_its_interval() {
        let row = Row::new("g", "exits", "").ours(vec![2.0, 3.0, 1.0]).beside("QEMU", vec![2.0, 2.0, 0.0]);
        assert_eq!(ratio(&row), "1.50× (1.00 – ∞)");
    }

    #[test]
    fn the_page_and_the_plots_are_those_of_the_figures_that_are_kept() {
        let kept = Kept::read().expect("it can be read");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let page = fs::read_to_string(folder.join(PAGE)).expect("it is there");
        assert_eq!(with_table(&page, &kept).as_ref(), Some(&page), "run `cargo lab bench --draw`");
        for (name, text) in plot::all(&kept) {
            let plot = fs::read_to_string(folder.join(&name)).expect("it is there");
            assert!(plot == text, "{name}: run `cargo lab bench --draw`");
        }
    }
}
