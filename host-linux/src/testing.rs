//! A kernel for unit tests: it lends one device for each group, notes what it is asked for, and fails what it
//! is told to fail.
//!
//! Its files are files in memory, so mappings, reads and eventfds are real ones.

use crate::device::Device;
use crate::errno::Errno;
use crate::group::VfioFiles;
use crate::irq::IrqKind;
use crate::kernel::{Host, Kernel, MapArea};
use crate::manager::Vm;
use crate::options::VmOptions;
use crate::retry::{Clock, RetryPolicy};
use crate::sys::iommufd::{IovaLimits, IovaRange};
#[cfg(feature = "kvm")]
use crate::sys::kvm;
use crate::sys::vfio::{IrqData, IrqSet};
use crate::sys::{FilePart, HostRange, Mapping};
use crate::sysfs::tests::FakeSysfs;
use rustix::fs::MemfdFlags;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vfio_assign_core::Bdf;
use vfio_bindings::bindings::vfio as v;

/// Where configuration space lies in a device's file.
const CONFIG_OFFSET: u64 = 0x1_0000;
/// The size of BAR 0, which lies at the file's start.
const BAR0_SIZE: u64 = 0x4000;
/// MSI-X vectors of a device.
const VECTORS: u32 = 8;

/// The kernel. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct TestKernel(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    calls: Vec<String>,
    faults: Vec<Fault>,
    /// The inode of the device that was lent last.
    device: Option<u64>,
    /// Interrupts that a device has besides its pin and MSI-X, by VFIO's number.
    offered: BTreeMap<u32, u32>,
    /// The inodes of the groups that were opened last, by name.
    groups: BTreeMap<String, u64>,
    /// How many address spaces there were in iommufds.
    spaces: u32,
    /// What the device number of a file is said to be.
    number: Option<(u32, u32)>,
    /// The ranges that address spaces of iommufds have.
    ranges: Vec<IovaRange>,
    /// `VFIO_PCI_HOT_RESET_FLAG_*`, and what a hot reset of any device resets: group or id, and address.
    hot_reset: Option<(u32, Vec<(u32, Bdf)>)>,
}

struct Fault {
    call: &'static str,
    /// How many of these calls go well before.
    before: u32,
    act: Box<dyn FnOnce() -> Result<Option<u32>, Errno> + Send>,
}

/// A call that does not come back before it is told to, or this is dropped.
pub(crate) struct Held {
    reached: Receiver<()>,
    release: Sender<Result<(), Errno>>,
}

impl Held {
    /// Waits for the call to be made.
    pub(crate) fn reached(&self) {
        self.reached.recv().unwrap();
    }

    /// The call goes on to this end.
    pub(crate) fn release(self, result: Result<(), Errno>) {
        self.release.send(result).unwrap();
    }
}

impl fmt::Debug for TestKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestKernel").finish_non_exhaustive()
    }
}

impl TestKernel {
    /// A host over this kernel.
    pub(crate) fn host(&self) -> Host {
        Host::over(Arc::new(self.clone()))
    }

    /// The next call whose note starts with `call` fails.
    pub(crate) fn fail(&self, call: &'static str, errno: Errno) {
        self.fail_after(0, call, errno);
    }

    /// The same, after `before` of these calls have gone well.
    pub(crate) fn fail_after(&self, before: u32, call: &'static str, errno: Errno) {
        self.intervene(before, call, move || Err(errno));
    }

    /// The next call whose note starts with `call` succeeds with this result, and does nothing.
    pub(crate) fn answer(&self, call: &'static str, result: u32) {
        self.intervene(0, call, move || Ok(Some(result)));
    }

    /// The next call whose note starts with `call` panics.
    pub(crate) fn panic(&self, call: &'static str) {
        self.intervene(0, call, move || panic!("{call} was told to panic"));
    }

    /// The next call whose note starts with `call` is held.
    pub(crate) fn hold(&self, call: &'static str) -> Held {
        let ((reach, reached), (release, released)) = (channel(), channel());
        self.intervene(0, call, move || {
            reach.send(()).unwrap();
            released.recv().unwrap_or(Ok(())).map(|()| None)
        });
        Held { reached, release }
    }

    /// Devices have so many interrupts of this kind.
    pub(crate) fn offer(&self, kind: IrqKind, count: u32) {
        self.0.lock().unwrap().offered.insert(kind.get(), count);
    }

