//! Which PCI functions a block device or network interface is of, through all that can lie between.

use std::path::Path;

use vfio_assign_core::Bdf;

use crate::host::{HostFiles, Unreadable};

/// Devices that are made of others are rarely more than three deep; a loop of links must end.
const DEPTH: usize = 8;

/// The PCI functions that a block device or network interface is of. What is made of others (device mapper, RAID,
/// bonds, bridges, NVMe with several paths) is followed down to them.
pub(super) fn below(host: &HostFiles, device: &str, depth: usize) -> Result<Vec<Bdf>, Unreadable> {
    let Some(real) = host.real(device)? else { return Ok(Vec::new()) };
    if let Some(bdf) = function_in(&real) {
        return Ok(vec![bdf]);
    }
    let mut found = Vec::new();
    if depth == DEPTH {
        return Ok(found);
    }
    let folder = real.strip_prefix(host.path("/")).map(Path::to_path_buf).unwrap_or(real);
    let folder = folder.display().to_string();
    // A partition is made of what its disk is made of.
    if host.has(&format!("{folder}/partition"))
        && let Some((disk, _)) = folder.rsplit_once('/')
    {
        return below(host, disk, depth + 1);
    }
    let mut lower = Vec::new();
    for name in host.names(&format!("{folder}/slaves"))?.unwrap_or_default() {
        lower.push(format!("{folder}/slaves/{name}"));
    }
    for name in host.names(&folder)?.unwrap_or_default() {
        // An interface's lower ones, a controller of an NVMe subsystem.
        if name.starts_with("lower_") {
            lower.push(format!("{folder}/{name}"));
        }
    }
    for name in host.names(&format!("{folder}/brif"))?.unwrap_or_default() {
        lower.push(format!("{folder}/brif/{name}"));
    }
    if let Some((subsystem, _)) = folder.rsplit_once('/').filter(|(path, _)| path.contains("nvme-subsystem"))
    {
        for name in host.names(subsystem)?.unwrap_or_default() {
            let path = format!("{subsystem}/{name}");
            // Controllers are links, disks are folders.
            if name.starts_with("nvme") && host.link(&path)?.is_some() {
                lower.push(path);
            }
        }
    }
    for path in lower {
        found.extend(below(host, &path, depth + 1)?);
    }
    Ok(found)
}

/// The last PCI function on a path: the one that the device is of, not a bridge above it.
fn function_in(path: &Path) -> Option<Bdf> {
    path.components().rev().find_map(|part| {
        let name = part.as_os_str().to_str()?;
        // Short forms are for people: sysfs writes the segment.
        name.parse().ok().filter(|bdf: &Bdf| bdf.to_string() == name)
    })
}
