//! A device of the scripted host: its registers, and its interrupts by the rules of `VFIO_DEVICE_SET_IRQS`.

use super::event::KernelEvent;
use super::function::{BAR_OFFSET, BAR_SIZE, CONFIG_OFFSET, CONFIG_SIZE, MEMORY_SPACE, ScriptedFunction};
use crate::errno::Errno;
use crate::sys::vfio::{IrqData, IrqSet};
use rustix::fs::MemfdFlags;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// VFIO's number of the pin.
const INTX: u32 = 0;
/// VFIO's number of Message Signalled Interrupts.
const MSI: u32 = 1;
/// VFIO's number of the first kind that is no interrupt of the guest's.
const ERR: u32 = 3;
/// Where Command lies in configuration space.
const COMMAND: usize = 4;
/// The name of a BAR's file, by which its mappings are found.
const BAR_NAME: &str = "scripted-bar";

pub(super) struct DeviceModel {
    pub(super) function: ScriptedFunction,
    config: Vec<u8>,
    /// The BAR; made when the device is first opened.
    bar: Option<OwnedFd>,
    /// The inodes of all BARs that it has had.
    bars: Vec<u64>,
    /// Which of INTx, MSI and MSI-X is on.
    on: Option<u32>,
    /// The events of each kind, as many as are wired or could be without switching the kind off.
    events: [Vec<Option<KernelEvent>>; 5],
    unmask: Option<KernelEvent>,
    masked: bool,
    pub(super) resets: u32,
    /// Whether a driver of the host's has it.
    pub(super) has_host_driver: bool,
}

impl DeviceModel {
    pub(super) fn new(function: ScriptedFunction) -> Self {
        let config = function.config();
        let events = Default::default();
        Self {
            function,
            config,
            bar: None,
            bars: Vec::new(),
            on: None,
            events,
            unmask: None,
            masked: false,
            resets: 0,
            has_host_driver: false,
        }
    }

    /// Whether VFIO has it.
    pub(super) fn is_lent(&self) -> bool {
        !self.has_host_driver
    }

    /// The device is opened, and reset.
    pub(super) fn open(&mut self) {
        if self.bar.is_none() {
            let made = rustix::fs::memfd_create(BAR_NAME, MemfdFlags::CLOEXEC);
            self.bar = made.and_then(|bar| rustix::fs::ftruncate(&bar, BAR_SIZE).map(|()| bar)).ok();
            self.bars.extend(self.bar.iter().filter_map(|bar| Some(rustix::fs::fstat(bar).ok()?.st_ino)));
        }
        self.config = self.function.config();
    }

    /// The last descriptor is closed.
    pub(super) fn close(&mut self) {
        self.off();
        self.events = Default::default();
        self.config = self.function.config();
        self.bar = None;
    }

    pub(super) fn bar(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.bar.as_ref().map(AsFd::as_fd).ok_or(Errno::ENODEV)
    }

    pub(super) fn command(&self) -> u16 {
        u16::from_le_bytes([self.config[COMMAND], self.config[COMMAND + 1]])
    }

    fn off(&mut self) {
        if let Some(on) = self.on.take() {
            self.events[on as usize].clear();
        }
        (self.unmask, self.masked) = (None, false);
    }

