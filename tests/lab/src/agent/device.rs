//! The assigned device that a process holds, reached behind its back.

use super::boot::{errno_refusal, io_refusal};
use super::process::refusal;
use crate::protocol::{Answer, Refusal};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs::{self, File};
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use vfio_bindings::bindings::vfio::VFIO_PCI_CONFIG_REGION_INDEX;

/// Where vfio-pci has the Command register in a device's file: each region has 2^40 bytes of it.
const COMMAND: u64 = ((VFIO_PCI_CONFIG_REGION_INDEX as u64) << 40) + 4;

/// Writes 0 to the Command register that VFIO shows the process.
pub(super) fn stop_decoding(pid: Pid) -> Result<Answer, Refusal> {
    let object = format!("the device of process {pid}");
    let number = held_by(pid)?;
    let process = pidfd_open(pid, PidfdFlags::empty());
    let device = process.and_then(|process| pidfd_getfd(process, number, PidfdGetfdFlags::empty()));
    let device = File::from(device.map_err(|error| errno_refusal("take a descriptor of", &object, error))?);
    let written = device.write_all_at(&0u16.to_le_bytes(), COMMAND);
    written.map_err(|error| io_refusal("write the Command register of", &object, &error))?;
    Ok(Answer::Done)
}

/// The process's number for the descriptor of its device, by either of VFIO's interfaces.
fn held_by(pid: Pid) -> Result<RawFd, Refusal> {
    let folder = format!("/proc/{pid}/fd");
    for entry in fs::read_dir(&folder).map_err(|error| io_refusal("list", &folder, &error))? {
        let entry = entry.map_err(|error| io_refusal("list", &folder, &error))?;
        // One that is closed meanwhile is no device that is held.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        let device = target == "anon_inode:[vfio-device]" || target.starts_with("/dev/vfio/devices/");
        if let (true, Some(number)) = (device, entry.file_name().to_str().and_then(|name| name.parse().ok()))
        {
            return Ok(number);
        }
    }
    Err(refusal("find", &format!("an assigned device in {folder}"), "none is open"))
}
