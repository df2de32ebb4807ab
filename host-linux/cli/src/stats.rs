//! `run --stats`: what left guest mode, and what it cost the host, as a person reads it at the end of a run.

use serde_json::Value;

use crate::display::{Align, Column, HEADING, Table, styled};

/// The account of a run. `exits` and `devices` are what the report has of them.
pub(crate) fn text(exits: &Value, devices: &[Value]) -> String {
    let mut text = section("Left guest mode for", exits);
    for device in devices {
        let name = device["bdf"].as_str().unwrap_or("a device");
        text.push_str(&section(&format!("{name}: what trapped, and what was done"), &device["counters"]));
    }
    if let Some(device) = devices.first() {
        text.push_str(&section("Calls to the kernel for all devices", &device["host_calls"]));
    }
    text
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
            "host_calls": {},
        });
        let text = text(&json!({ "mmio": 3 }), &[device]);
        let expected = "Left guest mode for\n  3  mmio\n\
            0000:04:00.0: what trapped, and what was done\n  240  bar writes\n   12  config reads\n\
            Calls to the kernel for all devices\n  nothing\n";
        assert_eq!(anstream::adapter::strip_str(&text).to_string(), expected);
    }
}