    /// Devices are hot reset with these functions, each with its group or, by the flags, its id.
    pub(crate) fn hot_reset_with(&self, flags: u32, functions: &[(u32, &str)]) {
        let functions = functions.iter().map(|(id, bdf)| (*id, bdf.parse().unwrap())).collect();
        self.0.lock().unwrap().hot_reset = Some((flags, functions));
    }

    fn intervene(
        &self,
        before: u32,
        call: &'static str,
        act: impl FnOnce() -> Result<Option<u32>, Errno> + Send + 'static,
    ) {
        self.0.lock().unwrap().faults.push(Fault { call, before, act: Box::new(act) });
    }

    /// What was asked for since the last time, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }

    /// Whether somebody still has the device open that was lent last.
    fn device_is_open(&self) -> bool {
        let device = self.0.lock().unwrap().device;
        device.is_some_and(is_open)
    }

    /// The device number of every file.
    pub(crate) fn set_number(&self, number: (u32, u32)) {
        self.0.lock().unwrap().number = Some(number);
    }

    /// The ranges that address spaces of iommufds have; without, they reach everything.
    pub(crate) fn set_ranges(&self, ranges: &[(u64, u64)]) {
        let ranges = ranges.iter().map(|(start, last)| IovaRange { start: *start, last: *last });
        self.0.lock().unwrap().ranges = ranges.collect();
    }

    /// A device, whether through its group or by itself.
    fn lend(&self) -> Result<OwnedFd, Errno> {
        let device = file()?;
        let msi = self.0.lock().unwrap().offered.contains_key(&IrqKind::Msi.get());
        rustix::io::pwrite(&device, &config(msi), CONFIG_OFFSET)?;
        self.0.lock().unwrap().device = Some(rustix::fs::fstat(&device)?.st_ino);
        Ok(device)
    }

    /// Notes a call; what it is to give instead of what it would.
    pub(crate) fn note(&self, call: String) -> Result<Option<u32>, Errno> {
        let mut script = self.0.lock().unwrap();
        let place = script.faults.iter().position(|fault| call.starts_with(fault.call));
        let fault = match place.map(|place| &mut script.faults[place].before) {
            Some(before) if *before > 0 => {
                *before -= 1;
                None
            }
            Some(_) => place.map(|place| script.faults.remove(place).act),
            None => None,
        };
        script.calls.push(call);
        drop(script);
        fault.map_or(Ok(None), |act| act())
    }
}

/// No time passes; that it should have is noted among the calls.
impl Clock for TestKernel {
    fn wait(&self, _: Duration) {
        let _ = self.note("wait".into());
    }
}

/// Notes the VFIO files it hears of among the kernel's calls, and whether the device was open when one went.
#[derive(Debug)]
pub(crate) struct TestFiles(pub(crate) TestKernel);

impl VfioFiles for TestFiles {
    fn add(&self, _: BorrowedFd<'_>) -> Result<(), Errno> {
        self.0.note("add_file".into()).map(drop)
    }

    fn remove(&self, _: BorrowedFd<'_>) -> Result<(), Errno> {
        let device = if self.0.device_is_open() { "open" } else { "closed" };
        self.0.note(format!("remove_file, device {device}")).map(drop)
    }
}

/// A device that the test kernel has lent, with what keeps it.
pub(crate) struct TestDevice {
    pub(crate) kernel: TestKernel,
    pub(crate) device: Arc<Device>,
    pub(crate) vm: Vm,
    _sysfs: FakeSysfs,
}

impl TestDevice {
    pub(crate) fn open() -> Self {
        Self::open_with(|_| {})
    }

    /// The same, of a kernel that was told something before.
    pub(crate) fn open_with(tell: impl FnOnce(&TestKernel)) -> Self {
        let sysfs = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7));
        let sysfs = sysfs.add("0000:00:05.0", Some("vfio-pci"), Some(8));
        let kernel = TestKernel::default();
        tell(&kernel);
        let interval = Duration::from_secs(1);
        let retry = RetryPolicy { interval, tries: 3, clock: Arc::new(kernel.clone()) };
        let options = VmOptions { sysfs: sysfs.sysfs(), retry, ..VmOptions::default() };
        let vm = Vm::new(kernel.host(), options);
        let device = Arc::new(vm.open("0000:00:04.0".parse().unwrap()).unwrap());
        Self { kernel, device, vm, _sysfs: sysfs }
    }
}

