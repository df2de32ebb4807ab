//! What the kernel has learned since, and what it is like without.

use super::check::Check;
use super::facts::Facts;
use crate::host::Unreadable;

type Found = Result<Check, Unreadable>;

fn since(facts: &Facts<'_>, version: (u32, u32), with: &str, without: &str) -> Check {
    let (major, minor) = version;
    match facts.version() {
        Some(here) if here >= version => Check::ok(with),
        Some(_) => Check::ok(format!("not before Linux {major}.{minor}: {without}")),
        None => Check::unsure("the kernel's version cannot be read", without),
    }
}

pub(super) fn dynamic_msix(facts: &Facts<'_>) -> Found {
    Ok(since(facts, (6, 5), "vectors are added one by one", "MSI-X is switched off and on to add vectors"))
}

pub(super) fn iommufd(facts: &Facts<'_>) -> Found {
    // Before the version: a kernel can have been given it, or built without it.
    Ok(match facts.host.has("/dev/iommu") {
        true => Check::ok("there"),
        false => Check::ok("there is no /dev/iommu: containers of groups are used"),
    })
}

pub(super) fn device_files(facts: &Facts<'_>) -> Found {
    if facts.host.has("/dev/vfio/devices") {
        return Ok(Check::ok("devices have files of their own"));
    }
    Ok(since(facts, (6, 6), "devices can have files of their own", "devices are opened by their groups"))
}

pub(super) fn huge_faults(facts: &Facts<'_>) -> Found {
    Ok(since(facts, (6, 12), "large BARs are mapped by huge pages", "BARs are mapped page by page"))
}

pub(super) fn map_by_file(facts: &Facts<'_>) -> Found {
    let without = "memory is mapped by its address";
    if !facts.host.has("/dev/iommu") {
        return Ok(Check::ok(format!("iommufd could, which is not there: {without}")));
    }
    Ok(since(facts, (6, 13), "iommufd maps memory by its file", without))
}
