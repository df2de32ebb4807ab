//! VFIO: its modules, its files, and who has them open.

use super::check::Check;
use super::facts::{Device, Facts};
use crate::host::{Holder, Unreadable, holders};

type Found = Result<Check, Unreadable>;

/// The modules that open devices, by the name of their file and of their folder in sysfs.
const NEEDED: [(&str, &str); 2] = [("vfio-pci", "vfio_pci"), ("vfio_iommu_type1", "vfio_iommu_type1")];

pub(super) fn modules(facts: &Facts<'_>) -> Found {
    let host = facts.host;
    let loaded = |(file, folder): &(&str, &str)| {
        host.has(&format!("/sys/module/{folder}")) || host.has(&format!("/sys/bus/pci/drivers/{file}"))
    };
    let folder = format!("/lib/modules/{}", facts.release.as_deref().unwrap_or_default());
    let mut known = String::new();
    for list in ["modules.dep", "modules.builtin"] {
        known.push_str(&host.text(&format!("{folder}/{list}"))?.unwrap_or_default());
    }
    // iommufd stands in for Type1 where devices have files of their own, or nothing else is to be had.
    let iommufd = host.has("/dev/iommu") && (host.has("/dev/vfio/devices") || !lists(&known, NEEDED[1].0));
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|module| !loaded(module))
        .filter(|(file, _)| *file == "vfio-pci" || !iommufd)
        .map(|(file, _)| *file)
        .collect();
    if missing.is_empty() {
        return Ok(Check::ok("loaded"));
    }
    let found = format!("{} not loaded", missing.join(" and "));
    let meaning = "Nothing can give a device to a guest.";
    if !host.has("/proc/modules") {
        let check = Check::problem(format!("{found}, and this kernel loads no modules"), meaning);
        return Ok(check.act("Boot a kernel that loads modules, or has VFIO built in."));
    }
    if !known.is_empty()
        && let Some(absent) = missing.iter().find(|module| !lists(&known, module))
    {
        let found = format!("this kernel has no {absent}: {folder} does not list it");
        let option = if **absent == *"vfio-pci" { "CONFIG_VFIO_PCI" } else { "CONFIG_VFIO_IOMMU_TYPE1" };
        let check = Check::problem(found, meaning);
        return Ok(check.act(format!(
            "Boot a kernel that was built with {option}, such as the distribution's general one in place of one for clouds."
        )));
    }
    Ok(Check::problem(found, meaning).run(format!("modprobe -a {}", missing.join(" "))))
}

/// Whether a list of the kernel's modules has this one.
fn lists(modules: &str, module: &str) -> bool {
    let name = module.replace('-', "_");
    modules.split([':', ' ', '\n']).any(|word| {
        let file = word.rsplit('/').next().unwrap_or(word);
        file.split(".ko").next().is_some_and(|stem| stem.replace('-', "_") == name)
    })
}

pub(super) fn container(facts: &Facts<'_>) -> Found {
    const FILE: &str = "/dev/vfio/vfio";
    let Some(owner) = facts.host.owner(FILE)? else {
        if facts.host.has("/dev/iommu") {
            return Ok(Check::ok("there is no /dev/vfio/vfio; iommufd is used"));
        }
        let check = Check::problem("there is no /dev/vfio/vfio", "No device can be opened.");
        return Ok(check
            .run("modprobe vfio")
            .act("In a container: hand in /dev/vfio/vfio and the group's file when it is started."));
    };
    if facts.may_use(FILE, owner) {
        return Ok(Check::ok("/dev/vfio/vfio is there and may be used"));
    }
    let check = Check::problem("/dev/vfio/vfio may not be used by this user", "No device can be opened.");
    Ok(check
        .run(format!("chmod 666 {FILE}"))
        .act("Or go on as root. It gives nobody a device: groups have files of their own."))
}

pub(super) fn device_file(facts: &Facts<'_>, device: &Device) -> Found {
    let mut there = Vec::new();
    for file in facts.host.vfio_files(&device.function)? {
        let Some(owner) = facts.host.owner(&file)? else { continue };
        if facts.may_use(&file, owner) {
            return Ok(Check::ok(format!("{file} is there and may be used")));
        }
        there.push(file);
    }
    if there.is_empty() {
        let check = Check::problem(
            format!("there is no {}", facts.host.vfio_files(&device.function)?.join(" and no ")),
            "The device cannot be opened.",
        );
        return Ok(
            check.act("In a container: hand the file in when it is started. Else see whether udev runs.")
        );
    }
    let check = Check::problem(
        format!("{} may not be used by this user", there.join(" and ")),
        "The device cannot be opened.",
    );
    let user = facts.process.user;
    Ok(check.run(format!("chown {user} {}", there.join(" "))).act("Or go on as root."))
}

pub(super) fn holder(facts: &Facts<'_>, device: &Device) -> Found {
    let holders = holders(facts.host, &facts.host.vfio_files(&device.function)?);
    if let Some(Holder { process, name, file }) = holders.found.first() {
        let found = format!("process {process} ({name}) has {file} open");
        let check = Check::problem(found, "A group has one user at a time (EBUSY).");
        return Ok(check.act(format!(
            "End that process: if it is a virtual machine, shut it down. Process id: {process}."
        )));
    }
    Ok(if holders.some_hidden {
        Check::unsure(
            "this user does not see who has files open",
            "Another process may have the device: as root it can be told.",
        )
    } else {
        Check::ok("no process has it open")
    })
}
