//! The bus of VMMs in the rust-vmm style: ranges of addresses, with a device behind a mutex in each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A device on a bus. It is told where its range starts and how far into it an access is.
pub(crate) trait BusDevice: Send {
    /// The guest reads.
    fn read(&mut self, base: u64, offset: u64, data: &mut [u8]);
    /// The guest writes.
    fn write(&mut self, base: u64, offset: u64, data: &[u8]);
}

/// One bus: of memory, or of ports.
#[derive(Clone, Default)]
pub(crate) struct Bus {
    devices: BTreeMap<u64, (u64, Arc<Mutex<dyn BusDevice>>)>,
}

impl Bus {
    /// Puts a device at `size` addresses from `base` on.
    pub(crate) fn insert(&mut self, base: u64, size: u64, device: Arc<Mutex<dyn BusDevice>>) {
        self.devices.insert(base, (size, device));
    }

    /// The guest reads; nobody there is all-ones.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.at(address) {
            Some((base, device)) => {
                let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
                device.read(base, address - base, data);
            }
            None => data.fill(0xff),
        }
    }

    /// The guest writes.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((base, device)) = self.at(address) {
            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
            device.write(base, address - base, data);
        }
    }

    fn at(&self, address: u64) -> Option<(u64, &Arc<Mutex<dyn BusDevice>>)> {
        let (base, (size, device)) = self.devices.range(..=address).next_back()?;
        (address - base < *size).then_some((*base, device))
    }
}
