//! How long the steps of a device's life take, for `docs/EMBEDDING.md`, and that each makes the calls that stand there.

#[path = "../../examples/timing/measure.rs"]
mod measure;

use crate::rig::{Rig, figure, open};
use measure::{Step, measure};
use vfio_assign_linux::{IrqKind, VmOptions};

/// The steps after start-up, on whichever interface, and their calls in alphabetical order.
const AFTERWARDS: &[(&str, &[&str])] = &[
    ("reset it", &["pwrite", "vfio-device-reset"]),
    ("switch memory decoding on", &["kvm-set-user-memory-region", "pwrite"]),
    ("read configuration space", &["pread"]),
    ("read a trapped register", &["pread"]),
    ("switch MSI-X on", &["vfio-device-set-irqs"]),
    (GROWING, &["eventfd", "kvm-irqfd-assign", "kvm-set-gsi-routing", "vfio-device-set-irqs"]),
    ("mask a vector and unmask it", &["kvm-irqfd-assign", "kvm-irqfd-deassign"]),
    (
        "switch MSI-X off",
        &["eventfd-read", "kvm-irqfd-deassign", "kvm-set-gsi-routing", "vfio-device-set-irqs"],
    ),
    ("switch memory decoding off", &["kvm-set-user-memory-region", "pwrite"]),
];

/// Where vectors cannot be added, those that were on are signalled once when there are more.
const GROWING: &str = "use 8 vectors for the first time";
const SIGNAL: &str = "eventfd-write";

fn signals_as_it_grows(rig: &Rig) -> bool {
    open(rig.nvme).irq(IrqKind::Msix).is_some_and(|irq| irq.noresize)
}

fn steps(rig: &Rig) -> Vec<Step> {
    measure(rig.nvme, VmOptions { backend: Some(rig.backend), ..VmOptions::default() })
        .expect("all of it works")
}

#[test]
fn every_step_is_measured_and_makes_the_calls_that_are_documented() {
    let Some(rig) = Rig::get() else { return };
    let signals = signals_as_it_grows(rig);
    let steps = steps(rig);
    let mut wrong = Vec::new();
    for Step { name, took, calls } in &steps {
        figure(&format!("ms_{}", name.replace(' ', "_")), format_args!("{:.3}", took.as_secs_f64() * 1000.0));
        println!("{name}: {calls:?}");
        let grows = signals && *name == GROWING;
        let made: Vec<_> = calls.keys().copied().filter(|call| !(grows && *call == SIGNAL)).collect();
        if let Some((_, expected)) = AFTERWARDS.iter().find(|(documented, _)| documented == name)
            && made != *expected
        {
            wrong.push(format!("{name}: {made:?}, and not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let documented = steps.iter().filter(|step| AFTERWARDS.iter().any(|(name, _)| *name == step.name));
    assert_eq!(documented.count(), AFTERWARDS.len());
}
