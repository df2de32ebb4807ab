//! Access to a device's registers that survives the device: one instruction for each width, and the signal handler
//! that knows those instructions.
//!
//! A register whose device is gone, or does not decode, raises SIGBUS where it is accessed. The handler looks at one
//! thing: whether the instruction that faulted is one of ours. Each of ours is the first of a function without a
//! prologue, so its address is the function's; the handler lets the function return from there by another way. Any
//! other fault goes to whoever handled the signal before.

use crate::errno::Errno;
use libc::{SIG_DFL, SIG_IGN, SIGBUS, c_int, c_void, sigaction, siginfo_t, ucontext_t};
use std::mem::{MaybeUninit, transmute};
use std::ptr::{NonNull, null, null_mut};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The device did not answer: the access raised SIGBUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault;

/// How an access went, in two registers of the calling convention.
#[repr(C)]
struct Answer {
    value: u64,
    faulted: u64,
}

type Load = unsafe extern "C" fn(*const u8) -> Answer;
type Store = unsafe extern "C" fn(*mut u8, u64) -> Answer;

/// A function whose first instruction is the access, and which then returns.
macro_rules! access {
    ($($name:ident($($argument:ident: $type:ty),*): $first:literal $(, $then:literal)*;)*) => {$(
        #[unsafe(naked)]
        unsafe extern "C" fn $name($($argument: $type),*) -> Answer {
            std::arch::naked_asm!($first $(, $then)*)
        }
    )*};
}

#[cfg(target_arch = "x86_64")]
access! {
    load_1(register: *const u8): "movzx eax, byte ptr [rdi]", "xor edx, edx", "ret";
    load_2(register: *const u8): "movzx eax, word ptr [rdi]", "xor edx, edx", "ret";
    load_4(register: *const u8): "mov eax, dword ptr [rdi]", "xor edx, edx", "ret";
    load_8(register: *const u8): "mov rax, qword ptr [rdi]", "xor edx, edx", "ret";
    store_1(register: *mut u8, value: u64): "mov byte ptr [rdi], sil", "xor edx, edx", "ret";
    store_2(register: *mut u8, value: u64): "mov word ptr [rdi], si", "xor edx, edx", "ret";
    store_4(register: *mut u8, value: u64): "mov dword ptr [rdi], esi", "xor edx, edx", "ret";
    store_8(register: *mut u8, value: u64): "mov qword ptr [rdi], rsi", "xor edx, edx", "ret";
    // Where the others go on after a fault.
    faulted(): "mov edx, 1", "ret";
}

#[cfg(target_arch = "aarch64")]
access! {
    load_1(register: *const u8): "ldrb w0, [x0]", "mov x1, xzr", "ret";
    load_2(register: *const u8): "ldrh w0, [x0]", "mov x1, xzr", "ret";
    load_4(register: *const u8): "ldr w0, [x0]", "mov x1, xzr", "ret";
    load_8(register: *const u8): "ldr x0, [x0]", "mov x1, xzr", "ret";
    store_1(register: *mut u8, value: u64): "strb w1, [x0]", "mov x1, xzr", "ret";
    store_2(register: *mut u8, value: u64): "strh w1, [x0]", "mov x1, xzr", "ret";
    store_4(register: *mut u8, value: u64): "str w1, [x0]", "mov x1, xzr", "ret";
    store_8(register: *mut u8, value: u64): "str x1, [x0]", "mov x1, xzr", "ret";
    // Where the others go on after a fault.
    faulted(): "mov x1, #1", "ret";
}

const LOADS: [Load; 4] = [load_1, load_2, load_4, load_8];
const STORES: [Store; 4] = [store_1, store_2, store_4, store_8];

/// Reads `width` bytes, 1, 2, 4 or 8, as one access; a width that is none of these is read as 8.
///
/// # Safety
///
/// The register is mapped for reading and aligned for the width. It may fault if [`install`] has succeeded.
#[inline]
pub(super) unsafe fn load(register: NonNull<u8>, width: usize) -> Result<u64, Fault> {
    let load = LOADS[by_width(width)];
    // SAFETY: the caller vouches for the register; the function keeps to the calling convention, faulted or not.
    let answer = unsafe { load(register.as_ptr()) };
    if answer.faulted == 0 { Ok(answer.value) } else { Err(Fault) }
}

