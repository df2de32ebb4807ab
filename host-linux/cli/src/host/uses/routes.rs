//! The network interfaces that lead out.

use std::path::Path;

use crate::host::{HostFiles, Unreadable};

/// The interfaces of default routes, of both versions of IP. Two routes that are a half of all addresses each are one:
/// that is how a VPN puts itself before the default route. Routes of other tables than the main one are not seen here.
pub(super) fn default_interfaces(host: &HostFiles) -> Result<Vec<String>, Unreadable> {
    let mut found = Vec::new();
    for line in host.text("/proc/net/route")?.unwrap_or_default().lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Little-endian: 0.0.0.0/0, 0.0.0.0/1, 128.0.0.0/1.
        if let [interface, "00000000" | "00000080", _, _, _, _, _, "00000000" | "00000080", ..] = words[..] {
            found.push(interface.to_owned());
        }
    }
    for line in host.text("/proc/net/ipv6_route")?.unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [destination, "00" | "01", .., interface] = words[..]
            && destination.bytes().skip(1).all(|digit| digit == b'0')
            && matches!(destination.as_bytes().first(), Some(b'0' | b'8'))
            && interface != "lo"
        {
            found.push(interface.to_owned());
        }
    }
    let mut switched = false;
    for interface in &found {
        switched |= is_virtual(host, interface)?;
    }
    if switched {
        found.extend(ports_of_switch(host)?);
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether sysfs shows nothing that an interface stands on, as of a bridge of Open vSwitch.
fn is_virtual(host: &HostFiles, interface: &str) -> Result<bool, Unreadable> {
    let folder = format!("/sys/class/net/{interface}");
    let names = host.names(&folder)?.unwrap_or_default();
    Ok(!names.iter().any(|name| name == "device" || name == "brif" || name.starts_with("lower_")))
}

/// The interfaces that are ports of Open vSwitch, any of which may be where its bridges lead out.
fn ports_of_switch(host: &HostFiles) -> Result<Vec<String>, Unreadable> {
    let mut ports = host.names("/sys/class/net")?.unwrap_or_default();
    let mut kept = Vec::new();
    for port in ports.drain(..) {
        let master = host.link(&format!("/sys/class/net/{port}/master"))?;
        if master.as_deref().and_then(Path::file_name).is_some_and(|name| name == "ovs-system") {
            kept.push(port);
        }
    }
    Ok(kept)
}
