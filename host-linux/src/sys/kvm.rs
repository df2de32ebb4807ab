//! KVM's requests on a VM's file descriptor that device assignment needs, one function each.
//!
//! Linux `include/uapi/linux/kvm.h` and `Documentation/virt/kvm/api.rst`.

use super::ioctl::{with_struct, with_value};
use super::range::HostRange;
use crate::errno::Errno;
use kvm_bindings as k;
use rustix::ioctl::{Opcode, opcode};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The type of KVM's requests.
pub(super) const KVMIO: u8 = 0xae;

const CHECK_EXTENSION: Opcode = opcode::none(KVMIO, 0x03);
const SET_USER_MEMORY_REGION: Opcode = opcode::write::<k::kvm_userspace_memory_region>(KVMIO, 0x46);
const SET_GSI_ROUTING: Opcode = opcode::write::<k::kvm_irq_routing>(KVMIO, 0x6a);
const IRQFD: Opcode = opcode::write::<k::kvm_irqfd>(KVMIO, 0x76);
const CREATE_DEVICE: Opcode = opcode::read_write::<k::kvm_create_device>(KVMIO, 0xe0);
const SET_DEVICE_ATTR: Opcode = opcode::write::<k::kvm_device_attr>(KVMIO, 0xe1);

/// One line of the VM's interrupt routing table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) gsi: u32,
    pub(crate) target: RouteTarget,
}

/// What a GSI leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RouteTarget {
    /// A pin of an interrupt controller inside the kernel.
    Irqchip { chip: u32, pin: u32 },
    /// A message.
    Msi { address: u64, data: u32 },
}

/// A memory slot: what `slot` shows at `guest` from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) slot: u32,
    pub(crate) guest: u64,
    /// Nothing removes the slot.
    pub(crate) memory: Option<HostRange>,
    pub(crate) read_only: bool,
}

/// `KVM_CHECK_EXTENSION` for this VM: 0 is no.
pub(crate) fn check_extension(vm: BorrowedFd<'_>, capability: u32) -> Result<u32, Errno> {
    // SAFETY: the argument is the capability's number.
    unsafe { with_value(vm, CHECK_EXTENSION, capability as usize) }
}

/// `KVM_SET_USER_MEMORY_REGION`.
///
/// The caller keeps the memory mapped until it has removed the slot or the VM is gone.
pub(crate) fn set_memory_region(vm: BorrowedFd<'_>, slot: &Slot) -> Result<(), Errno> {
    let mut region = k::kvm_userspace_memory_region {
        slot: slot.slot,
        flags: if slot.read_only { k::KVM_MEM_READONLY } else { 0 },
        guest_phys_addr: slot.guest,
        memory_size: slot.memory.map_or(0, |memory| memory.length() as u64),
        userspace_addr: slot.memory.map_or(0, |memory| memory.address() as u64),
    };
    // SAFETY: the kernel reads the structure; the memory it names is a `HostRange`, which is made for
    // access by guests and never lies under a Rust reference.
    unsafe { with_struct(vm, SET_USER_MEMORY_REGION, &mut region) }.map(drop)
}

/// `KVM_SET_GSI_ROUTING`: replaces the whole table.
pub(crate) fn set_gsi_routing(vm: BorrowedFd<'_>, routes: &[Route]) -> Result<(), Errno> {
    let mut table = encode_routes(routes)?;
    // SAFETY: the kernel reads the header and as many entries as it names, which is what the buffer holds.
    unsafe { with_struct(vm, SET_GSI_ROUTING, table.as_mut_slice()) }.map(drop)
}

/// `KVM_IRQFD`: from now on `event` injects `gsi`; `resample` is signalled when the guest has ended it.
pub(crate) fn assign_irqfd(
    vm: BorrowedFd<'_>,
    gsi: u32,
    event: BorrowedFd<'_>,
    resample: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let flags = if resample.is_some() { k::KVM_IRQFD_FLAG_RESAMPLE } else { 0 };
    irqfd(vm, gsi, event, resample, flags)
}

/// `KVM_IRQFD` with `KVM_IRQFD_FLAG_DEASSIGN`: `event` no longer injects `gsi`.
pub(crate) fn deassign_irqfd(vm: BorrowedFd<'_>, gsi: u32, event: BorrowedFd<'_>) -> Result<(), Errno> {
    irqfd(vm, gsi, event, None, k::KVM_IRQFD_FLAG_DEASSIGN)
}

