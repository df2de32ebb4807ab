//! What the run that has the device says of it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vfio_assign_core::Bdf;

use crate::control::{Answer, ControlError, Request, ask};
use crate::display::{Align, Cell, Column, QUIET, Table};

/// A device in its guest: its report, and what of that a person is shown.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Guest {
    report: Value,
    #[serde(skip)]
    read: Report,
}

/// What is read of a report; a run of another version may say less.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Report {
    backend: String,
    interrupt_mode: Option<String>,
    bars: Vec<Bar>,
    msix: Option<Msix>,
    counters: BTreeMap<String, u64>,
    host_calls: BTreeMap<String, u64>,
    quarantined: bool,
}

#[derive(Debug, Deserialize)]
struct Bar {
    index: u8,
    pieces: Vec<Piece>,
}

#[derive(Debug, Deserialize)]
struct Piece {
    first: u64,
    last: u64,
    treatment: String,
    reason: String,
    #[serde(default)]
    reads: u64,
    #[serde(default)]
    writes: u64,
}

#[derive(Debug, Deserialize)]
struct Msix {
    enabled: bool,
    function_mask: bool,
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    vector: u16,
    address: u64,
    data: u32,
    masked: bool,
    pending: Option<bool>,
    event: bool,
}

/// A heading and what stands below it: a name and a value a line, or a table.
pub(super) struct Section {
    pub(super) heading: String,
    pub(super) body: Body,
}

pub(super) enum Body {
    Fields(Vec<(String, String)>),
    Table(Table),
}

/// What it says now, as its report has it at the end of the run.
pub(super) fn guest(socket: &Path, bdf: Bdf) -> Result<Guest, ControlError> {
    match ask(socket, &Request::Inspect { device: bdf.to_string() })? {
        Answer::Report { report } => Ok(Guest::of(report)),
        other => Err(ControlError::Strange { said: format!("{other:?}") }),
    }
}

impl Guest {
    /// The device of a report.
    fn of(report: Value) -> Self {
        let read = Report::deserialize(&report).unwrap_or_default();
        Self { report, read }
    }

    /// All of it for a person.
    pub(super) fn sections(&self) -> Vec<Section> {
        let Report { backend, interrupt_mode, bars, msix, counters, host_calls, quarantined } = &self.read;
        let mut state = vec![
            ("opened by".to_owned(), backend.clone()),
            ("interrupts".to_owned(), interrupt_mode.clone().unwrap_or_else(|| "none".into())),
        ];
        if *quarantined {
            state.push(("quarantined".into(), "something could not be taken away from the guest".into()));
        }
        let mut sections = vec![Section { heading: "In its guest".into(), body: Body::Fields(state) }];
        sections.extend(msix.as_ref().map(Msix::section));
        sections.push(accesses(bars));
        sections.push(counts("What its machines did", counters));
        sections.push(counts("Calls to the kernel for all devices of the run", host_calls));
        sections
    }

    /// Every value by a name of its own, of which a person is told when it changes.
    pub(super) fn values(&self) -> Vec<(String, String)> {
        let Report { interrupt_mode, bars, msix, counters, host_calls, .. } = &self.read;
        let mut values = Vec::new();
        let mut value = |name: String, value: String| values.push((name, value));
        value("interrupts".into(), interrupt_mode.clone().unwrap_or_else(|| "none".into()));
        if let Some(msix) = msix {
            value("MSI-X".into(), msix.state().into());
            for entry in &msix.entries {
                let [masked, pending] = [entry.is_masked(), entry.is_pending()];
                let words = format!("{:#x} {:#x}, {masked}, {pending}", entry.address, entry.data);
                value(format!("MSI-X entry {}", entry.vector), words);
            }
        }
        for Bar { index, pieces } in bars {
            for Piece { first, last, reads, writes, .. } in pieces {
                let words = format!("{reads} reads, {writes} writes");
                value(format!("BAR{index} from {first:#x} to {last:#x}"), words);
            }
        }
        for (name, count) in counters.iter().chain(host_calls) {
            value(name.replace('_', " "), count.to_string());
        }
        values
    }
}

