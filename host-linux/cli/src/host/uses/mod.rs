//! What the host itself needs of its PCI functions: mounted disks, the way to the network, the display it booted on.

mod below;
mod claims;
mod mounts;
mod routes;

use std::collections::BTreeMap;
use std::path::Path;

use vfio_assign_core::Bdf;
use vfio_assign_linux::Errno;

use super::{HostFiles, Unreadable, folder};
use below::below;
use claims::{Claim, Claims, claim, claims};
use mounts::{mounts, swaps};
use routes::default_interfaces;

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
        /// The disk, the partition or the file.
        path: String,
    },
    /// Somebody has one of its disks for himself.
    Claimed {
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
    /// It has virtual functions.
    VirtualFunctions {
        /// How many.
        active: u16,
    },
}

/// What the host needs of its functions.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    found: BTreeMap<Bdf, Vec<Use>>,
    /// What could not be looked at, and the functions that it is about; none if it may be about any.
    unseen: Vec<(Vec<Bdf>, Unreadable)>,
}

impl Uses {
    /// What the host needs of a function.
    pub(crate) fn of(&self, bdf: Bdf) -> &[Use] {
        self.found.get(&bdf).map_or(&[], Vec::as_slice)
    }

    /// What could not be looked at, so that the host may need a function for more than is known.
    pub(crate) fn unseen(&self, bdf: Bdf) -> impl Iterator<Item = &Unreadable> {
        let about = move |of: &[Bdf]| of.is_empty() || of.contains(&bdf);
        self.unseen.iter().filter(move |(of, _)| about(of)).map(|(_, error)| error)
    }

    /// What could not be looked at, and may be about any function.
    pub(crate) fn unseen_of_any(&self) -> impl Iterator<Item = &Unreadable> {
        self.unseen.iter().filter(|(of, _)| of.is_empty()).map(|(_, error)| error)
    }

    /// Adds what is needed of the functions below devices.
    fn add_below(&mut self, host: &HostFiles, devices: &[String], what: &Use) {
        for device in devices {
            match below(host, device, 0) {
                Ok(functions) => self.add(functions, what),
                Err(error) => self.unseen.push((Vec::new(), error)),
            }
        }
    }

    fn add(&mut self, functions: Vec<Bdf>, what: &Use) {
        for bdf in functions {
            let of = self.found.entry(bdf).or_default();
            if !of.contains(what) {
                of.push(what.clone());
            }
        }
    }

    /// What was read, or nothing and that it could not be.
    fn seen<T: Default>(&mut self, read: Result<T, Unreadable>) -> T {
        read.unwrap_or_else(|error| {
            self.unseen.push((Vec::new(), error));
            T::default()
        })
    }
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mounted { device, at } => write!(f, "{device} is mounted at {at}"),
            Self::Swap { path } => write!(f, "{} is swap space", path.strip_prefix("/dev/").unwrap_or(path)),
            Self::Claimed { device } => {
                write!(f, "{device} is held by a file system, RAID or the like, perhaps of a container")
            }
            Self::DefaultRoute { interface } => write!(f, "the default route goes over {interface}"),
            Self::BootDisplay => f.write_str("the host booted with it as its display"),
            Self::VirtualFunctions { active } => write!(f, "it has virtual functions ({active})"),
        }
    }
}

/// What the host needs of its functions.
pub(crate) fn uses(host: &HostFiles) -> Uses {
    seen_and_claimed(host, claim)
}