fn irqfd(
    vm: BorrowedFd<'_>,
    gsi: u32,
    event: BorrowedFd<'_>,
    resample: Option<BorrowedFd<'_>>,
    flags: u32,
) -> Result<(), Errno> {
    let mut irqfd = k::kvm_irqfd {
        fd: number(event)?,
        gsi,
        flags,
        resamplefd: resample.map_or(Ok(0), number)?,
        ..Default::default()
    };
    // SAFETY: the kernel reads the structure alone; KVM takes references of its own to the eventfds.
    unsafe { with_struct(vm, IRQFD, &mut irqfd) }.map(drop)
}

/// `KVM_CREATE_DEVICE` of kind `KVM_DEV_TYPE_VFIO`.
pub(crate) fn create_vfio_device(vm: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut device = k::kvm_create_device { type_: k::kvm_device_type_KVM_DEV_TYPE_VFIO, fd: 0, flags: 0 };
    // SAFETY: the kernel reads and writes the structure alone.
    unsafe { with_struct(vm, CREATE_DEVICE, &mut device) }?;
    let fd = i32::try_from(device.fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the request made this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `KVM_DEV_VFIO_FILE_ADD`: the VM uses this VFIO group or device.
pub(crate) fn add_vfio_file(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
    vfio_file(device, file, k::KVM_DEV_VFIO_FILE_ADD)
}

/// `KVM_DEV_VFIO_FILE_DEL`: the VM no longer uses this VFIO group or device.
pub(crate) fn remove_vfio_file(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
    vfio_file(device, file, k::KVM_DEV_VFIO_FILE_DEL)
}

fn vfio_file(device: BorrowedFd<'_>, file: BorrowedFd<'_>, attr: u32) -> Result<(), Errno> {
    let fd = file.as_raw_fd();
    let mut attribute = k::kvm_device_attr {
        flags: 0,
        group: k::KVM_DEV_VFIO_FILE,
        attr: u64::from(attr),
        addr: std::ptr::from_ref(&fd).expose_provenance() as u64,
    };
    // SAFETY: the kernel reads the structure and one int at `addr`, which is alive until the end.
    unsafe { with_struct(device, SET_DEVICE_ATTR, &mut attribute) }.map(drop)
}

/// A `kvm_irq_routing` with its entries.
fn encode_routes(routes: &[Route]) -> Result<Vec<u8>, Errno> {
    let count = u32::try_from(routes.len()).map_err(|_| Errno::EINVAL)?;
    let entry_size = size_of::<k::kvm_irq_routing_entry>();
    let mut table = Vec::with_capacity(size_of::<k::kvm_irq_routing>() + routes.len() * entry_size);
    for field in [count, 0] {
        table.extend_from_slice(&field.to_ne_bytes());
    }
    for route in routes {
        let fields = match route.target {
            RouteTarget::Irqchip { chip, pin } => [route.gsi, k::KVM_IRQ_ROUTING_IRQCHIP, 0, 0, chip, pin, 0],
            RouteTarget::Msi { address, data } => {
                let (low, high) = (address as u32, (address >> 32) as u32);
                [route.gsi, k::KVM_IRQ_ROUTING_MSI, 0, 0, low, high, data]
            }
        };
        let end = table.len() + entry_size;
        for field in fields {
            table.extend_from_slice(&field.to_ne_bytes());
        }
        table.resize(end, 0);
    }
    Ok(table)
}

fn number(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::EBADF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_48_bytes_after_a_header_of_8() {
        let routes = [
            Route { gsi: 3, target: RouteTarget::Irqchip { chip: 2, pin: 3 } },
            Route { gsi: 24, target: RouteTarget::Msi { address: 0x1_fee0_1000, data: 0x41 } },
        ];
        let table = encode_routes(&routes).unwrap();
        let words: Vec<u32> =
            table.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words.len(), 26);
        assert_eq!(words[..8], [2, 0, 3, 1, 0, 0, 2, 3]);
        assert_eq!(words[14..21], [24, 2, 0, 0, 0xfee0_1000, 1, 0x41]);
    }
}