impl Msix {
    fn state(&self) -> &'static str {
        match (self.enabled, self.function_mask) {
            (false, _) => "off",
            (true, false) => "on",
            (true, true) => "on, all masked",
        }
    }

    fn section(&self) -> Section {
        let number = |heading| Column { align: Align::Right, ..Column::new(heading) };
        let mut table = Table::new(vec![
            number("VECTOR"),
            number("ADDRESS"),
            number("DATA"),
            Column::new("MASK"),
            Column::new("PENDING"),
            Column::new("EVENT"),
        ]);
        for entry in &self.entries {
            table.row(vec![
                entry.vector.to_string().into(),
                format!("{:#x}", entry.address).into(),
                format!("{:#x}", entry.data).into(),
                entry.is_masked().into(),
                entry.is_pending().into(),
                if entry.event { "yes" } else { "no" }.into(),
            ]);
        }
        let heading = match self.entries.len() {
            0 => format!("MSI-X table: {}, every entry as after a reset", self.state()),
            _ => format!("MSI-X table: {}; other entries are as after a reset", self.state()),
        };
        Section { heading, body: Body::Table(table) }
    }
}

impl Entry {
    fn is_masked(&self) -> &'static str {
        if self.masked { "masked" } else { "unmasked" }
    }

    fn is_pending(&self) -> &'static str {
        match self.pending {
            Some(true) => "pending",
            Some(false) => "not pending",
            None => "cannot tell",
        }
    }
}

fn accesses(bars: &[Bar]) -> Section {
    let number = |heading| Column { align: Align::Right, ..Column::new(heading) };
    let why = Column { least: Some(8), may_go: true, ..Column::new("WHY") };
    let mut table = Table::new(vec![
        Column::new("BAR"),
        number("FIRST"),
        number("LAST"),
        Column::new("TREATMENT"),
        number("READS"),
        number("WRITES"),
        why,
    ]);
    for Bar { index, pieces } in bars {
        for Piece { first, last, treatment, reason, reads, writes } in pieces {
            table.row(vec![
                format!("BAR{index}").into(),
                format!("{first:#x}").into(),
                format!("{last:#x}").into(),
                treatment.as_str().into(),
                reads.to_string().into(),
                writes.to_string().into(),
                Cell::new(reason.as_str(), QUIET),
            ]);
        }
    }
    Section { heading: "Accesses that left guest mode".into(), body: Body::Table(table) }
}

/// What is not zero, by name.
fn counts(heading: &str, counts: &BTreeMap<String, u64>) -> Section {
    let counts = counts.iter().filter(|(_, count)| **count > 0);
    let fields = counts.map(|(name, count)| (name.replace('_', " "), count.to_string())).collect();
    Section { heading: heading.into(), body: Body::Fields(fields) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Server;
    use serde_json::json;

    #[test]
    fn a_run_is_asked_for_the_device() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control");
        let mut server = Server::listen(&socket).unwrap();
        let bdf = Bdf::new(0, 4, 0, 0).unwrap();
        let asking = std::thread::spawn(move || guest(&socket, bdf));
        let said = loop {
            rustix::event::poll(&mut server.waits_for(), None).unwrap();
            if let Some(said) = server.listen_to_all().pop() {
                break said;
            }
        };
        assert_eq!(said.request.unwrap(), Request::Inspect { device: "0000:04:00.0".into() });
        server.answer(said.client, &Answer::Report { report: json!({ "vectors": 5 }) });
        assert_eq!(asking.join().unwrap().unwrap().report, json!({ "vectors": 5 }));
    }

    #[test]
    fn every_value_has_a_name_of_its_own() {
        let entry = json!({
            "vector": 3, "address": 0xfee0_1000_u64, "data": 33, "masked": false, "pending": true, "event": true
        });
        let piece = json!({
            "first": 0x2000, "last": 0x240f, "treatment": "emulated", "reason": "MSI-X table", "reads": 2, "writes": 9
        });
        let guest = Guest::of(json!({
            "interrupt_mode": "MSI-X",
            "msix": { "enabled": true, "function_mask": false, "entries": [entry] },
            "bars": [{ "index": 0, "size": 16384, "pieces": [piece] }],
            "counters": { "config_accesses": 12 },
            "host_calls": { "pread": 4 },
        }));
        let expected = [
            ("interrupts", "MSI-X"),
            ("MSI-X", "on"),
            ("MSI-X entry 3", "0xfee01000 0x21, unmasked, pending"),
            ("BAR0 from 0x2000 to 0x240f", "2 reads, 9 writes"),
            ("config accesses", "12"),
            ("pread", "4"),
        ];
        assert_eq!(guest.values(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
