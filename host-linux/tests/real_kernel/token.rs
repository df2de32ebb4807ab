//! The token that a physical function's user shares with those of its virtual functions.

use crate::rig::{Rig, set};
use vfio_assign_core::Bdf;
use vfio_assign_linux::{
    Backend, Device, DeviceOptions, Errno, Host, OpenError, RegionIndex, Sysfs, Vm, VmOptions,
};

const TOKEN: &str = "00112233-4455-6677-8899-aabbccddeeff";
const OTHER: &str = "ffeeddcc-bbaa-9988-7766-554433221100";

/// The device, opened with this token for a VM of its own, by its group: only that takes tokens.
fn open(bdf: Bdf, token: Option<&str>) -> Result<Device, OpenError> {
    let options = VmOptions { backend: Some(Backend::Group), ..VmOptions::default() };
    let vf_token = token.map(|token| token.parse().expect("a UUID"));
    let reserved = Vm::new(Host::linux(), options)
        .reserve_with(bdf, DeviceOptions { vf_token, ..DeviceOptions::default() });
    reserved?.open()
}

#[test]
fn virtual_function_is_opened_with_its_token_only() {
    let Some(rig) = Rig::get() else { return };
    let _allowed = set("/sys/module/vfio_pci/parameters/enable_sriov", "1");
    let physical = open(rig.physical, Some(TOKEN)).expect("its user sets the token");
    // Gone again before the device is closed that has it.
    let _function = set(format!("/sys/bus/pci/devices/{}/sriov_numvfs", rig.physical), "1");
    let bdf = rig.physical;
    let bdf = Bdf::new(bdf.segment(), bdf.bus(), bdf.device(), bdf.function() + 1).expect("the next");
    assert_eq!(Sysfs::default().function(bdf).map(|function| function.vfio), Ok(true));
    let refused = Err(OpenError::Device { bdf, errno: Errno::EACCES });
    assert_eq!(open(bdf, None).map(drop), refused);
    assert_eq!(open(bdf, Some(OTHER)).map(drop), refused);
    let device = open(bdf, Some(TOKEN)).expect("opens");
    let (mut ids, mut own) = ([0; 4], [0; 4]);
    device.read(RegionIndex::CONFIG, 0, &mut ids).expect("can be read");
    physical.read(RegionIndex::CONFIG, 0, &mut own).expect("can be read");
    // The kernel answers for the ids, which a virtual function does not have itself.
    assert_eq!(ids, own);
}

#[test]
fn function_that_is_no_virtual_one_takes_no_token() {
    let Some(rig) = Rig::get() else { return };
    let refused = Err(OpenError::Device { bdf: rig.edu, errno: Errno::EINVAL });
    assert_eq!(open(rig.edu, Some(TOKEN)).map(drop), refused);
}
