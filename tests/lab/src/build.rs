//! L1's own kernel, built from Debian's source package: the one that has iommufd and VFIO's character devices.
//!
//! It is built once for what it depends on (the source's version, `kernel.config`, the compiler) and kept beside the
//! downloads. A lab that comes while another builds waits for it; a folder is there whole, or not at all.

use crate::disk::hexadecimal;
use crate::packages::{self, Cache, KERNEL_SOURCE, PackageError};
use crate::progress::Progress;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the kernel has, beyond nothing.
const CONFIG: &str = include_str!("../kernel.config");
/// What building takes, and what unpacking the source takes.
const TOOLS: &[&str] =
    &["bc", "bison", "flex", "gcc", "libc6-dev", "libelf-dev", "libssl-dev", "make", "tar", "xz-utils"];
/// How long a person who watches lines, not a spinner, waits for the next one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// A kernel that was built.
pub(crate) struct Built {
    /// The bzImage.
    pub(crate) image: PathBuf,
    /// The headers of its system calls, as programs include them.
    pub(crate) headers: PathBuf,
}

/// Why there is no such kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error("cannot {operation} {}: {source}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot run {program}: {source}")]
    NoTool { program: &'static str, source: io::Error },
    #[error("{command} failed ({status}):\n{stderr}")]
    Tool { command: String, status: String, stderr: String },
    #[error("the kernel's source knows nothing of, or does not allow, {}: mend tests/lab/kernel.config", options.join(" "))]
    Dropped { options: Vec<String> },
}

/// The kernel, built if it has not been yet.
pub(crate) fn kernel(cache: &Cache, progress: &Progress) -> Result<Built, BuildError> {
    packages::install(TOOLS, progress)?;
    let source = packages::offer(KERNEL_SOURCE, progress)?;
    let label = format!("{}-{}", source.label(), content_key(&compiler()?));
    let folder = cache.root().join(&label);
    if folder.is_dir() {
        return Ok(Built::in_folder(&folder));
    }
    let _turn = wait_for_turn(&cache.root().join(format!(".{label}.lock")), progress)?;
    if folder.is_dir() {
        return Ok(Built::in_folder(&folder));
    }
    // Nobody else has this folder now; one that a killed lab left is of no use.
    let work = cache.root().join(format!(".{label}.building"));
    if work.exists() {
        attempt("remove", &work, fs::remove_dir_all(&work))?;
    }
    attempt("create", &work, fs::create_dir(&work))?;
    let tree = source.unpack(&work, progress)?;
    let built = build(&tree, &work, progress)?;
    attempt("rename", &built, fs::rename(&built, &folder))?;
    attempt("remove", &work, fs::remove_dir_all(&work))?;
    Ok(Built::in_folder(&folder))
}

impl Built {
    fn in_folder(folder: &Path) -> Self {
        Self { image: folder.join("bzImage"), headers: folder.join("include") }
    }
}

/// Builds in `work`; what is wanted of it is then in a folder of its own.
fn build(package: &Path, work: &Path, progress: &Progress) -> Result<PathBuf, BuildError> {
    let source = work.join("source");
    attempt("create", &source, fs::create_dir(&source))?;
    progress.step("unpacking the kernel's source");
    let archive = package.join("usr/src/linux-source-6.12.tar.xz");
    let archive = archive.to_string_lossy();
    let tar = ["--extract", "--strip-components=1", "--file", &archive];
    run("tar", &tar, &source, &mut |_line| {})?;
    let fragment = work.join("kernel.config");
    attempt("write", &fragment, fs::write(&fragment, CONFIG))?;
    progress.step("configuring the kernel");
    run(
        "make",
        &[&format!("KCONFIG_ALLCONFIG={}", fragment.display()), "allnoconfig"],
        &source,
        &mut |_line| {},
    )?;
    check_config(&source.join(".config"))?;
    let jobs = format!("-j{}", std::thread::available_parallelism().map_or(1, NonZero::get));
    let (started, mut said, mut files) = (Instant::now(), Instant::now(), 0);
    progress.step("building the kernel: some minutes, once");
    let mut count = |line: &str| {
        files += usize::from(line.trim_start().starts_with("CC "));
        if said.elapsed() >= SIGN_OF_LIFE {
            said = Instant::now();
            progress.step(format!(
                "building the kernel: {files} files in {} s, about 1,500 in all",
                started.elapsed().as_secs()
            ));
        }
    };
    run("make", &[&jobs, "bzImage"], &source, &mut count)?;
    run("make", &[&jobs, "headers"], &source, &mut |_line| {})?;
    let built = work.join("built");
    attempt("create", &built, fs::create_dir(&built))?;
    for (from, to) in [("arch/x86/boot/bzImage", "bzImage"), ("usr/include", "include")] {
        let from = source.join(from);
        attempt("keep", &from, fs::rename(&from, built.join(to)))?;
    }
    Ok(built)
}

