//! `run --stats`: what left guest mode, and what it cost the host, as a person reads it at the end of a run.

use serde_json::Value;

use crate::display::{Align, Column, HEADING, Table, styled};

/// The account of a run. `exits` and `devices` are what the report has of them.
pub(crate) fn text(exits: &Value, devices: &[Value]) -> String {
    let mut text = section("Left guest mode for", exits);
    for device in devices {
        let name = device["bdf"].as_str().unwrap_or("a device");
        text.push_str(&section(&format!("{name}: what trapped, and what was done"), &device["counters"]));
        text.push_str(&section(&format!("{name}: accesses of BARs that left guest mode"), &pieces(device)));
    }
    if let Some(device) = devices.first() {
        text.push_str(&section("Calls to the kernel for all devices", &device["host_calls"]));
    }
    text
}

/// Accesses by piece of a BAR, each by a name of its own.
fn pieces(device: &Value) -> Value {
    let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut counts = serde_json::Map::new();
    for bar in all(&device["bars"]) {
        for piece in all(&bar["pieces"]) {
            let number = |name: &str| piece[name].as_u64().unwrap_or(0);
            let why = piece["reason"].as_str().unwrap_or_default();
            let place = format!("BAR{} {:#x} to {:#x}: {why}", bar["index"], number("first"), number("last"));
            for direction in ["reads", "writes"] {
                counts.insert(format!("{direction}, {place}"), piece[direction].clone());
            }
        }
    }
    counts.into()
}

/// What is not zero, the most frequent first.
fn section(heading: &str, counts: &Value) -> String {
    let mut counts: Vec<(&String, u64)> = counts
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, count)| Some((name, count.as_u64().filter(|count| *count > 0)?)))
        .collect();
    counts.sort_by(|(one, first), (other, second)| second.cmp(first).then(one.cmp(other)));
    let mut table = Table::new(vec![Column { align: Align::Right, ..Column::new("") }, Column::new("")]);
    for (name, count) in &counts {
        table.row(vec![count.to_string().into(), name.replace('_', " ").into()]);
    }
    let rows = table.text(None);
    let rows: String = rows.lines().skip(1).map(|line| format!("  {line}\n")).collect();
    let rows = if counts.is_empty() { "  nothing\n".into() } else { rows };
    format!("{}\n{rows}", styled(HEADING, heading))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_most_frequent_comes_first_and_what_never_happened_not_at_all() {
        let device = json!({
            "bdf": "0000:04:00.0",
            "counters": { "config_reads": 12, "bar_writes": 240, "failed": 0 },
            "bars": [{ "index": 0, "pieces": [
                { "first": 0x2000, "last": 0x240f, "reason": "MSI-X table", "reads": 0, "writes": 7 },
            ] }],
            "host_calls": {},
        });
        let text = text(&json!({ "mmio": 3 }), &[device]);
        let expected = "Left guest mode for\n  3  mmio\n\
            0000:04:00.0: what trapped, and what was done\n  240  bar writes\n   12  config reads\n\
            0000:04:00.0: accesses of BARs that left guest mode\n\
            \x20 7  writes, BAR0 0x2000 to 0x240f: MSI-X table\n\
            Calls to the kernel for all devices\n  nothing\n";
        assert_eq!(anstream::adapter::strip_str(&text).to_string(), expected);
    }
}
