//! The list as a person reads it.

use std::fmt::Write as _;

use anstyle::Style;

use super::{Listed, Readiness, short};
use crate::display::{Align, BAD, Cell, Column, GOOD, HEADING, QUIET, Table, UNSURE, size, styled, wrapped};

/// The column of the group.
const GROUP: usize = 4;

fn table() -> Table {
    Table::new(vec![
        Column::new("ADDRESS"),
        Column { least: Some(28), ..Column::new("NAME") },
        Column { least: Some(10), may_go: true, ..Column::new("CLASS") },
        Column { least: Some(8), ..Column::new("DRIVER") },
        Column { align: Align::Right, ..Column::new("GROUP") },
        Column { align: Align::Right, may_go: true, ..Column::new("BARS") },
        Column { align: Align::Right, may_go: true, ..Column::new("VFS") },
        Column::new("FOR A GUEST"),
    ])
}

fn row(one: &Listed) -> Vec<Cell> {
    let Listed { function, readiness, .. } = one;
    let bars = match function.bar_total() {
        0 => String::new(),
        bytes => size(bytes),
    };
    let virtual_functions = match (function.virtual_functions, function.physical) {
        (Some((active, total)), _) => format!("{active}/{total}"),
        (None, Some(physical)) => format!("of {}", short(physical)),
        (None, None) => String::new(),
    };
    let driver = match &function.driver {
        Some(driver) => Cell::from(driver.as_str()),
        None => Cell::new("–", QUIET),
    };
    vec![
        short(function.bdf).into(),
        function.name().into(),
        function.class_name().into(),
        driver,
        function.group.map_or_else(|| Cell::new("–", QUIET), |group| group.to_string().into()),
        bars.into(),
        virtual_functions.into(),
        Cell::new(readiness.word(), colour(*readiness)),
    ]
}

fn colour(readiness: Readiness) -> Style {
    match readiness {
        Readiness::Ready => GOOD,
        Readiness::Bind | Readiness::BindGroup | Readiness::Siblings => UNSURE,
        Readiness::InUse | Readiness::NoIommu | Readiness::NoIommuMode => BAD,
        Readiness::Bridge => QUIET,
    }
}

/// The table, or one for each group, and what its words mean.
pub(super) fn list(shown: &[Listed], groups: bool, room: Option<usize>) -> String {
    let mut text = String::new();
    if groups {
        by_group(&mut text, shown, room);
    } else {
        let mut table = table();
        shown.iter().for_each(|one| table.row(row(one)));
        text.push_str(&table.text(room));
    }
    text.push('\n');
    let words = Readiness::ALL.into_iter().filter(|word| shown.iter().any(|one| one.readiness == *word));
    for word in words {
        let line = wrapped(&format!("{:<11} ", word.word()), word.meaning(), room.unwrap_or(usize::MAX));
        text.push_str(&styled(QUIET, line.trim_end()));
        text.push('\n');
    }
    text
}

fn by_group(text: &mut String, shown: &[Listed], room: Option<usize>) {
    let mut numbers: Vec<Option<u32>> = shown.iter().map(|one| one.function.group).collect();
    numbers.sort_by_key(|number| (number.is_none(), *number));
    numbers.dedup();
    for (place, number) in numbers.into_iter().enumerate() {
        if place > 0 {
            text.push('\n');
        }
        let heading = number.map_or_else(|| "In no IOMMU group".into(), |number| format!("Group {number}"));
        let _infallible = writeln!(text, "{}", styled(HEADING, heading));
        let mut table = table();
        for one in shown.iter().filter(|one| one.function.group == number) {
            let mut cells = row(one);
            // The heading names it.
            cells[GROUP] = "".into();
            table.row(cells);
        }
        let rows = table.text(room.map(|room| room.saturating_sub(2)));
        for line in rows.lines().skip(1) {
            let _infallible = writeln!(text, "  {line}");
        }
    }
}

/// What is said where there is nothing to show.
pub(super) fn nothing(there_are: usize) -> String {
    if there_are == 0 {
        "This host shows no PCI functions: there is nothing in /sys/bus/pci/devices.\n".into()
    } else {
        format!("None of the {there_are} PCI functions of this host fits.\n")
    }
}
