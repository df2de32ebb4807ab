//! What a program without an operating system needs, and the panic handler that must not be needed.
#![expect(unsafe_code, reason = "a symbol that nobody defines, and symbols that linkers look for by name")]

use core::panic::PanicInfo;

unsafe extern "C" {
    /// Defined nowhere: a reference that is left is an error of the linker's that names it.
    safe fn vfio_assign_core_can_panic() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    vfio_assign_core_can_panic()
}

/// The entry. It is linked, never run.
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    super::functions::all();
    #[cfg(feature = "control-index")]
    indexes(core::hint::black_box(&[1, 2, 3]));
    loop {
        core::hint::spin_loop();
    }
}

/// The precompiled `core` refers to it. Without it every link fails, whatever panics or does not.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The check of the check: an index that may be out of bounds.
#[cfg(feature = "control-index")]
fn indexes(values: &[u32]) {
    let index = core::hint::black_box(5usize);
    core::hint::black_box(values[index]);
}

#[cfg(feature = "control-std")]
use log as _;
