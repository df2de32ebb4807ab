//! Mounted file systems and swap space, and which block devices they are on.

use std::path::Path;

use crate::host::{HostFiles, Unreadable};

/// A line of mountinfo.
pub(super) struct Mount {
    /// Major and minor number.
    number: String,
    /// What is mounted, without `/dev/`.
    pub(super) device: String,
    /// Where.
    pub(super) at: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (place, source) = line.split_once(" - ")?;
        let mut words = place.split_whitespace().skip(2);
        let (number, at) = (words.next()?.into(), readable(words.nth(1)?));
        let source = readable(source.split_whitespace().nth(1)?);
        Some(Self { number, device: source.strip_prefix("/dev/").unwrap_or(&source).into(), at })
    }

    /// Its block devices in sysfs.
    pub(super) fn blocks(&self, host: &HostFiles) -> Result<Vec<String>, Unreadable> {
        if !self.number.starts_with("0:") {
            return Ok(vec![format!("/sys/dev/block/{}", self.number)]);
        }
        // File systems over several disks have a number of their own, and name one of the disks, or all of them
        // (bcachefs), by their names or by links to them.
        let mut names = Vec::new();
        for part in self.device.split(':') {
            let part = part.strip_prefix("/dev/").unwrap_or(part);
            let real = host.real(&format!("/dev/{part}"))?;
            let name =
                real.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
            names.extend(name.or_else(|| (!part.contains('/')).then(|| part.to_owned())));
        }
        // btrfs says in sysfs which disks belong together.
        for system in host.names("/sys/fs/btrfs")?.unwrap_or_default() {
            let disks = host.names(&format!("/sys/fs/btrfs/{system}/devices"))?.unwrap_or_default();
            if disks.iter().any(|disk| names.contains(disk)) {
                names.extend(disks);
            }
        }
        names.retain(|name| !name.is_empty());
        names.sort();
        names.dedup();
        Ok(names.into_iter().map(|name| format!("/sys/class/block/{name}")).collect())
    }

    /// Whether a file is somewhere below.
    fn holds(&self, file: &str) -> bool {
        Path::new(file).starts_with(&self.at)
    }
}

/// All mounts that this process sees, in their order.
pub(super) fn mounts(host: &HostFiles) -> Result<Vec<Mount>, Unreadable> {
    let text = host.text("/proc/self/mountinfo")?.unwrap_or_default();
    Ok(text.lines().filter_map(Mount::parse).collect())
}

/// Partitions and files that are used for swapping, each with its block devices in sysfs.
pub(super) fn swaps(host: &HostFiles, mounts: &[Mount]) -> Result<Vec<(String, Vec<String>)>, Unreadable> {
    let mut found = Vec::new();
    for line in host.text("/proc/swaps")?.unwrap_or_default().lines().skip(1) {
        let Some(path) = line.split_whitespace().next().map(readable) else { continue };
        let blocks = match path.strip_prefix("/dev/") {
            Some(name) => vec![format!("/sys/class/block/{name}")],
            // A file is on the disks of the file system that it is in: of what is mounted over one another, the last.
            None => match mounts.iter().filter(|mount| mount.holds(&path)).max_by_key(|mount| mount.at.len())
            {
                Some(mount) => mount.blocks(host)?,
                None => continue,
            },
        };
        found.push((path, blocks));
    }
    Ok(found)
}

/// A name without the kernel's escapes (`\040` is a space), and without what a terminal would act on.
fn readable(escaped: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = escaped.as_bytes();
    while let [first, more @ ..] = rest {
        let digits = more.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = digits.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(number.unwrap_or(*first));
        rest = if number.is_some() { &more[3..] } else { more };
    }
    String::from_utf8_lossy(&bytes).replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_taken_out_and_control_characters_too() {
        assert_eq!(readable("/a\\040b\\134c\\012d\\9"), "/a b\\c?d\\9");
    }
}
