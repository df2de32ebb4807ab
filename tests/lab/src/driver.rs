//! Which driver has a device in L1, and giving it another.

use crate::l1::{L1, L1Error};
use crate::protocol::{Answer, Request};

/// The driver that lends a device to user space.
pub(crate) const VFIO: &str = "vfio-pci";

/// Takes a device from its driver and gives it to another; fails where the other does not take it.
pub(crate) fn bind(l1: &mut L1, device: &str, driver: &str) -> Result<(), L1Error> {
    let folder = format!("/sys/bus/pci/devices/{device}");
    release(l1, device)?;
    l1.write(&format!("{folder}/driver_override"), driver)?;
    l1.write("/sys/bus/pci/drivers_probe", device)?;
    let request =
        Request::AwaitPath { path: format!("/sys/bus/pci/drivers/{driver}/{device}"), milliseconds: 5000 };
    l1.ask(request).map(|_done| ())
}

/// Takes a device from its driver, if it has one, and leaves it without.
pub(crate) fn release(l1: &mut L1, device: &str) -> Result<(), L1Error> {
    match driver_of(l1, device)? {
        Some(driver) => l1.write(&format!("/sys/bus/pci/drivers/{driver}/unbind"), device),
        None => Ok(()),
    }
}

/// The device behind a root port.
pub(crate) fn behind(l1: &mut L1, port: &str) -> Result<String, L1Error> {
    let names = l1.list(&format!("/sys/bus/pci/devices/{port}"))?;
    let is_function = |name: &String| name.starts_with("0000:") && name.ends_with(".0");
    let nothing = Answer::Names(names.clone());
    names.into_iter().find(is_function).ok_or(L1Error::WrongAnswer { wanted: "device", answer: nothing })
}

/// The number of a device's IOMMU group.
pub(crate) fn group_of(l1: &mut L1, device: &str) -> Result<String, L1Error> {
    match l1.ask(Request::LinkName { path: format!("/sys/bus/pci/devices/{device}/iommu_group") })? {
        Answer::Name(name) => Ok(name),
        answer => Err(L1Error::WrongAnswer { wanted: "name", answer }),
    }
}

/// The driver a device is bound to.
pub(crate) fn driver_of(l1: &mut L1, device: &str) -> Result<Option<String>, L1Error> {
    const ENOENT: i32 = 2;
    match l1.ask(Request::LinkName { path: format!("/sys/bus/pci/devices/{device}/driver") }) {
        Ok(Answer::Name(name)) => Ok(Some(name)),
        Ok(answer) => Err(L1Error::WrongAnswer { wanted: "name", answer }),
        Err(L1Error::Refused(refusal)) if refusal.errno == Some(ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
