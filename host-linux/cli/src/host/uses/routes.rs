//! The network interfaces that lead out.

use crate::host::{HostFiles, Unreadable};

/// The interfaces of default routes, of both versions of IP.
pub(super) fn default_interfaces(host: &HostFiles) -> Result<Vec<String>, Unreadable> {
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