/// Writes the low `width` bytes, 1, 2, 4 or 8, as one access; a width that is none of these writes 8.
///
/// # Safety
///
/// The register is mapped for writing and aligned for the width. It may fault if [`install`] has succeeded.
#[inline]
pub(super) unsafe fn store(register: NonNull<u8>, width: usize, value: u64) -> Result<(), Fault> {
    let store = STORES[by_width(width)];
    // SAFETY: as in `load`.
    let answer = unsafe { store(register.as_ptr(), value) };
    if answer.faulted == 0 { Ok(()) } else { Err(Fault) }
}

#[inline]
fn by_width(width: usize) -> usize {
    match width {
        1 => 0,
        2 => 1,
        4 => 2,
        _ => 3,
    }
}

/// Whoever handled SIGBUS before us: set once, before our handler can run.
static FORMER: OnceLock<sigaction> = OnceLock::new();

/// Handles this process's SIGBUS from now on; a second time does nothing.
pub(crate) fn install() -> Result<(), Errno> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _installing = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if FORMER.get().is_some() {
        return Ok(());
    }
    let former = set_action(None)?;
    let mut ours = former;
    // On the alternate stack: the former handler may be Rust's, which tells of stacks that have overflowed.
    ours.sa_flags =
        (former.sa_flags & (libc::SA_NODEFER | libc::SA_RESTART)) | libc::SA_SIGINFO | libc::SA_ONSTACK;
    ours.sa_sigaction = handle as *const () as usize;
    FORMER.get_or_init(|| former);
    set_action(Some(&ours)).map(drop)
}

/// Sets what SIGBUS does, if anything is given; gives what it did.
fn set_action(action: Option<&sigaction>) -> Result<sigaction, Errno> {
    let mut former = MaybeUninit::zeroed();
    // SAFETY: both structures are of the size that the call knows; the handler, if one is set, is `handle` or one that
    // was set before, and `handle` does only what a signal handler may.
    let result =
        unsafe { libc::sigaction(SIGBUS, action.map_or(null(), std::ptr::from_ref), former.as_mut_ptr()) };
    if result != 0 {
        return Err(Errno::of(&std::io::Error::last_os_error()).unwrap_or(Errno::EINVAL));
    }
    // SAFETY: the call has filled it in.
    Ok(unsafe { former.assume_init() })
}

/// The handler. It may run between any two instructions of the thread, and does nothing but look at its arguments and
/// call the former one.
extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(mut context) = NonNull::new(context.cast::<ucontext_t>()) else {
        return pass_on(signal, info, null_mut());
    };
    // SAFETY: with SA_SIGINFO the kernel gives the interrupted thread's context, which is ours until we return.
    let counter = program_counter(unsafe { context.as_mut() });
    let here = *counter as *const ();
    let loads = LOADS.map(|load| load as *const ());
    let stores = STORES.map(|store| store as *const ());
    if loads.contains(&here) || stores.contains(&here) {
        // The function has touched no register and no stack: it returns from here as it would from its end.
        *counter = faulted as *const () as _;
    } else {
        pass_on(signal, info, context.as_ptr().cast());
    }
}

#[cfg(target_arch = "x86_64")]
fn program_counter(context: &mut ucontext_t) -> &mut libc::greg_t {
    &mut context.uc_mcontext.gregs[libc::REG_RIP as usize]
}

#[cfg(target_arch = "aarch64")]
fn program_counter(context: &mut ucontext_t) -> &mut u64 {
    &mut context.uc_mcontext.pc
}

/// The signal is none of ours: what would have happened without us happens.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(former) = FORMER.get() else {
        return;
    };
    // SAFETY: the kernel gives it, or it is null.
    let code = unsafe { info.as_ref() }.map_or(0, |info| info.si_code);
    // A fault comes again when we return, and the kernel lets nobody ignore one; what a process has sent does not.
    let is_fault = code > 0;
    match former.sa_sigaction {
        SIG_IGN if !is_fault => {}
        SIG_DFL | SIG_IGN => {
            let mut default = *former;
            default.sa_sigaction = SIG_DFL;
            let set = set_action(Some(&default));
            if set.is_err() || !is_fault {
                // SAFETY: it takes a number; the signal comes when we return.
                unsafe { libc::raise(signal) };
            }
        }
        handler if former.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: with SA_SIGINFO that is what a handler is, and it was set as one.
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without SA_SIGINFO that is what a handler is, and it was set as one.
            let handler: extern "C" fn(c_int) = unsafe { transmute(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests;
