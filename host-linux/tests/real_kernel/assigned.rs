//! Interrupts of an assigned device, from its register to the event that would interrupt a guest.

use crate::edu::Edu;
use crate::rig::{Rig, host_interrupts};
use vfio_assign_core::host::InterruptKind::{Intx, Msi};
use vfio_assign_linux::LineEnd;

#[test]
fn a_message_reaches_the_event() {
    let Some(rig) = Rig::get() else { return };
    let edu = Edu::with_msi(rig.edu);
    edu.raise(1);
    assert_eq!(edu.wait(Msi), 1);
    edu.raise(1);
    assert_eq!(edu.wait(Msi), 1);
}

#[test]
fn the_pin_is_masked_until_the_monitor_is_told_of_the_end() {
    let Some(rig) = Rig::get() else { return };
    let edu = Edu::with_line(rig.edu, Some(LineEnd::Told));
    edu.raise(1);
    assert_eq!(edu.wait(Intx), 1);
    // The line is still asserted: its end brings it again, and nothing before.
    assert!(!edu.has_come(Intx));
    edu.assigned.handle_intx_eoi();
    assert_eq!(edu.wait(Intx), 1);
    edu.acknowledge(1);
    edu.assigned.handle_intx_eoi();
    assert!(!edu.has_come(Intx));
    edu.raise(2);
    assert_eq!(edu.wait(Intx), 1);
    // The device cannot be reset, and the next test is to find its line as it was.
    edu.acknowledge(2);
}

/// The hypervisor says that the guest has ended the line's interrupt.
fn end(edu: &Edu) {
    edu.assigned.inspect(|_, _, guest, failure| {
        let resample = guest.resample.as_ref();
        let resample = resample.unwrap_or_else(|| panic!("no resample event: {failure:?}"));
        rustix::io::write(resample, &1u64.to_ne_bytes()).expect("eventfds can be written");
    });
}

#[test]
fn the_pin_is_unmasked_by_the_resample_event() {
    let Some(rig) = Rig::get() else { return };
    let edu = Edu::with_line(rig.edu, Some(LineEnd::Resampled));
    edu.raise(1);
    assert_eq!(edu.wait(Intx), 1);
    assert!(!edu.has_come(Intx));
    end(&edu);
    assert_eq!(edu.wait(Intx), 1);
    edu.acknowledge(1);
    end(&edu);
    edu.raise(2);
    assert_eq!(edu.wait(Intx), 1);
    // The device cannot be reset, and the next test is to find its line as it was.
    edu.acknowledge(2);
}

#[test]
fn dropping_it_gives_its_interrupt_back() {
    let Some(rig) = Rig::get() else { return };
    let edu = Edu::with_msi(rig.edu);
    assert_eq!(host_interrupts(rig.edu), 1);
    drop(edu);
    assert_eq!(host_interrupts(rig.edu), 0);
}
