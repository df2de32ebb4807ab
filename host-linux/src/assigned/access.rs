//! The guest's accesses: to registers that only pass through, past the function's lock; to all else, through it.

use super::Assigned;
use crate::guest::GuestSide;
use crate::traffic::Direction;
use vfio_assign_core::{Access, Bytes, Decoded, GuestAddr, GuestBarOffset, GuestPort, Target};

impl<G: GuestSide> Assigned<G> {
    /// The guest reads configuration space from byte `offset` on.
    pub fn config_read(&self, offset: u32, data: &mut [u8]) {
        self.access(Target::Config(offset), Data::Read(data));
    }

    /// The guest writes configuration space from byte `offset` on.
    pub fn config_write(&self, offset: u32, data: &[u8]) {
        self.access(Target::Config(offset), Data::Write(data));
    }

    /// The guest reads memory; `false` where this function does not decode the address.
    pub fn memory_read(&self, address: GuestAddr, data: &mut [u8]) -> bool {
        self.memory(address, Data::Read(data))
    }

    /// The guest writes memory; `false` where this function does not decode the address.
    pub fn memory_write(&self, address: GuestAddr, data: &[u8]) -> bool {
        self.memory(address, Data::Write(data))
    }

    /// The guest reads I/O ports; `false` where this function does not decode them.
    pub fn port_read(&self, port: u16, data: &mut [u8]) -> bool {
        self.port(port, Data::Read(data))
    }

    /// The guest writes I/O ports; `false` where this function does not decode them.
    pub fn port_write(&self, port: u16, data: &[u8]) -> bool {
        self.port(port, Data::Write(data))
    }

    // Once for reads and once for writes: what is spilled between the lane's two locked instructions has to be in the
    // cache before the second.
    #[inline(always)]
    fn memory(&self, address: GuestAddr, data: Data<'_>) -> bool {
        let mut lane = self.lanes.enter();
        match lane.decoder().memory(address, data.len() as u64) {
            Decoded::Miss => return false,
            // The device is accessed from inside the lane, so that the BAR stays where it is.
            Decoded::Passthrough { bar, offset } => {
                // What passes through stands where the device has it.
                lane.count(bar, GuestBarOffset::new(offset.get()), data.direction());
                match data {
                    Data::Read(data) => self.passthrough.read(bar, offset, data),
                    Data::Write(data) => self.passthrough.write(bar, offset, data),
                }
            }
            Decoded::Function => {
                lane.count_memory(address, data.direction());
                drop(lane);
                self.access(Target::Memory(address), data);
            }
        }
        true
    }

    fn port(&self, port: u16, data: Data<'_>) -> bool {
        let port = GuestPort::new(u64::from(port));
        let mut lane = self.lanes.enter();
        let hit = lane.decoder().ports(port, data.len() as u64) != Decoded::Miss;
        if hit {
            lane.count_ports(port, data.direction());
            drop(lane);
            self.access(Target::Port(port), data);
        }
        hit
    }

    /// The function is accessed, piece by piece.
    fn access(&self, target: Target, data: Data<'_>) {
        let steps = Steps::from(target);
        match data {
            Data::Read(data) => {
                for (piece, target) in data.chunks_mut(Bytes::LIMIT).zip(steps) {
                    let access = Access::Read { target, size: piece.len() };
                    let bytes = self.drive(|function, host| function.access(access, host));
                    for (to, from) in piece.iter_mut().zip(bytes.as_slice()) {
                        *to = *from;
                    }
                }
            }
            Data::Write(data) => {
                for (piece, target) in data.chunks(Bytes::LIMIT).zip(steps) {
                    let access = Access::Write { target, data: Bytes::from_slice(piece) };
                    let _ = self.drive(|function, host| function.access(access, host));
                }
            }
        }
    }
}

/// What the guest reads into, or writes.
enum Data<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }

    fn direction(&self) -> Direction {
        match self {
            Self::Read(_) => Direction::Read,
            Self::Write(_) => Direction::Write,
        }
    }
}

/// The targets of the pieces of a long access, one piece after the other.
struct Steps(Option<Target>);

impl From<Target> for Steps {
    fn from(target: Target) -> Self {
        Self(Some(target))
    }
}

impl Iterator for Steps {
    type Item = Target;

    fn next(&mut self) -> Option<Target> {
        let target = self.0?;
        let bytes = Bytes::LIMIT as u64;
        self.0 = match target {
            Target::Config(offset) => offset.checked_add(Bytes::LIMIT as u32).map(Target::Config),
            Target::Memory(address) => address.checked_add(bytes).map(Target::Memory),
            Target::Port(port) => port.checked_add(bytes).map(Target::Port),
        };
        Some(target)
    }
}
