//! A register that the guest has to leave guest mode for: by the library, through its mapping and through the kernel,
//! and by nothing but the access itself.

use crate::bare::Bare;
use crate::machine::Machine;
use crate::{each, must};
use std::error::Error;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use vfio_assign_core::{Bdf, GuestAddr};
use vfio_assign_linux::{AssignOptions, Assigned, FaultHandler, Host, RegisterPath, Vm, VmOptions};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// Where the guest places the first BAR.
const BAR: u64 = 0xd000_0000;
/// NVMe's Version, which is the same at any time; a write to it does nothing.
const REGISTER: u64 = 8;
const ACCESSES: u32 = 4000;
const COMMAND: u32 = 4;
const DECODE: [u8; 2] = [2, 0];
/// The region of configuration space.
const CONFIG: u32 = 7;

/// All ways, by turns.
pub(crate) fn measure(bdf: Bdf, rounds: u32) -> Result<(), Box<dyn Error>> {
    let fault_handler = FaultHandler::install()?;
    for _ in 0..rounds {
        bare(bdf)?;
        library(bdf, "kernel", RegisterPath::Kernel)?;
        library(bdf, "mapping", RegisterPath::Mapping(fault_handler))?;
    }
    Ok(())
}

/// As a monitor does it at the end of an exit.
fn library(bdf: Bdf, name: &str, registers: RegisterPath) -> Result<(), Box<dyn Error>> {
    let device = Vm::new(Host::linux(), VmOptions::default()).open(bdf)?;
    let options = AssignOptions { registers, ..AssignOptions::default() };
    let device = Assigned::new(device, Machine::new()?.side, &options)?;
    device.config_write(0x10, &BAR.to_le_bytes());
    device.config_write(COMMAND, &DECODE);
    let register = GuestAddr::new(BAR + REGISTER);
    let mut value = [0; 4];
    each(&format!("read_{name}"), ACCESSES, || {
        must("the address is the device's", device.memory_read(register, &mut value))
    })?;
    each(&format!("write_{name}"), ACCESSES, || {
        must("the address is the device's", device.memory_write(register, &value))
    })?;
    must("the register has a value", value != [0; 4] && value != [0xff; 4])
}

fn bare(bdf: Bdf) -> Result<(), Box<dyn Error>> {
    let bare = Bare::open(bdf)?;
    let ((config, _), (at, _)) = (bare.region(CONFIG)?, bare.region(0)?);
    let device = bare.device();
    device.write_all_at(&DECODE, config + u64::from(COMMAND))?;
    let mut value = [0; 4];
    each("read_call", ACCESSES, || Ok(device.read_exact_at(&mut value, at + REGISTER)?))?;
    each("write_call", ACCESSES, || Ok(device.write_all_at(&value, at + REGISTER)?))?;
    let page = MmapRegion::<()>::from_file(FileOffset::new(device.try_clone()?, at), 4096)?;
    let register = page.get_atomic_ref::<AtomicU32>(REGISTER as usize)?;
    each("read_load", ACCESSES, || {
        black_box(register.load(Ordering::Relaxed));
        Ok(())
    })?;
    let version = u32::from_le_bytes(value);
    each("write_store", ACCESSES, || {
        register.store(version, Ordering::Relaxed);
        Ok(())
    })?;
    must("both ways read the same", register.load(Ordering::Relaxed) == version)
}
