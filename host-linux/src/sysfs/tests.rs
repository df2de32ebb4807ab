//! A sysfs made of a folder, and what is found and written there.

use super::*;
use std::os::unix::fs::symlink;

/// A sysfs in a folder of its own.
pub(crate) struct FakeSysfs(tempfile::TempDir);

impl FakeSysfs {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("bus/pci/devices")).unwrap();
        fs::write(folder.path().join("bus/pci/drivers_probe"), "").unwrap();
        Self(folder)
    }

    pub(crate) fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.0.path())
    }

    /// Adds a function with its driver and group, as the kernel would link them.
    pub(crate) fn add(self, bdf: &str, driver: Option<&str>, group: Option<u32>) -> Self {
        let root = self.0.path();
        let device = root.join("bus/pci/devices").join(bdf);
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("driver_override"), "").unwrap();
        if let Some(driver) = driver {
            let driver = root.join("bus/pci/drivers").join(driver);
            fs::create_dir_all(&driver).unwrap();
            fs::write(driver.join("unbind"), "").unwrap();
            symlink(&driver, device.join("driver")).unwrap();
        }
        if let Some(group) = group {
            let group = root.join("kernel/iommu_groups").join(group.to_string());
            fs::create_dir_all(group.join("devices")).unwrap();
            symlink(&device, group.join("devices").join(bdf)).unwrap();
            symlink(&group, device.join("iommu_group")).unwrap();
        }
        self
    }

    /// Gives a function a file of its own, `511:minor`.
    pub(crate) fn add_cdev(self, bdf: &str, name: &str, minor: u32) -> Self {
        let folder = self.0.path().join("bus/pci/devices").join(bdf).join("vfio-dev").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("dev"), format!("511:{minor}\n")).unwrap();
        self
    }

    /// Gives a group a name, as VFIO does where there is no IOMMU.
    pub(crate) fn set_group_name(&self, group: u32, name: &str) {
        let group = self.0.path().join("kernel/iommu_groups").join(group.to_string());
        fs::write(group.join("name"), format!("{name}\n")).unwrap();
    }

    fn content(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap()
    }
}

fn bdf() -> Bdf {
    Bdf::new(0, 0, 4, 0).unwrap()
}

#[test]
fn function_with_driver_and_group() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("nvme"), Some(7));
    let nvme = HostFunction { bdf: bdf(), driver: Some("nvme".into()), vfio: false, group: Some(7) };
    assert_eq!(host.sysfs().function(bdf()), Ok(nvme));
}

#[test]
fn function_without_driver_or_group() {
    let host = FakeSysfs::new().add("0000:00:04.0", None, None);
    let bare = HostFunction { bdf: bdf(), driver: None, vfio: false, group: None };
    assert_eq!(host.sysfs().function(bdf()), Ok(bare));
}

#[test]
fn missing_function_is_named() {
    let missing = SysfsError::NoFunction { bdf: bdf() };
    assert_eq!(FakeSysfs::new().sysfs().function(bdf()), Err(missing));
}

#[test]
fn variant_driver_is_known_by_its_entry() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("mlx5_core_assign"), Some(7));
    fs::create_dir(host.0.path().join("bus/pci/devices/0000:00:04.0/vfio-dev")).unwrap();
    assert!(host.sysfs().function(bdf()).unwrap().vfio);
}

#[test]
fn variant_driver_of_an_older_kernel_is_known_by_its_name() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("mlx5_vfio_pci"), Some(7));
    assert!(host.sysfs().function(bdf()).unwrap().vfio);
}

#[test]
fn file_of_its_own_has_a_name_and_a_number() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7));
    let host = host.add_cdev("0000:00:04.0", "vfio3", 2);
    let device = VfioDevice { name: "vfio3".into(), number: Some((511, 2)) };
    assert_eq!(host.sysfs().vfio_device(bdf()), Ok(Some(device)));
}

#[test]
fn kernel_without_files_of_their_own_gives_no_number() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7));
    fs::create_dir_all(host.0.path().join("bus/pci/devices/0000:00:04.0/vfio-dev/vfio0")).unwrap();
    let device = VfioDevice { name: "vfio0".into(), number: None };
    assert_eq!(host.sysfs().vfio_device(bdf()), Ok(Some(device)));
}

#[test]
fn device_number_that_is_none_is_an_error() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(7));
    let host = host.add_cdev("0000:00:04.0", "vfio3", 2);
    let path = host.0.path().join("bus/pci/devices/0000:00:04.0/vfio-dev/vfio3/dev");
    fs::write(&path, "511").unwrap();
    let malformed = SysfsError::Read { path, errno: Errno::EINVAL };
    assert_eq!(host.sysfs().vfio_device(bdf()), Err(malformed));
}

#[test]
fn group_that_is_no_number_is_an_error() {
    let host = FakeSysfs::new().add("0000:00:04.0", None, None);
    let link = host.0.path().join("bus/pci/devices/0000:00:04.0/iommu_group");
    symlink("/somewhere/else", &link).unwrap();
    let malformed = SysfsError::Read { path: link, errno: Errno::EINVAL };
    assert_eq!(host.sysfs().function(bdf()), Err(malformed));
}

#[test]
fn members_that_are_in_the_way_are_marked() {
    let host = FakeSysfs::new()
        .add("0000:00:04.1", Some("e1000e"), Some(7))
        .add("0000:00:04.0", Some("vfio-pci"), Some(7))
        .add("0000:00:04.2", None, Some(7))
        .add("0000:00:1c.0", Some("pcieport"), Some(7));
    let members = host.sysfs().group_members(7).unwrap();
    let marked: Vec<_> = members.iter().map(|m| (&*m.name, m.in_the_way)).collect();
    let expected =
        [("0000:00:04.0", false), ("0000:00:04.1", true), ("0000:00:04.2", false), ("0000:00:1c.0", false)];
    assert_eq!(marked, expected);
}

#[test]
fn group_without_iommu_is_known_by_its_name() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(0));
    host.set_group_name(0, "vfio-noiommu");
    assert_eq!(host.sysfs().is_no_iommu(0), Ok(true));
}

#[test]
fn ordinary_group_has_no_name() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("vfio-pci"), Some(0));
    assert_eq!(host.sysfs().is_no_iommu(0), Ok(false));
}

#[test]
fn driver_override_is_written() {
    let host = FakeSysfs::new().add("0000:00:04.0", None, None);
    host.sysfs().set_driver_override(bdf(), Some("vfio-pci")).unwrap();
    assert_eq!(host.content("bus/pci/devices/0000:00:04.0/driver_override"), "vfio-pci");
}

#[test]
fn unbind_writes_to_the_driver() {
    let host = FakeSysfs::new().add("0000:00:04.0", Some("nvme"), None);
    host.sysfs().unbind(bdf()).unwrap();
    assert_eq!(host.content("bus/pci/drivers/nvme/unbind"), "0000:00:04.0");
}

#[test]
fn unbind_without_driver_is_done_already() {
    let host = FakeSysfs::new().add("0000:00:04.0", None, None);
    assert_eq!(host.sysfs().unbind(bdf()), Ok(()));
}

#[test]
fn write_that_fails_names_file_and_value() {
    let host = FakeSysfs::new();
    let error = host.sysfs().set_driver_override(bdf(), Some("vfio-pci")).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cannot write \"vfio-pci\" to "), "{text}");
    assert!(text.ends_with("driver_override: ENOENT, No such file or directory"), "{text}");
}
