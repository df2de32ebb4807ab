//! What a person reads who has set a host up wrongly: every text names the object, the cause and the way out.

use super::tests::{bdf, region};
use super::*;
use crate::options::{Backend, DeviceOptions};
use crate::retry::RetryPolicy;
use crate::sysfs::tests::FakeSysfs;
use crate::testing::TestKernel;

/// A mistake: a host, and what the text is.
struct Mistake {
    kernel: TestKernel,
    sysfs: FakeSysfs,
    backend: Option<Backend>,
    token: Option<&'static str>,
}

impl Mistake {
    /// A host on which all is right, with a device that has a file of its own.
    fn none() -> Self {
        let sysfs = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7)).add_cdev(
            "0000:00:04.0",
            "vfio0",
            0,
        );
        Self { kernel: TestKernel::default(), sysfs, backend: None, token: None }
    }

    /// The host says this of its functions.
    fn functions(change: impl FnOnce(FakeSysfs) -> FakeSysfs) -> Self {
        Self { sysfs: change(FakeSysfs::new()), ..Self::none() }
    }

    /// This call fails on this interface.
    fn call(backend: Backend, call: &'static str, errno: Errno) -> Self {
        let mistake = Self { backend: Some(backend), ..Self::none() };
        mistake.kernel.fail(call, errno);
        mistake
    }

    /// This call of the group interface gives this.
    fn answer(call: &'static str, result: u32) -> Self {
        let mistake = Self { backend: Some(Backend::Group), ..Self::none() };
        mistake.kernel.answer(call, result);
        mistake
    }

    fn text(self) -> String {
        let options = VmOptions {
            sysfs: self.sysfs.sysfs(),
            backend: self.backend,
            retry: RetryPolicy::once(),
            ..VmOptions::default()
        };
        let vm = Vm::new(self.kernel.host(), options);
        vm.add_memory(&[region(0xfee0_0000, 0x2000)]).unwrap();
        let vf_token = self.token.map(|token| token.parse().unwrap());
        let device = DeviceOptions { vf_token, ..DeviceOptions::default() };
        vm.reserve_with(bdf(), device).and_then(|device| device.open()).unwrap_err().to_string()
    }
}

#[track_caller]
fn reads(mistake: Mistake, text: &str) {
    assert_eq!(mistake.text(), text);
}

#[test]
fn mistakes_about_the_device_are_told() {
    reads(
        Mistake::functions(|sysfs| sysfs),
        "there is no PCI function 0000:00:04.0 on this host; `lspci -D` lists those there are",
    );
    reads(
        Mistake::functions(|sysfs| sysfs.add("0000:00:04.0", Some("nvme"), Some(7))),
        "0000:00:04.0 is bound to nvme, not to a VFIO driver; give it to VFIO by: modprobe vfio-pci; \
        echo vfio-pci > /sys/bus/pci/devices/0000:00:04.0/driver_override; \
        echo 0000:00:04.0 > /sys/bus/pci/devices/0000:00:04.0/driver/unbind; \
        echo 0000:00:04.0 > /sys/bus/pci/drivers_probe",
    );
    reads(
        Mistake::functions(|sysfs| sysfs.add("0000:00:04.0", Some("vfio-pci"), None)),
        "0000:00:04.0 is in no IOMMU group: switch the IOMMU on in the firmware and with `intel_iommu=on` (Intel) \
        on the kernel's command line",
    );
    let no_iommu = Mistake::none();
    no_iommu.sysfs.set_group_name(7, "vfio-noiommu");
    reads(
        no_iommu,
        "0000:00:04.0 is bound in VFIO's no-IOMMU mode: nothing would keep the guest's device out of the host's \
        memory, so it is not assigned; switch the IOMMU on in the firmware and on the kernel's command line",
    );
}

#[test]
fn mistakes_about_vfio_are_told() {
    reads(
        Mistake::call(Backend::Group, "open vfio", Errno::ENOENT),
        "cannot open /dev/vfio/vfio: ENOENT, No such file or directory; VFIO is not loaded: `modprobe vfio-pci`",
    );
    reads(
        Mistake::call(Backend::Group, "open vfio", Errno::EACCES),
        "cannot open /dev/vfio/vfio: EACCES, Permission denied; be root, or be given this file and the group's",
    );
    reads(
        Mistake::call(Backend::Group, "api_version", Errno::ENOTTY),
        "/dev/vfio/vfio is no VFIO container: ENOTTY, Inappropriate ioctl for device; the file there must be VFIO's \
        own, which `modprobe vfio` makes",
    );
    reads(
        Mistake::answer("check_extension", 0),
        "VFIO has no Type1v2 IOMMU; load it with `modprobe vfio_iommu_type1`",
    );
}

