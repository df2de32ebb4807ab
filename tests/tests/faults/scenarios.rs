//! The scenarios: a host, what happens before, and the part whose calls fail.

use crate::guest::{BAR, Guest, OTHER_BAR, decode, end_msi, end_msix, set_vector, use_msi, use_msix};
use crate::machine::{bdf, region};
use vfio_assign_core::{BusMastering, GuestAddr, VectorIndex};
use vfio_assign_linux::Backend::{self, Cdev, Group};
use vfio_assign_linux::scripted::ScriptedFunction;
use vfio_assign_linux::{Assigned, IrqKind, IrqVectors};

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// The interfaces that it is run on.
    pub(crate) on: &'static [Backend],
    /// The functions of the host.
    pub(crate) functions: fn() -> Vec<ScriptedFunction>,
    /// What has happened before; none: all that the VM does from its start on is part of the scenario.
    pub(crate) before: Option<fn(&mut Guest<'_>)>,
    /// The scenario.
    pub(crate) work: fn(&mut Guest<'_>),
    /// How its end is reached after a fault and a reset.
    pub(crate) again: fn(&mut Guest<'_>),
}

const BOTH: &[Backend] = &[Group, Cdev];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "open", on: BOTH, functions: one, before: None, work: open, again: reopen },
    Scenario {
        name: "open by a file handed in",
        on: &[Cdev],
        functions: one,
        before: None,
        work: handed_in,
        again: reopen,
    },
    Scenario {
        name: "open with a VF token",
        on: &[Group],
        functions: virtual_function,
        before: None,
        work: with_token,
        again: with_token_anew,
    },
    Scenario {
        name: "second device in a group",
        on: BOTH,
        functions: two_in_a_group,
        before: Some(open),
        work: open,
        again: reopen,
    },
    Scenario { name: "inspection", on: BOTH, functions: one, before: None, work: inspect, again: nothing },
    Scenario {
        name: "inspection without an IOMMU",
        on: &[Group],
        functions: without_iommu,
        before: None,
        work: inspect,
        again: nothing,
    },
    Scenario {
        name: "MSI-X bring-up of 64 vectors",
        on: BOTH,
        functions: one,
        before: Some(decoding),
        work: bring_up,
        again: bring_up,
    },
    Scenario {
        name: "growth under NORESIZE",
        on: BOTH,
        functions: noresize,
        before: Some(decoding),
        work: grow,
        again: grow,
    },
    Scenario {
        name: "growth where vectors can be added",
        on: BOTH,
        functions: one,
        before: Some(decoding),
        work: grow,
        again: grow,
    },
    Scenario {
        name: "vectors led elsewhere",
        on: BOTH,
        functions: one,
        before: None,
        work: rewire,
        again: nothing,
    },
    Scenario {
        name: "INTx, MSI, MSI-X",
        on: BOTH,
        functions: one,
        before: Some(decoding),
        work: all_kinds,
        again: all_kinds,
    },
    Scenario {
        name: "BAR moves",
        on: BOTH,
        functions: one,
        before: Some(decoding),
        work: move_bar,
        again: move_bar,
    },
    Scenario {
        name: "memory added and removed",
        on: BOTH,
        functions: one,
        before: Some(open),
        work: change_memory,
        again: nothing,
    },
    Scenario {
        name: "reset",
        on: BOTH,
        functions: one,
        before: Some(interrupting),
        work: reset,
        again: nothing,
    },
    Scenario {
        name: "hot reset",
        on: BOTH,
        functions: two_without_reset,
        before: Some(two_interrupting),
        work: reset,
        again: nothing,
    },
    Scenario {
        name: "save and restore",
        on: BOTH,
        functions: one,
        before: Some(interrupting),
        work: save_and_restore,
        again: anew,
    },
    Scenario {
        name: "take over, MSI-X",
        on: BOTH,
        functions: one,
        before: Some(handed_on),
        work: take_over,
        again: anew,
    },
    Scenario {
        name: "take over, a pin that was masked",
        on: BOTH,
        functions: one,
        before: Some(handed_on_with_its_pin),
        work: take_over,
        again: reopen_by_pin,
    },
    Scenario {
        name: "drop",
        on: BOTH,
        functions: one,
        before: Some(interrupting),
        work: nothing,
        again: interrupt,
    },
];

fn one() -> Vec<ScriptedFunction> {
    vec![ScriptedFunction::new(bdf(0), 7)]
}

fn noresize() -> Vec<ScriptedFunction> {
    vec![ScriptedFunction::new(bdf(0), 7).noresize()]
}

fn two_in_a_group() -> Vec<ScriptedFunction> {
    vec![ScriptedFunction::new(bdf(0), 7), ScriptedFunction::new(bdf(1), 7)]
}

fn two_without_reset() -> Vec<ScriptedFunction> {
    let function = |number, group| ScriptedFunction::new(bdf(number), group).not_resettable();
    vec![function(0, 7), function(1, 8)]
}

/// What the user of its physical function has set.
const TOKEN: &str = "00112233-4455-6677-8899-aabbccddeeff";

fn virtual_function() -> Vec<ScriptedFunction> {
    vec![ScriptedFunction::new(bdf(0), 7).with_vf_token(TOKEN)]
}

