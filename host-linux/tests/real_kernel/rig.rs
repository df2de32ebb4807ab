//! What the tests may use, and what the process and the kernel have open.

use rustix::event::{PollFd, PollFlags, Timespec};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use vfio_assign_core::{Bdf, GuestAddr, Span};
use vfio_assign_linux::{
    Assigned, Backend, Device, EventFd, GuestMemory, GuestRegion, GuestSide, Host, MemoryBacking,
    RegionIndex, Vm, VmOptions,
};

/// How long the slowest emulated device may take to answer.
const PATIENCE_SECONDS: i64 = 30;

/// The devices that tests may open; all are bound to vfio-pci.
pub(crate) struct Rig {
    /// VFIO's interface that devices are opened by.
    pub(crate) backend: Backend,
    /// A disk with 2,048 MSI-X vectors.
    pub(crate) nvme: Bdf,
    /// QEMU's `edu`: MSI, INTx, and a DMA engine.
    pub(crate) edu: Bdf,
    /// Two more of those, in one IOMMU group.
    pub(crate) group: [Bdf; 2],
    /// And two alone on a bus, which have no reset but that of the bus.
    pub(crate) bus: [Bdf; 2],
    /// A device whose errors PCI Express reports, below a port that hears of them.
    pub(crate) erring: Bdf,
    /// A device that can have a virtual function.
    pub(crate) physical: Bdf,
    /// A device with no IOMMU before it; no driver has it.
    pub(crate) unguarded: Bdf,
}

impl Rig {
    /// The devices named in the environment. None where none is named, which is said aloud, once.
    pub(crate) fn get() -> Option<&'static Self> {
        static RIG: OnceLock<Option<Rig>> = OnceLock::new();
        RIG.get_or_init(|| {
            let rig = Self::from_environment();
            if rig.is_none() {
                let text = "NOT RUN: the tests against a real kernel, for no VFIO device is named; \
                    `cargo lab test` runs them";
                progress(format_args!("{text}"));
            }
            rig
        })
        .as_ref()
    }

    fn from_environment() -> Option<Self> {
        let named = |name: &str| std::env::var(format!("VFIO_ASSIGN_TEST_{name}")).ok();
        let device = |text: &str| text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let nvme = device(&named("NVME")?);
        let pair = |text: Option<String>, variable: &str| {
            let text = text.expect(variable);
            let (first, second) = text.split_once(',').expect("two devices, separated by a comma");
            [device(first), device(second)]
        };
        let group = pair(named("GROUP"), "VFIO_ASSIGN_TEST_GROUP");
        let bus = pair(named("BUS"), "VFIO_ASSIGN_TEST_BUS");
        let one = |name: &str| device(&named(name).unwrap_or_else(|| panic!("VFIO_ASSIGN_TEST_{name}")));
        let (erring, physical, unguarded) = (one("ERRING"), one("PHYSICAL"), one("UNGUARDED"));
        let edu = one("EDU");
        let backend = match named("BACKEND").expect("VFIO_ASSIGN_TEST_BACKEND").as_str() {
            "group" => Backend::Group,
            "cdev" => Backend::Cdev,
            other => panic!("no such backend: {other}"),
        };
        Some(Self { backend, nvme, edu, group, bus, erring, physical, unguarded })
    }
}

/// A VM without devices, on the kernel that this program runs on.
pub(crate) fn vm() -> Vm {
    let backend = Rig::get().map(|rig| rig.backend);
    Vm::new(Host::linux(), VmOptions { backend, ..VmOptions::default() })
}

/// The device, opened for a VM of its own.
pub(crate) fn open(bdf: Bdf) -> Arc<Device> {
    Arc::new(vm().open(bdf).expect("opens"))
}

/// New memory of `size` bytes for the guest to see at `guest`.
pub(crate) fn region(guest: u64, size: u64) -> GuestRegion {
    let memory = GuestMemory::new(size, MemoryBacking::Anonymous).expect("there is memory");
    GuestRegion { guest: span(guest, size), memory, offset: 0 }
}

