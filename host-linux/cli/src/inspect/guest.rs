//! What the monitor of a running guest says of a device, as names and values.

use std::path::Path;

use serde_json::Value;
use vfio_assign_core::Bdf;

use crate::control::{Answer, ControlError, Request, ask};

/// What it says now, as its report has it at the end of the run.
pub(super) fn report(socket: &Path, bdf: Bdf) -> Result<Value, ControlError> {
    match ask(socket, &Request::Inspect { device: bdf.to_string() })? {
        Answer::Report { report } => Ok(report),
        other => Err(ControlError::Strange { said: format!("{other:?}") }),
    }
}

/// All of it, each value with the names that lead to it; what is null or empty says nothing.
pub(super) fn flat(report: &Value) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    flatten(&mut lines, String::new(), report);
    lines
}

fn flatten(lines: &mut Vec<(String, String)>, name: String, value: &Value) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name} {key}") };
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (key, value) in members {
                flatten(lines, below(&key.replace('_', " ")), value);
            }
        }
        Value::Array(items) => {
            for (place, value) in items.iter().enumerate() {
                flatten(lines, below(&place.to_string()), value);
            }
        }
        Value::String(text) => lines.push((name, text.clone())),
        other => lines.push((name, other.to_string())),
    }
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
        let asking = std::thread::spawn(move || report(&socket, bdf));
        let said = loop {
            rustix::event::poll(&mut server.waits_for(), None).unwrap();
            if let Some(said) = server.listen_to_all().pop() {
                break said;
            }
        };
        assert_eq!(said.request.unwrap(), Request::Inspect { device: "0000:04:00.0".into() });
        server.answer(said.client, &Answer::Report { report: json!({ "vectors": 5 }) });
        assert_eq!(asking.join().unwrap().unwrap(), json!({ "vectors": 5 }));
    }

    #[test]
    fn values_have_the_names_that_lead_to_them() {
        let report = json!({ "vectors": { "wired": 5 }, "findings": ["odd"], "last_error": null });
        let expected = [("findings 0", "odd"), ("vectors wired", "5")];
        assert_eq!(flat(&report), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
