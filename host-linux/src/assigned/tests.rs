//! A device assigned over a kernel and a hypervisor that note what they are asked for.

use super::*;
use crate::DeviceEvent;
use crate::bar::WindowMemory;
use crate::dma::GuestRegion;
use crate::errno::Errno;
use crate::gate::MappingThread;
use crate::guest::LineEnd;
use crate::manager::Vm;
use crate::region::RegionIndex;
use crate::sys::{EventFd, GuestMemory, MemoryBacking};
use crate::testing::{Held, TestDevice, TestKernel};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use vfio_assign_core::host::Message;
use vfio_assign_core::{GuestAddr, ResetOutcome, Span, VectorIndex};

const BAR_AT: u64 = 0xd000_0000;
const TABLE: u64 = BAR_AT + 0x2000;
const COMMAND: u32 = 4;
const MESSAGE_CONTROL: u32 = 0x42;

/// A hypervisor that notes what it is asked for among the kernel's calls.
struct TestGuest(TestKernel, Option<LineEnd>);

impl TestGuest {
    fn note(&self, call: String) -> Result<(), Errno> {
        self.0.note(call).map(drop)
    }
}

impl GuestSide for TestGuest {
    type Error = Errno;

    fn map(&mut self, index: usize, guest: Span<GuestAddr>, memory: WindowMemory) -> Result<(), Errno> {
        self.note(format!("map {index} {guest} {:#x}", memory.length()))
    }

    fn unmap(&mut self, index: usize) -> Result<(), Errno> {
        self.note(format!("unmap {index}"))
    }

    fn route(&mut self, vector: VectorIndex, message: Message) -> Result<(), Errno> {
        self.note(format!("route {vector} {:#x} {:#x}", message.address, message.data))
    }

    fn commit_routes(&mut self) -> Result<(), Errno> {
        self.note("commit_routes".into())
    }

    fn arm(&mut self, vector: VectorIndex, _: &EventFd) -> Result<(), Errno> {
        self.note(format!("arm {vector}"))
    }

    fn disarm(&mut self, vector: VectorIndex, _: &EventFd) -> Result<(), Errno> {
        self.note(format!("disarm {vector}"))
    }

    fn line(&self) -> Option<LineEnd> {
        self.1
    }

    fn arm_line(&mut self, _: &EventFd, resample: Option<&EventFd>) -> Result<(), Errno> {
        self.note(format!("arm_line{}", if resample.is_some() { " resample" } else { "" }))
    }

    fn disarm_line(&mut self, _: &EventFd) -> Result<(), Errno> {
        self.note("disarm_line".into())
    }

    fn release_routes(&mut self) -> Result<(), Errno> {
        self.note("release_routes".into())
    }
}

/// The test device assigned, nothing noted yet.
fn assigned() -> (TestKernel, Assigned<TestGuest>) {
    let (kernel, assigned, _vm) = assigned_in_vm();
    (kernel, assigned)
}

fn assigned_in_vm() -> (TestKernel, Assigned<TestGuest>, Vm) {
    let TestDevice { kernel, device, vm, .. } = TestDevice::open();
    let device = Arc::into_inner(device).unwrap();
    let assigned = Assigned::new(device, TestGuest(kernel.clone(), None), &AssignOptions::default()).unwrap();
    kernel.calls();
    (kernel, assigned, vm)
}

/// The test device assigned while memory is mapped for it, in a call that is held.
fn assigned_beside_a_mapping() -> (TestKernel, Assigned<TestGuest>, Vm, MappingThread, Held) {
    let (kernel, assigned, vm) = assigned_in_vm();
    let held = kernel.hold("map_dma");
    let memory = GuestMemory::new(0x2000, MemoryBacking::Anonymous).unwrap();
    let guest = Span::from_size(GuestAddr::new(0), 0x2000).unwrap();
    let mapping = vm
        .add_memory_in_background(vec![GuestRegion { guest, memory, offset: 0 }], Vec::new(), drop)
        .unwrap();
    held.reached();
    (kernel, assigned, vm, mapping, held)
}

/// The guest has placed BAR 0 and turned memory decoding on.
fn decoding() -> (TestKernel, Assigned<TestGuest>) {
    let (kernel, assigned) = assigned();
    assigned.config_write(0x10, &(BAR_AT as u32).to_le_bytes());
    assigned.config_write(COMMAND, &[6, 0]);
    (kernel, assigned)
}

