//! A kernel for unit tests: the [scripted one](crate::scripted), with a note of each call and what it was about, and
//! answers that a test chooses by their notes.

mod calls;

use crate::device::Device;
use crate::errno::Errno;
use crate::group::VfioFiles;
use crate::irq::IrqKind;
use crate::kernel::Host;
use crate::manager::Vm;
use crate::options::VmOptions;
use crate::retry::{Clock, RetryPolicy};
use crate::scripted::{ScriptedFunction, ScriptedKernel};
use crate::sys::iommufd::IovaRange;
use crate::sysfs::tests::FakeSysfs;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vfio_assign_core::Bdf;

/// The kernel. Clones are the same.
#[derive(Clone)]
pub(crate) struct TestKernel(Arc<Mutex<Script>>, ScriptedKernel);

impl Default for TestKernel {
    /// Two functions of one group, and one of another; eight vectors of MSI-X each, and no MSI.
    fn default() -> Self {
        let function = |bdf: &str, group, name| {
            let function = ScriptedFunction::new(bdf.parse().unwrap(), group).named(name);
            IrqKind::ALL.into_iter().fold(function, |function, kind| {
                function.with_irqs(
                    kind,
                    match kind {
                        IrqKind::Intx => 1,
                        IrqKind::Msix => 8,
                        IrqKind::Msi | IrqKind::Err | IrqKind::Req => 0,
                    },
                )
            })
        };
        let functions = [
            function("0000:00:04.0", 7, "vfio0"),
            function("0000:00:04.1", 7, "vfio2"),
            function("0000:00:05.0", 8, "vfio1"),
        ];
        Self(Arc::default(), ScriptedKernel::new(&functions))
    }
}

#[derive(Default)]
struct Script {
    calls: Vec<String>,
    faults: Vec<Fault>,
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
        self.1.offer(kind, count);
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

    /// A file that somebody else has opened.
    pub(crate) fn lend(&self, path: &str) -> OwnedFd {
        self.1.open_for_another(Path::new(path)).unwrap()
    }

    /// A KVM virtual machine.
    #[cfg(feature = "kvm")]
    pub(crate) fn create_vm(&self) -> OwnedFd {
        self.1.create_vm().unwrap()
    }

    /// Command of all devices is this when they are opened.
    pub(crate) fn set_command(&self, command: u16) {
        self.1.set_command(command);
    }

    /// All devices are virtual functions that want this token.
    pub(crate) fn want_token(&self, token: &str) {
        self.1.want_token(token);
    }

    /// The registers of all devices are gone from behind their mappings.
    pub(crate) fn unplug(&self) {
        self.1.unplug();
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
        let device = if self.0.1.is_device_open() { "open" } else { "closed" };
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