fn seen_and_claimed(host: &HostFiles, ask: impl Fn(&Path) -> Result<Claim, Errno>) -> Uses {
    let mut uses = Uses::default();
    let mounts = uses.seen(mounts(host));
    for mount in &mounts {
        let blocks = uses.seen(mount.blocks(host));
        let what = Use::Mounted { device: mount.device.clone(), at: mount.at.clone() };
        uses.add_below(host, &blocks, &what);
    }
    for (path, blocks) in uses.seen(swaps(host, &mounts)) {
        uses.add_below(host, &blocks, &Use::Swap { path });
    }
    for interface in uses.seen(default_interfaces(host)) {
        let device = format!("/sys/class/net/{interface}");
        uses.add_below(host, &[device], &Use::DefaultRoute { interface });
    }
    for name in uses.seen(host.names("/sys/bus/pci/devices")).unwrap_or_default() {
        let Ok(bdf) = name.parse::<Bdf>() else { continue };
        let folder = folder(bdf);
        if uses.seen(host.text(&format!("{folder}/boot_vga"))).as_deref() == Some("1") {
            uses.add(vec![bdf], &Use::BootDisplay);
        }
        let active = uses.seen(host.text(&format!("{folder}/sriov_numvfs")));
        if let Some(active) = active.and_then(|text| text.parse().ok()).filter(|active| *active > 0) {
            uses.add(vec![bdf], &Use::VirtualFunctions { active });
        }
    }
    let Claims { claimed, unseen } = uses.seen(claims(host, ask));
    for (device, functions) in claimed {
        // What is known to be mounted there says more.
        let known = |one: &Use| match one {
            Use::Mounted { device: other, .. } => *other == device,
            Use::Swap { path } => path.strip_prefix("/dev/") == Some(&*device),
            _ => false,
        };
        let functions = functions.into_iter().filter(|bdf| !uses.of(*bdf).iter().any(known)).collect();
        uses.add(functions, &Use::Claimed { device });
    }
    uses.unseen.extend(unseen);
    uses
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
        fs::create_dir(at("dev")).unwrap();
        fs::write(at("dev/nvme0n1"), "").unwrap();
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
        texts(&uses(host))
    }

    fn texts(uses: &Uses) -> Vec<(String, String)> {
        let all = uses.found.iter().flat_map(|(bdf, uses)| uses.iter().map(move |one| (bdf, one)));
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

    /// A disk that two controllers lead to, the second hot-plugged at 05:00.0, and a partition of it, as sysfs has them.
    fn with_several_paths() -> (tempfile::TempDir, HostFiles) {
        let (folder, host) = host();
        let at = |path: &str| folder.path().join(path);
        let subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0";
        fs::create_dir_all(at(&format!("{subsystem}/nvme1n1/nvme1n1p2"))).unwrap();
        fs::write(at(&format!("{subsystem}/nvme1n1/nvme1n1p2/partition")), "2\n").unwrap();
        for (bdf, name) in [("0000:04:00.0", "nvme1"), ("0000:05:00.0", "nvme2")] {
            let controller = format!("sys/devices/pci0000:00/0000:00:1c.0/{bdf}/nvme/{name}");
            fs::create_dir_all(at(&controller)).unwrap();
            symlink(at(&controller), at(&format!("{subsystem}/{name}"))).unwrap();
        }
        symlink(at(&format!("{subsystem}/nvme1n1")), at("sys/dev/block/259:2")).unwrap();
        symlink(at(&format!("{subsystem}/nvme1n1/nvme1n1p2")), at("sys/dev/block/259:3")).unwrap();
        (folder, host)
    }

    #[test]
    fn a_disk_with_several_paths_is_all_controllers_and_so_is_its_partition() {
        for (number, device) in [("259:2", "nvme1n1"), ("259:3", "nvme1n1p2")] {
            let (_folder, host) = with_several_paths();
            let line = format!("22 1 {number} / /srv rw - ext4 /dev/{device} rw\n");
            write(&host, "/proc/self/mountinfo", &line);
            let text = format!("{device} is mounted at /srv");
            let expected = [("0000:04:00.0".into(), text.clone()), ("0000:05:00.0".into(), text)];
            assert_eq!(seen(&host), expected);
        }
    }

    #[test]
    fn a_partition_of_what_is_made_of_disks_is_followed() {
        let (_folder, host) = host();
        let raid = host.path("/sys/devices/virtual/block/md126");
        fs::create_dir_all(raid.join("slaves")).unwrap();
        fs::create_dir_all(raid.join("md126p1")).unwrap();
        fs::write(raid.join("md126p1/partition"), "1\n").unwrap();
        symlink(host.path(&format!("/{DISK}")), raid.join("slaves/nvme0n1")).unwrap();
        symlink(raid.join("md126p1"), host.path("/sys/dev/block/259:9")).unwrap();
        write(&host, "/proc/self/mountinfo", "22 1 259:9 / / rw - ext4 /dev/md126p1 rw\n");
        assert_eq!(seen(&host), [("0000:04:00.0".into(), "md126p1 is mounted at /".into())]);
    }

    #[test]
    fn all_disks_of_a_btrfs_are_found_by_the_name_of_one() {
        let (_folder, host) = host();
        let devices = host.path("/sys/fs/btrfs/6d2c/devices");
        fs::create_dir_all(&devices).unwrap();
        for name in ["sdb", "nvme0n1"] {
            fs::write(devices.join(name), "").unwrap();
        }
        write(&host, "/proc/self/mountinfo", "22 1 0:30 / / rw - btrfs /dev/sdb rw\n");
        assert_eq!(seen(&host), [("0000:04:00.0".into(), "sdb is mounted at /".into())]);
    }

    #[test]
    fn all_disks_that_a_file_system_names_are_found() {
        let (_folder, host) = host();
        write(&host, "/proc/self/mountinfo", "22 1 0:30 / /srv rw - bcachefs /dev/sdb:/dev/nvme0n1 rw\n");
        assert_eq!(seen(&host), [("0000:04:00.0".into(), "sdb:/dev/nvme0n1 is mounted at /srv".into())]);
    }

    #[test]
    fn a_swap_file_is_on_the_disk_of_its_file_system() {
        let (_folder, host) = host();
        write(
            &host,
            "/proc/self/mountinfo",
            "21 1 0:9 / / rw - tmpfs none rw\n22 1 259:1 / /srv rw - ext4 /dev/nvme0n1 rw\n",
        );
        write(&host, "/proc/swaps", "Filename Type Size\n/srv/swap file 1 0 -2\n");
        assert_eq!(seen(&host)[1], ("0000:04:00.0".into(), "/srv/swap is swap space".into()));
    }

    /// What is seen where the kernel gives this answer for the disk at 04:00.0.
    fn answered(host: &HostFiles, answer: impl Fn() -> Result<Claim, Errno>) -> Uses {
        let disk = host.path("/dev/nvme0n1");
        seen_and_claimed(host, |path| if path == disk { answer() } else { Ok(Claim::Free) })
    }

    #[test]
    fn a_disk_that_somebody_holds_is_needed_though_nobody_says_for_what() {
        let (_folder, host) = host();
        let uses = answered(&host, || Ok(Claim::Claimed));
        let text = "nvme0n1 is held by a file system, RAID or the like, perhaps of a container";
        assert_eq!(texts(&uses), [("0000:04:00.0".into(), text.into())]);
    }

    #[test]
    fn a_disk_that_is_mounted_is_said_once() {
        let (_folder, host) = host();
        write(&host, "/proc/self/mountinfo", "22 1 259:1 / /srv rw - ext4 /dev/nvme0n1 rw\n");
        assert_eq!(texts(&answered(&host, || Ok(Claim::Claimed))), seen(&host));
    }

    #[test]
    fn a_partition_that_somebody_holds_is_named_and_not_the_whole() {
        let (_folder, host) = host();
        let partition = host.path(&format!("/{DISK}/nvme0n1p1"));
        fs::create_dir(&partition).unwrap();
        fs::write(partition.join("partition"), "1\n").unwrap();
        symlink(&partition, host.path("/sys/class/block/nvme0n1p1")).unwrap();
        let uses = seen_and_claimed(&host, |_| Ok(Claim::Claimed));
        assert_eq!(uses.of(Bdf::new(0, 4, 0, 0).unwrap()), [Use::Claimed { device: "nvme0n1p1".into() }]);
    }

    #[test]
    fn a_disk_that_cannot_be_asked_about_is_told_of_its_function_alone() {
        let (_folder, host) = host();
        let uses = answered(&host, || Err(Errno::EACCES));
        let unseen =
            |bus| uses.unseen(Bdf::new(0, bus, 0, 0).unwrap()).map(|one| one.errno).collect::<Vec<_>>();
        assert_eq!((texts(&uses), unseen(4), unseen(5)), (vec![], vec![Errno::EACCES], vec![]));
    }

    #[test]
    fn a_file_that_cannot_be_read_keeps_nothing_else_from_being_seen() {
        let (_folder, host) = host();
        fs::create_dir(host.path("/proc/swaps")).unwrap();
        write(&host, "/proc/self/mountinfo", "22 1 259:1 / /srv rw - ext4 /dev/nvme0n1 rw\n");
        let uses = uses(&host);
        assert_eq!(texts(&uses), [("0000:04:00.0".into(), "nvme0n1 is mounted at /srv".into())]);
        assert_eq!(
            uses.unseen_of_any().map(|one| one.errno.to_string()).collect::<Vec<_>>(),
            ["errno 21, Is a directory"]
        );
    }

    #[test]
    fn two_halves_of_all_addresses_are_a_default_route() {
        for (file, line) in [
            ("/proc/net/route", "Iface Destination\neth0 00000080 0 0003 0 0 0 00000080 0 0 0\n"),
            ("/proc/net/ipv6_route", "80000000000000000000000000000000 01 0 00 0 0 0 0 0 eth0\n"),
        ] {
            let (_folder, host) = host();
            write(&host, file, line);
            let text = "the default route goes over eth0";
            assert_eq!(seen(&host), [("0000:00:19.0".into(), text.into())], "{file}");
        }
    }

    #[test]
    fn a_route_over_a_software_switch_needs_its_ports() {
        let (_folder, host) = host();
        fs::create_dir_all(host.path("/sys/class/net/br0")).unwrap();
        let switch = host.path("/sys/devices/virtual/net/ovs-system");
        fs::create_dir_all(&switch).unwrap();
        symlink(switch, host.path("/sys/class/net/eth0/master")).unwrap();
        write(&host, "/proc/net/route", "Iface Destination\nbr0 00000000 0 0003 0 0 0 00000000 0 0 0\n");
        let text = "the default route goes over eth0";
        assert_eq!(seen(&host), [("0000:00:19.0".into(), text.into())]);
    }

    #[test]
    fn a_function_with_virtual_functions_is_needed() {
        let (_folder, host) = host();
        let function = host.path("/sys/bus/pci/devices/0000:04:00.0");
        fs::create_dir_all(&function).unwrap();
        fs::write(function.join("sriov_numvfs"), "4\n").unwrap();
        assert_eq!(seen(&host), [("0000:04:00.0".into(), "it has virtual functions (4)".into())]);
    }
}
