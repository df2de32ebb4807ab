//! The scripted kernel answers as the table says that a real one does; `cargo lab test` runs the same table there.

#[path = "../faults/machine.rs"]
mod machine;
#[path = "../../../host-linux/tests/rules/table.rs"]
mod table;

use machine::{Machine, bdf, sysfs};
use std::sync::Arc;
use vfio_assign_linux::Backend;
use vfio_assign_linux::scripted::ScriptedFunction;

/// Where the scripted kernel's answers to a table differ, on this interface.
fn differences(function: ScriptedFunction, backend: Backend) -> Vec<String> {
    let folder = sysfs(&[(bdf(0), 7)], &[function.cdev_name()]);
    let machine = Machine::new(&[function], &folder);
    let kvm = machine.kvm().unwrap();
    let (wrong, requests) = table::run(&|| Arc::new(machine.vm(backend, &kvm).open(bdf(0)).unwrap()));
    assert!(requests > 0);
    wrong
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
