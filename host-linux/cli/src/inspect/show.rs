//! Registers as a person reads them, and what has changed of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::decode::{Part, Registers};
use super::guest::flat;
use crate::display::{HEADING, QUIET, UNSURE, styled, wrapped};

/// What everybody may read.
const HEADER: usize = 64;

/// All of them.
pub(super) fn registers(registers: &Registers, width: usize) -> String {
    let Registers { device, name, readable, parts, findings, guest } = registers;
    let mut text = String::new();
    let device = device.as_deref().map_or_else(String::new, |device| format!("{device} "));
    let _infallible = writeln!(text, "{}", styled(HEADING, format!("{device}{name}")));
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
    if let Some(report) = guest {
        let lines = flat(report);
        let widest = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let _infallible = writeln!(text, "\n{}", styled(HEADING, "In its guest"));
        for (name, value) in &lines {
            text.push_str(&wrapped(&format!("      {name:<widest$}  "), value, width));
        }
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
    let reported = |registers: &Registers| registers.guest.as_ref().map(flat).unwrap_or_default();
    let old: BTreeMap<String, String> = reported(before).into_iter().collect();
    for (name, value) in reported(now) {
        match old.get(&name) {
            Some(was) if *was == value => {}
            was => {
                let was = was.map_or("nothing", String::as_str);
                let _infallible = writeln!(text, "in its guest, {name}: {value} (was {was})");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::decode::field;
    use super::*;

    fn with(state: &str) -> Registers {
        let fields = vec![field("vectors", "65"), field("state", state)];
        let parts = vec![Part { offset: 0x40, name: "MSI-X".into(), fields }];
        Registers { device: None, name: String::new(), readable: 256, parts, findings: vec![], guest: None }
    }

    #[test]
    fn only_what_has_changed_is_said() {
        assert_eq!(changes(&with("off"), &with("on")), "MSI-X, state: on (was off)\n");
        assert_eq!(changes(&with("on"), &with("on")), "");
    }
}
