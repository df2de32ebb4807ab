//! What every scenario needs before L1 can start: QEMU, a kernel, our command, and the two initial file systems.

use crate::build::{self, BuildError};
use crate::disk;
use crate::guest;
use crate::host::{HostOptions, KernelChoice, NoCdev};
use crate::initramfs::{Initramfs, ProgramError};
use crate::l1::{L1, L1Error, Watch};
use crate::machine::Machine;
use crate::modules::{Kernel, ModuleError};
use crate::monitor::{GUEST_INITRAMFS, GUEST_KERNEL, OURS};
use crate::packages::{self, Cache, PackageError};
use crate::progress::Progress;
use crate::protocol::{HOST_ROOT, PLAN_PATH, Plan};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

/// Modules that L1 loads: what lends devices, what runs guests, and the disk's own driver.
const L1_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "kvm-amd",
    "vfio-pci",
    "vfio_iommu_type1",
    "nvme",
    "aer_inject",
    "9p",
    "9pnet_virtio",
];
/// Modules that a fresh L1 loads: what the lab needs, and the drivers of a host that nobody has prepared.
const FRESH_MODULES: &[&str] = &["virtio_pci", "virtio_console", "nvme", "crc32c_generic", "ext4"];
/// Modules that `modprobe` finds there.
const FOUND_MODULES: &[&str] = &["kvm-amd", "vfio-pci", "vfio_iommu_type1"];
/// Modules that the guest loads, if it is not told otherwise.
const GUEST_MODULES: &[&str] = &["nvme"];

/// The tests against a real kernel, in L1.
pub(crate) const REAL_KERNEL: &str = "/lab/real_kernel";
/// How cargo is asked for our command, as users ask for it.
const COMMAND: &[&str] = &["build", "--release", "--package", "vfio-assign"];
/// How cargo is asked for the guest's own program.
const VISITOR: &[&str] =
    &["build", "--release", "--package", "vfio-assign-lab", "--bin", "vfio-assign-lab-visitor"];
/// What measures the host path, in L1.
pub(crate) const METER: &str = "/lab/meter";
/// How cargo is asked for it.
const METER_PROGRAM: &[&str] =
    &["build", "--release", "--package", "vfio-assign-lab", "--bin", "vfio-assign-lab-meter"];
/// How cargo is asked for the tests.
const TESTS: &[&str] = &[
    "test",
    "--release",
    "--no-run",
    "--package",
    "vfio-assign-linux",
    "--features",
    "kvm",
    "--test",
    "real_kernel",
];

