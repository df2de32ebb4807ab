//! What the bus asks of a function, and why a function stops the machine.

use vfio_assign_core::Bdf;
use vfio_assign_linux::Failure;

use crate::assignment::GuestError;
use crate::help::Help;

/// A function on the bus. Accesses come from all processors at once; a function that needs a lock holds its own.
///
/// Accesses are 1 to 8 bytes, at any alignment, and stay within the function's 4,096 bytes of configuration
/// space. A read finds `data` filled with ones.
pub(crate) trait PciFunction: Send + Sync {
    /// Reads configuration space.
    fn config_read(&self, offset: u16, data: &mut [u8]);

    /// Writes configuration space.
    fn config_write(&self, offset: u16, data: &[u8]);

    /// Reads guest memory space; false if the address is not this function's now.
    fn memory_read(&self, _address: u64, _data: &mut [u8]) -> bool {
        false
    }

    /// Writes guest memory space; false if the address is not this function's now.
    fn memory_write(&self, _address: u64, _data: &[u8]) -> bool {
        false
    }

    /// Reads port space; false if the port is not this function's now.
    fn port_read(&self, _port: u16, _data: &mut [u8]) -> bool {
        false
    }

    /// Writes port space; false if the port is not this function's now.
    fn port_write(&self, _port: u16, _data: &[u8]) -> bool {
        false
    }

    /// Whether the function is dead; if so, none of its memory is in the guest any more when this returns.
    ///
    /// Asked after `KVM_RUN` said EFAULT: the guest touched memory that this process has mapped but cannot reach,
    /// which is how vfio-pci answers for a BAR whose device is gone.
    fn revoke_if_dead(&self) -> bool {
        false
    }

    /// Brings the function to its power-on state and resets the device: the bus that it is on is reset, or its power
    /// turned off, by the guest. Processors run meanwhile.
    fn reset(&self);

    /// Why no processor may run with this function in the machine; asked before each run, so without a lock.
    fn quarantine(&self) -> Option<Quarantine> {
        None
    }
}

/// Something of a function could not be taken away from the guest.
#[derive(Debug, thiserror::Error)]
#[error("{bdf}: something of the device could not be taken away from the guest, so it cannot go on{}",
    .failure.as_ref().map_or_else(String::new, |failure| format!(": {}", failure.error)))]
pub(crate) struct Quarantine {
    /// The device.
    pub(crate) bdf: Bdf,
    /// The last step that failed.
    pub(crate) failure: Option<Failure<GuestError>>,
}

impl Help for Quarantine {
    fn help(&self) -> Option<String> {
        Some(
            "see `dmesg` of the host; the guest is gone and with it the device, so it may be run again"
                .into(),
        )
    }
}
