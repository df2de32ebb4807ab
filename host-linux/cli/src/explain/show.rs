//! The plan as a person reads it: interrupts, BARs drawn to scale, a map of configuration space.

use std::fmt::Write as _;

use anstyle::Style;

use super::plan::{BarPlan, ConfigRun, InterruptLine, Piece, Plan};
use crate::display::{Align, BAD, Column, GOOD, HEADING, QUIET, Table, UNSURE, size, styled, wrapped};

/// Signs and colours of how parts of BARs are treated.
const TREATMENTS: [(&str, char, Style, &str); 3] = [
    ("mapped", '█', GOOD, "the guest reaches the device without leaving guest mode"),
    ("trapped", '▒', UNSURE, "an access leaves guest mode and goes on to the device"),
    ("emulated", '░', BAD, "an access leaves guest mode and is answered here"),
];

/// Signs of where the bytes of configuration space come from, weakest first: a dword has the strongest of its bytes.
const SOURCES: [(&str, char, &str); 4] = [
    ("hidden", '·', "reads zero"),
    ("hardware", 'h', "the device's"),
    ("merged", 'm', "some bits are the device's, some are kept here"),
    ("virtual", 'v', "kept here"),
];

/// All of it.
pub(super) fn plan(plan: &Plan, width: usize) -> String {
    let mut text = String::new();
    let device = plan.device.as_deref().map_or_else(String::new, |device| format!("{device} "));
    for line in wrapped("", &format!("{device}{}", plan.name), width).lines() {
        let _infallible = writeln!(text, "{}", styled(HEADING, line));
    }
    let Plan { vendor, device_id, class_name, source, .. } = plan;
    let mut about = format!("{class_name}, {vendor}:{device_id}, ");
    about.push_str(if plan.resettable { "can be reset" } else { "cannot be reset alone" });
    if plan.virtual_function {
        about.push_str(", a virtual function");
    }
    text.push_str(&wrapped("", &format!("{about}; {source}."), width));
    for finding in &plan.findings {
        text.push_str(&wrapped("! ", finding, width));
    }
    heading(&mut text, "Interrupts");
    plan.interrupts.iter().for_each(|line| interrupt(&mut text, line));
    heading(&mut text, "BARs");
    plan.bars.iter().for_each(|one| bar(&mut text, one, plan.page_size, width));
    if plan.bars.is_empty() {
        text.push_str("  There are none: no driver in a guest could reach the device.\n");
    }
    for (word, sign, style, meaning) in TREATMENTS {
        if plan.bars.iter().flat_map(|bar| &bar.pieces).any(|piece| piece.treatment == word) {
            let line = wrapped(&format!("  {sign} {word:<8}  "), meaning, width);
            text.push_str(&line.replacen(sign, &styled(style, sign), 1));
        }
    }
    heading(&mut text, "Configuration space");
    config(&mut text, plan, width);
    text
}

fn heading(text: &mut String, heading: &str) {
    let _infallible = writeln!(text, "\n{}", styled(HEADING, heading));
}

fn interrupt(text: &mut String, line: &InterruptLine) {
    let InterruptLine { kind, vectors, offered, reason } = line;
    let _infallible = match (*offered, vectors) {
        (true, 1) => writeln!(text, "  {} {kind:<6} 1 vector", styled(GOOD, "✓")),
        (true, vectors) => writeln!(text, "  {} {kind:<6} {vectors} vectors", styled(GOOD, "✓")),
        (false, _) => writeln!(text, "  {} {kind:<6} {}", styled(QUIET, "–"), styled(QUIET, reason)),
    };
}

fn bar(text: &mut String, bar: &BarPlan, page_size: u64, width: usize) {
    let BarPlan { name, kind, prefetchable, size: bytes, pieces } = bar;
    let prefetchable = if *prefetchable { ", prefetchable" } else { "" };
    let _infallible = writeln!(text, "  {name}  {}, {kind}{prefetchable}", size(*bytes));
    let _infallible = writeln!(text, "  {}", drawn(pieces, *bytes, width.saturating_sub(2).min(LONGEST)));
    let number = |heading| Column { align: Align::Right, ..Column::new(heading) };
    let mut table = Table::new(vec![
        number("FROM"),
        number("TO"),
        number("SIZE"),
        Column::new(""),
        Column { least: Some(20), ..Column::new("WHY") },
    ]);
    for piece in pieces {
        let found = TREATMENTS.iter().find(|(word, ..)| *word == piece.treatment);
        let style = found.map_or(QUIET, |(_, _, style, _)| *style);
        let large = piece.page_size.filter(|page| *page > page_size);
        let pages = large.map_or_else(String::new, |page| format!(", by pages of {}", size(page)));
        table.row(vec![
            format!("{:#x}", piece.first).into(),
            format!("{:#x}", piece.last).into(),
            size(piece.size()).into(),
            crate::display::Cell::new(piece.treatment.as_str(), style),
            format!("{}{pages}", piece.reason).into(),
        ]);
    }
    let rows = table.text(Some(width.saturating_sub(4)));
    rows.lines().skip(1).for_each(|line| text.push_str(&format!("    {line}\n")));
    text.push('\n');
}