    /// The device is reset on demand. Registers that VFIO keeps for the user come back.
    pub(super) fn reset(&mut self) {
        self.resets += 1;
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> Result<usize, Errno> {
        if let Some(at) = within(offset, data.len(), CONFIG_OFFSET, CONFIG_SIZE) {
            data.copy_from_slice(&self.config[at as usize..][..data.len()]);
            return Ok(data.len());
        }
        let at = self.decoded(offset, data.len())?;
        Ok(rustix::io::pread(self.bar()?, data, at)?)
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        if let Some(at) = within(offset, data.len(), CONFIG_OFFSET, CONFIG_SIZE) {
            self.config[at as usize..][..data.len()].copy_from_slice(data);
            return Ok(data.len());
        }
        let at = self.decoded(offset, data.len())?;
        Ok(rustix::io::pwrite(self.bar()?, data, at)?)
    }

    /// A place in the BAR. `EIO` while the device does not decode memory.
    fn decoded(&self, offset: u64, length: usize) -> Result<u64, Errno> {
        let at = within(offset, length, BAR_OFFSET, BAR_SIZE).ok_or(Errno::EINVAL)?;
        if self.command() & MEMORY_SPACE == 0 { Err(Errno::EIO) } else { Ok(at) }
    }

    /// `VFIO_DEVICE_SET_IRQS`; `halfway` is the error that a wiring meets in its middle.
    pub(super) fn set_irqs(&mut self, set: &IrqSet<'_>, halfway: Option<Errno>) -> Result<u32, Errno> {
        let total = self.function.irqs(set.index);
        if total == 0 {
            return Err(Errno::EINVAL);
        }
        if set.index < ERR && self.on.is_some_and(|on| on != set.index) {
            // One kind at a time.
            return Err(Errno::EINVAL);
        }
        let is_on =
            if set.index < ERR { self.on.is_some() } else { !self.events[set.index as usize].is_empty() };
        match set.data {
            IrqData::None { count: 0 } if is_on => {
                if set.index < ERR {
                    self.off();
                } else {
                    self.events[set.index as usize].clear();
                }
                Ok(0)
            }
            IrqData::None { count } if is_on && count > 0 => {
                let events = self.events[set.index as usize].iter().skip(set.start as usize);
                events.take(count as usize).flatten().for_each(KernelEvent::signal);
                Ok(0)
            }
            IrqData::EventFds(fds) => self.wire(set.index, set.start, fds, total, halfway),
            IrqData::Unmask if set.index == INTX && is_on => {
                self.masked = false;
                Ok(0)
            }
            // It is not replaced.
            IrqData::UnmaskOn(_) if set.index == INTX && self.unmask.is_some() => Err(Errno::EBUSY),
            IrqData::UnmaskOn(event) if set.index == INTX && is_on => {
                self.unmask = Some(KernelEvent::new(event)?);
                Ok(0)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn wire(
        &mut self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
        total: u32,
        halfway: Option<Errno>,
    ) -> Result<u32, Errno> {
        let (first, end) = (start as usize, start as usize + fds.len());
        if fds.is_empty() || end > total as usize {
            return Err(Errno::EINVAL);
        }
        let events = &mut self.events[index as usize];
        let was_off = events.is_empty();
        if was_off {
            // Nothing is ever added to MSI.
            let room = if self.function.noresize || index == MSI { end } else { total as usize };
            events.resize_with(room, || None);
        } else if end > events.len() {
            // Vectors cannot be added here.
            return Err(Errno::EINVAL);
        }
        let fails_at = halfway.map(|_| fds.len() / 2);
        for (place, fd) in fds.iter().enumerate() {
            let wired = match fd {
                _ if fails_at == Some(place) => Err(halfway.unwrap_or(Errno::EINVAL)),
                Some(fd) => KernelEvent::new(*fd).map(Some),
                None => Ok(None),
            };
            match wired {
                Ok(event) => events[first + place] = event,
                Err(errno) => {
                    // What came before is taken off, and a kind that was off is off again.
                    events[first..first + place].fill_with(|| None);
                    if was_off {
                        events.clear();
                    }
                    return Err(errno);
                }
            }
        }
        if index < ERR {
            self.on = Some(index);
        }
        Ok(0)
    }

    /// The event that an interrupt of the device goes to, if it is not masked.
    pub(super) fn event(&mut self, index: u32, vector: u32) -> Option<&KernelEvent> {
        let event = self.events.get(index as usize)?.get(vector as usize)?.as_ref()?;
        if index == INTX && std::mem::replace(&mut self.masked, true) {
            return None;
        }
        Some(event)
    }

    /// An eventfd was signalled: the pin is unmasked if that is what it is for.
    pub(super) fn unmask_by(&mut self, event: u64) {
        if self.unmask.as_ref().is_some_and(|unmask| unmask.id() == event) {
            self.masked = false;
        }
    }

    /// Which kinds are on, and which of their vectors lead to which eventfd.
    pub(super) fn wired(&self) -> impl Iterator<Item = (u32, usize, u64)> {
        self.events.iter().zip(0..).flat_map(|(events, index)| {
            let wired = events.iter().enumerate();
            wired.filter_map(move |(vector, event)| Some((index, vector, event.as_ref()?.id())))
        })
    }

    /// What stands of it, but what the files say.
    pub(super) fn standing(&self) -> Vec<String> {
        let bdf = self.function.bdf;
        let mut standing: Vec<_> = self.on.iter().map(|on| format!("{bdf}: kind {on} is on")).collect();
        standing.extend(
            self.wired().map(|(index, vector, _)| format!("{bdf}: kind {index} vector {vector} wired")),
        );
        if self.bar.is_some() {
            let command = self.command();
            standing.push(format!("{bdf}: Command {command:#x}"));
        }
        let mapped = self.bars.iter().filter(|inode| is_mapped(**inode));
        standing.extend(mapped.map(|_| format!("{bdf}: BAR mapped")));
        standing
    }

    /// The descriptors that it keeps of others' eventfds.
    pub(super) fn own_descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.events.iter().flatten().flatten().chain(&self.unmask).map(KernelEvent::raw)
    }
}

/// Where `length` bytes from `offset` on are in a region, if all of them are.
fn within(offset: u64, length: usize, start: u64, size: u64) -> Option<u64> {
    let at = offset.checked_sub(start)?;
    (at.checked_add(length as u64)? <= size).then_some(at)
}

/// Whether this process has a mapping of the BAR with this inode.
fn is_mapped(inode: u64) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let bars = maps.lines().filter(|line| line.contains(BAR_NAME));
    bars.filter_map(|line| line.split_whitespace().nth(4)?.parse().ok()).any(|other: u64| other == inode)
}