/// Whether this process has the file with this inode open.
fn is_open(inode: u64) -> bool {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    // A file that another thread closes meanwhile is not open.
    open.filter_map(|file| std::fs::metadata(file.unwrap().path()).ok()).any(|file| file.ino() == inode)
}

fn file() -> Result<OwnedFd, Errno> {
    Ok(rustix::fs::memfd_create("test-kernel", MemfdFlags::CLOEXEC)?)
}

/// The configuration space of a function with one BAR and MSI-X, its table at 0x2000 and its PBA at 0x3000; and with
/// eight vectors of MSI, if it is to have that.
fn config(msi: bool) -> [u8; 256] {
    let mut config = [0; 256];
    put(&mut config, 0, &[0x36, 0x1b, 0x10, 0]);
    // INTA#.
    put(&mut config, 0x3d, &[1]);
    // Capabilities List in Status, and where the list starts.
    put(&mut config, 6, &[0x10]);
    put(&mut config, 0x34, &[0x40]);
    put(&mut config, 0x40, &[0x11, 0, VECTORS as u8 - 1, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0]);
    if msi {
        put(&mut config, 0x41, &[0x50]);
        // Multiple Message Capable: 8; addresses of 64 bits.
        put(&mut config, 0x50, &[5, 0, 0x86, 0]);
    }
    config
}

fn put(info: &mut [u8], offset: usize, bytes: &[u8]) {
    info[offset..][..bytes.len()].copy_from_slice(bytes);
}

