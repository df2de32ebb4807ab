//! F1 to F7: every offset of configuration space with every length, read and written, against a byte-wise model.

use crate::config_model::{ConfigModel, Sent};
use vfio_assign_core::fake::{Capture, Shape};
use vfio_assign_core::host::{Outcome, Step};
use vfio_assign_core::{Access, AssignedFunction, Begin, Bytes, Completion, Target, Vector, Window};

type Function = AssignedFunction<Box<[Vector]>, Box<[Window]>>;

/// What hardware answers: at no place what the guest has written there, and never asleep nor without its first byte set.
fn hardware(at: usize) -> u8 {
    (at as u8).wrapping_mul(0x1d) ^ (at >> 8) as u8 ^ 0x5a
}

/// A function and its model, in the same state.
#[derive(Clone)]
struct Pair {
    function: Function,
    model: ConfigModel,
}

/// What an access has made of hardware.
#[derive(Default)]
struct Trace {
    read: Vec<usize>,
    sent: Vec<Sent>,
}

impl Pair {
    fn new(shape: &Shape) -> Self {
        let (vectors, windows) = (vec![Vector::RESET; 65].into(), vec![Window::default(); 8].into());
        let function = AssignedFunction::new(&shape.description(), vectors, windows, |found| {
            panic!("a plain device: {found}");
        });
        let mut function = function.expect("a device that can be assigned");
        let begin = function.begin_attach();
        take_steps(&mut function, begin, &mut Trace::default());
        Self { function, model: ConfigModel::new(&shape.config, shape.sizes) }
    }

    fn access(&mut self, access: Access) -> (Bytes, Trace) {
        let mut trace = Trace::default();
        let begin = self.function.begin(access);
        (take_steps(&mut self.function, begin, &mut trace), trace)
    }

    /// The guest writes, and hardware hears what the model says.
    fn write(&mut self, offset: usize, data: &[u8]) {
        let target = Target::Config(offset as u32);
        let (read, trace) = self.access(Access::Write { target, data: Bytes::from_slice(data) });
        assert!(read.is_empty() && trace.read.is_empty(), "a write of {data:x?} at {offset:#x} reads");
        assert_eq!(trace.sent, self.model.write(offset, data), "{data:x?} at {offset:#x}");
    }

    /// The guest reads, and of hardware only what the model says.
    fn read(&mut self, offset: usize, size: usize) {
        let (bytes, trace) = self.access(Access::Read { target: Target::Config(offset as u32), size });
        assert_eq!((bytes.len(), trace.sent.len()), (size, 0), "{size} bytes at {offset:#x}");
        let mut asked = trace.read.into_iter();
        for (at, read) in (offset..).zip(bytes.as_slice()) {
            assert_eq!(*read, self.model.read(at, hardware), "{at:#x} of {size} bytes at {offset:#x}");
            let expected = self.model.asks_hardware(at).then_some(at);
            assert_eq!(expected.and_then(|_| asked.next()), expected, "{size} bytes at {offset:#x}");
        }
        assert_eq!(asked.next(), None, "{size} bytes at {offset:#x}");
    }

    fn missed(&self) -> u64 {
        self.function.counters().missed_bytes
    }
}

/// Takes all steps: hardware answers for configuration space, and everything else works.
fn take_steps(function: &mut Function, begin: Begin, trace: &mut Trace) -> Bytes {
    if let Begin::Done(bytes) = begin {
        return bytes;
    }
    while let Some((token, step)) = function.next_step() {
        let outcome = match step {
            Step::ReadConfig { offset, width } => {
                let first = usize::from(offset.get());
                assert_eq!(first % width.bytes(), 0, "{step:?}");
                let mut value = [0; 8];
                for (byte, at) in value.iter_mut().zip(first..first + width.bytes()) {
                    *byte = hardware(at);
                    trace.read.push(at);
                }
                Outcome::Value(u64::from_le_bytes(value))
            }
            Step::WriteConfig { offset, width, value } => {
                let first = usize::from(offset.get());
                assert_eq!(first % width.bytes(), 0, "{step:?}");
                trace.sent.extend((first..).zip(value.to_le_bytes()).take(width.bytes()));
                Outcome::Done
            }
            Step::PollPending { .. } | Step::TakePending { .. } => Outcome::Value(0),
            _ => Outcome::Done,
        };
        if let Completion::Done(bytes) = function.complete(token, outcome) {
            return bytes;
        }
    }
    panic!("an operation without an end");
}

