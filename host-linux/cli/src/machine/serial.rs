//! The first serial port: the guest's console. Output goes to a thread that writes it, input waits for room.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, SerialState, Trigger};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::event::Event;
use super::layout::SERIAL_GSI;
use super::output::Output;
use super::vm::{KvmCall as _, VmError};

/// The register that output is written to.
const DATA: u8 = 0;

/// The port's registers and what the guest has not read yet, in a file.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedSerial {
    divisor: [u8; 2],
    interrupts: [u8; 2],
    line: [u8; 2],
    modem: [u8; 2],
    scratch: u8,
    input: Vec<u8>,
}

type Uart = Serial<InterruptLine, Arc<Drained>, Output>;

/// The port.
pub(crate) struct SerialPort {
    uart: Mutex<Uart>,
    line: Arc<EventFd>,
    drained: Arc<Drained>,
    output: Output,
    /// Output was lost, and that was told.
    lost: Once,
}

impl SerialPort {
    /// A port on its interrupt line of `vm` that writes to `output`.
    pub(crate) fn new(vm: &VmFd, output: Output) -> Result<Self, VmError> {
        let port =
            Self::unwired(output).map_err(|source| VmError::Event { what: "the serial port", source })?;
        vm.register_irqfd(&port.line, SERIAL_GSI).during("KVM_IRQFD")?;
        Ok(port)
    }

    /// A port that interrupts no machine.
    pub(super) fn unwired(output: Output) -> io::Result<Self> {
        let line = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let drained = Arc::new(Drained(Event::new()?));
        let uart = Mutex::new(uart(&line, &drained, &output));
        Ok(Self { uart, line, drained, output, lost: Once::new() })
    }

    /// A port as it is when the machine is turned on.
    pub(crate) fn reset(&self) {
        *self.uart() = uart(&self.line, &self.drained, &self.output);
        self.drained.in_buffer_empty();
    }

    /// All that the guest can see of the port.
    pub(crate) fn save(&self) -> SavedSerial {
        let state = self.uart().state();
        SavedSerial {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupts: [state.interrupt_enable, state.interrupt_identification],
            line: [state.line_control, state.line_status],
            modem: [state.modem_control, state.modem_status],
            scratch: state.scratch,
            input: state.in_buffer,
        }
    }

    /// The port becomes what was saved.
    pub(crate) fn restore(&self, saved: SavedSerial) -> io::Result<()> {
        let SavedSerial { divisor, interrupts, line, modem, scratch, input } = saved;
        let state = SerialState {
            baud_divisor_low: divisor[0],
            baud_divisor_high: divisor[1],
            interrupt_enable: interrupts[0],
            interrupt_identification: interrupts[1],
            line_control: line[0],
            line_status: line[1],
            modem_control: modem[0],
            modem_status: modem[1],
            scratch,
            in_buffer: input,
        };
        let line = InterruptLine(Arc::clone(&self.line));
        let uart = Serial::from_state(&state, line, Arc::clone(&self.drained), self.output.clone());
        *self.uart() = uart.map_err(|error| io::Error::other(error.to_string()))?;
        Ok(())
    }

    /// Reads a register.
    pub(crate) fn read(&self, offset: u8) -> u8 {
        self.uart().read(offset)
    }

    /// Writes a register; waits first where a byte of output finds no room.
    pub(crate) fn write(&self, offset: u8, value: u8) {
        if offset == DATA {
            // Without the lock: input goes on, and with it the keys that leave.
            self.output.wait_for_room();
        }
        if let Err(error) = self.uart().write(offset, value) {
            // A guest may have it happen for ever.
            self.lost.call_once(|| log::debug!("the serial port lost a byte, and others may be: {error}"));
        }
    }

    /// Nobody waits for the output any more; see [`Output::abandon`].
    pub(crate) fn abandon_output(&self) {
        self.output.abandon();
    }

    /// Gives input to the guest and says how many bytes it took: none while its buffer is full.
    pub(crate) fn enqueue(&self, input: &[u8]) -> usize {
        let mut uart = self.uart();
        if uart.fifo_capacity() == 0 { 0 } else { uart.enqueue_raw_bytes(input).unwrap_or(0) }
    }

    /// Becomes readable when the guest has read all input.
    pub(crate) fn drained(&self) -> &Event {
        &self.drained.0
    }

    fn uart(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn uart(line: &Arc<EventFd>, drained: &Arc<Drained>, output: &Output) -> Uart {
    Serial::with_events(InterruptLine(Arc::clone(line)), Arc::clone(drained), output.clone())
}

/// The interrupt line: an edge for each write.
struct InterruptLine(Arc<EventFd>);

impl Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        match self.0.write(1) {
            // A counter at its maximum is as good as raised.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }
}

/// Tells the thread that reads the terminal that there is room again.
struct Drained(Event);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.0.raise();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::output::tests::stalled;

    #[test]
    fn a_guest_that_waits_for_room_does_not_keep_input_out() {
        let (_reader, output, _thread) = stalled();
        let port = SerialPort::unwired(output.clone()).unwrap();
        let (enqueued, _) = std::thread::scope(|scope| {
            let guest = scope.spawn(|| port.write(DATA, b'z'));
            while !output.has_waiter() {
                std::thread::yield_now();
            }
            let enqueued = port.enqueue(b"x");
            port.abandon_output();
            (enqueued, guest.join().unwrap())
        });
        assert_eq!(enqueued, 1);
    }
}
