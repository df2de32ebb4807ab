//! The rules that the scripted kernel keeps, as the real one has them.

#[cfg(feature = "kvm")]
#[path = "../rules/irqfd.rs"]
mod irqfd;
#[path = "../rules/sharing.rs"]
mod sharing;
#[path = "../rules/table.rs"]
mod table;

use crate::rig::{Rig, figure, open};

#[test]
fn the_real_kernel_answers_as_the_table_says() {
    let Some(rig) = Rig::get() else { return };
    let (wrong, requests) = table::run(&|| open(rig.nvme));
    figure("rules_requests", requests);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bus_is_reset_as_the_table_says() {
    let Some(rig) = Rig::get() else { return };
    let (wrong, requests) = table::run_reset_together(&|| {
        let vm = crate::rig::vm();
        rig.bus.map(|bdf| std::sync::Arc::new(vm.open(bdf).expect("opens")))
    });
    figure("rules_reset_requests", requests);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_group_is_shared_as_the_table_says() {
    let Some(rig) = Rig::get() else { return };
    let wrong = sharing::run(rig.backend, &[crate::rig::vm(), crate::rig::vm()], rig.group);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[cfg(feature = "kvm")]
#[test]
fn the_real_kvm_treats_events_as_the_table_says() {
    use std::os::fd::AsFd;
    use vfio_assign_linux::Host;
    use vfio_assign_linux::kvm::KvmVm;

    let Some(rig) = Rig::get() else { return };
    let (_machine, file) = crate::kvm::machine();
    let vm = KvmVm::new(Host::linux(), file.as_fd()).expect("there is a descriptor left");
    let wrong = irqfd::run(&open(rig.nvme), &vm);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
