//! A device that no IOMMU stands before: it is looked at, and given to no guest.

use crate::rig::{Rig, Undo, all_descriptors, progress, set};
use std::path::Path;
use vfio_assign_linux::{Backend, CdevError, Host, Inspection, OpenError, Sysfs, Vm, VmOptions};

/// Whether VFIO takes devices without an IOMMU; a kernel that never does has no such file.
const MODE: &str = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
/// Vendor and device of QEMU's `edu`.
const IDS: [u8; 4] = [0x34, 0x12, 0xe8, 0x11];

/// The device is given to VFIO, and taken away afterwards.
fn given_to_vfio(rig: &Rig) -> Undo<impl FnMut()> {
    let (bdf, sysfs) = (rig.unguarded, Sysfs::default());
    let taken_away = Undo::by({
        let sysfs = sysfs.clone();
        move || {
            let taken = sysfs.unbind(bdf).and(sysfs.set_driver_override(bdf, None));
            if let Err(error) = taken {
                progress(format_args!("{bdf} is not what it was: {error}"));
            }
        }
    });
    sysfs.set_driver_override(bdf, Some("vfio-pci")).expect("it may be given to VFIO");
    sysfs.probe(bdf).expect("the kernel looks for its driver");
    taken_away
}

fn options(backend: Option<Backend>) -> VmOptions {
    VmOptions { backend, ..VmOptions::default() }
}

/// Assigning it is refused whichever interface is asked for.
fn refused(rig: &Rig, expected: &OpenError) {
    for backend in [None, Some(Backend::Group), Some(Backend::Cdev)] {
        let before = all_descriptors();
        let refused = Vm::new(Host::linux(), options(backend)).open(rig.unguarded).map(drop);
        assert_eq!((refused.as_ref(), all_descriptors()), (Err(expected), before), "{backend:?}");
    }
}

#[test]
fn device_without_an_iommu_is_inspected_and_never_assigned() {
    let Some(rig) = Rig::get() else { return };
    let bdf = rig.unguarded;
    assert_eq!(Sysfs::default().function(bdf).map(|function| function.group), Ok(None));
    if !Path::new(MODE).exists() {
        progress(format_args!(
            "this kernel's VFIO has no mode without an IOMMU: the device does not get so far"
        ));
        let _given = given_to_vfio(rig);
        refused(rig, &OpenError::NotVfio { bdf, driver: None });
        return;
    }
    let _on = set(MODE, "1");
    let _given = given_to_vfio(rig);
    refused(rig, &OpenError::NoIommuMode { bdf });
    let before = all_descriptors();
    let asked = Inspection::open(Host::linux(), options(Some(Backend::Cdev)), bdf).map(drop);
    assert_eq!(asked, Err(OpenError::Cdev(CdevError::Missing { bdf })));
    let device = Inspection::open(Host::linux(), options(None), bdf).expect("it may be looked at");
    assert_eq!(device.backend(), Backend::Group);
    assert_eq!(device.read_config().expect("can be read")[..4], IDS);
    drop(device);
    assert_eq!(all_descriptors(), before);
}

#[test]
fn device_with_an_iommu_is_inspected_too() {
    let Some(rig) = Rig::get() else { return };
    let before = all_descriptors();
    let device = Inspection::open(Host::linux(), options(Some(rig.backend)), rig.edu).expect("opens");
    assert_eq!((device.backend(), &device.read_config().expect("can be read")[..4]), (rig.backend, &IDS[..]));
    drop(device);
    assert_eq!(all_descriptors(), before);
}
