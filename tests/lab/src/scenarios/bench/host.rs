//! The host path, measured by the lab's meter in L1: registers, interrupts, vectors, devices opened.

use super::Cause;
use super::row::{Goal, Row};
use crate::bench::{Bench, METER};
use crate::driver::{self, VFIO};
use crate::l1::{L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::monitor::{Life, Monitor};
use crate::progress::Progress;
use crate::protocol::{End, Launch};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Vectors of the disk: more than any measurement uses.
const VECTORS: u16 = 512;
/// Devices that are opened at once, the disk among them.
const DEVICES: usize = 8;

/// Figures in nanoseconds, or numbers, by what they are of.
pub(super) struct Samples(BTreeMap<String, Vec<f64>>);

impl Samples {
    /// Of what the meter printed.
    fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut samples = BTreeMap::<String, Vec<f64>>::new();
        for line in lines {
            let words = line.strip_prefix("sample ").and_then(|words| words.split_once(' '));
            if let Some((key, value)) = words.and_then(|(key, value)| Some((key, value.trim().parse().ok()?)))
            {
                samples.entry(key.to_owned()).or_default().push(value);
            }
        }
        Self(samples)
    }

    /// In units of so many nanoseconds; none of what was not measured.
    pub(super) fn of(&self, key: &str, unit: f64) -> Vec<f64> {
        self.0.get(key).into_iter().flatten().map(|value| value / unit).collect()
    }
}

/// Has the meter do this work, and takes what it finds.
pub(super) fn meter(
    l1: &mut L1,
    work: &str,
    rounds: u16,
    devices: &[String],
    progress: &Rc<Progress>,
) -> Result<Samples, Cause> {
    progress.step(format!("measuring {work}"));
    let mut arguments = vec![METER.to_owned(), work.to_owned(), rounds.to_string()];
    arguments.extend(devices.iter().cloned());
    let command = arguments.join(" ");
    let mut life = Life::start(l1, &Monitor::Ours, Launch { arguments, user: None }, progress)?;
    match life.until_end(l1)? {
        (_, End::Status(0)) => Ok(Samples::parse(life.lines.iter().map(|(_, line)| line.as_str()))),
        (_, end) => Err(Cause::Shell { command, end, stderr: life.stderr }),
    }
}

/// The rows of the host path.
pub(super) fn measure(bench: &Bench, rounds: u16, progress: &Rc<Progress>) -> Result<Vec<Row>, Cause> {
    let disk = crate::disk::Disk::random()?;
    let mut machine = Machine::new().nvme(&disk, Some(VECTORS));
    let mut devices = vec![DISK_BDF.to_owned()];
    for slot in 5..4 + DEVICES {
        machine = machine.device(&format!("nvme,serial=lab{slot},addr={slot:x}.0"));
        devices.push(format!("0000:00:{slot:02x}.0"));
    }
    let mut l1 = bench.boot(&machine, Watch::total(Duration::from_secs(900)))?;
    for device in &devices {
        driver::bind(&mut l1, device, VFIO)?;
    }
    let mut rows = registers(&meter(&mut l1, "registers", rounds, &devices[..1], progress)?);
    rows.extend(interrupts(&meter(&mut l1, "interrupts", rounds, &devices[..1], progress)?));
    rows.extend(vectors(&meter(&mut l1, "vectors", rounds, &devices[..1], progress)?));
    rows.extend(opening(&meter(&mut l1, "opening", rounds, &devices, progress)?));
    l1.power_off()?;
    Ok(rows)
}

fn registers(samples: &Samples) -> Vec<Row> {
    let us = |key: &str| samples.of(key, 1000.0);
    let mut rows = Vec::new();
    for (verb, call, bare) in [("read", "pread", "load"), ("write", "pwrite", "store")] {
        let row = |name: String| Row::new("trapped register, real vfio-pci", name, "µs");
        let ours = us(&format!("{verb}_mapping"));
        rows.push(
            row(format!("{verb}, library through its mapping"))
                .ours(ours.clone())
                .beside(call, us(&format!("{verb}_call"))),
        );
        rows.push(
            row(format!("{verb}, library through its mapping"))
                .ours(ours)
                .beside(&format!("bare {bare}"), us(&format!("{verb}_{bare}"))),
        );
        rows.push(
            row(format!("{verb}, library through the kernel"))
                .ours(us(&format!("{verb}_kernel")))
                .beside(call, us(&format!("{verb}_call"))),
        );
    }
    rows
}

fn interrupts(samples: &Samples) -> Vec<Row> {
    let us = |key: &str| samples.of(key, 1000.0);
    vec![
        Row::new("interrupt", "event to the guest and out again, irqfd", "µs")
            .ours(us("interrupt_irqfd"))
            .beside("a thread and KVM_SIGNAL_MSI", us("interrupt_relayed"))
            .goal(Goal::RatioAtMost(1.0)),
    ]
}

fn vectors(samples: &Samples) -> Vec<Row> {
    let row = |count: u16| {
        let of = |way: &str| samples.of(&format!("vectors_{count}_{way}"), 1e6);
        Row::new("vectors wired, VFIO_DEVICE_SET_IRQS", format!("{count}, as one range"), "ms")
            .ours(of("ranged"))
            .beside("one by one", of("single"))
    };
    [8, 64, 256].map(row).into()
}

fn opening(samples: &Samples) -> Vec<Row> {
    let ms = |key: &str| samples.of(key, 1e6);
    let row = |name: &str| Row::new("devices opened", name, "ms").ours(ms("open_parallel"));
    vec![
        row("8 at once").beside("one", ms("open_one")).goal(Goal::RatioAtMost(2.0)),
        row("8 at once").beside("8 one after the other", ms("open_serial")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_gathered_by_their_keys() {
        let said = ["sample a 1000.0", "noise", "sample b 3", "sample a 2000"];
        let samples = Samples::parse(said.into_iter());
        assert_eq!((samples.of("a", 1000.0), samples.of("c", 1.0)), (vec![1.0, 2.0], vec![]));
    }
}