fn without_iommu() -> Vec<ScriptedFunction> {
    vec![ScriptedFunction::new(bdf(0), 7).without_iommu()]
}

fn nothing(_: &mut Guest<'_>) {}

fn open(guest: &mut Guest<'_>) {
    guest.open();
}

/// The last function is given up, and opened anew.
fn reopen(guest: &mut Guest<'_>) {
    guest.functions.pop();
    guest.open();
}

fn anew(guest: &mut Guest<'_>) {
    reopen(guest);
    interrupt(guest);
}

fn handed_in(guest: &mut Guest<'_>) {
    guest.open_handed_in();
}

fn with_token(guest: &mut Guest<'_>) {
    guest.open_with_token(TOKEN);
}

fn with_token_anew(guest: &mut Guest<'_>) {
    guest.functions.pop();
    with_token(guest);
}

fn inspect(guest: &mut Guest<'_>) {
    guest.inspect();
}

/// Somebody who is no guest wires vectors, and then more of them, those that are wired among them: where that fails none
/// of them may signal anything.
fn rewire(guest: &mut Guest<'_>) {
    let Some(device) = guest.open_bare() else { return };
    let mut vectors = IrqVectors::new(device, IrqKind::Msix);
    for count in [4, 6] {
        let mut wire =
            || vectors.wire(VectorIndex::default(), VectorIndex::new(count - 1).unwrap(), &|_| true);
        let wired = guest.told.once(wire()).is_some();
        let expected = if wired { usize::from(count) } else { 0 };
        let standing = guest.wired_vectors();
        if standing != expected {
            guest.told.wrong.push(format!("{standing} of {count} vectors are wired, and not {expected}"));
        }
        if !wired {
            guest.told.attempt(wire);
        }
    }
    guest.told.attempt(|| vectors.disable());
}

fn decoding(guest: &mut Guest<'_>) {
    guest.open();
    decode(&guest.functions[0], BAR);
}

fn interrupting(guest: &mut Guest<'_>) {
    guest.open();
    interrupt(guest);
}

fn interrupt(guest: &mut Guest<'_>) {
    decode(&guest.functions[0], BAR);
    use_msix(&guest.functions[0], BAR, 3);
}

fn two_interrupting(guest: &mut Guest<'_>) {
    for (place, bar) in [BAR, OTHER_BAR].into_iter().enumerate() {
        guest.open();
        decode(&guest.functions[place], bar);
        use_msix(&guest.functions[place], bar, 2);
    }
}

fn bring_up(guest: &mut Guest<'_>) {
    let function = &guest.functions[0];
    decode(function, BAR);
    use_msix(function, BAR, 64);
    guest.interrupt_masked(VectorIndex::new(63).unwrap());
}

fn grow(guest: &mut Guest<'_>) {
    let function = &guest.functions[0];
    decode(function, BAR);
    use_msix(function, BAR, 1);
    [1, 2, 5].into_iter().for_each(|vector| set_vector(function, BAR, vector));
}

fn all_kinds(guest: &mut Guest<'_>) {
    let function = &guest.functions[0];
    end_msix(function);
    decode(function, BAR);
    use_msi(function);
    end_msi(function);
    use_msix(function, BAR, 4);
}

fn move_bar(guest: &mut Guest<'_>) {
    let function = &guest.functions[0];
    decode(function, OTHER_BAR);
    function.memory_write(GuestAddr::new(OTHER_BAR), &[1; 4]);
    function.memory_read(GuestAddr::new(OTHER_BAR), &mut [0; 4]);
}

fn change_memory(guest: &mut Guest<'_>) {
    let Guest { vm, told, .. } = guest;
    let (near, far) = (region(0x20_0000, 2), region(0x8000, 1));
    told.attempt(|| vm.add_memory(&[near.clone(), far.clone()]));
    told.attempt(|| vm.remove_memory(near.guest));
    told.attempt(|| vm.add_memory(&[region(0x30_0000, 1)]));
}

fn reset(guest: &mut Guest<'_>) {
    Assigned::reset_all(&guest.functions.iter().collect::<Vec<_>>());
}

fn save_and_restore(guest: &mut Guest<'_>) {
    guest.functions[0].stop(BusMastering::Off);
    let function = &guest.functions[0];
    // A device that is quarantined or gone has no state.
    let Some(state) = guest.told.once(function.save()) else {
        return;
    };
    guest.functions.clear();
    guest.open();
    let Some(function) = guest.functions.first() else {
        return;
    };
    guest.told.attempt(|| function.restore(&state));
}

fn handed_on(guest: &mut Guest<'_>) {
    guest.end_first_process(interrupt, &[]);
}

/// The pin, of which the stopped guest sees nothing, interrupts.
fn handed_on_with_its_pin(guest: &mut Guest<'_>) {
    guest.end_first_process(use_pin, &[(IrqKind::Intx, 0)]);
}

fn use_pin(guest: &mut Guest<'_>) {
    decode(&guest.functions[0], BAR);
}

fn reopen_by_pin(guest: &mut Guest<'_>) {
    reopen(guest);
    use_pin(guest);
}

fn take_over(guest: &mut Guest<'_>) {
    guest.take_over();
}
