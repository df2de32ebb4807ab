//! L1 as a value: the machine that the outer QEMU emulates, and the command line that makes it.
//!
//! Always software emulation: /dev/kvm may open on the outer machine and still not run an ordinary kernel. The
//! IOMMU is Intel's and the processor's virtualisation AMD's because those are the ones QEMU emulates well.
//!
//! There are two sorts of machine. The quick one has two processors, each emulated by a thread of its own. QEMU does not
//! keep what one of them writes into code in step with what the other runs of it, and L1's kernel patches itself
//! whenever a virtual machine starts or ends: such an L1 dies of an int3, resets itself without a word, or has a
//! processor that takes no interrupt any more, the more guests come and go the surer. And where interrupts come in quick
//! succession while the other processor arms and disarms them, QEMU's VMRUN now and then saves L1's own registers as
//! the guest's: KVM's trace then has the guest at an address inside L1's `kvm_amd`, with L1's stack, and it never comes
//! back. The [steady](Machine::steady) one has one processor and one thread, so nothing of that can happen; it is
//! slower, and two of them can run side by side where there are two processors. On the quick one a guest's reboots under
//! I/O, and fifty rounds of taking a disk out of the guest and finding it again, never came to their end; on the steady
//! one both did at the first attempt, ten reboots in 563 s and all that is done to a disk in 295 s, beside a load of 8 on
//! two processors, once L1 was nudged while it is silent (`NUDGE` in `l1.rs`); before that the second or third reboot
//! stood still, twice of twice.

use crate::disk::Disk;
use crate::protocol::PORT_NAME;
use std::path::Path;

/// The PCI slot of the disk that the guest gets.
pub(crate) const DISK_BDF: &str = "0000:00:04.0";

/// Without `erms` L1 clears and copies memory a word at a time; QEMU emulates the byte-wise instructions byte by
/// byte, and a guest's memory, pinned before it starts, would take seconds to clear.
const FAST_PROCESSOR: &str = "max,+svm,+npt,-erms";
/// All that QEMU can emulate: what monitors are compared on.
const WHOLE_PROCESSOR: &str = "max,+svm,+npt";

/// What L1 is made of.
pub(crate) struct Machine {
    processor: &'static str,
    memory_mib: u32,
    cpus: u32,
    accelerator: &'static str,
    host_files: bool,
    devices: Vec<String>,
}

/// What L1 is started from.
pub(crate) struct BootFiles<'a> {
    pub(crate) kernel: &'a Path,
    /// A path, for it may be a file without a name.
    pub(crate) initramfs: &'a str,
    /// The socket on which the lab waits for its agent.
    pub(crate) socket: &'a Path,
    /// The socket on which QEMU is to listen.
    pub(crate) monitor: &'a Path,
}

impl Machine {
    /// Two processors, two gigabytes, an IOMMU, no device to assign yet.
    pub(crate) fn new() -> Self {
        Self {
            processor: FAST_PROCESSOR,
            memory_mib: 2048,
            cpus: 2,
            accelerator: "tcg,thread=multi",
            host_files: false,
            devices: Vec::new(),
        }
    }

    /// One processor, emulated by one thread: for scenarios in which many guests come and go, or one has many devices.
    pub(crate) fn steady(mut self) -> Self {
        self.cpus = 1;
        self.accelerator = "tcg,thread=single";
        self
    }

    /// An NVMe disk at [`DISK_BDF`]; with `vectors` it has that many MSI-X vectors and a queue for each but one.
    pub(crate) fn nvme(mut self, disk: &Disk, vectors: Option<u16>) -> Self {
        self = self.drive("disk", disk);
        let vectors =
            vectors.map_or(String::new(), |count| format!(",msix_qsize={count},max_ioqpairs={}", count - 1));
        self.device(&format!("nvme,drive=disk,serial=lab,addr=4.0{vectors}"))
    }

