//! KVM's requests on a vCPU's file descriptor for its XSAVE area, which processors of other architectures do not have.
//!
//! Linux `include/uapi/linux/kvm.h` and `Documentation/virt/kvm/api.rst`.

use super::ioctl::with_struct;
use super::kvm::KVMIO;
use crate::errno::Errno;
use kvm_bindings as k;
use rustix::ioctl::{Opcode, opcode};
use std::os::fd::BorrowedFd;

const GET_XSAVE: Opcode = opcode::read::<k::kvm_xsave>(KVMIO, 0xa4);
const SET_XSAVE: Opcode = opcode::write::<k::kvm_xsave>(KVMIO, 0xa5);
const GET_XSAVE2: Opcode = opcode::read::<k::kvm_xsave>(KVMIO, 0xcf);

/// The words that every XSAVE area has, and the only ones that `KVM_GET_XSAVE` writes.
pub(crate) const LEAST_XSAVE: usize = size_of::<k::kvm_xsave>() / size_of::<u32>();

/// `KVM_GET_XSAVE`, or `KVM_GET_XSAVE2` where the kernel has it, which is then to be `grown`.
///
/// `area` has the size that `KVM_CAP_XSAVE2` says, and `LEAST_XSAVE` words at least.
pub(crate) fn get_xsave(vcpu: BorrowedFd<'_>, area: &mut [u32], grown: bool) -> Result<(), Errno> {
    check_xsave(area)?;
    // SAFETY: the kernel writes words: the first of those, or as many as the capability says, which the caller
    // has asked for; it does not change while no other state is asked for with `arch_prctl`, which needs unsafe
    // code itself.
    unsafe { with_struct(vcpu, if grown { GET_XSAVE2 } else { GET_XSAVE }, area) }.map(drop)
}

/// `KVM_SET_XSAVE`. `area` as for [`get_xsave`].
pub(crate) fn set_xsave(vcpu: BorrowedFd<'_>, area: &[u32]) -> Result<(), Errno> {
    check_xsave(area)?;
    let mut area = area.to_vec();
    // SAFETY: as above; the kernel only reads.
    unsafe { with_struct(vcpu, SET_XSAVE, area.as_mut_slice()) }.map(drop)
}

fn check_xsave(area: &[u32]) -> Result<(), Errno> {
    if area.len() < LEAST_XSAVE { Err(Errno::EINVAL) } else { Ok(()) }
}
