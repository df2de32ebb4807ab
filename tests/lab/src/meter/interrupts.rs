//! An interrupt's way from its event to the guest's handler and out of the guest again: through KVM's irqfd, and through
//! a thread of the monitor that reads the event and asks KVM for the message. The guest sleeps before each.

use crate::counting::{INTERRUPT, count, run, signal, tell_to_leave};
use crate::machine::Machine;
use crate::{must, sample};
use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use rustix::event::{EventfdFlags, eventfd};
use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};
use vfio_assign_core::VectorIndex;
use vfio_assign_core::host::Message;
use vfio_assign_linux::{EventFd, GuestMemory, GuestSide};

const SIGNALS: u32 = 200;
const ADDRESS: u32 = 0xfee0_0000;
/// How long nobody does anything, so that every thread sleeps.
const QUIET: Duration = Duration::from_millis(1);
/// A count of signals that ends the relay.
const LAST: u64 = 1 << 32;

/// Both ways, by turns, in one guest.
pub(crate) fn measure(rounds: u32) -> Result<(), Box<dyn Error>> {
    let Machine { processor, mut side, memory, vm, slot: _slot } = Machine::new()?;
    let vector = VectorIndex::new(0).ok_or("no vector 0")?;
    let event = EventFd::new()?;
    side.route(vector, Message { address: u64::from(ADDRESS), data: INTERRUPT })?;
    side.commit_routes()?;
    // Blocking, for the thread that waits for it.
    let relayed = eventfd(0, EventfdFlags::CLOEXEC)?;
    tell_to_leave(&memory);
    let (left, leaves) = channel();
    thread::scope(|scope| {
        let guest = scope.spawn(|| run(processor, move || left.send(Instant::now()).is_err()));
        let relay = scope.spawn(|| relay(&relayed, &vm));
        let mut turns = || -> Result<(), Box<dyn Error>> {
            for _ in 0..rounds {
                side.arm(vector, &event)?;
                latencies("interrupt_irqfd", &memory, &leaves, || Ok(event.signal()?))?;
                side.disarm(vector, &event)?;
                latencies("interrupt_relayed", &memory, &leaves, || {
                    signal(&relayed);
                    Ok(())
                })?;
            }
            Ok(())
        };
        let measured = turns();
        // The guest leaves once more, and finds nobody who wants to know.
        drop(leaves);
        signal(&relayed);
        guest.join().map_err(|_| "the guest's thread has panicked")?;
        rustix::io::write(&relayed, &LAST.to_ne_bytes())?;
        relay.join().map_err(|_| "the relay has panicked")??;
        measured
    })
}

fn relay(relayed: impl AsFd, vm: &VmFd) -> io::Result<()> {
    let mut signals = [0; 8];
    loop {
        rustix::io::read(relayed.as_fd(), &mut signals)?;
        if u64::from_ne_bytes(signals) >= LAST {
            return Ok(());
        }
        let message = kvm_msi { address_lo: ADDRESS, data: INTERRUPT, ..Default::default() };
        vm.signal_msi(message).map_err(|errno| io::Error::from_raw_os_error(errno.errno()))?;
    }
}

/// The median of many signals.
fn latencies(
    key: &str,
    memory: &GuestMemory,
    leaves: &Receiver<Instant>,
    mut send: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut times = Vec::new();
    let before = count(memory);
    for _ in 0..SIGNALS {
        thread::sleep(QUIET);
        let started = Instant::now();
        send()?;
        times.push((leaves.recv()? - started).as_nanos() as f64);
    }
    must("each signal runs the handler once", count(memory) - before == SIGNALS)?;
    times.sort_by(f64::total_cmp);
    sample(key, times[times.len() / 2]);
    Ok(())
}