/// Everything ready for [`Bench::boot`].
pub(crate) struct Bench {
    /// The outer QEMU, and the one that L1 may run.
    pub(crate) qemu: PathBuf,
    kernel: Rc<Kernel>,
    busybox: Vec<u8>,
    guest_kernel: Rc<Kernel>,
    guest: Vec<u8>,
    /// Where in L1, and which.
    programs: Vec<(&'static str, PathBuf)>,
    progress: Rc<Progress>,
}

/// Why the lab could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error(transparent)]
    Kernel(#[from] BuildError),
    #[error(transparent)]
    NoCdev(#[from] NoCdev),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("cannot {operation}: {source}")]
    File { operation: &'static str, source: io::Error },
    #[error("cannot write L1's plan: {0}")]
    Plan(#[from] serde_json::Error),
    #[error("{what} does not build:\n{stderr}")]
    Build { what: &'static str, stderr: String },
    #[error("cargo built {what} but did not say where it is")]
    NoExecutable { what: &'static str },
    #[error(transparent)]
    L1(#[from] L1Error),
}

impl Bench {
    /// Finds, downloads and builds what scenarios need; `with_command` says whether our command is needed.
    pub(crate) fn prepare(progress: &Rc<Progress>, with_command: bool) -> Result<Self, BenchError> {
        Self::on(&HostOptions::default(), progress, with_command)
    }

    /// The same for an L1 of a person's choice.
    pub(crate) fn on(
        host: &HostOptions,
        progress: &Rc<Progress>,
        with_command: bool,
    ) -> Result<Self, BenchError> {
        let choice = host.kernel()?;
        let qemu = packages::qemu(progress)?;
        let cache = Cache::open()?;
        let busybox_path = cache.package(packages::BUSYBOX, progress)?.join("bin/busybox");
        let debian = |wanted| -> Result<Kernel, BenchError> {
            Ok(Kernel::open(&cache.package(wanted, progress)?, &busybox_path)?)
        };
        let guest_kernel = Rc::new(debian(packages::KERNEL)?);
        let programs = match with_command {
            true => vec![(OURS, build_program("the command vfio-assign", COMMAND, progress)?)],
            false => Vec::new(),
        };
        progress.step("making the guest's file system");
        let busybox = read("read busybox", &busybox_path)?;
        let guest = guest::initramfs(&busybox, &guest_kernel.closure(GUEST_MODULES)?, None)?;
        let kernel = match choice {
            KernelChoice::Debian6_12 => guest_kernel.clone(),
            KernelChoice::Debian6_1 => Rc::new(debian(packages::KERNEL_6_1)?),
            KernelChoice::Custom => Rc::new(Kernel::whole(build::kernel(&cache, progress)?.image)),
        };
        let progress = progress.clone();
        Ok(Self { qemu, kernel, busybox, guest_kernel, guest, programs, progress })
    }

    /// Gives the guest these modules, and our own program to drive devices with from user space.
    pub(crate) fn with_guest(mut self, modules: &[&str]) -> Result<Self, BenchError> {
        let visitor = build_program("the guest's own program", VISITOR, &self.progress)?;
        let modules = self.guest_kernel.closure(modules)?;
        self.guest = guest::initramfs(&self.busybox, &modules, Some(&visitor))?;
        Ok(self)
    }

    /// Puts a program of this machine into L1.
    pub(crate) fn with_program(mut self, path: &'static str, program: PathBuf) -> Self {
        self.programs.push((path, program));
        self
    }

    /// Puts what measures the host path into L1, at [`METER`].
    pub(crate) fn with_meter(self) -> Result<Self, BenchError> {
        let program = build_program("the lab's meter", METER_PROGRAM, &self.progress)?;
        Ok(self.with_program(METER, program))
    }

    /// Puts the crate's tests against a real kernel into L1, at [`REAL_KERNEL`].
    pub(crate) fn with_tests(mut self) -> Result<Self, BenchError> {
        let program = build_program("the tests against a real kernel", TESTS, &self.progress)?;
        self.programs.push((REAL_KERNEL, program));
        Ok(self)
    }

    /// Boots this machine, with everything loaded that scenarios use.
    pub(crate) fn boot(&self, machine: &Machine, watch: Watch) -> Result<L1, BenchError> {
        let archive = Initramfs::default();
        self.boot_with(archive, L1_MODULES, machine, watch)
    }

    /// Boots this machine as a host that nobody has prepared: VFIO and KVM are not loaded, and there is what a person
    /// loads them with, a shell and `modprobe`.
    pub(crate) fn boot_fresh(&self, machine: &Machine, watch: Watch) -> Result<L1, BenchError> {
        let mut archive = Initramfs::default();
        for name in ["bin/sh", "sbin/modprobe"] {
            archive.executable(name, &self.busybox);
        }
        let folder = format!("lib/modules/{}", self.kernel.release);
        let mut needs = String::new();
        for name in FOUND_MODULES {
            let modules = self.kernel.closure(&[name])?;
            // Each comes after those it needs.
            for (place, module) in modules.iter().enumerate() {
                archive.file(&format!("{folder}/{}.ko", module.name), &module.content);
                let before = modules[..place].iter().rev().map(|module| format!(" {}.ko", module.name));
                needs.push_str(&format!("{}.ko:{}\n", module.name, before.collect::<String>()));
            }
        }
        archive.file(&format!("{folder}/modules.dep"), needs.as_bytes());
        self.boot_with(archive, FRESH_MODULES, machine, watch)
    }

    fn boot_with(
        &self,
        archive: Initramfs,
        modules: &[&str],
        machine: &Machine,
        watch: Watch,
    ) -> Result<L1, BenchError> {
        self.progress.step("making L1's file system");
        let initramfs = disk::nameless(&self.l1_initramfs(archive, modules, machine)?)
            .map_err(|source| BenchError::File { operation: "write L1's file system", source })?;
        let path = disk::path_of(&initramfs);
        Ok(L1::boot(&self.qemu, machine, &self.kernel.image, &path, &self.progress, watch)?)
    }

    fn l1_initramfs(
        &self,
        mut archive: Initramfs,
        modules: &[&str],
        machine: &Machine,
    ) -> Result<Vec<u8>, BenchError> {
        for folder in ["dev", "proc", "sys", "tmp", "run", HOST_ROOT] {
            archive.folder(folder);
        }
        let agent = std::env::current_exe()
            .map_err(|source| BenchError::File { operation: "find this program", source })?;
        archive.program("init", &agent)?;
        for (path, program) in &self.programs {
            archive.program(path, program)?;
        }
        archive.executable("bin/busybox", &self.busybox);
        let mut plan = Plan { host_root: machine.sees_host_files(), modules: Vec::new() };
        for module in self.kernel.closure(modules)? {
            let path = format!("/modules/{}.ko", module.name);
            archive.file(&path, &module.content);
            plan.modules.push(path);
        }
        archive.file(PLAN_PATH, &serde_json::to_vec(&plan)?);
        archive.file(GUEST_KERNEL, &read("read the guest's kernel", &self.guest_kernel.image)?);
        archive.file(GUEST_INITRAMFS, &self.guest);
        Ok(archive.finish())
    }
}

/// Builds a program and says where it is.
pub(crate) fn build_program(
    what: &'static str,
    arguments: &[&str],
    progress: &Progress,
) -> Result<PathBuf, BenchError> {
    progress.step(format!("building {what}"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments.iter().take(1))
        .args(["--locked", "--message-format", "json-render-diagnostics"])
        .args(arguments.iter().skip(1))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .map_err(|source| BenchError::File { operation: "run cargo", source })?;
    if !output.status.success() {
        return Err(BenchError::Build { what, stderr: String::from_utf8_lossy(&output.stderr).into_owned() });
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    executables.next_back().ok_or(BenchError::NoExecutable { what })
}

fn read(operation: &'static str, path: &Path) -> Result<Vec<u8>, BenchError> {
    std::fs::read(path).map_err(|source| BenchError::File { operation, source })
}
