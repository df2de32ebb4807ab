//! An interrupt's way from its event to the guest's handler: through KVM's irqfd, and through a thread of the monitor
//! that reads the event and asks KVM for the message.

use crate::counting::{INTERRUPT, count, leave, reached, run, signal};
use crate::machine::Machine;
use crate::{must, sample};
use kvm_bindings::kvm_msi;
use std::error::Error;
use std::os::fd::AsFd;
use std::thread;
use std::time::Instant;
use vfio_assign_core::VectorIndex;
use vfio_assign_core::host::Message;
use vfio_assign_linux::kvm::KvmGuest;
use vfio_assign_linux::{EventFd, GuestMemory, GuestSide};

const SIGNALS: u32 = 400;
const ADDRESS: u32 = 0xfee0_0000;

/// Both ways, by turns, in one guest.
pub(crate) fn measure(rounds: u32) -> Result<(), Box<dyn Error>> {
    let Machine { processor, mut side, memory, vm, slot: _slot } = Machine::new()?;
    let vector = VectorIndex::new(0).ok_or("no vector 0")?;
    let event = EventFd::new()?;
    side.route(vector, Message { address: u64::from(ADDRESS), data: INTERRUPT })?;
    side.commit_routes()?;
    // Blocking, for the thread that waits for it.
    let relayed = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    thread::scope(|scope| {
        let guest = scope.spawn(|| run(processor));
        let relay = scope.spawn(|| relay(&relayed, &vm));
        let measured = by_turns(rounds, &memory, &mut side, vector, &event, &relayed);
        // The guest may be asleep, and the relay is.
        leave(&memory, &relayed);
        guest.join().map_err(|_| "the guest's thread has panicked")?;
        rustix::io::write(&relayed, &LAST.to_ne_bytes())?;
        relay.join().map_err(|_| "the relay has panicked")??;
        measured
    })
}

/// A count of signals that ends the relay.
const LAST: u64 = 1 << 32;

fn relay(relayed: impl AsFd, vm: &kvm_ioctls::VmFd) -> Result<(), std::io::Error> {
    let mut signals = [0; 8];
    loop {
        rustix::io::read(relayed.as_fd(), &mut signals)?;
        if u64::from_ne_bytes(signals) >= LAST {
            return Ok(());
        }
        vm.signal_msi(kvm_msi { address_lo: ADDRESS, data: INTERRUPT, ..Default::default() })
            .map_err(|errno| std::io::Error::from_raw_os_error(errno.errno()))?;
    }
}

fn by_turns(
    rounds: u32,
    memory: &GuestMemory,
    side: &mut KvmGuest,
    vector: VectorIndex,
    event: &EventFd,
    relayed: impl AsFd,
) -> Result<(), Box<dyn Error>> {
    for _ in 0..rounds {
        side.arm(vector, event)?;
        latencies("interrupt_irqfd", memory, || Ok(event.signal()?))?;
        side.disarm(vector, event)?;
        latencies("interrupt_relayed", memory, || {
            signal(relayed.as_fd());
            Ok(())
        })?;
    }
    Ok(())
}

/// The median of many signals, each sent when the handler has run for the one before.
fn latencies(
    key: &str,
    memory: &GuestMemory,
    mut send: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..SIGNALS {
        let next = count(memory) + 1;
        let started = Instant::now();
        send()?;
        let seen = reached(memory, next);
        times.push(started.elapsed().as_nanos() as f64);
        must("each signal runs the handler once", seen == next)?;
    }
    times.sort_by(f64::total_cmp);
    sample(key, times[times.len() / 2]);
    Ok(())
}
