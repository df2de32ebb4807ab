//! What the host itself needs of its PCI functions: mounted disks, the way to the network, the display it booted on.

use std::collections::BTreeMap;
use std::path::Path;

use vfio_assign_core::Bdf;

use super::{HostFiles, Unreadable, folder};

/// Something that the host would lose with a function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// A file system on one of its disks is mounted there.
    Mounted {
        /// The disk or partition.
        device: String,
        /// The folder.
        at: String,
    },
    /// One of its disks is used for swapping.
    Swap {
        /// The disk or partition.
        device: String,
    },
    /// The default route goes over one of its network interfaces.
    DefaultRoute {
        /// The interface.
        interface: String,
    },
    /// The host booted with this display.
    BootDisplay,
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mounted { device, at } => write!(f, "{device} is mounted at {at}"),
            Self::Swap { device } => write!(f, "{device} is swap space"),
            Self::DefaultRoute { interface } => write!(f, "the default route goes over {interface}"),
            Self::BootDisplay => f.write_str("the host booted with it as its display"),
        }
    }
}

/// What the host needs, by the function it needs it of.
pub(crate) fn uses(host: &HostFiles) -> Result<BTreeMap<Bdf, Vec<Use>>, Unreadable> {
    let mut found: BTreeMap<Bdf, Vec<Use>> = BTreeMap::new();
    let mut add = |bdfs: Vec<Bdf>, what: Use| {
        for bdf in bdfs {
            let of = found.entry(bdf).or_default();
            if !of.contains(&what) {
                of.push(what.clone());
            }
        }
    };
    for line in host.text("/proc/self/mountinfo")?.unwrap_or_default().lines() {
        let Some(mount) = Mount::parse(line) else { continue };
        let Mount { device, at, .. } = &mount;
        let what = Use::Mounted { device: device.clone(), at: at.clone() };
        add(below(host, &mount.block(host)?, 0)?, what);
    }
    for line in host.text("/proc/swaps")?.unwrap_or_default().lines().skip(1) {
        let Some(name) = line.split_whitespace().next().and_then(|path| path.strip_prefix("/dev/")) else {
            continue;
        };
        add(below(host, &format!("/sys/class/block/{name}"), 0)?, Use::Swap { device: name.into() });
    }
    for interface in default_interfaces(host)? {
        let functions = below(host, &format!("/sys/class/net/{interface}"), 0)?;
        add(functions, Use::DefaultRoute { interface });
    }
    for name in host.names("/sys/bus/pci/devices")?.unwrap_or_default() {
        let Ok(bdf) = name.parse::<Bdf>() else { continue };
        if host.text(&format!("{}/boot_vga", folder(bdf)))?.as_deref() == Some("1") {
            add(vec![bdf], Use::BootDisplay);
        }
    }
    Ok(found)
}

/// A line of mountinfo.
struct Mount {
    /// Major and minor number.
    number: String,
    /// What is mounted, without `/dev/`.
    device: String,
    /// Where.
    at: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (place, source) = line.split_once(" - ")?;
        let mut words = place.split_whitespace().skip(2);
        let (number, at) = (words.next()?.into(), words.nth(1)?.replace("\\040", " "));
        let source = source.split_whitespace().nth(1)?;
        Some(Self { number, device: source.strip_prefix("/dev/").unwrap_or(source).into(), at })
    }

    /// Its block device in sysfs.
    fn block(&self, host: &HostFiles) -> Result<String, Unreadable> {
        if !self.number.starts_with("0:") {
            return Ok(format!("/sys/dev/block/{}", self.number));
        }
        // File systems over several disks have a number of their own, and name one of the disks, or a link to it.
        let real = host.real(&format!("/dev/{}", self.device))?;
        let name = real.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Ok(format!("/sys/class/block/{}", name.as_deref().unwrap_or(&self.device)))
    }
}

