//! What checks look at.

use std::collections::BTreeMap;

use vfio_assign_linux::{Errno, GroupMember, SysfsError};

use crate::help::Problem;
use crate::host::{HostFiles, PciFunction, Unreadable, Uses, uses};

/// What checks look at.
pub(super) struct Facts<'a> {
    pub(super) host: &'a HostFiles,
    /// Guest memory in bytes that it is to work with.
    pub(super) memory: u64,
    pub(super) processor: Processor,
    pub(super) process: Process,
    /// The kernel's release, such as `6.12.38-amd64`.
    pub(super) release: Option<String>,
    /// The kernel's command line.
    pub(super) command_line: Vec<String>,
    /// The device that was asked about.
    pub(super) device: Option<Device>,
}

/// The device that was asked about.
pub(super) struct Device {
    pub(super) function: PciFunction,
    /// All of its group, itself included.
    pub(super) members: Vec<GroupMember>,
    /// What the host needs of each function.
    pub(super) uses: Uses,
    /// Configuration space, as far as this process may read it: 64 bytes without root.
    pub(super) config: Result<Vec<u8>, Unreadable>,
}

/// The host's processors.
#[derive(Default)]
pub(super) struct Processor {
    pub(super) intel: bool,
    /// Whether it shows instructions for virtualisation.
    pub(super) virtualises: bool,
    /// Whether the host is a virtual machine itself.
    pub(super) is_virtual: bool,
    /// How many bits a physical address has.
    pub(super) address_bits: Option<u8>,
}

/// This process: what it may do.
#[derive(Default)]
pub(super) struct Process {
    pub(super) user: u32,
    groups: Vec<u32>,
    capabilities: u64,
    /// Who started it, which is a person's shell.
    pub(super) parent: Option<u32>,
    /// Soft and hard limits; none is unlimited.
    limits: BTreeMap<&'static str, [Option<u64>; 2]>,
    pub(super) page_size: Option<u64>,
}

/// May read and write all files.
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
/// Memory that it locks is not limited.
const CAP_IPC_LOCK: u64 = 1 << 14;

const LIMITS: [&str; 2] = ["Max locked memory", "Max open files"];

impl<'a> Facts<'a> {
    /// Gathers them. What cannot be read is absent: the checks say so.
    pub(super) fn gather(
        host: &'a HostFiles,
        function: Option<PciFunction>,
        memory: u64,
    ) -> Result<Self, Problem> {
        let device = function.map(|function| Device::gather(host, function)).transpose()?;
        let command_line = host.text("/proc/cmdline")?.unwrap_or_default();
        Ok(Self {
            host,
            memory,
            processor: Processor::read(host)?,
            process: Process::read(host)?,
            release: host.text("/proc/sys/kernel/osrelease")?,
            command_line: command_line.split_whitespace().map(Into::into).collect(),
            device,
        })
    }

    /// Whether this process may read and write a file with this owner, group and mode. The kernel knows best: access
    /// lists and namespaces count, too.
    pub(super) fn may_use(&self, file: &str, owner: (u32, u32, u32)) -> bool {
        self.host.may_use(file).unwrap_or_else(|| self.process.may_use(owner))
    }

