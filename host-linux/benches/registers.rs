//! A trapped register, where the device costs nothing: its BAR is a memfd. `cargo bench -p vfio-assign-linux --features
//! fake --bench registers` prints the least time of each way to it, `-- json` the same for a program.
//!
//! What the library does is all that it does at the end of an exit, by the address in the guest and with all checks.
//! Beside it are the system call alone and the access alone, on a memfd of their own. The kernel is the scripted one: what
//! it keeps of each call is in the way through it, which on a real device is `cargo lab bench --part host`.

use std::convert::Infallible;
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::symlink;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use vfio_assign_core::host::Message;
use vfio_assign_core::{Bdf, GuestAddr, Span, VectorIndex};
use vfio_assign_linux::scripted::{ScriptedFunction, ScriptedKernel};
use vfio_assign_linux::{
    AssignOptions, Assigned, EventFd, FaultHandler, GuestSide, RegisterPath, Sysfs, Vm, VmOptions,
    WindowMemory,
};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory};

/// Where the guest has placed the BAR, and a register that only passes through.
const BAR: u64 = 0xd000_0000;
const REGISTER: GuestAddr = GuestAddr::new(BAR + 8);
const REGISTERS: usize = 0x1000;

/// A hypervisor whose guest never runs.
struct NoGuest;

impl GuestSide for NoGuest {
    type Error = Infallible;
    fn map(&mut self, _: usize, _: Span<GuestAddr>, _: WindowMemory) -> Result<(), Infallible> {
        Ok(())
    }
    fn unmap(&mut self, _: usize) -> Result<(), Infallible> {
        Ok(())
    }
    fn route(&mut self, _: VectorIndex, _: Message) -> Result<(), Infallible> {
        Ok(())
    }
    fn commit_routes(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
    fn arm(&mut self, _: VectorIndex, _: &EventFd) -> Result<(), Infallible> {
        Ok(())
    }
    fn disarm(&mut self, _: VectorIndex, _: &EventFd) -> Result<(), Infallible> {
        Ok(())
    }
    fn arm_line(&mut self, _: &EventFd, _: Option<&EventFd>) -> Result<(), Infallible> {
        Ok(())
    }
    fn disarm_line(&mut self, _: &EventFd) -> Result<(), Infallible> {
        Ok(())
    }
    fn release_routes(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let json = std::env::args().any(|word| word == "json");
    let tell = |case: &str, nanoseconds: f64| {
        if json {
            println!(r#"{{"case":"{case}","least_nanoseconds":{nanoseconds:.2}}}"#);
        } else {
            println!("{nanoseconds:10.1} ns  {case}");
        }
    };
    let file = File::from(rustix::fs::memfd_create("registers", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.set_len(REGISTERS as u64)?;
    let mapped = (GuestAddress(0), REGISTERS, Some(FileOffset::new(file.try_clone()?, 0)));
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges_with_files([mapped])?;
    let slice = memory.get_slice(GuestAddress(0), REGISTERS)?;
    let register: &AtomicU32 = slice.get_atomic_ref(8)?;

    let mut data = [0; 4];
    let bare = least(|| register.load(Ordering::Relaxed));
    let called = least(|| rustix::io::pread(&file, &mut data, 8));
    tell("register read/bare load", bare);
    tell("register read/pread", called);
    let bare_store = least(|| register.store(black_box(7), Ordering::Relaxed));
    let called_store = least(|| rustix::io::pwrite(&file, black_box(&data), 8));
    tell("register write/bare store", bare_store);
    tell("register write/pwrite", called_store);
    // Somebody has to keep the BAR where it is meanwhile: the least that this takes between threads, and a count.
    let lock = Mutex::new(0u64);
    let bare_held = least(|| lock.lock().map(|mut count| (*count += 1, register.load(Ordering::Relaxed)).1));
    let store_held = least(|| {
        lock.lock().map(|mut count| (*count += 1, register.store(black_box(7), Ordering::Relaxed)).1)
    });
    tell("register read/bare load, in a lock", bare_held);
    tell("register write/bare store, in a lock", store_held);
    for (way, path) in
        [("kernel", RegisterPath::Kernel), ("mapping", RegisterPath::Mapping(FaultHandler::install()?))]
    {
        let assigned = decoding(path)?;
        let read = least(|| assigned.memory_read(black_box(REGISTER), &mut data));
        let write = least(|| assigned.memory_write(black_box(REGISTER), black_box(&[1, 2, 3, 4])));
        tell(&format!("register read/library, through its {way}"), read);
        tell(&format!("register write/library, through its {way}"), write);
        if way == "mapping" && !json {
            println!("read:  {:.1} times pread, {:+.1} ns beside the bare load", called / read, read - bare);
            println!(
                "write: {:.1} times pwrite, {:+.1} ns beside the bare store",
                called_store / write,
                write - bare_store
            );
        }
    }
    Ok(())
}

/// The least time of one run, in nanoseconds, over many short batches: other work on the machine only adds to it.
fn least<R>(mut run: impl FnMut() -> R) -> f64 {
    const BATCH: Duration = Duration::from_micros(20);
    let (mut least, mut runs) = (f64::INFINITY, 1u32);
    for _ in 0..1000 {
        let started = Instant::now();
        for _ in 0..runs {
            black_box(run());
        }
        let took = started.elapsed();
        least = least.min(took.as_secs_f64() * 1e9 / f64::from(runs));
        if took < BATCH {
            runs *= 2;
        }
    }
    least
}

/// A device of the scripted kernel, assigned, with its BAR placed and decoding on.
fn decoding(registers: RegisterPath) -> Result<Assigned<NoGuest>, Box<dyn Error>> {
    let bdf: Bdf = "0000:00:04.0".parse()?;
    let kernel = ScriptedKernel::new(&[ScriptedFunction::new(bdf, 7)]);
    let sysfs = sysfs(bdf)?;
    let vm = Vm::new(kernel.host(), VmOptions { sysfs: Sysfs::at(sysfs.path()), ..VmOptions::default() });
    let options = AssignOptions { registers, ..AssignOptions::default() };
    let assigned = Assigned::new(vm.open(bdf)?, NoGuest, &options)?;
    assigned.config_write(0x10, &0xd000_0000u32.to_le_bytes());
    assigned.config_write(4, &[6, 0]);
    let found = assigned.memory_read(REGISTER, &mut [0; 4]) && assigned.access_failures().reads == 0;
    if found { Ok(assigned) } else { Err("the register does not answer".into()) }
}

/// A sysfs of one function that is bound to VFIO.
fn sysfs(bdf: Bdf) -> Result<tempfile::TempDir, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    let device = root.join("bus/pci/devices").join(bdf.to_string());
    let driver = root.join("bus/pci/drivers/vfio-pci");
    let group = root.join("kernel/iommu_groups/7");
    for path in [&driver, &device, &group.join("devices")] {
        std::fs::create_dir_all(path)?;
    }
    symlink(&driver, device.join("driver"))?;
    symlink(&group, device.join("iommu_group"))?;
    symlink(&device, group.join("devices").join(bdf.to_string()))?;
    Ok(folder)
}