/// The guest uses vector 1.
fn interrupting() -> (TestKernel, Assigned<TestGuest>) {
    let (kernel, assigned) = decoding();
    assigned.memory_write(GuestAddr::new(TABLE + 16), &0xfee0_1000u64.to_le_bytes());
    assigned.memory_write(GuestAddr::new(TABLE + 24), &0x41u32.to_le_bytes());
    assigned.memory_write(GuestAddr::new(TABLE + 28), &0u32.to_le_bytes());
    kernel.calls();
    assigned.config_write(MESSAGE_CONTROL, &[0, 0x80]);
    (kernel, assigned)
}

fn read(assigned: &Assigned<TestGuest>, address: u64) -> [u8; 4] {
    let mut data = [0x55; 4];
    assert!(assigned.memory_read(GuestAddr::new(address), &mut data));
    data
}

#[test]
fn decode_on_is_written_and_then_mapped() {
    let (kernel, _assigned) = decoding();
    let calls = kernel.calls();
    let expected = ["pwrite 0x10004 [06, 00]", "map 0 0xd0000000..=0xd0001fff 0x2000"];
    assert_eq!(calls[calls.len() - 2..], expected);
}

#[test]
fn decode_off_is_unmapped_and_then_written() {
    let (kernel, assigned) = decoding();
    kernel.calls();
    assigned.config_write(COMMAND, &[0, 0]);
    assert_eq!(kernel.calls(), ["unmap 0", "pwrite 0x10004 [00, 00]"]);
}