    /// The kernel's version: 6, 12.
    pub(super) fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.release.as_deref()?.split(['.', '-']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

impl Device {
    fn gather(host: &HostFiles, function: PciFunction) -> Result<Self, Problem> {
        let members = match function.group.map(|number| host.sysfs().group_members(number)) {
            None => Vec::new(),
            Some(Ok(members)) => members,
            Some(Err(error)) => return Err(SysfsError::into(error)),
        };
        let path = format!("{}/config", crate::host::folder(function.bdf));
        let absent = || Unreadable { path: host.path(&path), errno: Errno::ENOENT };
        let config = host.bytes(&path).and_then(|config| config.ok_or_else(absent));
        Ok(Self { members, uses: uses(host), config, function })
    }
}

impl Processor {
    fn read(host: &HostFiles) -> Result<Self, Unreadable> {
        let text = host.text("/proc/cpuinfo")?.unwrap_or_default();
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
        };
        let flags: Vec<&str> = field("flags").unwrap_or_default().split(' ').collect();
        let bits = field("address sizes").and_then(|sizes| sizes.split(' ').next()?.parse().ok());
        Ok(Self {
            intel: field("vendor_id") == Some("GenuineIntel"),
            virtualises: flags.contains(&"vmx") || flags.contains(&"svm"),
            is_virtual: flags.contains(&"hypervisor"),
            address_bits: bits,
        })
    }
}

impl Process {
    fn read(host: &HostFiles) -> Result<Self, Unreadable> {
        let status = host.text("/proc/self/status")?.unwrap_or_default();
        let field = |name: &str| {
            let mut lines = status.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim()).unwrap_or_default()
        };
        // Real, effective, saved, of the file system.
        let effective = |name: &str| field(name).split_whitespace().nth(1)?.parse::<u32>().ok();
        let groups = field("Groups").split_whitespace().filter_map(|group| group.parse().ok());
        let limits = host.text("/proc/self/limits")?.unwrap_or_default();
        let limit = |name: &'static str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            let number = |word: &str| match word {
                "unlimited" => Some(None),
                word => word.parse().ok().map(Some),
            };
            let mut words = line.split_whitespace().map(number);
            Some((name, [words.next()??, words.next()??]))
        };
        let pages = host.text("/proc/self/smaps")?.unwrap_or_default();
        let page = pages.lines().find_map(|line| line.strip_prefix("KernelPageSize:"));
        let page = page.and_then(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        // In a user namespace of its own a process is root of that alone: VFIO asks for the host's.
        let map = host.text("/proc/self/uid_map")?;
        let whole = map.is_none_or(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
        let capabilities = if whole { field("CapEff") } else { "0" };
        Ok(Self {
            user: effective("Uid").unwrap_or(0),
            parent: field("PPid").parse().ok(),
            groups: groups.chain(effective("Gid")).collect(),
            capabilities: u64::from_str_radix(capabilities, 16).unwrap_or(0),
            limits: LIMITS.into_iter().filter_map(limit).collect(),
            page_size: page.map(|kibibytes| kibibytes << 10),
        })
    }

    /// Whether files' modes do not count for it.
    pub(super) fn is_root(&self) -> bool {
        self.capabilities & CAP_DAC_OVERRIDE != 0
    }

    /// Whether what it locks is not limited.
    pub(super) fn locks_freely(&self) -> bool {
        self.capabilities & CAP_IPC_LOCK != 0
    }

    /// How much it may lock; `Some(None)` without limit, none if that cannot be told.
    pub(super) fn locked_memory(&self) -> Option<Option<u64>> {
        self.limits.get(LIMITS[0]).map(|[soft, _]| *soft)
    }

    /// How many files `run` may have open, which raises the soft limit to the hard one, likewise.
    pub(super) fn open_files(&self) -> Option<Option<u64>> {
        self.limits.get(LIMITS[1]).map(|[_, hard]| *hard)
    }

    /// Whether it may read and write a file with this owner, group and mode.
    fn may_use(&self, (user, group, mode): (u32, u32, u32)) -> bool {
        let shift = if user == self.user {
            6
        } else if self.groups.contains(&group) {
            3
        } else {
            0
        };
        self.is_root() || mode >> shift & 0o6 == 0o6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_its_own_host_the_kernel_says_what_may_be_used() {
        let host = HostFiles::at("/");
        let facts = Facts::gather(&host, None, 0).unwrap();
        let anybody_s = (facts.process.user, 0, 0o666);
        assert!(facts.may_use("/dev/null", anybody_s));
        assert!(!facts.may_use("/dev/not-there", anybody_s));
    }
}
