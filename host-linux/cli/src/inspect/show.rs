//! Registers as a person reads them, and what has changed of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::decode::{Part, Registers};
use super::guest::{Body, Guest, Section};
use super::interrupts::Interrupts;
use crate::display::{Align, Column, HEADING, QUIET, Table, UNSURE, styled, wrapped};

/// What everybody may read.
const HEADER: usize = 64;

/// All of them.
pub(super) fn registers(registers: &Registers, width: usize) -> String {
    let Registers { device, name, readable, parts, findings, guest, interrupts } = registers;
    let mut text = String::new();
    let device = device.as_deref().map_or_else(String::new, |device| format!("{device} "));
    for line in wrapped("", &format!("{device}{name}"), width).lines() {
        let _infallible = writeln!(text, "{}", styled(HEADING, line));
    }
    for part in parts {
        let Part { offset, name, fields } = part;
        let title = format!("{offset:#05x}");
        let _infallible = writeln!(text, "\n{} {}", styled(QUIET, title), styled(HEADING, name));
        let widest = fields.iter().map(|field| field.name.len()).max().unwrap_or(0);
        for field in fields {
            let lead = format!("      {:<widest$}  ", field.name);
            text.push_str(&wrapped(&lead, &field.value, width));
        }
    }
    for section in guest.iter().flat_map(Guest::sections).chain(counted(interrupts)) {
        show(&mut text, &section, width);
    }
    for finding in findings {
        let _infallible = writeln!(text, "\n{}", styled(UNSURE, finding));
    }
    if *readable <= HEADER {
        let line = format!(
            "Only root sees what is behind the first {readable} bytes: capabilities are missing here."
        );
        text.push('\n');
        text.push_str(&wrapped("", &line, width));
    }
    text
}

/// What is not as it was, a line each.
pub(super) fn changes(before: &Registers, now: &Registers) -> String {
    let mut text = String::new();
    for part in &now.parts {
        let old = before.parts.iter().find(|old| (old.offset, &old.name) == (part.offset, &part.name));
        for (place, field) in part.fields.iter().enumerate() {
            let was = old.and_then(|old| old.fields.get(place)).filter(|was| was.name == field.name);
            if was != Some(field) {
                let was = was.map_or("nothing", |was| was.value.as_str());
                let _infallible =
                    writeln!(text, "{}, {}: {} (was {was})", part.name, field.name, field.value);
            }
        }
    }
    let old: BTreeMap<String, String> = values(before).into_iter().collect();
    for (name, value) in values(now) {
        match old.get(&name) {
            Some(was) if *was == value => {}
            was => {
                let was = was.map_or("nothing", String::as_str);
                let _infallible = writeln!(text, "{name}: {value} (was {was})");
            }
        }
    }
    text
}

/// What changes besides registers, each with a name of its own.
fn values(registers: &Registers) -> Vec<(String, String)> {
    let guest = registers.guest.as_ref().map(Guest::values).unwrap_or_default();
    let guest = guest.into_iter().map(|(name, value)| (format!("in its guest, {name}"), value));
    let interrupts = registers.interrupts.iter().map(|Interrupts { kind, vector, count }| {
        (format!("on the host, {kind} vector {vector}"), format!("{count} interrupts"))
    });
    guest.chain(interrupts).collect()
}

/// How often which vector has interrupted; nothing where VFIO has none of the device.
fn counted(interrupts: &[Interrupts]) -> Option<Section> {
    let number = |heading| Column { align: Align::Right, ..Column::new(heading) };
    let mut table = Table::new(vec![Column::new("KIND"), number("VECTOR"), number("INTERRUPTS")]);
    for Interrupts { kind, vector, count } in interrupts {
        table.row(vec![(*kind).into(), vector.to_string().into(), count.to_string().into()]);
    }
    let heading = "Interrupts that the host has handed on".into();
    (!interrupts.is_empty()).then_some(Section { heading, body: Body::Table(table) })
}

fn show(text: &mut String, Section { heading, body }: &Section, width: usize) {
    const INDENT: &str = "      ";
    let _infallible = writeln!(text, "\n{}", styled(HEADING, heading));
    match body {
        Body::Table(table) if table.is_empty() => {}
        Body::Table(table) => {
            let room = width.saturating_sub(INDENT.len());
            for line in table.text(Some(room)).lines() {
                let _infallible = writeln!(text, "{INDENT}{line}");
            }
        }
        Body::Fields(fields) => {
            let widest = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            for (name, value) in fields {
                text.push_str(&wrapped(&format!("{INDENT}{name:<widest$}  "), value, width));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode::field;
    use super::*;

    fn with(state: &str) -> Registers {
        let fields = vec![field("vectors", "65"), field("state", state)];
        let parts = vec![Part { offset: 0x40, name: "MSI-X".into(), fields }];
        let interrupts = vec![Interrupts { kind: "MSI-X", vector: 3, count: 7 }];
        let (name, findings) = (String::new(), Vec::new());
        Registers { device: None, name, readable: 256, parts, findings, guest: None, interrupts }
    }

    #[test]
    fn only_what_has_changed_is_said() {
        assert_eq!(changes(&with("off"), &with("on")), "MSI-X, state: on (was off)\n");
        assert_eq!(changes(&with("on"), &with("on")), "");
    }

    #[test]
    fn an_interrupt_that_comes_is_said() {
        let mut now = with("on");
        now.interrupts[0].count = 8;
        let expected = "on the host, MSI-X vector 3: 8 interrupts (was 7 interrupts)\n";
        assert_eq!(changes(&with("on"), &now), expected);
    }
}
