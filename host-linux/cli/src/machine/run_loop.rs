//! One vCPU: entering the guest, and being kept out of it from another thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vfio_assign_linux::Errno;
use vfio_assign_linux::kvm::RunPage;
use vmm_sys_util::errno::Error as KvmErrno;

/// What KVM_RUN says of memory that this process cannot reach.
const FAULT: i32 = rustix::io::Errno::FAULT.raw_os_error();

/// Why the guest was left.
pub(crate) enum Exit<'a> {
    /// The guest writes items of `width` bytes to a port.
    PortWrite { port: u16, width: usize, data: &'a [u8] },
    /// The guest reads items of `width` bytes from a port.
    PortRead { port: u16, width: usize, data: &'a mut [u8] },
    /// The guest touched memory that this process has mapped but cannot reach.
    Fault,
    /// Anything else, as KVM says it; never one of those above.
    Other(VcpuExit<'a>),
}

/// What enters the guest and leaves it.
pub(crate) trait Enter {
    /// Lets the next [`Self::run`] enter the guest, unless it is told otherwise after this.
    fn forget_kick(&mut self);

    /// Lets [`Self::run`] only complete what the guest was left for: it is interrupted when that is done.
    fn keep_out(&mut self);

    /// Enters the guest until it needs something, or a kick comes.
    fn run(&mut self) -> Result<Exit<'_>, KvmErrno>;

    /// Where the guest is; 0 where that cannot be told.
    fn instruction(&self) -> u64;
}

/// A vCPU.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    own: OwnedFd,
    page: Arc<RunPage>,
}

impl Vcpu {
    /// Takes a vCPU; `own` is a descriptor of the same.
    pub(crate) fn new(fd: VcpuFd, own: OwnedFd) -> Result<Self, Errno> {
        let page = Arc::new(RunPage::map(own.as_fd())?);
        Ok(Self { fd, own, page })
    }

    /// For the calls that get and set its state.
    pub(crate) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// For the library's calls.
    pub(crate) fn own(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    /// What keeps the vCPU out of the guest, from any thread.
    pub(crate) fn page(&self) -> &Arc<RunPage> {
        &self.page
    }
}

impl Enter for Vcpu {
    fn forget_kick(&mut self) {
        self.page.set_immediate_exit(false);
    }

    fn keep_out(&mut self) {
        self.page.set_immediate_exit(true);
    }

    fn run(&mut self) -> Result<Exit<'_>, KvmErrno> {
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                Ok(Exit::PortWrite { port, width: self.page.port_item_width(), data })
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                Ok(Exit::PortRead { port, width: self.page.port_item_width(), data })
            }
            // A kernel that describes the fault as an exit, and one that only says EFAULT.
            Ok(VcpuExit::MemoryFault { .. }) => Ok(Exit::Fault),
            Err(errno) if errno.errno() == FAULT => Ok(Exit::Fault),
            Ok(other) => Ok(Exit::Other(other)),
            Err(errno) => Err(errno),
        }
    }

    fn instruction(&self) -> u64 {
        self.fd.get_regs().map_or(0, |regs| regs.rip)
    }
}
