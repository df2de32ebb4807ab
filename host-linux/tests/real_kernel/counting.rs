//! A guest that counts its interrupts: one processor in real mode, and a page of code. The tests against a real kernel
//! and the lab's meter run it.

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use vfio_assign_linux::GuestMemory;

/// How much memory it needs, from address 0 on.
pub(crate) const RAM: u64 = 0x1_0000;

/// The guest's interrupt vector, and where real mode looks for its handler.
pub(crate) const INTERRUPT: u32 = 0x41;
const HANDLER_POINTER: u64 = INTERRUPT as u64 * 4;
const MAIN: u64 = 0x1000;
const HANDLER: u16 = 0x1100;
/// How often the handler ran.
const COUNT: u64 = 0x2000;
/// Anything but zero has the guest leave after each interrupt.
const LEAVE: u64 = 0x2004;
const STACK: u64 = 0x8000;

/// `again: sti; hlt; cmp byte [LEAVE], 0; je again; out 0x10, al; jmp again`
const MAIN_CODE: [u8; 13] = [0xfb, 0xf4, 0x80, 0x3e, 0x04, 0x20, 0, 0x74, 0xf7, 0xe6, 0x10, 0xeb, 0xf3];
/// `inc dword [COUNT]; mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr; iret`: the x2APIC's End Of Interrupt.
const HANDLER_CODE: [u8; 20] = [
    0x66, 0xff, 0x06, 0x00, 0x20, 0x66, 0xb9, 0x0b, 0x08, 0, 0, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f,
    0x30, 0xcf,
];

/// A machine with its interrupt controllers, and a descriptor of it.
pub(crate) fn machine_of(kvm: &Kvm) -> (VmFd, OwnedFd) {
    let vm = kvm.create_vm().expect("KVM makes a machine");
    vm.set_tss_address(0xfffb_d000).expect("KVM takes its task state's place");
    vm.create_irq_chip().expect("KVM makes interrupt controllers");
    let this = pidfd_open(getpid(), PidfdFlags::empty()).expect("this process exists");
    let own = pidfd_getfd(this, vm.as_raw_fd(), PidfdGetfdFlags::empty()).expect("the machine's file");
    (vm, own)
}

/// Puts the guest's code into its memory.
pub(crate) fn place_code(memory: &GuestMemory) {
    let [low, high] = HANDLER.to_le_bytes();
    for (place, bytes) in
        [(HANDLER_POINTER, &[low, high, 0, 0][..]), (MAIN, &MAIN_CODE), (u64::from(HANDLER), &HANDLER_CODE)]
    {
        memory.write(place, bytes).expect("it is inside");
    }
}

/// A processor in real mode, at the guest's first instruction, its local APIC on.
pub(crate) fn processor(kvm: &Kvm, vm: &VmFd) -> VcpuFd {
    let processor = vm.create_vcpu(0).expect("KVM makes a processor");
    let features =
        kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).expect("KVM tells its features");
    processor.set_cpuid2(&features).expect("KVM takes its own features");
    let mut system = processor.get_sregs().expect("KVM tells registers");
    for segment in [&mut system.cs, &mut system.ds, &mut system.ss] {
        (segment.base, segment.selector) = (0, 0);
    }
    // x2APIC mode, in which the handler reaches it without paging or large segments.
    system.apic_base = 0xfee0_0d00;
    processor.set_sregs(&system).expect("KVM takes registers");
    let mut registers = processor.get_regs().expect("KVM tells registers");
    (registers.rip, registers.rsp, registers.rflags) = (MAIN, STACK, 2);
    processor.set_regs(&registers).expect("KVM takes registers");
    let mut apic = processor.get_lapic().expect("KVM tells the local APIC");
    // Spurious Interrupt Vector Register, APIC Software Enable: Intel SDM volume 3, 11.9.
    (apic.regs[0xf0], apic.regs[0xf1]) = (-1, 1);
    processor.set_lapic(&apic).expect("KVM takes the local APIC");
    processor
}

/// Runs until the guest leaves, and that is to be the end.
pub(crate) fn run(mut processor: VcpuFd, mut is_the_end: impl FnMut() -> bool) {
    loop {
        match processor.run() {
            Ok(VcpuExit::IoOut(..)) if is_the_end() => return,
            Ok(VcpuExit::IoOut(..)) => {}
            Ok(VcpuExit::Intr) => {}
            Ok(other) => panic!("the guest does what it was not told to: {other:?}"),
            Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => {}
            Err(error) => panic!("KVM does not run the guest: {error}"),
        }
    }
}

/// How often the handler has run.
pub(crate) fn count(memory: &GuestMemory) -> u32 {
    // A whole word, which is read at once: between two bytes the handler may run.
    let mut word = [0; 8];
    memory.read(COUNT, &mut word).expect("it is inside");
    u64::from_le_bytes(word) as u32
}

/// Signals an event, as the device's interrupt would.
pub(crate) fn signal(event: impl AsFd) {
    rustix::io::write(event, &1u64.to_ne_bytes()).expect("eventfds can be written");
}

/// Has the guest leave after each interrupt. One that has not looked since its last leaves without another.
pub(crate) fn tell_to_leave(memory: &GuestMemory) {
    memory.write(LEAVE, &[1]).expect("it is inside");
}
