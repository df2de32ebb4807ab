//! How long each step of an assigned device's life takes on this host, and which calls it makes:
//! `timing 0000:00:04.0`. The device needs MSI-X, and the host a free GiB of memory.

mod measure;

use std::error::Error;
use vfio_assign_linux::VmOptions;

fn main() -> Result<(), Box<dyn Error>> {
    let bdf = std::env::args().nth(1).ok_or("usage: timing SEGMENT:BUS:DEVICE.FUNCTION")?.parse()?;
    for measure::Step { name, took, calls } in measure::measure(bdf, VmOptions::default())? {
        println!("{name:<34} {:>10.3} ms  {calls:?}", took.as_secs_f64() * 1000.0);
    }
    Ok(())
}
