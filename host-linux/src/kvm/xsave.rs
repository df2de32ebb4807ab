//! What a vCPU keeps in its XSAVE area: x87, SSE, AVX and what came after them.

use super::KvmVm;
use crate::errno::Errno;
use crate::sys::xsave as sys;
use kvm_bindings::{KVM_CAP_XSAVE, KVM_CAP_XSAVE2};
use std::os::fd::BorrowedFd;

/// The part of a vCPU's state that `KVM_GET_FPU` does not have all of.
///
/// A monitor that resets a vCPU puts this back, or the next guest finds the last one's upper halves of registers.
/// It is here because the area's size is the host's, which a wrapper of KVM leaves to its caller to get right.
#[derive(Debug)]
pub struct Xsave {
    vm: KvmVm,
    area: Vec<u32>,
}

impl Xsave {
    /// The area of a vCPU of `vm`, as it is now; none on a host without XSAVE, where `KVM_GET_FPU` has everything.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn capture(vm: &KvmVm, vcpu: BorrowedFd<'_>) -> Result<Option<Self>, Errno> {
        if vm.limit(KVM_CAP_XSAVE)? == 0 {
            return Ok(None);
        }
        let grown = vm.limit(KVM_CAP_XSAVE2)?;
        let mut area = vec![0; words(grown)];
        sys::get_xsave(vcpu, &mut area, grown != 0)?;
        Ok(Some(Self { vm: vm.clone(), area }))
    }

    /// An area that was [kept](Self::words), for a vCPU of `vm`.
    pub fn from_words(vm: &KvmVm, words: Vec<u32>) -> Self {
        Self { vm: vm.clone(), area: words }
    }

    /// The area, to be kept.
    pub fn words(&self) -> &[u32] {
        &self.area
    }

    /// Puts the area back into a vCPU of the same VM.
    ///
    /// # Errors
    ///
    /// What the kernel said; `E2BIG` where this process has asked for more state for its guests meanwhile.
    pub fn restore(&self, vcpu: BorrowedFd<'_>) -> Result<(), Errno> {
        // The kernel reads as much as its guests may have by now.
        if words(self.vm.limit(KVM_CAP_XSAVE2)?) > self.area.len() {
            return Err(Errno::E2BIG);
        }
        sys::set_xsave(vcpu, &self.area)
    }
}

/// The area's size in words, of what `KVM_CAP_XSAVE2` says in bytes; 0 on kernels that know one size only.
fn words(bytes: u32) -> usize {
    (bytes as usize).div_ceil(size_of::<u32>()).max(sys::LEAST_XSAVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn area_has_the_size_that_the_host_says() {
        assert_eq!(words(11_008), 2752);
    }

    #[test]
    fn area_is_never_less_than_a_page() {
        assert_eq!((words(0), words(2696)), (1024, 1024));
    }
}