impl Kernel for TestKernel {
    /// A group opens once; a device's own file is that of a device.
    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let name = path.file_name().unwrap().to_str().unwrap();
        self.note(format!("open {name}"))?;
        if path.parent().is_some_and(|folder| folder.ends_with("devices")) {
            return self.lend();
        }
        let file = file()?;
        if name.parse::<u32>().is_ok() {
            let groups = &mut self.0.lock().unwrap().groups;
            if groups.get(name).is_some_and(|inode| is_open(*inode)) {
                return Err(Errno::EBUSY);
            }
            groups.insert(name.into(), rustix::fs::fstat(&file)?.st_ino);
        }
        Ok(file)
    }

    fn device_number(&self, _: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
        self.note("device_number".into())?;
        Ok(self.0.lock().unwrap().number.unwrap_or((511, 0)))
    }

    fn bind_iommufd(&self, _: BorrowedFd<'_>, _: BorrowedFd<'_>) -> Result<u32, Errno> {
        Ok(self.note("bind".into())?.unwrap_or(1))
    }

    fn attach_ioas(&self, _: BorrowedFd<'_>, ioas: u32) -> Result<(), Errno> {
        self.note(format!("attach {ioas}")).map(drop)
    }

    fn detach_ioas(&self, _: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note("detach".into()).map(drop)
    }

    fn ioas_alloc(&self, _: BorrowedFd<'_>) -> Result<u32, Errno> {
        self.note("ioas_alloc".into())?;
        let spaces = &mut self.0.lock().unwrap().spaces;
        *spaces += 1;
        Ok(*spaces)
    }

    fn ioas_iova_ranges(
        &self,
        _: BorrowedFd<'_>,
        ioas: u32,
        ranges: &mut [IovaRange],
    ) -> Result<IovaLimits, Errno> {
        self.note(format!("ioas_ranges {ioas} {}", ranges.len()))?;
        let mut all = self.0.lock().unwrap().ranges.clone();
        if all.is_empty() {
            all.push(IovaRange { start: 0, last: u64::MAX });
        }
        ranges.iter_mut().zip(&all).for_each(|(place, range)| *place = *range);
        Ok(IovaLimits { count: all.len(), alignment: 0x1000 })
    }

    fn ioas_map(&self, _: BorrowedFd<'_>, ioas: u32, iova: u64, memory: HostRange) -> Result<(), Errno> {
        self.note(format!("ioas_map {ioas} {iova:#x} {:#x}", memory.length())).map(drop)
    }

    fn ioas_map_file(
        &self,
        _: BorrowedFd<'_>,
        ioas: u32,
        iova: u64,
        part: FilePart<'_>,
    ) -> Result<(), Errno> {
        let (start, length) = (part.start(), part.length());
        self.note(format!("ioas_map_file {ioas} {iova:#x} {length:#x} from {start:#x}")).map(drop)
    }

    fn ioas_unmap(&self, _: BorrowedFd<'_>, ioas: u32, iova: u64, size: u64) -> Result<u64, Errno> {
        let answer = self.note(format!("ioas_unmap {ioas} {iova:#x} {size:#x}"))?;
        Ok(answer.map_or(size, u64::from))
    }

    fn iommu_destroy(&self, _: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
        self.note(format!("destroy {id}")).map(drop)
    }

    fn api_version(&self, _: BorrowedFd<'_>) -> Result<u32, Errno> {
        Ok(self.note("api_version".into())?.unwrap_or(0))
    }

    fn check_extension(&self, _: BorrowedFd<'_>, extension: u32) -> Result<u32, Errno> {
        Ok(self.note(format!("check_extension {extension}"))?.unwrap_or(1))
    }

    fn set_iommu(&self, _: BorrowedFd<'_>, kind: u32) -> Result<(), Errno> {
        self.note(format!("set_iommu {kind}")).map(drop)
    }

    fn iommu_info(&self, _: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
        put(info, 0, &24u32.to_ne_bytes());
        self.note("iommu_info".into()).map(drop)
    }

    fn map_dma(&self, _: BorrowedFd<'_>, iova: u64, memory: HostRange) -> Result<(), Errno> {
        self.note(format!("map_dma {iova:#x} {:#x}", memory.length())).map(drop)
    }

    fn unmap_dma(&self, _: BorrowedFd<'_>, iova: u64, size: u64) -> Result<u64, Errno> {
        let answer = self.note(format!("unmap_dma {iova:#x} {size:#x}"))?;
        Ok(answer.map_or(size, u64::from))
    }

    fn group_status(&self, _: BorrowedFd<'_>) -> Result<u32, Errno> {
        Ok(self.note("group_status".into())?.unwrap_or(v::VFIO_GROUP_FLAGS_VIABLE))
    }

    fn set_container(&self, _: BorrowedFd<'_>, _: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note("set_container".into()).map(drop)
    }

    fn device_fd(&self, _: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
        self.note(format!("device_fd {}", name.to_str().unwrap()))?;
        self.lend()
    }

    fn device_info(&self, _: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
        let flags = self.note("device_info".into())?;
        let flags = flags.unwrap_or(v::VFIO_DEVICE_FLAGS_PCI | v::VFIO_DEVICE_FLAGS_RESET);
        for (place, field) in [24, flags, 9, 5].into_iter().enumerate() {
            put(info, 4 * place, &field.to_ne_bytes());
        }
        Ok(())
    }

    fn region_info(&self, _: BorrowedFd<'_>, index: u32, info: &mut [u8]) -> Result<(), Errno> {
        self.note(format!("region_info {index}"))?;
        let (flags, size, offset) = match index {
            0 => (7u32, BAR0_SIZE, 0),
            7 => (3, 256, CONFIG_OFFSET),
            1..=6 => (0, 0, 0),
            _ => return Err(Errno::EINVAL),
        };
        put(info, 4, &flags.to_ne_bytes());
        put(info, 16, &size.to_ne_bytes());
        put(info, 24, &offset.to_ne_bytes());
        Ok(())
    }

    fn irq_info(&self, _: BorrowedFd<'_>, index: u32) -> Result<v::vfio_irq_info, Errno> {
        self.note(format!("irq_info {index}"))?;
        let count = match index {
            0 => 1,
            2 => VECTORS,
            other => self.0.lock().unwrap().offered.get(&other).copied().unwrap_or(0),
        };
        Ok(v::vfio_irq_info { argsz: 16, flags: v::VFIO_IRQ_INFO_EVENTFD, index, count })
    }

    fn set_irqs(&self, _: BorrowedFd<'_>, set: &IrqSet<'_>) -> Result<u32, Errno> {
        let data = match set.data {
            IrqData::None { count } => format!("none {count}"),
            IrqData::Unmask => "unmask".into(),
            IrqData::UnmaskOn(_) => "unmask_on".into(),
            IrqData::EventFds(fds) => {
                let wired: String = fds.iter().map(|fd| if fd.is_some() { '1' } else { '-' }).collect();
                format!("fds {wired}")
            }
        };
        Ok(self.note(format!("set_irqs {} {} {data}", set.index, set.start))?.unwrap_or(0))
    }

    fn reset(&self, _: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note("reset".into()).map(drop)
    }

    fn hot_reset_info(&self, _: BorrowedFd<'_>, info: &mut [u8]) -> Result<(), Errno> {
        self.note("hot_reset_info".into())?;
        let (flags, functions) = self.0.lock().unwrap().hot_reset.clone().ok_or(Errno::ENODEV)?;
        put(info, 4, &flags.to_ne_bytes());
        put(info, 8, &(functions.len() as u32).to_ne_bytes());
        if info.len() < 12 + 8 * functions.len() {
            return Err(Errno::ENOSPC);
        }
        for (place, (id, bdf)) in functions.into_iter().enumerate() {
            put(info, 12 + 8 * place, &id.to_ne_bytes());
            put(info, 16 + 8 * place, &bdf.segment().to_ne_bytes());
            put(info, 18 + 8 * place, &[bdf.bus(), bdf.device() << 3 | bdf.function()]);
        }
        Ok(())
    }

    fn hot_reset(&self, _: BorrowedFd<'_>, groups: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.note(format!("hot_reset {}", groups.len())).map(drop)
    }

    fn region_read(&self, device: BorrowedFd<'_>, offset: u64, data: &mut [u8]) -> Result<usize, Errno> {
        let moved = self.note(format!("pread {offset:#x} {}", data.len()))?;
        let read = rustix::io::pread(device, data, offset)?;
        Ok(moved.map_or(read, |moved| moved as usize))
    }

    fn region_write(&self, device: BorrowedFd<'_>, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let moved = self.note(format!("pwrite {offset:#x} {data:02x?}"))?;
        let written = rustix::io::pwrite(device, data, offset)?;
        Ok(moved.map_or(written, |moved| moved as usize))
    }

    fn map_area(&self, device: BorrowedFd<'_>, area: MapArea) -> Result<Mapping, Errno> {
        self.note(format!("map_area {:#x}", area.offset))?;
        Mapping::new(device, area.offset, area.length, area.placement, area.writable)
    }

    fn new_event(&self) -> Result<crate::sys::EventFd, Errno> {
        self.note("new_event".into())?;
        crate::sys::EventFd::new()
    }

    #[cfg(feature = "kvm")]
    fn kvm_check_extension(&self, _: BorrowedFd<'_>, capability: u32) -> Result<u32, Errno> {
        Ok(self.note(format!("kvm_check_extension {capability}"))?.unwrap_or(44))
    }

    #[cfg(feature = "kvm")]
    fn kvm_set_memory_region(&self, _: BorrowedFd<'_>, slot: &kvm::Slot) -> Result<(), Errno> {
        let size = slot.memory.map_or(0, HostRange::length);
        let access = if slot.read_only { "ro" } else { "rw" };
        self.note(format!("slot {} {:#x} {size:#x} {access}", slot.slot, slot.guest)).map(drop)
    }

    #[cfg(feature = "kvm")]
    fn kvm_set_gsi_routing(&self, _: BorrowedFd<'_>, routes: &[kvm::Route]) -> Result<(), Errno> {
        let messages = routes.iter().filter_map(|route| match route.target {
            kvm::RouteTarget::Msi { address, data } => Some(format!(" {}:{address:#x}:{data:#x}", route.gsi)),
            kvm::RouteTarget::Irqchip { .. } => None,
        });
        let messages: String = messages.collect();
        self.note(format!("routing {}{messages}", routes.len())).map(drop)
    }

    #[cfg(feature = "kvm")]
    fn kvm_assign_irqfd(
        &self,
        _: BorrowedFd<'_>,
        gsi: u32,
        _: BorrowedFd<'_>,
        resample: Option<BorrowedFd<'_>>,
    ) -> Result<(), Errno> {
        let resample = if resample.is_some() { " resample" } else { "" };
        self.note(format!("assign_irqfd {gsi}{resample}")).map(drop)
    }

    #[cfg(feature = "kvm")]
    fn kvm_deassign_irqfd(&self, _: BorrowedFd<'_>, gsi: u32, _: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note(format!("deassign_irqfd {gsi}")).map(drop)
    }

    #[cfg(feature = "kvm")]
    fn kvm_create_vfio_device(&self, _: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        self.note("create_vfio_device".into())?;
        file()
    }

    #[cfg(feature = "kvm")]
    fn kvm_add_vfio_file(&self, _: BorrowedFd<'_>, _: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note("add_vfio_file".into()).map(drop)
    }

    #[cfg(feature = "kvm")]
    fn kvm_remove_vfio_file(&self, _: BorrowedFd<'_>, _: BorrowedFd<'_>) -> Result<(), Errno> {
        self.note("remove_vfio_file".into()).map(drop)
    }
}
