//! The buses as the guest meets them.

use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vfio_assign_core::Bdf;

use super::*;

/// A function of 256 bytes of configuration space that keeps what is written, and eight bytes at an address.
#[derive(Default)]
pub(crate) struct Fake {
    config: Mutex<Vec<u8>>,
    address: u64,
    dead: bool,
    quarantined: bool,
    resets: AtomicUsize,
}

impl Fake {
    pub(crate) fn filled() -> Self {
        Self { config: Mutex::new((0..=255).collect()), ..Self::default() }
    }

    fn at(address: u64) -> Self {
        Self { address, ..Self::filled() }
    }

    fn dead() -> Self {
        Self { dead: true, ..Self::filled() }
    }
}

impl PciFunction for Fake {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        for (byte, value) in data.iter_mut().zip(&self.config.lock().unwrap()[usize::from(offset)..]) {
            *byte = *value;
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        for (byte, value) in self.config.lock().unwrap()[usize::from(offset)..].iter_mut().zip(data) {
            *byte = *value;
        }
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) -> bool {
        let mine = (self.address..self.address + 8).contains(&address);
        if mine {
            data.fill(0x5a);
        }
        mine
    }

    fn revoke_if_dead(&self) -> bool {
        self.dead
    }

    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }

    fn quarantine(&self) -> Option<Quarantine> {
        self.quarantined.then(|| Quarantine { bdf: Bdf::new(0, 0, 4, 0).unwrap(), failure: None })
    }
}

fn empty(devices: usize, hot_plug: usize) -> (Arc<PciBus>, Arrival) {
    PciBus::new(SlotPlan { devices, hot_plug }, |_| {}).unwrap()
}

pub(crate) fn bus(functions: Vec<Fake>) -> Arc<PciBus> {
    let (bus, _arrived) = empty(functions.len(), 0);
    (FIRST_SLOT..).zip(functions).for_each(|(slot, function)| bus.put(slot, Arc::new(function)));
    bus
}

fn read_ecam(bus: &PciBus, offset: u64) -> [u8; 4] {
    let mut data = [0xff; 4];
    bus.ecam_read(offset, &mut data);
    data
}

#[test]
fn the_host_bridge_is_in_slot_zero() {
    assert_eq!(read_ecam(&bus(vec![]), 0x8), [0, 0, 0, 6]);
}

#[test]
fn a_device_is_in_slot_one() {
    assert_eq!(read_ecam(&bus(vec![Fake::filled()]), 0x8010), [0x10, 0x11, 0x12, 0x13]);
}

#[test]
fn an_empty_slot_reads_ones() {
    assert_eq!(read_ecam(&bus(vec![]), 0x8000), [0xff; 4]);
}

#[test]
fn a_device_that_is_still_being_opened_is_waited_for() {
    let (bus, arrival) = empty(1, 0);
    let found = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_ecam(&bus, 0x8010));
        bus.put(FIRST_SLOT, Arc::new(Fake::filled()));
        drop(arrival);
        reader.join().unwrap()
    });
    assert_eq!(found, [0x10, 0x11, 0x12, 0x13]);
}

#[test]
fn a_device_that_never_comes_reads_ones() {
    let (bus, arrival) = empty(1, 0);
    drop(arrival);
    assert_eq!(read_ecam(&bus, 0x8000), [0xff; 4]);
}

#[test]
fn a_device_that_was_taken_reads_ones() {
    let bus = bus(vec![Fake::filled(), Fake::filled()]);
    bus.take(FIRST_SLOT);
    assert_eq!((read_ecam(&bus, 0x8010), read_ecam(&bus, 0x1_0010)), ([0xff; 4], [0x10, 0x11, 0x12, 0x13]));
}

#[test]
fn an_empty_slot_is_not_waited_for() {
    let (bus, _arrival) = empty(1, 0);
    assert_eq!(read_ecam(&bus, 0x1_0000), [0xff; 4]);
}

#[test]
fn a_second_function_of_a_slot_reads_ones() {
    assert_eq!(read_ecam(&bus(vec![Fake::filled()]), 0x9000), [0xff; 4]);
}

#[test]
fn an_access_beyond_a_function_stops_at_its_end() {
    assert_eq!(read_ecam(&bus(vec![]), 0xffe), [0, 0, 0xff, 0xff]);
}

#[test]
fn an_address_goes_to_the_function_that_claims_it() {
    let mut data = [0xff; 8];
    bus(vec![Fake::at(0x1000), Fake::at(0x2000)]).memory_read(0x2000, &mut data);
    assert_eq!(data, [0x5a; 8]);
}

#[test]
fn an_address_that_nobody_claims_reads_ones() {
    let mut data = [0xff; 8];
    bus(vec![Fake::at(0x1000)]).memory_read(0x2000, &mut data);
    assert_eq!(data, [0xff; 8]);
}

#[test]
fn dead_functions_are_counted_each_time() {
    let bus = bus(vec![Fake::dead(), Fake::filled(), Fake::dead()]);
    assert_eq!((bus.revoke_dead(), bus.revoke_dead()), (2, 2));
}

#[test]
fn a_quarantined_function_is_found_and_named() {
    let bus = bus(vec![Fake::filled(), Fake { quarantined: true, ..Fake::filled() }]);
    assert!(bus.quarantine().unwrap().to_string().starts_with("0000:00:04.0: "));
}

