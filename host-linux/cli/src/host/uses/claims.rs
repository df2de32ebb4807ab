//! Disks that somebody has for himself, whoever that is: a file system of any namespace, ZFS, RAID, a mapper.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use vfio_assign_core::Bdf;
use vfio_assign_linux::Errno;

use super::below::below;
use crate::host::{HostFiles, Unreadable};

/// Whether a disk or partition is free.
pub(super) enum Claim {
    Free,
    Claimed,
}

/// Whether somebody has a disk for himself. The kernel tells who asks for the same (EBUSY); nothing is written, and the
/// file is closed at once.
pub(super) fn claim(path: &Path) -> Result<Claim, Errno> {
    use rustix::io::Errno as E;
    // A drive without a disk in it is not waited for.
    let how = OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match open(path, how, Mode::empty()) {
        Ok(_) | Err(E::NXIO | E::NOMEDIUM) => Ok(Claim::Free),
        Err(E::BUSY) => Ok(Claim::Claimed),
        Err(error) => Err(Errno::of(&error.into()).unwrap_or(Errno::EIO)),
    }
}

/// Disks and partitions of PCI functions.
#[derive(Default)]
pub(super) struct Claims {
    /// Those that somebody has.
    pub(super) claimed: Vec<(String, Vec<Bdf>)>,
    /// Those that this process cannot ask about, or whose function cannot be told.
    pub(super) unseen: Vec<(Vec<Bdf>, Unreadable)>,
}

/// Asks for each disk and partition with a PCI function.
pub(super) fn claims(
    host: &HostFiles,
    ask: impl Fn(&Path) -> Result<Claim, Errno>,
) -> Result<Claims, Unreadable> {
    let mut claims = Claims::default();
    let mut wholes = BTreeSet::new();
    for name in host.names("/sys/class/block")?.unwrap_or_default() {
        let folder = format!("/sys/class/block/{name}");
        // One path of several to a disk has no file.
        if host.text(&format!("{folder}/hidden"))?.as_deref() == Some("1") {
            continue;
        }
        let of = match below(host, &folder, 0) {
            Ok(of) if of.is_empty() => continue,
            Ok(of) => of,
            Err(error) => {
                claims.unseen.push((Vec::new(), error));
                continue;
            }
        };
        let path = host.path(&format!("/dev/{}", name.replace('!', "/")));
        match ask(&path) {
            Ok(Claim::Free) => {}
            Ok(Claim::Claimed) => {
                if host.has(&format!("{folder}/partition"))
                    && let Some(parent) = host.real(&folder)?.as_deref().and_then(Path::parent)
                {
                    wholes.extend(parent.file_name().map(|name| name.to_string_lossy().into_owned()));
                }
                claims.claimed.push((name, of));
            }
            Err(errno) => claims.unseen.push((of, Unreadable { path, errno })),
        }
    }
    // The whole is not to be had where a part is not: the part says more.
    claims.claimed.retain(|(name, _)| !wholes.contains(name));
    Ok(claims)
}