/// A BAR in so many cells, to scale. What is smaller than a cell has the strongest claim on it that is in it: a table of
/// a few bytes in a BAR of gigabytes is what one looks for.
fn drawn(pieces: &[Piece], bytes: u64, cells: usize) -> String {
    let cells = cells as u64;
    let mut text = String::new();
    let strength = |piece: &Piece| TREATMENTS.iter().position(|(word, ..)| *word == piece.treatment);
    for cell in 0..cells {
        let edge = |cell: u64| (u128::from(bytes) * u128::from(cell) / u128::from(cells)) as u64;
        let (first, last) = (edge(cell), edge(cell + 1).max(edge(cell) + 1) - 1);
        let within = pieces.iter().filter(|piece| piece.first <= last && first <= piece.last);
        // A piece that is larger than a cell is seen anyway, and does not take the cells of its neighbours.
        let small = within.clone().filter(|piece| piece.size() < (last - first).saturating_add(1));
        let most = |piece: &&Piece| piece.last.min(last) - piece.first.max(first);
        let found = small.max_by_key(|piece| strength(piece)).or_else(|| within.max_by_key(most));
        let found = found.and_then(|piece| TREATMENTS.iter().find(|(word, ..)| *word == piece.treatment));
        text.push_str(&found.map_or_else(|| " ".into(), |(_, sign, style, _)| styled(*style, sign)));
    }
    text
}

/// The longest drawing of a BAR.
const LONGEST: usize = 96;

/// Bytes in a line of the map.
const LINE: u16 = 64;

fn config(text: &mut String, plan: &Plan, width: usize) {
    let sign = |dword: u16| {
        let within = plan.config.iter().filter(|run| run.first < dword + 4 && dword <= run.last);
        let strength = |run: &ConfigRun| SOURCES.iter().position(|(word, ..)| *word == run.source);
        let strongest = within.filter_map(strength).max();
        strongest.map_or(' ', |at| SOURCES[at].1)
    };
    let end = plan.config_size as u16;
    let mut before = String::new();
    let mut repeated = false;
    for line in (0..end).step_by(usize::from(LINE)) {
        let signs: String = (line..(line + LINE).min(end)).step_by(4).map(sign).collect();
        let same = signs == before;
        if same && !repeated {
            text.push_str("  …\n");
        }
        if !same {
            let groups: Vec<String> = signs.as_bytes_in_fours();
            let _infallible = writeln!(text, "  {line:#05x}  {}", groups.join(" "));
        }
        repeated = same;
        before = signs;
    }
    let words = SOURCES.iter().rev().map(|(word, sign, meaning)| format!("{sign} {word}: {meaning}"));
    let legend = format!("Four bytes a sign. {}.", words.collect::<Vec<_>>().join("; "));
    text.push_str(&wrapped("  ", &legend, width));
    text.push('\n');
    let mut table = Table::new(vec![
        Column { align: Align::Right, ..Column::new("FROM") },
        Column { align: Align::Right, ..Column::new("TO") },
        Column::new("READS"),
        Column::new("WRITES"),
        Column { least: Some(16), ..Column::new("RULE") },
    ]);
    for run in &plan.config {
        table.row(vec![
            format!("{:#05x}", run.first).into(),
            format!("{:#05x}", run.last).into(),
            run.source.as_str().into(),
            run.writes.as_str().into(),
            run.rule.into(),
        ]);
    }
    let rows = table.text(Some(width.saturating_sub(2)));
    rows.lines().for_each(|line| text.push_str(&format!("  {line}\n")));
}

trait InFours {
    fn as_bytes_in_fours(&self) -> Vec<String>;
}

impl InFours for String {
    fn as_bytes_in_fours(&self) -> Vec<String> {
        let signs: Vec<char> = self.chars().collect();
        signs.chunks(4).map(|four| four.iter().collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(first: u64, last: u64, treatment: &str) -> Piece {
        Piece { first, last, treatment: treatment.into(), reason: String::new(), page_size: None }
    }

    fn plain(pieces: &[Piece], bytes: u64, cells: usize) -> String {
        anstream::adapter::strip_str(&drawn(pieces, bytes, cells)).to_string()
    }

    #[test]
    fn parts_are_as_long_as_they_are_large() {
        let pieces = [piece(0, 0x1fff, "mapped"), piece(0x2000, 0x3fff, "trapped")];
        assert_eq!(plain(&pieces, 0x4000, 8), "████▒▒▒▒");
    }

    #[test]
    fn what_is_smaller_than_a_cell_is_seen_all_the_same() {
        let pieces = [
            piece(0, 0x1fff, "mapped"),
            piece(0x2000, 0x200f, "emulated"),
            piece(0x2010, 0x3_ffff, "trapped"),
        ];
        assert_eq!(plain(&pieces, 0x4_0000, 8), "░▒▒▒▒▒▒▒");
    }

    #[test]
    fn a_bar_of_fewer_bytes_than_cells_is_drawn() {
        assert_eq!(plain(&[piece(0, 3, "trapped")], 4, 8), "▒▒▒▒▒▒▒▒");
    }
}