/// `allnoconfig` leaves out without a word what it does not know.
fn check_config(path: &Path) -> Result<(), BuildError> {
    let made = attempt("read", path, fs::read_to_string(path))?;
    let options = dropped(CONFIG, &made);
    if options.is_empty() { Ok(()) } else { Err(BuildError::Dropped { options }) }
}

/// The lines of a fragment that are not in the configuration made of it. One that is off is not mentioned there.
fn dropped(fragment: &str, made: &str) -> Vec<String> {
    let set = |line: &&str| line.starts_with("CONFIG_") && !line.ends_with("=n");
    let made: Vec<&str> = made.lines().collect();
    fragment.lines().filter(set).filter(|line| !made.contains(line)).map(str::to_owned).collect()
}

/// Waits until no other lab builds the same.
fn wait_for_turn(path: &Path, progress: &Progress) -> Result<File, BuildError> {
    let file = attempt("create", path, File::create(path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        progress.step("waiting for another lab that builds the kernel");
        attempt("lock", path, flock(&file, FlockOperation::LockExclusive).map_err(io::Error::from))?;
    }
    Ok(file)
}

/// The compiler, as it says of itself.
fn compiler() -> Result<String, BuildError> {
    let mut version = String::new();
    run("gcc", &["--version"], Path::new("/"), &mut |line| version += line)?;
    Ok(version)
}

/// Names what the kernel is built from besides the source.
fn content_key(compiler: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(CONFIG);
    hash.update([0]);
    hash.update(compiler);
    hexadecimal(&hash.finalize()[..6])
}

/// Runs a tool to its end; `heard` gets each line that it prints. Dies with the lab.
fn run(
    program: &'static str,
    arguments: &[&str],
    folder: &Path,
    heard: &mut dyn FnMut(&str),
) -> Result<(), BuildError> {
    let refuse = |source| BuildError::NoTool { program, source };
    let complaints = tempfile::tempfile().map_err(refuse)?;
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "TERM", program])
        .args(arguments)
        .current_dir(folder)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(complaints.try_clone().map_err(refuse)?)
        .spawn()
        .map_err(refuse)?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            heard(&line.map_err(refuse)?);
        }
    }
    let status = child.wait().map_err(refuse)?;
    if status.success() {
        return Ok(());
    }
    let command = format!("{program} {}", arguments.join(" "));
    Err(BuildError::Tool { command, status: status.to_string(), stderr: last_words(complaints) })
}

/// The end of what a tool complained of.
fn last_words(mut complaints: File) -> String {
    const LINES: usize = 30;
    let text = io::Seek::rewind(&mut complaints).and_then(|()| io::read_to_string(&mut complaints));
    let text = text.unwrap_or_else(|error| format!("(what it said cannot be read: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn attempt<T>(operation: &'static str, path: &Path, result: io::Result<T>) -> Result<T, BuildError> {
    result.map_err(|source| BuildError::File { operation, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_the_source_does_not_know_is_noticed() {
        let made = "CONFIG_PCI=y\n# CONFIG_VFIO_DEBUGFS is not set\n";
        let fragment = "# why\nCONFIG_PCI=y\nCONFIG_VFIO_DEBUGFS=n\nCONFIG_NO_SUCH=y\n";
        assert_eq!(dropped(fragment, made), ["CONFIG_NO_SUCH=y"]);
    }

    #[test]
    fn another_compiler_makes_another_kernel() {
        assert_ne!(content_key("gcc 12"), content_key("gcc 13"));
    }

    #[test]
    fn a_tool_that_fails_is_quoted() {
        let error = run("sh", &["-c", "echo no such header >&2; exit 2"], Path::new("/"), &mut |_line| {});
        assert!(error.is_err_and(|error| error.to_string().contains("no such header")));
    }

    #[test]
    fn the_second_lab_has_its_turn_after_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let first = wait_for_turn(&path, &Progress::new(false)).expect("free");
        let second = File::open(&path).expect("it is there");
        assert!(flock(&second, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(first);
        assert!(flock(&second, FlockOperation::NonBlockingLockExclusive).is_ok());
    }
}