/// `size` bytes of guest memory from `first` on.
pub(crate) fn span(first: u64, size: u64) -> Span<GuestAddr> {
    Span::from_size(GuestAddr::new(first), size).expect("it does not wrap")
}

/// Sets Command to these bits.
pub(crate) fn set_command(device: &Device, bits: u16) {
    device.write(RegionIndex::CONFIG, 4, &bits.to_le_bytes()).expect("Command is written");
}

/// Waits until the event is signalled; takes the count. 0 if it never is.
pub(crate) fn wait(event: &EventFd) -> u64 {
    become_readable(event.as_fd());
    event.take().expect("eventfds can be read")
}

/// Waits until the descriptor can be read, but not for ever.
pub(crate) fn become_readable(fd: BorrowedFd<'_>) {
    let mut poll = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let patience = Timespec { tv_sec: PATIENCE_SECONDS, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&patience)).expect("eventfds can be polled");
}

/// Undoes what a test has done to the host when it ends, however it ends.
pub(crate) struct Undo<F: FnMut()>(F);

impl<F: FnMut()> Undo<F> {
    /// Does so by `undo`, which must not panic.
    pub(crate) fn by(undo: F) -> Self {
        Self(undo)
    }
}

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Writes to a file of the kernel's, and afterwards what was there before.
pub(crate) fn set(file: impl AsRef<Path>, value: &str) -> Undo<impl FnMut()> {
    let file = file.as_ref().to_owned();
    let before = std::fs::read_to_string(&file).expect("it can be read");
    std::fs::write(&file, value).expect("root may write it");
    Undo::by(move || {
        if let Err(error) = std::fs::write(&file, before.trim_end()) {
            progress(format_args!("{} is not what it was: {error}", file.display()));
        }
    })
}

/// How many of the process's descriptors lead to what begins with `target`.
pub(crate) fn descriptors(target: &str) -> usize {
    let folder = std::fs::read_dir("/proc/self/fd").expect("proc is mounted");
    let links = folder.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with(target)).count()
}

/// How many descriptors the process has.
pub(crate) fn all_descriptors() -> usize {
    descriptors("")
}

/// How many of the host's interrupts VFIO holds for the device.
pub(crate) fn host_interrupts(device: Bdf) -> usize {
    let text = std::fs::read_to_string("/proc/interrupts").expect("proc is mounted");
    let (vfio, device) = ("vfio-", device.to_string());
    text.lines().filter(|line| line.contains(vfio) && line.contains(&device)).count()
}

/// Says how far a long test has come; the harness keeps what is printed in other ways until the end.
pub(crate) fn progress(text: std::fmt::Arguments<'_>) {
    writeln!(std::io::stderr(), "{text}").expect("standard error can be written to");
}

/// Where the guest finds the capability.
pub(crate) fn capability<G: GuestSide>(assigned: &Assigned<G>, wanted: u8) -> u32 {
    let byte = |at: u32| {
        let mut byte = [0];
        assigned.config_read(at, &mut byte);
        u32::from(byte[0])
    };
    let mut at = byte(0x34);
    while byte(at) != u32::from(wanted) {
        at = byte(at + 1);
        assert_ne!(at, 0, "no capability {wanted:#x}");
    }
    at
}

/// A figure for the lab's report.
pub(crate) fn figure(name: &str, value: impl std::fmt::Display) {
    println!("figure {name} {value}");
}

#[test]
fn what_a_test_has_set_is_as_it_was_when_it_fails() {
    let file = tempfile::NamedTempFile::new().expect("a folder for files of the moment");
    std::fs::write(&file, "0\n").expect("it can be written");
    let read = || std::fs::read_to_string(&file).expect("it can be read");
    let failed = std::panic::catch_unwind(|| {
        let _set = set(file.path(), "1");
        panic!("what it has set is {}", read());
    });
    let said = failed.map_err(|said| said.downcast::<String>().ok()).expect_err("it has failed");
    assert_eq!((said.as_deref().map(String::as_str), &*read()), (Some("what it has set is 1"), "0"));
}
