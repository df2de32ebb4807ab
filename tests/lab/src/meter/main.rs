//! What the host path costs, on real VFIO and KVM: `meter WORK ROUNDS DEVICE...`, in L1.
//!
//! Each sample is a line, `sample KEY VALUE`, in nanoseconds; what was expected and is not so ends it with an error.

mod bare;
#[path = "../../../../host-linux/tests/real_kernel/counting.rs"]
mod counting;
mod interrupts;
mod machine;
mod memory;
mod opening;
mod registers;
mod vectors;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;
use vfio_assign_core::Bdf;

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let work = words.next().unwrap_or_default();
    let rounds = words.next().unwrap_or_default().parse()?;
    let devices = words.map(|word| word.parse()).collect::<Result<Vec<Bdf>, _>>()?;
    let &[first, ..] = devices.as_slice() else { return Err("no device is named".into()) };
    if let Some(mib) = work.strip_prefix("memory-") {
        return memory::measure(first, rounds, mib.parse()?);
    }
    match work.as_str() {
        "registers" => registers::measure(first, rounds),
        "interrupts" => interrupts::measure(rounds),
        "vectors" => vectors::measure(first, rounds),
        "opening" => opening::measure(&devices, rounds),
        _ => Err(format!("there is no work called '{work}'").into()),
    }
}

/// Says how long something took.
fn sample(key: &str, nanoseconds: f64) {
    println!("sample {key} {nanoseconds:.1}");
}

/// Does something this often, and says how long each took in the mean.
fn each(
    key: &str,
    times: u32,
    mut work: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    for _ in 0..times {
        work()?;
    }
    sample(key, started.elapsed().as_nanos() as f64 / f64::from(times));
    Ok(())
}

/// Without this a measurement means nothing.
fn must(what: &'static str, so: bool) -> Result<(), Box<dyn Error>> {
    if so { Ok(()) } else { Err(format!("it is not so that {what}").into()) }
}
