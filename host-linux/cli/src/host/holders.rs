//! Which processes have files open.

use super::HostFiles;

/// A process with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) process: u32,
    /// What it is called.
    pub(crate) name: String,
    pub(crate) file: String,
}

/// Processes with files.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    pub(crate) found: Vec<Holder>,
    /// Whether there are processes that this user cannot look into.
    pub(crate) some_hidden: bool,
}

/// Who has one of these files of the host open.
pub(crate) fn holders(host: &HostFiles, files: &[String]) -> Holders {
    let mut holders = Holders::default();
    // Processes come and go while we look: what has gone holds nothing.
    for process in host.names("/proc").ok().flatten().unwrap_or_default() {
        let Ok(number) = process.parse::<u32>() else { continue };
        let folder = format!("/proc/{process}/fd");
        let Ok(descriptors) = host.names(&folder) else {
            holders.some_hidden = true;
            continue;
        };
        for descriptor in descriptors.unwrap_or_default() {
            let Ok(Some(target)) = host.link(&format!("{folder}/{descriptor}")) else { continue };
            let Some(file) = files.iter().find(|file| target == host.path(file)) else { continue };
            let name = host.text(&format!("/proc/{process}/comm")).ok().flatten();
            let name = name.unwrap_or_else(|| "unknown".into());
            holders.found.push(Holder { process: number, name, file: file.clone() });
        }
    }
    holders
}
