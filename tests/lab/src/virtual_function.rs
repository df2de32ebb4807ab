//! A virtual function of an NVMe controller in L1: the physical one's driver makes it, and nvme-cli gives it queues and
//! vectors and sets it online (NVM Express 1.4, 8.5.3), without which it takes no command.

use crate::driver;
use crate::l1::{L1, L1Error};
use crate::packages::{self, PackageError};
use crate::progress::Progress;
use crate::protocol::{End, Event, Launch};
use std::path::{Path, PathBuf};

/// Where nvme-cli is in L1.
pub(crate) const NVME_CLI: &str = "/bin/nvme";
/// Queues and vectors for the virtual function.
const RESOURCES: u32 = 4;

/// Why there is no such function.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VirtualFunctionError {
    #[error(transparent)]
    L1(#[from] L1Error),
    #[error("in L1: '{command}' ended with {end:?}: {said}")]
    Command { command: String, end: End, said: String },
    #[error("in L1: {path} has no {what}")]
    Missing { path: String, what: &'static str },
}

/// nvme-cli on this machine; installed first where the lab may.
pub(crate) fn nvme_cli(progress: &Progress) -> Result<PathBuf, PackageError> {
    packages::install(&["nvme-cli"], progress)?;
    Ok(Path::new("/usr/sbin/nvme").to_owned())
}

/// Makes one of the disk behind the root port at this address; gives the virtual function's own address.
pub(crate) fn enable(l1: &mut L1, port: &str) -> Result<String, VirtualFunctionError> {
    let missing = |path: &str, what| VirtualFunctionError::Missing { path: path.to_owned(), what };
    let physical = driver::behind(l1, port)?;
    let folder = format!("/sys/bus/pci/devices/{physical}");
    let controller =
        l1.list(&format!("{folder}/nvme"))?.pop().ok_or_else(|| missing(&folder, "controller"))?;
    let controller = format!("/dev/{controller}");
    let manage = |l1: &mut L1, what: String| run(l1, &format!("{NVME_CLI} virt-mgmt {controller} {what}"));
    // What the physical function holds of what can be moved goes back to the pool at its next reset.
    for resource in [0, 1] {
        manage(l1, format!("-c 0 -r {resource} -a 1 -n 0"))?;
    }
    run(l1, &format!("{NVME_CLI} reset {controller}"))?;
    l1.write(&format!("{folder}/sriov_drivers_autoprobe"), "0")?;
    l1.write(&format!("{folder}/sriov_numvfs"), "1")?;
    for resource in [0, 1] {
        manage(l1, format!("-c 1 -r {resource} -a 8 -n {RESOURCES}"))?;
    }
    manage(l1, "-c 1 -a 9".to_owned())?;
    let function = physical.trim_end_matches('0').to_owned() + "1";
    Ok(function)
}

/// Runs a command to its end.
fn run(l1: &mut L1, command: &str) -> Result<(), VirtualFunctionError> {
    let arguments = command.split_whitespace().map(str::to_owned).collect();
    finish(l1, Launch { arguments, user: None })
}

/// The same, of any process.
pub(crate) fn finish(l1: &mut L1, launch: Launch) -> Result<(), VirtualFunctionError> {
    let command = launch.arguments.join(" ");
    let process = l1.spawn(launch)?;
    let mut said = String::new();
    loop {
        match l1.next_of(process)? {
            Event::Output { bytes, .. } => said.push_str(&String::from_utf8_lossy(&bytes.0)),
            Event::Exited { end: End::Status(0), .. } => return Ok(()),
            Event::Exited { end, .. } => return Err(VirtualFunctionError::Command { command, end, said }),
            _ => {}
        }
    }
}
