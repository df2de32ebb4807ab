//! What `lspci -vvv` shows of each device in a guest, beside what it shows of the same device in L1 at the same moment.
//!
//! Each difference must come of bytes that a rule of `vfio-assign explain` has the guest see otherwise, or that VFIO does.
//! That is found out by making of L1's bytes the guest's, rule by rule, and looking at what becomes of the text. Texts
//! and differences are in `golden/lspci`, as a person has read them.

mod sight;

use super::Stage;
use crate::bench::Bench;
use crate::bench::BenchError;
use crate::driver::{self, VFIO};
use crate::l1::{L1, Watch};
use crate::machine::Machine;
use crate::monitor::REPORT;
use crate::orders::{Done, Servant};
use crate::packages;
use crate::report::Report;
use crate::scenarios::command::{Ran, run_line};
use crate::scenarios::zoo::{OF_DEVICES, house, modules};
use crate::scenarios::{Cause, check_kernel_log_of};
use crate::virtual_function::{self, NVME_CLI};
use crate::zoo::{Animal, KINDS, Kind};
use sight::{Rule, Sight};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    packages::install(&["pciutils"], stage.progress).map_err(BenchError::from)?;
    let kinds: Vec<&'static Kind> = KINDS.iter().collect();
    let bench = Bench::on(&stage.options.host, stage.progress, true)?.with_guest(&modules(&kinds))?;
    let nvme_cli = virtual_function::nvme_cli(stage.progress).map_err(BenchError::from)?;
    let bench = bench.with_program(NVME_CLI, nvme_cli);
    let animals = house(&kinds)?;
    let machine = animals.iter().fold(Machine::new().steady(), |machine, animal| animal.house(machine));
    let mut l1 = bench.boot(&machine, Watch::steady(Duration::from_secs(900)))?;
    let mut addresses = Vec::new();
    let mut rules = Vec::new();
    for animal in &animals {
        let address = animal.prepare(&mut l1)?;
        driver::bind(&mut l1, &address, VFIO)?;
        rules.push(explained(&mut l1, &address, stage)?);
        addresses.push(address);
    }
    stage.progress.step("a guest looks at its devices");
    let life = stage.start(&mut l1, &addresses, 2, REPORT)?;
    let mut guest = Servant::new(life, &mut l1)?;
    for ((animal, address), rules) in animals.iter().zip(&addresses).zip(&rules) {
        let name = animal.kind.name;
        let done = guest.order(&mut l1, &format!("config {}", animal.slot_in_guest()))?;
        let outside = l1.read_bytes(&format!("/sys/bus/pci/devices/{address}/config"))?;
        let sight = Sight::of(&outside, &image(&done, outside.len()), rules)?;
        let unexplained = sight.unexplained.join("; ");
        report.holds(
            &format!("lspci: {name}: each difference has a rule"),
            unexplained.is_empty(),
            "none without",
            unexplained,
        );
        compare(report, stage, animal, &sight.text(name))?;
    }
    super::leave(report, "lspci", &mut guest, &mut l1)?;
    let log = l1.power_off()?;
    check_kernel_log_of(report, "lspci: L1's kernel has nothing to complain about", &log, OF_DEVICES);
    Ok(())
}

/// The rules by which a guest would see the device.
fn explained(l1: &mut L1, address: &str, stage: &Stage<'_>) -> Result<Vec<Rule>, Cause> {
    let Ran { output, .. } = run_line(l1, &format!("vfio-assign explain --json {address}"), stage.progress)?;
    // Without rules each difference is one that has none.
    let mut plan: serde_json::Value = serde_json::from_str(&output).unwrap_or_default();
    Ok(serde_json::from_value(plan["config"].take()).unwrap_or_default())
}

/// Configuration space as the guest has said it: rows of 16 bytes, without those that are zero.
fn image(done: &Done, size: usize) -> Vec<u8> {
    let mut image = vec![0; size];
    for mark in done.marks.iter().filter(|mark| mark.word == "config") {
        let mut words = mark.rest.split_whitespace().skip(1);
        let at = words.next().and_then(|at| usize::from_str_radix(at, 16).ok()).unwrap_or(usize::MAX);
        for (place, byte) in words.filter_map(|byte| u8::from_str_radix(byte, 16).ok()).enumerate() {
            if let Some(byte_there) = image.get_mut(at.saturating_add(place)) {
                *byte_there = byte;
            }
        }
    }
    image
}

/// The text must be as it was read, or becomes what is to be read.
fn compare(report: &mut Report, stage: &Stage<'_>, animal: &Animal, text: &str) -> Result<(), Cause> {
    let path = golden(animal.kind.name);
    if stage.options.review {
        return Ok(fs::write(&path, text)?);
    }
    let read = fs::read_to_string(&path)?;
    let differences = sight::difference(&read, text).join("\n");
    let title = format!("lspci: {}: it is as it was read", animal.kind.name);
    report.holds(&title, read == text, path.display(), differences);
    Ok(())
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/lspci").join(format!("{name}.txt"))
}