#[test]
fn mistakes_about_the_group_are_told() {
    reads(
        Mistake::call(Backend::Group, "open 7", Errno::EACCES),
        "cannot open IOMMU group 7, /dev/vfio/7: EACCES, Permission denied; be root, or be given this file and \
        /dev/vfio/vfio",
    );
    reads(
        Mistake::call(Backend::Group, "open 7", Errno::EBUSY),
        "IOMMU group 7 is in use elsewhere (EBUSY), and can be used once only; `fuser -v /dev/vfio/7` shows by whom",
    );
    let mut not_viable = Mistake::answer("group_status", 0);
    not_viable.sysfs = not_viable.sysfs.add("0000:00:04.1", Some("nvme"), Some(7));
    reads(
        not_viable,
        "IOMMU group 7 cannot be given to a guest while host drivers use its devices:\
        \n  0000:00:04.0: vfio-pci\
        \n  0000:00:04.1: nvme; give it to VFIO, too: modprobe vfio-pci; \
        echo vfio-pci > /sys/bus/pci/devices/0000:00:04.1/driver_override; \
        echo 0000:00:04.1 > /sys/bus/pci/devices/0000:00:04.1/driver/unbind; \
        echo 0000:00:04.1 > /sys/bus/pci/drivers_probe",
    );
    reads(
        Mistake::call(Backend::Group, "set_iommu", Errno::EPERM),
        "IOMMU group 7: cannot use the Type1v2 IOMMU: EPERM, Operation not permitted; the platform has no interrupt \
        remapping, or this user may not use VFIO",
    );
    reads(
        Mistake::call(Backend::Group, "device_fd", Errno::EACCES),
        "VFIO does not open 0000:00:04.0: EACCES, Permission denied; its VF token is missing or wrong: give \
        the one that its physical function was opened with",
    );
}

#[test]
fn mistakes_about_memory_are_told() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let limit = limit.map_or_else(
        || "which should not be, there is no limit".into(),
        |bytes| format!("{} KiB", bytes / 1024),
    );
    reads(
        Mistake::call(Backend::Group, "map_dma", Errno::ENOMEM),
        &format!(
            "guest memory cannot be mapped for 0000:00:04.0: region 0xfee00000..=0xfee01fff would lock more memory \
            than allowed, {limit}; raise RLIMIT_MEMLOCK (`ulimit -l`)"
        ),
    );
    reads(
        Mistake::call(Backend::Group, "map_dma", Errno::ENOSPC),
        "guest memory cannot be mapped for 0000:00:04.0: region 0xfee00000..=0xfee01fff is one mapping too many; \
        raise vfio_iommu_type1's parameter dma_entry_limit",
    );
    reads(
        Mistake::call(Backend::Group, "map_dma", Errno::EEXIST),
        "guest memory cannot be mapped for 0000:00:04.0: region 0xfee00000..=0xfee01fff overlaps one that is mapped \
        already; remove that one first, or place this one elsewhere",
    );
    let reserved = Mistake { backend: Some(Backend::Cdev), ..Mistake::none() };
    reserved.kernel.set_ranges(&[(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)]);
    reads(
        reserved,
        "guest memory cannot be mapped for 0000:00:04.0: the IOMMU does not reach all of 0xfee00000..=0xfee01fff; \
        memory can lie in 0x0..=0xfedfffff, 0xfef00000..=0x7fffffffff",
    );
}

#[test]
fn mistakes_about_iommufd_are_told() {
    reads(
        Mistake::call(Backend::Cdev, "open iommu", Errno::ENOENT),
        "cannot open /dev/iommu: ENOENT, No such file or directory; iommufd is not loaded (`modprobe iommufd`), or \
        this kernel has none: use the group interface",
    );
    reads(
        Mistake::call(Backend::Cdev, "ioas_alloc", Errno::ENOTTY),
        "/dev/iommu gives no address space: ENOTTY, Inappropriate ioctl for device; it is no iommufd",
    );
    reads(
        Mistake::call(Backend::Cdev, "open vfio0", Errno::EACCES),
        "cannot open /dev/vfio/devices/vfio0 for 0000:00:04.0: EACCES, Permission denied; be root, or be given this \
        file and /dev/iommu",
    );
    let no_file = Mistake::functions(|sysfs| sysfs.add("0000:00:04.0", Some("vfio-pci"), Some(7)));
    reads(
        Mistake { backend: Some(Backend::Cdev), ..no_file },
        "VFIO has no file for 0000:00:04.0 alone: the kernel is older than Linux 6.6, or was built without \
        CONFIG_VFIO_DEVICE_CDEV, or the device has no IOMMU; use the group interface",
    );
    reads(
        Mistake::call(Backend::Cdev, "bind", Errno::EPERM),
        "VFIO does not open 0000:00:04.0, IOMMU group 7, by its own file: EPERM, Operation not permitted; another VM \
        or process uses a device of its group, or the platform has no interrupt remapping",
    );
    reads(
        Mistake::call(Backend::Cdev, "attach", Errno::EADDRINUSE),
        "0000:00:04.0 cannot join the VM's address space: EADDRINUSE, Address already in use; guest memory lies where \
        the host reserves addresses of this device",
    );
    let token = Some("00112233-4455-6677-8899-aabbccddeeff");
    reads(
        Mistake { backend: Some(Backend::Cdev), token, ..Mistake::none() },
        "0000:00:04.0: a VF token can be given on the group interface only; choose that one",
    );
}