#[test]
fn register_passes_through_in_one_call() {
    let (kernel, assigned) = decoding();
    kernel.calls();
    assigned.memory_write(GuestAddr::new(BAR_AT + 8), &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(kernel.calls(), ["pwrite 0x8 [01, 02, 03, 04, 05, 06, 07, 08]"]);
}

#[test]
fn msix_table_is_answered_without_a_call() {
    let (kernel, assigned) = decoding();
    kernel.calls();
    assert_eq!(read(&assigned, TABLE + 12), [1, 0, 0, 0]);
    assert_eq!(kernel.calls(), [""; 0]);
}

#[test]
fn address_of_nobody_is_a_miss() {
    let (_kernel, assigned) = decoding();
    assert!(!assigned.memory_read(GuestAddr::new(BAR_AT + 0x4000), &mut [0; 4]));
}

#[test]
fn interrupt_is_wired_routed_and_armed() {
    let (kernel, _assigned) = interrupting();
    let expected = ["new_event", "set_irqs 2 1 fds 1", "route 1 0xfee01000 0x41", "commit_routes", "arm 1"];
    let calls = kernel.calls();
    assert_eq!(calls[calls.len() - expected.len()..], expected);
}

#[test]
fn mask_and_unmask_touch_neither_vfio_nor_routes() {
    let (kernel, assigned) = interrupting();
    kernel.calls();
    assigned.memory_write(GuestAddr::new(TABLE + 28), &1u32.to_le_bytes());
    assigned.memory_write(GuestAddr::new(TABLE + 28), &0u32.to_le_bytes());
    assert_eq!(kernel.calls(), ["disarm 1", "arm 1"]);
}

#[test]
fn drop_gives_everything_back_in_order() {
    let (kernel, assigned) = interrupting();
    kernel.calls();
    drop(assigned);
    let calls = kernel.calls();
    let place = |start: &str| calls.iter().position(|call| call.starts_with(start)).unwrap();
    let order = ["disarm 1", "set_irqs 2 0 none 0", "release_routes", "unmap 0"].map(place);
    assert!(order.is_sorted(), "{calls:?}");
}

#[test]
fn register_that_fails_reads_all_ones_and_is_counted() {
    let (kernel, assigned) = decoding();
    kernel.fail("pread 0x0", Errno::EIO);
    assert_eq!(read(&assigned, BAR_AT), [0xff; 4]);
    let failures = assigned.access_failures();
    let last = RegionError::Failed {
        region: RegionIndex::bar(BarIndex::BARS[0]),
        offset: 0,
        length: 4,
        errno: Errno::EIO,
    };
    assert_eq!(failures, AccessFailures { reads: 1, writes: 0, last: Some(last) });
}

#[test]
fn register_that_answers_short_reads_all_ones() {
    let (kernel, assigned) = decoding();
    kernel.answer("pread 0x0", 2);
    assert_eq!(read(&assigned, BAR_AT), [0xff; 4]);
}

#[test]
fn register_that_is_written_short_is_counted() {
    let (kernel, assigned) = decoding();
    kernel.answer("pwrite 0x8", 2);
    assert!(assigned.memory_write(GuestAddr::new(BAR_AT + 8), &[1, 2, 3, 4]));
    let failures = assigned.access_failures();
    let region = RegionIndex::bar(BarIndex::BARS[0]);
    let last = RegionError::Short { region, offset: 8, length: 4, done: 2 };
    assert_eq!(failures, AccessFailures { reads: 0, writes: 1, last: Some(last) });
}

/// A life of the device with every kind of call in it.
fn life(assigned: &Assigned<TestGuest>) {
    assigned.config_write(0x10, &(BAR_AT as u32).to_le_bytes());
    assigned.config_write(COMMAND, &[6, 0]);
    assigned.memory_write(GuestAddr::new(TABLE + 16), &0xfee0_1000u64.to_le_bytes());
    assigned.memory_write(GuestAddr::new(TABLE + 24), &[0x41, 0, 0, 0, 0, 0, 0, 0]);
    assigned.config_write(MESSAGE_CONTROL, &[0, 0x80]);
    assigned.memory_write(GuestAddr::new(TABLE + 28), &1u32.to_le_bytes());
    assigned.memory_read(GuestAddr::new(TABLE + 0x1000), &mut [0; 8]);
    assigned.memory_read(GuestAddr::new(BAR_AT), &mut [0; 8]);
    assigned.memory_write(GuestAddr::new(BAR_AT), &[0; 8]);
    assigned.config_write(COMMAND, &[0, 0]);
    assigned.config_write(COMMAND, &[6, 0]);
    assigned.reset();
    assigned.config_write(MESSAGE_CONTROL, &[0, 0]);
}

#[test]
fn device_that_vanishes_at_any_call_of_its_life_gives_everything_back() {
    let (kernel, assigned) = assigned();
    life(&assigned);
    let count = kernel.calls().len() as u32;
    assert!(count > 20);
    for before in 0..count {
        let (kernel, assigned) = self::assigned();
        kernel.fail_after(before, "", Errno::ENODEV);
        life(&assigned);
        drop(assigned);
        let mut calls = kernel.calls();
        calls.remove(before as usize);
        let last = |on: &str, off: &str| {
            calls.iter().rev().find(|call| call.starts_with(on) || call.starts_with(off)).cloned()
        };
        let ends_with = |on: &str, off: &str| last(on, off).is_none_or(|call| call.starts_with(off));
        assert!(ends_with("map 0", "unmap 0"), "call {before}: {calls:?}");
        assert!(ends_with("arm 1", "disarm 1"), "call {before}: {calls:?}");
        assert!(ends_with("route 1", "release_routes"), "call {before}: {calls:?}");
    }
}

#[test]
fn device_that_is_gone_loses_its_windows_and_decodes_nothing() {
    let (kernel, assigned) = decoding();
    assigned.device().write(RegionIndex::CONFIG, 0, &[0xff; 256]).unwrap();
    kernel.calls();
    assert!(!assigned.check_health());
    assert!(kernel.calls().contains(&"unmap 0".into()));
    let mut id = [0; 4];
    assigned.config_read(0, &mut id);
    let decoded = assigned.memory_read(GuestAddr::new(BAR_AT), &mut [0; 4]);
    assert_eq!((id, decoded, kernel.calls()), ([0xff; 4], false, vec![]));
}

#[test]
fn device_that_never_answers_again_is_gone_after_some_looks_and_told_once() {
    let (kernel, assigned) = decoding();
    assigned.device().write(RegionIndex::CONFIG, 0, &[0xff; 256]).unwrap();
    kernel.calls();
    let early: Vec<_> = (1..MISSES).map(|_| assigned.watch()).collect();
    assert_eq!(early, vec![true; usize::from(MISSES) - 1]);
    assert!(!kernel.calls().contains(&"unmap 0".into()));
    assert!(!assigned.watch() && kernel.calls().contains(&"unmap 0".into()));
    let take = || assigned.events().take(DeviceEvent::Gone).unwrap();
    let (first, second) = (take(), take());
    assert_eq!((first, second, assigned.watch(), take()), (true, false, false, false));
}

#[test]
fn device_that_answers_again_is_not_gone() {
    let (_kernel, assigned) = decoding();
    let class = |value| assigned.device().write(RegionIndex::CONFIG, 8, &[value; 8]).unwrap();
    for _ in 0..MISSES {
        class(0xff);
        assert!(assigned.watch());
        class(1);
        assert!(assigned.watch());
    }
    assert!(!assigned.events().take(DeviceEvent::Gone).unwrap());
}

#[test]
fn device_that_answers_is_healthy() {
    let (_kernel, assigned) = decoding();
    assert!(assigned.check_health());
}

#[test]
fn window_that_cannot_be_taken_away_quarantines() {
    let (kernel, assigned) = decoding();
    kernel.fail("unmap 0", Errno::EINVAL);
    assigned.config_write(COMMAND, &[0, 0]);
    assert!(assigned.is_quarantined());
}

#[test]
fn quarantine_is_seen_without_the_functions_lock() {
    let (_kernel, assigned) = decoding();
    let _held = assigned.lock();
    assert!(!assigned.is_quarantined());
}

#[test]
fn register_passes_through_while_another_thread_holds_the_function() {
    let (_kernel, assigned) = decoding();
    let (told, hears) = mpsc::channel();
    let held = assigned.lock();
    thread::scope(|scope| {
        let (assigned, address) = (&assigned, GuestAddr::new(BAR_AT + 8));
        scope.spawn(move || {
            let written = assigned.memory_write(address, &[1, 2, 3, 4]);
            let mut data = [0; 4];
            let read = assigned.memory_read(address, &mut data);
            told.send((written, read, data))
        });
        let answer = hears.recv_timeout(Duration::from_secs(60));
        // Before it is looked at: who waits for the lock must end.
        drop(held);
        assert_eq!(answer, Ok((true, true, [1, 2, 3, 4])));
    });
}

#[test]
fn window_that_cannot_be_mapped_stays_trapped() {
    let (kernel, assigned) = assigned();
    kernel.fail("map 0", Errno::ENOMEM);
    assigned.config_write(0x10, &(BAR_AT as u32).to_le_bytes());
    assigned.config_write(COMMAND, &[6, 0]);
    assert_eq!(read(&assigned, BAR_AT), [0; 4]);
    let error = assigned.inspect(|_, _, _, failure| failure.map(|failure| failure.error.to_string()));
    assert_eq!(error.unwrap(), "ENOMEM, Cannot allocate memory");
}

#[test]
fn config_read_of_any_length_is_answered() {
    let (_kernel, assigned) = assigned();
    let mut data = [0; 80];
    assigned.config_read(0, &mut data);
    assert_eq!((data[..4].to_vec(), data[0x40]), (vec![0x36, 0x1b, 0x10, 0], 0x11));
}

/// The guest turns bus mastering on during a mapping that ends so; what hardware's Command register became.
fn command_after_a_mapping(result: Result<(), Errno>) -> (u8, Assigned<TestGuest>) {
    let (_kernel, assigned, vm, mapping, held) = assigned_beside_a_mapping();
    thread::scope(|scope| {
        let writer = scope.spawn(|| assigned.config_write(COMMAND, &[6, 0]));
        while vm.waiting_for_memory() == 0 && !writer.is_finished() {
            thread::yield_now();
        }
        assert_eq!(vm.waiting_for_memory(), 1);
        held.release(result);
    });
    drop(mapping);
    let mut command = [0; 1];
    assigned.device().read(RegionIndex::CONFIG, 4, &mut command).unwrap();
    (command[0], assigned)
}

#[test]
fn bus_mastering_waits_until_memory_is_mapped() {
    assert_eq!(command_after_a_mapping(Ok(())).0, 6);
}

#[test]
fn bus_mastering_stays_off_when_the_mapping_it_waits_for_fails() {
    let (command, assigned) = command_after_a_mapping(Err(Errno::EFAULT));
    let why = assigned.inspect(|_, _, _, failure| failure.map(|failure| failure.error.to_string()));
    let text = "bus mastering stays off: the kernel does not map 0x0..=0x1fff: EFAULT, Bad address; \
        the host memory behind it is not mapped, or not writable";
    assert_eq!((command, why.as_deref()), (0, Some(text)));
}

mod lifecycle;
mod observed;
mod pin;
mod reset;
