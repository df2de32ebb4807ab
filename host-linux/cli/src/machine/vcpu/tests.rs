//! What one processor does, by exits that are given to it.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::*;
use crate::machine::output::Output;
use crate::machine::pci::{FIRST_SLOT, PciBus, PciFunction, SlotPlan};
use crate::machine::power::Power;
use crate::machine::serial::SerialPort;

#[test]
fn a_death_explains_one_fault() {
    let mut deaths = Deaths::default();
    assert_eq!([1, 1, 2, 2].map(|dead| deaths.explain_a_fault(dead)), [true, false, true, false]);
}

#[test]
fn without_a_death_a_fault_is_not_explained() {
    assert!(!Deaths::default().explain_a_fault(0));
}

/// A function that claims every address: it counts what is read, and keeps what is written.
#[derive(Default)]
struct Counter {
    reads: Mutex<u8>,
    written: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl PciFunction for Counter {
    fn config_read(&self, _offset: u16, _data: &mut [u8]) {}

    fn config_write(&self, _offset: u16, _data: &[u8]) {}

    fn reset(&self) {}

    fn memory_read(&self, _address: u64, data: &mut [u8]) -> bool {
        let mut reads = self.reads.lock().unwrap();
        *reads += 1;
        data.fill(*reads);
        true
    }

    fn memory_write(&self, address: u64, data: &[u8]) -> bool {
        self.written.lock().unwrap().push((address, data.to_vec()));
        true
    }
}

/// What the guest is left for next.
enum Access {
    Read(u64),
    Write(u64, [u8; 8]),
    Failure(i32),
}

/// An instruction of several accesses, as KVM leaves for it. With none left it is interrupted, where it is kept out.
#[derive(Default)]
struct Instruction {
    accesses: VecDeque<Access>,
    data: [u8; 8],
    read: Vec<[u8; 8]>,
    reading: bool,
    kept_out: bool,
}

impl Instruction {
    fn of(accesses: impl IntoIterator<Item = Access>) -> Self {
        Self { accesses: accesses.into_iter().collect(), ..Self::default() }
    }
}

impl Enter for Instruction {
    fn forget_kick(&mut self) {
        self.kept_out = false;
    }

    fn keep_out(&mut self) {
        self.kept_out = true;
    }

    fn run(&mut self) -> Result<Exit<'_>, KvmErrno> {
        assert!(self.kept_out, "the guest is entered");
        if std::mem::take(&mut self.reading) {
            self.read.push(self.data);
        }
        match self.accesses.pop_front() {
            Some(Access::Read(address)) => {
                self.reading = true;
                Ok(Exit::Other(VcpuExit::MmioRead(address, &mut self.data)))
            }
            Some(Access::Write(address, data)) => {
                self.data = data;
                Ok(Exit::Other(VcpuExit::MmioWrite(address, &self.data)))
            }
            Some(Access::Failure(errno)) => Err(KvmErrno::new(errno)),
            None => Err(KvmErrno::new(Errno::INTR.raw_os_error())),
        }
    }

    fn instruction(&self) -> u64 {
        0
    }
}

fn machine() -> (Arc<Counter>, Run) {
    let (output, _writer) = Output::start(io::pipe().unwrap().1, || ()).unwrap();
    let (pci, _arrived) = PciBus::new(SlotPlan { devices: 1, hot_plug: 0 }, |_| {}).unwrap();
    let function = Arc::new(Counter::default());
    pci.put(FIRST_SLOT, function.clone());
    let (stops, _) = channel();
    let power = Arc::new(Power::new(stops.clone()));
    let bus = Arc::new(Bus::new(Arc::new(SerialPort::unwired(output).unwrap()), power, pci));
    let flag = || Arc::new(AtomicBool::new(true));
    (function, Run { bus, entering: flag(), stopping: flag(), stops })
}

fn finish(run: &Run, mut instruction: Instruction) -> (Option<Stop>, Instruction) {
    (run.finish(0, &mut instruction, &mut Exits::default()), instruction)
}

#[test]
fn the_second_half_of_a_write_of_16_bytes_reaches_the_device_at_a_pause() {
    let (function, run) = machine();
    let (stop, _) = finish(&run, Instruction::of([Access::Write(0x1008, [7; 8])]));
    assert!(stop.is_none());
    assert_eq!(*function.written.lock().unwrap(), [(0x1008, vec![7; 8])]);
}

#[test]
fn each_repetition_of_a_string_read_has_its_own_value_at_a_pause() {
    let (_function, run) = machine();
    let (stop, instruction) = finish(&run, Instruction::of([0x1000; 3].map(Access::Read)));
    assert!(stop.is_none());
    assert_eq!(instruction.read, [[1; 8], [2; 8], [3; 8]]);
}

#[test]
fn a_processor_that_fails_while_it_finishes_stops_the_machine() {
    let (_function, run) = machine();
    let (stop, _) = finish(&run, Instruction::of([Access::Failure(Errno::BADF.raw_os_error())]));
    assert!(matches!(stop, Some(Stop::Failed(VcpuError::Run { .. }))));
}
