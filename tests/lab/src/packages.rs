//! Debian packages, downloaded by apt and unpacked: kernels, busybox, the kernel's source. Only tools are installed.
//!
//! They are kept outside the checkout, one folder a version, and are put there by a rename, so that a folder is
//! either whole or not there.

use crate::progress::Progress;
use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The kernel that the guest runs, and L1 if it is not told otherwise: Debian's 6.12, in whichever patch level the
/// machine's apt offers.
pub(crate) const KERNEL: Wanted = Wanted::Newest(r"^linux-image-6\.12\.[0-9]+\+deb[0-9]+-amd64$");
/// Debian 12's own kernel: MSI-X vectors cannot be added while MSI-X is on.
pub(crate) const KERNEL_6_1: Wanted = Wanted::Newest(r"^linux-image-6\.1\.0-[0-9]+-amd64$");
/// The source that L1's own kernel is built from.
pub(crate) const KERNEL_SOURCE: Wanted = Wanted::Named("linux-source-6.12");
/// The guest's user space.
pub(crate) const BUSYBOX: Wanted = Wanted::Named("busybox-static");

/// Which package.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// The one with this name.
    Named(&'static str),
    /// The one with the highest version number in its name, of those that this regular expression matches.
    Newest(&'static str),
}

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    #[error(
        "apt offers no package {pattern}; the lab needs Debian 12 or newer with its security archive. \
             Refresh apt's lists with: sudo apt-get update"
    )]
    NotOffered { pattern: &'static str },
    #[error("{program} {arguments} failed ({status}): {stderr}")]
    Tool { program: &'static str, arguments: String, status: String, stderr: String },
    #[error("cannot run {program}: {source}; the lab runs on Debian and its relatives")]
    NoTool { program: &'static str, source: io::Error },
    #[error("cannot {operation} {}: {source}", path.display())]
    Folder { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "neither XDG_CACHE_HOME nor HOME is set, so there is no place to keep downloads; set one of them"
    )]
    NoHome,
    #[error("qemu-system-x86_64 is not in PATH, although its package is installed")]
    NoQemu,
    #[error(
        "not installed: {packages}. Install with: sudo apt-get install -y --no-install-recommends {packages}"
    )]
    NotInstalled { packages: String },
}

/// A package as apt would download it.
pub(crate) struct Offer {
    name: String,
    archive: String,
}

impl Offer {
    /// Package and version, fit to name a folder.
    pub(crate) fn label(&self) -> String {
        folder_name(&self.archive)
    }

    /// Downloads the package and unpacks it into a folder below `work`.
    pub(crate) fn unpack(&self, work: &Path, progress: &Progress) -> Result<PathBuf, PackageError> {
        let Self { name, archive } = self;
        progress.step(format!("downloading {name}"));
        run("apt-get", &["download", name], Some(work))?;
        progress.step(format!("unpacking {name}"));
        let tree = work.join("tree");
        run("dpkg-deb", &["-x", archive, &tree.to_string_lossy()], Some(work))?;
        Ok(tree)
    }
}

/// The folder of unpacked packages.
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache folder.
    pub(crate) fn open() -> Result<Self, PackageError> {
        let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
            (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
            (_, Some(home)) if !home.is_empty() => PathBuf::from(home).join(".cache"),
            _ => return Err(PackageError::NoHome),
        };
        let root = base.join("vfio-assign-lab");
        std::fs::create_dir_all(&root).map_err(|source| folder("create", &root, source))?;
        Ok(Self { root })
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that a package is unpacked in; downloads it the first time.
    pub(crate) fn package(&self, wanted: Wanted, progress: &Progress) -> Result<PathBuf, PackageError> {
        let offer = offer(wanted, progress)?;
        let unpacked = self.root.join(offer.label());
        if unpacked.is_dir() {
            return Ok(unpacked);
        }
        let work = tempfile::Builder::new()
            .prefix(".unpacking-")
            .tempdir_in(&self.root)
            .map_err(|source| folder("create a folder in", &self.root, source))?;
        let tree = offer.unpack(work.path(), progress)?;
        match std::fs::rename(&tree, &unpacked) {
            Ok(()) => Ok(unpacked),
            // Another lab was faster; its folder is as good.
            Err(_) if unpacked.is_dir() => Ok(unpacked),
            Err(source) => Err(folder("rename", &tree, source)),
        }
    }
}

