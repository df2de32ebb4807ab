//! What a guest that has fallen silent does, as far as L1's KVM knows: it tells a guest that spins from one that
//! sleeps, and an interrupt that never came from a monitor that does not answer.

use crate::l1::{L1, L1Error};
use std::collections::BTreeMap;
use std::time::Duration;

/// Where KVM keeps its counters, a folder a virtual machine.
const COUNTERS: &str = "/sys/kernel/debug/kvm";
/// How long the counters are watched.
const WATCHED: Duration = Duration::from_secs(2);

/// The counters that rose while L1 was watched, as a line for a person; and if that fails, why.
pub(crate) fn of_silence(l1: &mut L1) -> String {
    match rise(l1) {
        Ok(rise) if rise.is_empty() => "nothing at all".into(),
        Ok(rise) => rise.iter().map(|(name, by)| format!("{name} {by}")).collect::<Vec<_>>().join(", "),
        Err(error) => format!("not known: {error}"),
    }
}

/// The virtual machine's folder of counters; none if no machine is running.
pub(crate) fn counters_folder(l1: &mut L1) -> Result<Option<String>, L1Error> {
    // A machine is named by its process and file descriptor, and nothing else there has a dash.
    let machine = l1.list(COUNTERS)?.into_iter().find(|name| name.contains('-'));
    Ok(machine.map(|machine| format!("{COUNTERS}/{machine}")))
}

fn rise(l1: &mut L1) -> Result<BTreeMap<String, i64>, L1Error> {
    let before = counters(l1)?;
    std::thread::sleep(WATCHED);
    let mut after = counters(l1)?;
    for (name, count) in &mut after {
        *count -= before.get(name).copied().unwrap_or(0);
    }
    after.retain(|_, by| *by != 0);
    Ok(after)
}

fn counters(l1: &mut L1) -> Result<BTreeMap<String, i64>, L1Error> {
    let mut counters = BTreeMap::new();
    if let Some(folder) = counters_folder(l1)? {
        for name in l1.list(&folder)? {
            // Folders of processors and histograms are no counters.
            let value = l1.read(&format!("{folder}/{name}")).ok().and_then(|text| text.trim().parse().ok());
            counters.extend(value.map(|value| (name, value)));
        }
    }
    Ok(counters)
}
