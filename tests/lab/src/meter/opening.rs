//! Several devices opened for one virtual machine: one, all at once by as many threads, and one after the other.

use crate::sample;
use std::error::Error;
use std::thread;
use std::time::Instant;
use vfio_assign_core::Bdf;
use vfio_assign_linux::{Device, Host, OpenError, Vm, VmOptions};

/// In each way, by turns.
pub(crate) fn measure(devices: &[Bdf], rounds: u32) -> Result<(), Box<dyn Error>> {
    let vm = || Vm::new(Host::linux(), VmOptions::default());
    for _ in 0..rounds {
        timed("open_one", || vm().open(devices[0]))?;
        timed("open_parallel", || {
            let vm = vm();
            thread::scope(|scope| {
                let opening: Vec<_> = devices.iter().map(|bdf| scope.spawn(|| vm.open(*bdf))).collect();
                let opened = opening.into_iter().map(|thread| thread.join().expect("it does not panic"));
                opened.collect::<Result<Vec<Device>, OpenError>>()
            })
        })?;
        timed("open_serial", || {
            let vm = vm();
            devices.iter().map(|bdf| vm.open(*bdf)).collect::<Result<Vec<Device>, OpenError>>()
        })?;
    }
    Ok(())
}

/// What is opened is closed outside the time.
fn timed<T>(key: &str, open: impl FnOnce() -> Result<T, OpenError>) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let opened = open()?;
    sample(key, started.elapsed().as_nanos() as f64);
    drop(opened);
    Ok(())
}