/// The interfaces of default routes, of both versions of IP.
fn default_interfaces(host: &HostFiles) -> Result<Vec<String>, Unreadable> {
    let mut found = Vec::new();
    for line in host.text("/proc/net/route")?.unwrap_or_default().lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [interface, "00000000", _, _, _, _, _, "00000000", ..] = words[..] {
            found.push(interface.to_owned());
        }
    }
    for line in host.text("/proc/net/ipv6_route")?.unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [destination, "00", .., interface] = words[..]
            && destination.bytes().all(|digit| digit == b'0')
            && interface != "lo"
        {
            found.push(interface.to_owned());
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Devices that are made of others are rarely more than three deep; a loop of links must end.
const DEPTH: usize = 8;

/// The PCI functions that a block device or network interface is of. What is made of others (device mapper, RAID,
/// bonds, bridges, NVMe with several paths) is followed down to them.
fn below(host: &HostFiles, device: &str, depth: usize) -> Result<Vec<Bdf>, Unreadable> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const DISK: &str = "sys/devices/pci0000:00/0000:00:1c.0/0000:04:00.0/nvme/nvme0/nvme0n1";
    const CARD: &str = "sys/devices/pci0000:00/0000:00:19.0/net/eth0";

    /// A host with a disk behind a bridge and a network card.
    fn host() -> (tempfile::TempDir, HostFiles) {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in [DISK, CARD, "sys/dev/block", "sys/class/block", "sys/class/net", "proc/self", "proc/net"]
        {
            fs::create_dir_all(at(path)).unwrap();
        }
        symlink(at(DISK), at("sys/dev/block/259:1")).unwrap();
        symlink(at(DISK), at("sys/class/block/nvme0n1")).unwrap();
        symlink(at(CARD), at("sys/class/net/eth0")).unwrap();
        let host = HostFiles::at(folder.path());
        (folder, host)
    }

    fn write(host: &HostFiles, path: &str, text: &str) {
        fs::write(host.path(path), text).unwrap();
    }

    fn seen(host: &HostFiles) -> Vec<(String, String)> {
        let found = uses(host).unwrap();
        let all = found.iter().flat_map(|(bdf, uses)| uses.iter().map(move |one| (bdf, one)));
        all.map(|(bdf, one)| (bdf.to_string(), one.to_string())).collect()
    }

    #[test]
    fn a_mounted_disk_is_its_controller_s_and_not_the_bridge_s() {
        let (_folder, host) = host();
        write(&host, "/proc/self/mountinfo", "22 1 259:1 / /srv rw - ext4 /dev/nvme0n1 rw\n");
        assert_eq!(seen(&host), [("0000:04:00.0".into(), "nvme0n1 is mounted at /srv".into())]);
    }

    #[test]
    fn a_file_system_over_several_disks_is_found_by_the_name_of_one() {
        let (_folder, host) = host();
        write(&host, "/proc/self/mountinfo", "22 1 0:30 / / rw shared:1 - btrfs /dev/nvme0n1 rw\n");
        assert_eq!(seen(&host), [("0000:04:00.0".into(), "nvme0n1 is mounted at /".into())]);
    }

    #[test]
    fn a_mapped_disk_is_followed_to_what_it_is_made_of() {
        let (_folder, host) = host();
        let mapped = host.path("/sys/devices/virtual/block/dm-0/slaves");
        fs::create_dir_all(&mapped).unwrap();
        symlink(host.path(&format!("/{DISK}")), mapped.join("nvme0n1")).unwrap();
        symlink(mapped.parent().unwrap(), host.path("/sys/class/block/dm-0")).unwrap();
        write(&host, "/proc/swaps", "Filename Type Size\n/dev/dm-0 partition 1 0 -2\n");
        assert_eq!(seen(&host), [("0000:04:00.0".into(), "dm-0 is swap space".into())]);
    }

    #[test]
    fn the_way_to_the_network_is_found_by_either_route() {
        let route = "Iface Destination Gateway Flags RefCnt Use Metric Mask\n\
            eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n";
        let zeros = "0".repeat(32);
        let route6 = format!("{zeros} 00 {zeros} 00 {zeros} 00000400 00000001 00000000 00000003 eth0\n");
        for (path, text) in [("/proc/net/route", route), ("/proc/net/ipv6_route", &route6)] {
            let (_folder, host) = host();
            write(&host, path, text);
            assert_eq!(seen(&host), [("0000:00:19.0".into(), "the default route goes over eth0".into())]);
        }
    }

    #[test]
    fn a_route_to_one_network_is_no_default_route() {
        let (_folder, host) = host();
        write(&host, "/proc/net/route", "Iface\neth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n");
        assert_eq!(seen(&host), []);
    }
}
