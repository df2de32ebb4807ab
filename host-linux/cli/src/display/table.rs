//! A table that fits the terminal: what gives way is said by column, first by getting shorter, then by going.

use std::fmt::Write as _;

use anstyle::Style;

use super::{HEADING, PLAIN};

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    pub(crate) align: Align,
    /// The fewest columns of the terminal that it is cut down to; none if it is not cut.
    pub(crate) least: Option<usize>,
    /// Whether it goes where there is no room.
    pub(crate) may_go: bool,
}

impl Column {
    /// A column that is shown whole.
    pub(crate) const fn new(heading: &'static str) -> Self {
        Self { heading, align: Align::Left, least: None, may_go: false }
    }
}

/// A text in a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A text in a style.
    pub(crate) fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, PLAIN)
    }
}

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// Spaces between columns.
const GAP: usize = 2;

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row, which has a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table in at most `room` columns where that can be done; as wide as it is where there is no limit. Columns
    /// in which nothing stands are left out.
    pub(crate) fn text(&self, room: Option<usize>) -> String {
        let widths = self.widths(room);
        let mut text = String::new();
        let headings = self.columns.iter().map(|column| Cell::new(column.heading, HEADING)).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            self.line(&mut text, row, &widths);
        }
        text
    }

    /// How wide each column is; none of one that is left out.
    fn widths(&self, room: Option<usize>) -> Vec<Option<usize>> {
        let widest = |(at, column): (usize, &Column)| {
            let widest = self.rows.iter().map(|row| row[at].width()).max().unwrap_or(0);
            (widest > 0).then_some(widest.max(column.heading.len()))
        };
        let mut widths: Vec<Option<usize>> = self.columns.iter().enumerate().map(widest).collect();
        let Some(room) = room else { return widths };
        for (at, column) in self.columns.iter().enumerate() {
            // Before a column goes, all that can be cut is taken to be cut.
            let floor: Vec<Option<usize>> = widths.iter().zip(&self.columns).map(least).collect();
            if total(&floor) > room && column.may_go {
                widths[at] = None;
            }
        }
        while total(&widths) > room {
            let cut = |at: &usize| self.columns[*at].least.is_some_and(|least| widths[*at] > Some(least));
            // The widest gives way first, until all that can be cut are alike.
            let Some(at) = (0..widths.len()).filter(cut).max_by_key(|at| widths[*at]) else { break };
            widths[at] = widths[at].map(|width| width - 1);
        }
        widths
    }

    fn line(&self, text: &mut String, row: &[Cell], widths: &[Option<usize>]) {
        let mut line = String::new();
        let mut spaces = 0;
        for ((cell, column), width) in row.iter().zip(&self.columns).zip(widths) {
            let Some(width) = *width else { continue };
            let shown = cut(&cell.text, width);
            let free = width.saturating_sub(shown.chars().count());
            let (before, after) = if column.align == Align::Right { (free, 0) } else { (0, free) };
            if !shown.is_empty() {
                let style = cell.style;
                // Spaces are written when something follows them: no line ends in one.
                let _infallible = write!(line, "{:1$}{style}{shown}{style:#}", "", spaces + before);
                spaces = 0;
            } else {
                spaces += before;
            }
            spaces += after + GAP;
        }
        text.push_str(&line);
        text.push('\n');
    }
}

fn least((width, column): (&Option<usize>, &Column)) -> Option<usize> {
    width.map(|width| column.least.map_or(width, |least| width.min(least)))
}

fn total(widths: &[Option<usize>]) -> usize {
    let shown = widths.iter().flatten();
    shown.clone().sum::<usize>() + GAP * shown.count().saturating_sub(1)
}

/// What fits of a text, with a sign where something is missing.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let name = Column { least: Some(6), ..Column::new("NAME") };
        let class = Column { may_go: true, least: Some(4), ..Column::new("CLASS") };
        let size = Column { align: Align::Right, ..Column::new("SIZE") };
        let mut table = Table::new(vec![Column::new("BDF"), name, class, Column::new("NONE"), size]);
        table.row(vec!["a:b".into(), "a long name".into(), "storage".into(), "".into(), "1".into()]);
        table.row(vec!["c:d".into(), "short".into(), "".into(), "".into(), "16".into()]);
        table
    }

    fn plain(room: Option<usize>) -> String {
        anstream::adapter::strip_str(&table().text(room)).to_string()
    }

    #[test]
    fn columns_are_as_wide_as_they_need_and_empty_ones_are_left_out() {
        let expected = "\
BDF  NAME         CLASS    SIZE
a:b  a long name  storage     1
c:d  short                   16
";
        assert_eq!(plain(None), expected);
    }

    #[test]
    fn what_can_be_cut_is_cut_before_a_column_goes() {
        let expected = "\
BDF  NAME      CLASS    SIZE
a:b  a long…   storage     1
c:d  short                16
";
        assert_eq!(plain(Some(28)), expected);
    }

    #[test]
    fn a_column_that_may_goes_where_there_is_no_room() {
        let expected = "\
BDF  NAME     SIZE
a:b  a long…     1
c:d  short      16
";
        assert_eq!(plain(Some(18)), expected);
    }
}