/// QEMU on this machine; installed first when the lab may.
pub(crate) fn qemu(progress: &Progress) -> Result<PathBuf, PackageError> {
    let find = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|folder| folder.join("qemu-system-x86_64"))
            .find(|file| file.is_file())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    install(&["qemu-system-x86"], progress)?;
    find().ok_or(PackageError::NoQemu)
}

/// Installs those of these packages that are missing, where the lab may.
pub(crate) fn install(packages: &[&str], progress: &Progress) -> Result<(), PackageError> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !is_root() {
        return Err(PackageError::NotInstalled { packages });
    }
    let arguments = [&["install", "-y", "--no-install-recommends"], missing.as_slice()].concat();
    progress.step(format!("installing {packages}"));
    if run("apt-get", &arguments, None).is_err() {
        progress.step("refreshing apt's lists");
        run("apt-get", &["update"], None)?;
        progress.step(format!("installing {packages}"));
        run("apt-get", &arguments, None)?;
    }
    Ok(())
}

/// A package that dpkg does not know is not installed either.
fn is_installed(package: &str) -> bool {
    let status = run("dpkg-query", &["-W", "-f", "${db:Status-Status}", package], None);
    status.is_ok_and(|output| output.stdout.starts_with(b"installed"))
}

/// What apt would download; refreshes its lists first when they lack the package and the lab may.
pub(crate) fn offer(wanted: Wanted, progress: &Progress) -> Result<Offer, PackageError> {
    match offered(wanted) {
        Err(PackageError::NotOffered { .. }) if is_root() => {
            progress.step("refreshing apt's lists");
            run("apt-get", &["update"], None)?;
            offered(wanted)
        }
        other => other,
    }
}

/// The package that apt would download, by its lists as they are.
fn offered(wanted: Wanted) -> Result<Offer, PackageError> {
    let (name, pattern) = match wanted {
        Wanted::Named(name) => (name.to_owned(), name),
        Wanted::Newest(pattern) => {
            let found = run("apt-cache", &["search", "--names-only", pattern], None)?;
            let text = String::from_utf8_lossy(&found.stdout).into_owned();
            let names = text.lines().filter_map(|line| line.split_whitespace().next());
            let newest = names.max_by(|a, b| by_numbers(a, b)).ok_or(PackageError::NotOffered { pattern })?;
            (newest.to_owned(), pattern)
        }
    };
    // Without the package in its lists, apt-get fails here and says nothing that helps more.
    let printed = run("apt-get", &["download", "--print-uris", &name], None).map_err(|error| {
        if matches!(error, PackageError::Tool { .. }) { PackageError::NotOffered { pattern } } else { error }
    })?;
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    let archive =
        text.lines().find(|line| line.starts_with('\'')).and_then(|line| line.split_whitespace().nth(1));
    let archive = archive.ok_or(PackageError::NotOffered { pattern })?.to_owned();
    Ok(Offer { name, archive })
}

/// `busybox-static_1%3a1.35.0-4_amd64.deb` becomes `busybox-static_1.1.35.0-4`: a colon would end a path in some lists.
fn folder_name(archive: &str) -> String {
    let stem = archive.rsplit_once('_').map_or(archive, |(stem, _architecture)| stem);
    stem.replace("%3a", ".")
}

/// Orders names by the numbers in them: 6.12.9 comes before 6.12.10.
fn by_numbers(a: &str, b: &str) -> Ordering {
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|character: char| !character.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn run(program: &'static str, arguments: &[&str], folder: Option<&Path>) -> Result<Output, PackageError> {
    let mut command = Command::new(program);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = command.output().map_err(|source| PackageError::NoTool { program, source })?;
    if output.status.success() {
        return Ok(output);
    }
    Err(PackageError::Tool {
        program,
        arguments: arguments.join(" "),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn folder(operation: &'static str, path: &Path, source: io::Error) -> PackageError {
    PackageError::Folder { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let names = [
            "linux-image-6.12.9+deb12-amd64",
            "linux-image-6.12.111+deb12-amd64",
            "linux-image-6.12.86+deb12-amd64",
        ];
        assert_eq!(names.iter().max_by(|a, b| by_numbers(a, b)), Some(&names[1]));
    }

    #[test]
    fn a_folder_is_named_by_package_and_version() {
        assert_eq!(
            folder_name("busybox-static_1%3a1.35.0-4+deb12u1_amd64.deb"),
            "busybox-static_1.1.35.0-4+deb12u1"
        );
    }
}