/// The device as after power-on; with all its registers written and everything on; and asleep.
fn states(shape: &Shape) -> [Pair; 3] {
    let off = Pair::new(shape);
    let mut on = off.clone();
    for bar in 0..6u8 {
        on.write(0x10 + 4 * usize::from(bar), &[0, 0, 0xf0 | bar, 0xc0 + bar]);
    }
    on.write(0x30, &[1, 0, 0xf8, 0xc7]);
    for (id, at) in on.model.capabilities() {
        match id {
            0x05 => {
                let size = on.model.len().min(0x100) - at;
                on.write(at + 2, &[0x11, 0, 0x30, 0x12, 0xe0, 0xfe, 1, 2][..size.min(8)]);
                on.write(at + 10, &[3, 4, 0x55, 0x66, 0x77, 0x88]);
                on.write(at + 16, &[0xa5; 4]);
            }
            0x11 => on.write(at + 2, &[0, 0xc0]),
            _ => {}
        }
    }
    on.write(4, &[0x07, 0x05]);
    let mut asleep = on.clone();
    for (id, at) in asleep.model.capabilities() {
        if id == 1 {
            asleep.write(at + 4, &[3]);
        }
    }
    [off, on, asleep]
}

/// Every access that begins in configuration space.
fn accesses() -> impl Iterator<Item = (usize, usize)> {
    (0..4096).flat_map(|offset| (1..=8).map(move |size| (offset, size)))
}

fn every_read_is_made_of_its_bytes(shape: &Shape) {
    for mut pair in states(shape) {
        for (offset, size) in accesses() {
            let missed = pair.missed();
            pair.read(offset, size);
            let past = (offset + size).saturating_sub(pair.model.len()).min(size);
            assert_eq!(pair.missed() - missed, past as u64, "{size} bytes at {offset:#x}");
        }
    }
}

/// Every write, each from the same state, turns every bit over: what may not change must not. What it has changed, and
/// what it must not have, is read from the dwords that it meets and from all that are not hardware's alone.
fn every_write_does_what_its_bytes_do(shape: &Shape) {
    for start in states(shape) {
        let own = start.model.own_runs();
        for (offset, size) in accesses() {
            let mut pair = start.clone();
            let mut data = [0; 8];
            for (at, byte) in (offset..).zip(&mut data[..size]) {
                *byte = !pair.model.read(at, hardware);
            }
            pair.write(offset, &data[..size]);
            let past = (offset + size).saturating_sub(pair.model.len()).min(size);
            assert_eq!(pair.missed() - start.missed(), past as u64, "{size} bytes at {offset:#x}");
            pair.read(offset & !3, 12);
            own.iter().for_each(|(first, size)| pair.read(*first, *size));
        }
    }
}

fn capture(text: &str) -> Shape {
    text.parse::<Capture>().expect("a capture").shape()
}

fn nvme() -> Shape {
    capture(include_str!("../../captures/nvme.capture"))
}

fn e1000e() -> Shape {
    capture(include_str!("../../captures/e1000e.capture"))
}

fn edu() -> Shape {
    capture(include_str!("../../captures/edu.capture"))
}

/// What none of the captures has: masks of MSI, Advanced Features, and capabilities that are hidden.
fn made_up() -> Shape {
    let shape = Shape::nvme(33).msi(2, true, true).pin().advanced_features().rom(0x1000);
    shape
        .extended_capability(0x10, &[0xee; 60])
        .extended_capability(0x03, &[0xdd; 8])
        .extended_capability(0x0e, &[0xcc; 4])
        .extended_capability(0x1b, &[0xbb; 4])
}

#[test]
fn f1_every_read_of_nvme() {
    every_read_is_made_of_its_bytes(&nvme());
}

#[test]
fn f1_every_read_of_e1000e() {
    every_read_is_made_of_its_bytes(&e1000e());
}

#[test]
fn f1_every_read_of_edu() {
    every_read_is_made_of_its_bytes(&edu());
}

#[test]
fn f1_every_read_of_a_made_up_device() {
    every_read_is_made_of_its_bytes(&made_up());
}

#[test]
fn f3_every_write_of_nvme() {
    every_write_does_what_its_bytes_do(&nvme());
}

#[test]
fn f3_every_write_of_e1000e() {
    every_write_does_what_its_bytes_do(&e1000e());
}

#[test]
fn f3_every_write_of_edu() {
    every_write_does_what_its_bytes_do(&edu());
}

#[test]
fn f3_every_write_of_a_made_up_device() {
    every_write_does_what_its_bytes_do(&made_up());
}