#[test]
fn without_a_quarantine_all_may_run() {
    assert!(bus(vec![Fake::filled()]).quarantine().is_none());
}

#[test]
fn more_devices_than_slots_are_refused() {
    assert!(PciBus::new(SlotPlan { devices: 32, hot_plug: 0 }, |_| {}).is_err());
}

/// Bus 1 behind the port in slot 1, in a machine that starts with a device in it and one free slot.
fn plugged() -> Arc<PciBus> {
    let (bus, arrival) = empty(1, 2);
    bus.put(FIRST_SLOT, Arc::new(Fake::filled()));
    drop(arrival);
    bus.ecam_write(0x8018, &[0, 1, 1]);
    bus
}

fn raised(event: &Event) -> bool {
    let mut fds = [PollFd::new(event, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

const BEHIND: u64 = 1 << 20;
/// Slot Control of the port in slot 1, and its bit by which power is off.
const SLOT_CONTROL: u64 = 0x8058;
const POWER_OFF: [u8; 2] = [0, 4];

#[test]
fn a_function_behind_a_port_is_on_the_port_s_bus() {
    let bus = plugged();
    assert_eq!(
        (read_ecam(&bus, 0x8000), read_ecam(&bus, BEHIND + 0x10)),
        ([0x36, 0x1b, 0x0c, 0], [0x10, 0x11, 0x12, 0x13])
    );
}

#[test]
fn an_empty_slot_has_a_port_and_nothing_behind_it() {
    let bus = plugged();
    bus.ecam_write(0x1_0018, &[0, 2, 2]);
    assert_eq!((read_ecam(&bus, 0x1_0000)[2], read_ecam(&bus, 2 * BEHIND)), (0x0c, [0xff; 4]));
}

#[test]
fn what_was_given_up_unasked_is_reset_and_stays() {
    let (bus, arrival) = empty(1, 1);
    let function = Arc::new(Fake::at(0x1000));
    bus.put(FIRST_SLOT, function.clone());
    drop(arrival);
    bus.ecam_write(SLOT_CONTROL, &POWER_OFF);
    let mut data = [0xff];
    bus.memory_read(0x1000, &mut data);
    assert_eq!(
        (data, function.resets.load(Ordering::SeqCst), bus.is_released(FIRST_SLOT)),
        ([0xff], 1, false)
    );
}

#[test]
fn what_was_asked_back_is_released_by_turning_its_power_off() {
    let bus = plugged();
    assert!(bus.ask_back(FIRST_SLOT));
    let before = bus.is_released(FIRST_SLOT);
    bus.ecam_write(SLOT_CONTROL, &POWER_OFF);
    assert_eq!((before, bus.is_released(FIRST_SLOT)), (false, true));
}

#[test]
fn what_was_given_up_before_it_is_asked_back_is_looked_at() {
    let bus = plugged();
    bus.ecam_write(SLOT_CONTROL, &POWER_OFF);
    let before = raised(bus.look());
    assert!(bus.ask_back(FIRST_SLOT));
    assert_eq!((before, raised(bus.look()), bus.is_released(FIRST_SLOT)), (false, true, true));
}

#[test]
fn a_slot_that_was_left_is_free_again() {
    let bus = plugged();
    let before = bus.free_slots().next();
    bus.take(FIRST_SLOT);
    assert_eq!((before, bus.free_slots().next()), (Some(2), Some(1)));
}

#[test]
fn what_is_in_no_slot_for_hot_plug_cannot_be_asked_back() {
    assert!(!bus(vec![Fake::filled()]).ask_back(FIRST_SLOT));
}

#[test]
fn a_function_that_was_dead_when_it_was_taken_still_counts() {
    let bus = bus(vec![Fake::dead(), Fake::filled()]);
    bus.take(FIRST_SLOT);
    assert_eq!(bus.revoke_dead(), 1);
}

/// A dead function that says whether the dead can be counted while it is asked.
struct Watcher {
    bus: Weak<PciBus>,
    countable: Mutex<Vec<bool>>,
}

impl PciFunction for Watcher {
    fn config_read(&self, _offset: u16, _data: &mut [u8]) {}

    fn config_write(&self, _offset: u16, _data: &[u8]) {}

    fn reset(&self) {}

    fn revoke_if_dead(&self) -> bool {
        let bus = self.bus.upgrade().unwrap();
        self.countable.lock().unwrap().push(bus.buried.try_lock().is_ok());
        true
    }
}

#[test]
fn the_dead_are_not_counted_while_one_of_them_is_between_its_slot_and_the_count() {
    let (bus, _arrival) = empty(1, 0);
    let watcher = Arc::new(Watcher { bus: Arc::downgrade(&bus), countable: Mutex::default() });
    bus.put(FIRST_SLOT, watcher.clone());
    let before = bus.revoke_dead();
    bus.take(FIRST_SLOT);
    let countable = watcher.countable.lock().unwrap().clone();
    assert_eq!((before, bus.revoke_dead(), countable), (1, 1, vec![false, false]));
}

#[test]
fn a_quarantined_function_behind_a_link_that_is_down_is_found() {
    let (bus, arrival) = empty(1, 1);
    bus.put(FIRST_SLOT, Arc::new(Fake { quarantined: true, ..Fake::filled() }));
    drop(arrival);
    bus.ecam_write(SLOT_CONTROL, &POWER_OFF);
    assert!(bus.quarantine().is_some());
}
