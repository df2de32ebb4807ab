//! Limits of this process and of the kernel's modules.

use super::check::Check;
use super::facts::{Device, Facts};
use super::platform::run_takes_iommufd;
use crate::display::size;
use crate::host::Unreadable;

type Found = Result<Check, Unreadable>;

pub(super) fn locked_memory(facts: &Facts<'_>) -> Found {
    if facts.process.locks_freely() {
        return Ok(Check::ok("not limited for this user (CAP_IPC_LOCK)"));
    }
    let Some(limit) = facts.process.locked_memory() else {
        return Ok(Check::cannot_tell(
            "/proc/self/limits does not tell",
            "All guest memory is locked for a device.",
        ));
    };
    let Some(limit) = limit else { return Ok(Check::ok("not limited")) };
    if limit >= facts.memory {
        return Ok(Check::ok(format!("{} may be locked", size(limit))));
    }
    let found = format!("{} may be locked; the guest has {}", size(limit), size(facts.memory));
    let meaning = "All guest memory is locked for a device, and the kernel would refuse (ENOMEM).";
    Ok(raised(facts, Check::problem(found, meaning), "memlock", facts.memory))
}

/// How a limit of the shell is raised, which only root can beyond its hard limit: `$$` would be root's own shell.
fn raised(facts: &Facts<'_>, check: Check, limit: &str, to: u64) -> Check {
    match facts.process.parent {
        Some(shell) => check
            .run(format!("prlimit --{limit}={to}:{to} --pid {shell}"))
            .act("That is for this shell, from which the guest is then started. Or go on as root."),
        None => check.act(format!(
            "As root: `prlimit --{limit}={to}:{to} --pid` with the process id of the shell that will start the guest."
        )),
    }
}

pub(super) fn entry_limit(facts: &Facts<'_>) -> Found {
    const FILE: &str = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    /// Guest memory below and above the 32-bit devices, and room for what is added while it runs.
    const NEEDED: u64 = 8;
    let Some(text) = facts.host.text(FILE)? else {
        return Ok(Check::ok("not limited: Type1 is not loaded"));
    };
    if run_takes_iommufd(facts)? {
        return Ok(Check::ok("not limited: iommufd is used"));
    }
    match text.parse::<u64>() {
        Ok(limit) if limit >= NEEDED => Ok(Check::ok(format!("at most {limit}"))),
        Ok(limit) => {
            let meaning = "Guest memory does not fit into so few mappings (ENOSPC).";
            Ok(Check::problem(format!("at most {limit}"), meaning).run(format!("echo 65535 > {FILE}")))
        }
        Err(_) => Ok(Check::cannot_tell(
            format!("{FILE} says {text:?}"),
            "Guest memory is mapped in a few entries.",
        )),
    }
}

/// What a run has open beside its interrupts.
const OTHER_FILES: u64 = 64;

pub(super) fn open_files(facts: &Facts<'_>, device: Option<&Device>) -> Found {
    let Some(limit) = facts.process.open_files() else {
        return Ok(Check::cannot_tell("/proc/self/limits does not tell", "Each interrupt vector is a file."));
    };
    let Some(limit) = limit else { return Ok(Check::ok("not limited")) };
    let vectors = device.and_then(|device| vectors(device.config.as_deref().ok()?));
    let needed = vectors.unwrap_or(2048) + OTHER_FILES;
    if limit >= needed {
        return Ok(Check::ok(format!("{limit} may be open")));
    }
    let Some(vectors) = vectors else {
        let meaning = "Each interrupt vector is a file, and a device can have 2048.";
        return Ok(raised(facts, Check::unsure(format!("{limit} may be open"), meaning), "nofile", needed));
    };
    let found = format!("{limit} may be open; the device has {vectors} vectors");
    let meaning = "Each interrupt vector is a file: a guest that uses all of them would lack some (EMFILE).";
    Ok(raised(facts, Check::problem(found, meaning), "nofile", needed))
}

/// How many MSI-X vectors a device has; none if that cannot be read.
fn vectors(config: &[u8]) -> Option<u64> {
    if config.len() <= 64 {
        return None;
    }
    let image = vfio_assign_core::ConfigImage::new(config);
    let found = image.capabilities().flatten().find(|found| found.id == 0x11);
    let Some(found) = found else { return Some(32) };
    let at = usize::from(found.offset.get());
    let control = config.get(at + 2..at + 4)?;
    Some(u64::from(u16::from_le_bytes([control[0], control[1]]) & 0x7ff) + 1)
}

pub(super) fn page_size(facts: &Facts<'_>) -> Found {
    Ok(match facts.process.page_size {
        Some(0x1000) => Check::ok("4 KiB"),
        Some(page) => Check::unsure(
            size(page),
            "BARs and parts of them that are smaller than a page are not mapped: each access leaves the guest.",
        ),
        None => Check::unsure("/proc/self/smaps does not tell", "What is smaller than a page is not mapped."),
    })
}
