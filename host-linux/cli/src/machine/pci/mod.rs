//! The PCI bus of the machine: bus 0, one function in each slot, the host bridge in slot 0.
//!
//! There are no ports and no other buses, so a PCI Express function is an integrated endpoint of the root complex
//! to the guest; the core gives an assigned device that Device/Port Type, whatever it is on the host. Where their BARs are is the guest's choice and
//! changes while it runs, so the bus asks each function whether an address is its own.

pub(crate) mod config;
mod function;
mod host_bridge;

use std::sync::{Arc, OnceLock};

use crate::help::Help;
use host_bridge::HostBridge;

pub(crate) use function::{PciFunction, Quarantine};

/// Slots of the bus.
const SLOTS: usize = 32;
/// The slot of the first device; the others follow.
pub(crate) const FIRST_SLOT: u8 = 1;
/// Bytes of a function's configuration space.
const CONFIG_SIZE: u16 = 4096;

/// The bus.
pub(crate) struct PciBus {
    bridge: HostBridge,
    /// How many devices there are going to be, in slots 1, 2, ….
    devices: usize,
    /// The devices, once they are there.
    attached: Arc<OnceLock<Devices>>,
}

type Devices = Vec<Box<dyn PciFunction>>;

/// The place on a bus for devices that are still being opened.
///
/// The guest boots meanwhile. It waits where it looks for a device; before that it cannot have told a device
/// where its BARs are, so nothing else can be meant for one.
pub(crate) struct Attachment(Arc<OnceLock<Devices>>);

impl Attachment {
    /// Puts the devices on the bus.
    pub(crate) fn attach(self, devices: Devices) {
        // Set once at most, by the only one that there is; dropping it afterwards changes nothing.
        let _refused = self.0.set(devices);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // Nobody waits for devices that will never come.
        let _refused = self.0.set(Vec::new());
    }
}

/// More functions than slots.
#[derive(Debug, thiserror::Error)]
#[error("{count} devices do not fit on the guest's PCI bus, which has room for {}", SLOTS - 1)]
pub(crate) struct NoSlot {
    count: usize,
}

impl Help for NoSlot {
    fn help(&self) -> Option<String> {
        Some("give fewer --device".into())
    }
}

impl PciBus {
    /// A bus with the host bridge, and places for `devices` more functions.
    pub(crate) fn new(devices: usize) -> Result<(Self, Attachment), NoSlot> {
        if devices >= SLOTS {
            return Err(NoSlot { count: devices });
        }
        let attached = Arc::new(OnceLock::new());
        let place = Attachment(Arc::clone(&attached));
        Ok((Self { bridge: HostBridge::new(), devices, attached }, place))
    }

    /// The devices that are there.
    fn present(&self) -> &[Box<dyn PciFunction>] {
        self.attached.get().map_or(&[], Vec::as_slice)
    }

    /// The function in a slot; waits for a device that is still being opened.
    fn in_slot(&self, slot: usize) -> Option<&dyn PciFunction> {
        match slot.checked_sub(1) {
            None => Some(&self.bridge),
            Some(index) if index < self.devices => self.attached.wait().get(index).map(Box::as_ref),
            Some(_) => None,
        }
    }

    /// Slots in which there is a function.
    pub(crate) fn slots(&self) -> Vec<u8> {
        (0..=self.devices as u8).collect()
    }

    /// Every function's part of the report.
    pub(crate) fn reports(&self) -> Vec<serde_json::Value> {
        self.present().iter().filter_map(|function| function.report()).collect()
    }

    /// How many functions are dead. None of their memory is in the guest any more when this returns.
    pub(crate) fn revoke_dead(&self) -> usize {
        self.present().iter().filter(|function| function.revoke_if_dead()).count()
    }

    /// Brings every function to its power-on state.
    pub(crate) fn reset(&self) {
        self.present().iter().for_each(|function| function.reset());
    }

    /// Why no processor may run; none if all may.
    pub(crate) fn quarantine(&self) -> Option<Quarantine> {
        self.present().iter().find_map(|function| function.quarantine())
    }

    /// What failed while the guest ran, a line for each function that has something to say.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.present().iter().filter_map(|function| function.complaint()).collect()
    }

    /// The function and register at an offset of the memory-mapped configuration space.
    fn at_ecam(&self, offset: u64) -> Option<(&dyn PciFunction, u16)> {
        let register = (offset % u64::from(CONFIG_SIZE)) as u16;
        let function = offset / u64::from(CONFIG_SIZE);
        // Eight functions to a slot, of which the first is there.
        let slot = usize::try_from(function / 8).ok()?;
        let first = function.is_multiple_of(8);
        let function = if first { self.in_slot(slot) } else { None };
        Some((function?, register))
    }

    /// A read of the memory-mapped configuration space.
    pub(crate) fn ecam_read(&self, offset: u64, data: &mut [u8]) {
        if let Some((function, register)) = self.at_ecam(offset) {
            let length = data.len().min(usize::from(CONFIG_SIZE - register));
            function.config_read(register, &mut data[..length]);
        }
    }

    /// A write to the memory-mapped configuration space.
    pub(crate) fn ecam_write(&self, offset: u64, data: &[u8]) {
        if let Some((function, register)) = self.at_ecam(offset) {
            let length = data.len().min(usize::from(CONFIG_SIZE - register));
            function.config_write(register, &data[..length]);
        }
    }

    /// A read of memory space.
    pub(crate) fn memory_read(&self, address: u64, data: &mut [u8]) {
        let _claimed = self.present().iter().any(|function| function.memory_read(address, data));
    }

    /// A write to memory space.
    pub(crate) fn memory_write(&self, address: u64, data: &[u8]) {
        let _claimed = self.present().iter().any(|function| function.memory_write(address, data));
    }

    /// A read of port space.
    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) {
        let _claimed = self.present().iter().any(|function| function.port_read(port, data));
    }

    /// A write to port space.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) {
        let _claimed = self.present().iter().any(|function| function.port_write(port, data));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use vfio_assign_core::Bdf;

    use super::*;

    /// A function of 256 bytes of configuration space that keeps what is written, and eight bytes at an address.
    #[derive(Default)]
    pub(crate) struct Fake {
        config: Mutex<Vec<u8>>,
        address: u64,
        dead: bool,
        quarantined: bool,
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

        fn reset(&self) {}

        fn quarantine(&self) -> Option<Quarantine> {
            self.quarantined.then(|| Quarantine { bdf: Bdf::new(0, 0, 4, 0).unwrap(), failure: None })
        }
    }

    pub(crate) fn bus(functions: Vec<Fake>) -> PciBus {
        let boxed = |function| Box::new(function) as Box<dyn PciFunction>;
        let (bus, place) = PciBus::new(functions.len()).unwrap();
        place.attach(functions.into_iter().map(boxed).collect());
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
        let (bus, place) = PciBus::new(1).unwrap();
        let found = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_ecam(&bus, 0x8010));
            place.attach(vec![Box::new(Fake::filled())]);
            reader.join().unwrap()
        });
        assert_eq!(found, [0x10, 0x11, 0x12, 0x13]);
    }

    #[test]
    fn a_device_that_never_comes_reads_ones() {
        let (bus, place) = PciBus::new(1).unwrap();
        drop(place);
        assert_eq!(read_ecam(&bus, 0x8000), [0xff; 4]);
    }

    #[test]
    fn an_empty_slot_is_not_waited_for() {
        let (bus, _place) = PciBus::new(1).unwrap();
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
        assert!(PciBus::new(32).is_err());
    }
}