    /// A disk for a device that names it as its drive.
    pub(crate) fn drive(mut self, id: &str, disk: &Disk) -> Self {
        self.devices.extend(["-drive".into(), format!("file={},if=none,id={id},format=raw", disk.path())]);
        self
    }

    /// Any other device, as QEMU's `-device` takes it.
    pub(crate) fn device(mut self, description: &str) -> Self {
        self.devices.extend(["-device".into(), description.into()]);
        self
    }

    /// A network for a device that names it as its netdev: `10.0.NUMBER.0/24` behind QEMU, which is its gateway, with
    /// this machine's loopback addresses behind the gateway's.
    pub(crate) fn network(mut self, id: &str, number: usize) -> Self {
        let network = format!("10.0.{number}.0/24,host=10.0.{number}.2");
        self.devices.extend(["-netdev".into(), format!("user,id={id},net={network}")]);
        self
    }

    /// Memory for a device that names it as its memdev, with a disk's bytes in it.
    pub(crate) fn shared_memory(mut self, id: &str, disk: &Disk) -> Self {
        let file = format!("mem-path={},size={},share=on", disk.path(), disk.bytes());
        self.devices.extend(["-object".into(), format!("memory-backend-file,id={id},{file}")]);
        self
    }

    /// This much memory, which the outer machine finds before L1 starts: what L1 touches first costs it no more than later.
    pub(crate) fn memory_found(self, mib: u32) -> Self {
        let mut machine = self.memory(mib);
        machine.devices.push("-mem-prealloc".into());
        machine
    }

    /// This much memory.
    pub(crate) fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Two processors with everything that QEMU can emulate.
    pub(crate) fn whole_processor(mut self) -> Self {
        self.processor = WHOLE_PROCESSOR;
        self
    }

    /// Lets L1 see the outer machine's files, read-only: QEMU as the monitor in L1 is run from there.
    pub(crate) fn host_files(mut self) -> Self {
        self.host_files = true;
        self
    }

    /// Whether L1 sees the outer machine's files.
    pub(crate) fn sees_host_files(&self) -> bool {
        self.host_files
    }

    /// The arguments that make QEMU this machine, its console on standard output.
    pub(crate) fn arguments(&self, files: &BootFiles<'_>) -> Vec<String> {
        let (cpus, memory) = (self.cpus.to_string(), format!("{}M", self.memory_mib));
        let kernel = files.kernel.display().to_string();
        let socket = format!("socket,id=lab,path={}", files.socket.display());
        let monitor = format!("unix:{},server=on,wait=off", files.monitor.display());
        let port = format!("virtserialport,chardev=lab,name={PORT_NAME}");
        // L1's own devices are high, out of the way of those that scenarios place.
        let fixed = [
            "-M",
            "q35,kernel-irqchip=split",
            "-accel",
            self.accelerator,
            "-cpu",
            self.processor,
            "-smp",
            &cpus,
            "-m",
            &memory,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
            "-qmp",
            &monitor,
            "-device",
            "intel-iommu,intremap=on,caching-mode=on,aw-bits=48",
            "-device",
            "virtio-serial-pci,addr=1d.0",
            "-chardev",
            &socket,
            "-device",
            &port,
            "-kernel",
            &kernel,
            "-initrd",
            files.initramfs,
            "-append",
            // no_timer_check: on a busy host the emulated timer can come too late for the kernel's boot check.
            "console=ttyS0 intel_iommu=on iommu=nopt no_timer_check quiet panic=-1",
        ];
        let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
        if self.host_files {
            let share = "local,path=/,security_model=none,readonly=on,multidevs=remap,id=host";
            arguments.extend(["-fsdev".into(), share.into()]);
            arguments.extend(["-device".into(), "virtio-9p-pci,fsdev=host,mount_tag=host,addr=1e.0".into()]);
        }
        arguments.extend(self.devices.iter().cloned());
        arguments
    }
}
