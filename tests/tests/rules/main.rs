//! The scripted kernel answers as the table says that a real one does; `cargo lab test` runs the same table there.

#[path = "../../../host-linux/tests/rules/irqfd.rs"]
mod irqfd;
#[path = "../faults/machine.rs"]
mod machine;
#[path = "../../../host-linux/tests/rules/sharing.rs"]
mod sharing;
#[path = "../../../host-linux/tests/rules/table.rs"]
mod table;

use machine::{Machine, bdf, sysfs};
use std::sync::Arc;
use vfio_assign_linux::Backend;
use vfio_assign_linux::scripted::ScriptedFunction;

/// Where the scripted kernel's answers to a table differ, on this interface.
fn differences(function: ScriptedFunction, backend: Backend) -> Vec<String> {
    with_machine(&[function], |machine| {
        let kvm = machine.kvm().unwrap();
        let (wrong, requests) = table::run(&|| Arc::new(machine.vm(backend, &kvm).open(bdf(0)).unwrap()));
        assert!(requests > 0);
        wrong
    })
}

#[test]
fn the_scripted_kernel_answers_as_the_table_says() {
    assert_eq!(differences(ScriptedFunction::new(bdf(0), 7), Backend::Group), [""; 0]);
}

#[test]
fn so_it_does_for_a_device_that_was_opened_by_itself() {
    assert_eq!(differences(ScriptedFunction::new(bdf(0), 7), Backend::Cdev), [""; 0]);
}

#[test]
fn so_it_does_where_vectors_cannot_be_added() {
    assert_eq!(differences(ScriptedFunction::new(bdf(0), 7).noresize(), Backend::Group), [""; 0]);
}

/// Does something with a scripted machine that has these functions.
fn with_machine<T>(functions: &[ScriptedFunction], work: impl FnOnce(&Machine) -> T) -> T {
    work(&Machine::new(functions, &sysfs(functions)))
}

#[test]
fn the_scripted_kernel_resets_a_bus_as_the_table_says() {
    for backend in [Backend::Group, Backend::Cdev] {
        let functions = [0, 1].map(|function| ScriptedFunction::new(bdf(function), 7).not_resettable());
        with_machine(&functions, |machine| {
            let kvm = machine.kvm().unwrap();
            let (wrong, requests) = table::run_reset_together(&|| {
                let vm = machine.vm(backend, &kvm);
                [0, 1].map(|function| Arc::new(vm.open(bdf(function)).unwrap()))
            });
            assert_eq!((wrong, requests > 0), (vec![], true));
        });
    }
}

#[test]
fn the_scripted_kernel_shares_a_group_as_the_table_says() {
    for backend in [Backend::Group, Backend::Cdev] {
        let functions = [0, 1].map(|function| ScriptedFunction::new(bdf(function), 7));
        with_machine(&functions, |machine| {
            let kvm = machine.kvm().unwrap();
            let vms = [(); 2].map(|()| machine.vm(backend, &kvm));
            assert_eq!(sharing::run(backend, &vms, [0, 1].map(bdf)), [""; 0], "{backend}");
        });
    }
}

#[test]
fn the_scripted_kvm_treats_events_as_the_table_says() {
    with_machine(&[ScriptedFunction::new(bdf(0), 7)], |machine| {
        let kvm = machine.kvm().unwrap();
        let device = Arc::new(machine.vm(Backend::Group, &kvm).open(bdf(0)).unwrap());
        assert_eq!(irqfd::run(&device, &kvm), [""; 0]);
    });
}
