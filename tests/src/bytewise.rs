//! [`Bytewise`]: trapped accesses of memory and ports against a model that knows one byte at a time where it goes: to the
//! device, to the MSI-X table, to the Pending Bit Array, or nowhere.

use crate::rig::{bar, vector};
use std::collections::BTreeMap;
use vfio_assign_core::fake::{MsixPlan, Shape};
use vfio_assign_core::host::{InterruptKind, Outcome, Step};
use vfio_assign_core::{
    Access, AssignedFunction, BarIndex, Begin, Bytes, Completion, GuestAddr, GuestPort, Target, Vector,
    Width, Window,
};

/// Memory, or ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Guest-physical memory.
    Memory,
    /// I/O ports.
    Ports,
}

/// A BAR where the guest has put it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The BAR.
    pub bar: BarIndex,
    /// What it decodes.
    pub space: Space,
    /// Its first address.
    pub base: u64,
    /// Its bytes.
    pub size: u64,
}

/// What the guest has done about MSI-X.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupts {
    /// Nothing.
    Off,
    /// On under Function Mask; every third vector was unmasked before that.
    Masked,
}

/// Where a byte goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Nowhere,
    Table(usize),
    PendingBits(usize),
    Device(BarIndex, u64),
}

/// An access of a BAR that reached the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Touch {
    bar: BarIndex,
    offset: u64,
    width: usize,
    written: Option<u64>,
}

/// A function whose device answers for itself, and what must come of each access.
#[derive(Clone, Debug)]
pub struct Bytewise {
    function: AssignedFunction<Vec<Vector>, Vec<Window>>,
    placed: Vec<Placed>,
    msix: Option<MsixPlan>,
    interrupts: Interrupts,
    entries: Vec<[u8; 16]>,
    /// Vectors that were unmasked while MSI-X was on: they have events.
    used: Vec<bool>,
    /// Bytes of the device that were written.
    written: BTreeMap<(BarIndex, u64), u8>,
}

/// What the device has at a place where nothing was written: another byte at each of those near by.
fn pattern(bar: BarIndex, offset: u64) -> u8 {
    (offset as u8).wrapping_mul(0x3b) ^ (offset >> 8) as u8 ^ bar.get().wrapping_mul(0x51) ^ 0xa6
}

/// Whether the event of a vector is signalled.
fn is_signalled(index: usize) -> bool {
    index % 5 < 2
}

impl Bytewise {
    /// The device of this shape with these BARs in place and decoded; `msix` is its MSI-X, if it is offered.
    ///
    /// # Panics
    ///
    /// It cannot be assigned, or the MSI-X offered is another.
    pub fn new(shape: &Shape, placed: &[Placed], msix: Option<MsixPlan>, interrupts: Interrupts) -> Self {
        let count = usize::from(msix.map_or(0, |plan| plan.vectors));
        let (vectors, windows) = (vec![Vector::RESET; 2048], vec![Window::default(); 16]);
        let function = AssignedFunction::new(&shape.description(), vectors, windows, |_| {});
        let mut entry = [0; 16];
        entry[12] = 1;
        let mut made = Self {
            function: function.expect("a device that can be assigned"),
            placed: placed.to_vec(),
            msix,
            interrupts,
            entries: vec![entry; count],
            used: vec![false; count],
            written: BTreeMap::new(),
        };
        assert_eq!(made.function.msix().map(|found| found.count()), msix.map(|plan| plan.vectors));
        let begin = made.function.begin_attach();
        made.take_steps(begin, &mut Vec::new());
        for placed in placed {
            let (at, enable) =
                if placed.bar == BarIndex::ROM { (0x30, 1) } else { (0x10 + 4 * placed.bar.get(), 0) };
            let size = if placed.base >> 32 == 0 { 4 } else { 8 };
            made.config(u32::from(at), size, placed.base | enable);
        }
        made.config(4, 2, 7);
        made.prepare(count);
        made
    }

    /// Latches every third vector, and, if they are to be on, takes every third one into use.
    fn prepare(&mut self, count: usize) {
        let capability = self.function.msix().map(|msix| u32::from(msix.layout().capability.get()));
        let (Some(plan), Some(capability)) = (self.msix, capability) else {
            return;
        };
        if self.interrupts == Interrupts::Masked {
            self.config(capability + 2, 2, 0x8000);
            let base = self.placed.iter().find(|placed| placed.bar == plan.table.0).map(|placed| placed.base);
            for index in (0..count).step_by(3) {
                let control = base.unwrap_or(0) + u64::from(plan.table.1) + 16 * index as u64 + 12;
                self.write(Space::Memory, control, &[0]);
            }
            self.used = self.entries.iter().map(|entry| entry[12] == 0).collect();
            self.config(capability + 2, 2, 0xc000);
        }
        for index in (1..count).step_by(3) {
            self.function.handle_interrupt(InterruptKind::Msix, vector(index as u16));
        }
    }

    fn config(&mut self, offset: u32, size: usize, value: u64) {
        let data = Bytes::from_slice(&value.to_le_bytes()[..size]);
        self.access(Access::Write { target: Target::Config(offset), data });
    }

    fn access(&mut self, access: Access) -> (Bytes, Vec<Touch>) {
        let mut touches = Vec::new();
        let begin = self.function.begin(access);
        (self.take_steps(begin, &mut touches), touches)
    }

    /// Takes all steps: the device answers from its bytes, and everything else works.
    fn take_steps(&mut self, begin: Begin, touches: &mut Vec<Touch>) -> Bytes {
        if let Begin::Done(bytes) = begin {
            return bytes;
        }
        while let Some((token, step)) = self.function.next_step() {
            let mut touch = |bar, offset: u64, width: Width, written| {
                touches.push(Touch { bar, offset, width: width.bytes(), written });
            };
            let outcome = match step {
                Step::ReadBar { bar, offset, width } => {
                    touch(bar, offset.get(), width, None);
                    let bytes = (0..width.bytes()).rev().map(|at| self.device(bar, offset.get() + at as u64));
                    Outcome::Value(bytes.fold(0, |value, byte| value << 8 | u64::from(byte)))
                }
                Step::WriteBar { bar, offset, width, value } => {
                    touch(bar, offset.get(), width, Some(value));
                    Outcome::Done
                }
                Step::PollPending { first, mask, .. } => {
                    let bit = |at: usize| u64::from(is_signalled(first.position() + at)) << at;
                    Outcome::Value((0..64).map(bit).sum::<u64>() & mask)
                }
                _ => Outcome::Value(0),
            };
            if let Completion::Done(bytes) = self.function.complete(token, outcome) {
                return bytes;
            }
        }
        panic!("an operation without an end");
    }

    fn device(&self, bar: BarIndex, offset: u64) -> u8 {
        self.written.get(&(bar, offset)).copied().unwrap_or_else(|| pattern(bar, offset))
    }

    /// The lowest BAR answers; inside of it, the table, then the Pending Bit Array, then the device.
    fn place(&self, space: Space, address: Option<u64>) -> Place {
        let hit = |placed: &&Placed| {
            let into = address.and_then(|address| address.checked_sub(placed.base));
            placed.space == space && into.is_some_and(|into| into < placed.size)
        };
        let (Some(found), Some(address)) = (self.placed.iter().find(hit), address) else {
            return Place::Nowhere;
        };
        let offset = address - found.base;
        let within = |(bar, first): (BarIndex, u32), size: usize| {
            let into = offset.checked_sub(u64::from(first)).and_then(|into| usize::try_from(into).ok());
            into.filter(|into| bar == found.bar && *into < size)
        };
        if let Some(plan) = self.msix {
            let count = usize::from(plan.vectors);
            if let Some(into) = within(plan.table, 16 * count) {
                return Place::Table(into);
            }
            if let Some(into) = within(plan.pba, 8 * count.div_ceil(64)) {
                return Place::PendingBits(into);
            }
        }
        Place::Device(found.bar, offset)
    }

    /// M3: the latch, else the event of a vector that was taken into use, else the device's own bit.
    fn pending_bits(&self, byte: usize, pba: (BarIndex, u32)) -> u8 {
        let on = self.interrupts == Interrupts::Masked;
        let own = self.device(pba.0, u64::from(pba.1) + byte as u64);
        (0..8).fold(0, |bits, bit| {
            let index = 8 * byte + bit;
            let pending = match index % 3 {
                _ if index >= self.entries.len() => false,
                1 => true,
                _ if self.used[index] => is_signalled(index),
                _ => on && own >> bit & 1 != 0,
            };
            bits | u8::from(pending) << bit
        })
    }

    /// What a byte reads as.
    fn byte(&self, place: Place) -> u8 {
        match (place, self.msix) {
            (Place::Table(at), _) => self.entries[at / 16][at % 16],
            (Place::PendingBits(at), Some(plan)) => self.pending_bits(at, plan.pba),
            (Place::Device(bar, offset), _) => self.device(bar, offset),
            (Place::Nowhere | Place::PendingBits(_), _) => 0xff,
        }
    }

    /// The accesses of the device that these places are: naturally aligned, as wide as they can be, lowest first.
    fn pieces(places: &[Place], widest: usize) -> Vec<(BarIndex, u64, usize)> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while let Some(place) = places.get(at) {
            let Place::Device(bar, offset) = *place else {
                at += 1;
                continue;
            };
            let is_next = |(next, place): (u64, &Place)| *place == Place::Device(bar, offset + next);
            let run = (0..).zip(&places[at..]).take_while(|pair| is_next(*pair)).count();
            let fits = |width: &usize| *width <= widest.min(run) && offset.is_multiple_of(*width as u64);
            let width = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
            pieces.push((bar, offset, width));
            at += width;
        }
        pieces
    }

    fn places(&self, space: Space, address: u64, size: usize) -> Vec<Place> {
        (0..size as u64).map(|at| self.place(space, address.checked_add(at))).collect()
    }

    fn target(space: Space, address: u64) -> Target {
        match space {
            Space::Memory => Target::Memory(GuestAddr::new(address)),
            Space::Ports => Target::Port(GuestPort::new(address)),
        }
    }

    /// The guest reads: every byte is what it must be, and the device is asked for its own, once each.
    ///
    /// # Panics
    ///
    /// It is not.
    pub fn read(&mut self, space: Space, address: u64, size: usize) {
        let what = format_args!("{size} bytes of {space:?} at {address:#x}").to_string();
        let places = self.places(space, address, size.min(Bytes::LIMIT));
        let missed = self.function.counters().missed_bytes;
        let (bytes, touches) = self.access(Access::Read { target: Self::target(space, address), size });
        let expected: Vec<u8> = places.iter().map(|place| self.byte(*place)).collect();
        assert_eq!(bytes.as_slice(), expected, "{what}");
        self.check_missed(missed, &places, &what);
        let (pending, own): (Vec<_>, Vec<_>) =
            touches.into_iter().partition(|touch| self.is_pending_bits(*touch));
        assert!(own.iter().all(|touch| touch.written.is_none()), "{what}: {own:x?}");
        let own: Vec<_> = own.iter().map(|touch| (touch.bar, touch.offset, touch.width)).collect();
        assert_eq!(own, Self::pieces(&places, widest(space)), "{what}");
        for touch in pending {
            let first = touch.offset - self.msix.map_or(0, |plan| u64::from(plan.pba.1));
            let asked = (first..first + 8).any(|at| places.contains(&Place::PendingBits(at as usize)));
            assert!(asked && touch.width == 8 && touch.written.is_none(), "{what}: {touch:x?}");
        }
    }

    /// The guest writes: the device gets its own bytes, once each, and nothing else changes than what must.
    ///
    /// # Panics
    ///
    /// It does not, or it does.
    pub fn write(&mut self, space: Space, address: u64, data: &[u8]) {
        let what = format_args!("{data:x?} to {space:?} at {address:#x}").to_string();
        let data = &data[..data.len().min(Bytes::LIMIT)];
        let places = self.places(space, address, data.len());
        let missed = self.function.counters().missed_bytes;
        let access = Access::Write { target: Self::target(space, address), data: Bytes::from_slice(data) };
        let (read, touches) = self.access(access);
        assert!(read.is_empty(), "{what}");
        self.check_missed(missed, &places, &what);
        // The ROM takes no write.
        let taken = |place: &Place| match *place {
            Place::Device(BarIndex::ROM, _) => Place::Nowhere,
            other => other,
        };
        let pieces = Self::pieces(&places.iter().map(taken).collect::<Vec<_>>(), widest(space));
        for (place, value) in places.iter().map(taken).zip(data) {
            match place {
                Place::Device(bar, offset) => {
                    self.written.insert((bar, offset), *value);
                }
                Place::Table(at) => self.entries[at / 16][at % 16] = value & writable(at % 16),
                Place::PendingBits(_) | Place::Nowhere => {}
            }
        }
        let expected: Vec<_> = pieces
            .into_iter()
            .map(|(bar, offset, width)| {
                let bytes = (0..width as u64).rev().map(|at| u64::from(self.device(bar, offset + at)));
                let value = bytes.fold(0, |value, byte| value << 8 | byte);
                Touch { bar, offset, width, written: Some(value) }
            })
            .collect();
        assert_eq!(touches, expected, "{what}");
    }

    /// The guest turns over every bit that it reads of these bytes, and reads them and what is around them.
    ///
    /// # Panics
    ///
    /// Something is not as it must be.
    pub fn turn_over(&mut self, space: Space, address: u64, size: usize) {
        let places = self.places(space, address, size);
        let data: Vec<u8> = places.into_iter().map(|place| !self.byte(place)).collect();
        self.write(space, address, &data);
        self.read(space, address.saturating_sub(16), size + 32);
    }

    fn check_missed(&self, before: u64, places: &[Place], what: &str) {
        let nowhere = places.iter().filter(|place| **place == Place::Nowhere).count();
        assert_eq!(self.function.counters().missed_bytes - before, nowhere as u64, "{what}: missed bytes");
    }

    fn is_pending_bits(&self, touch: Touch) -> bool {
        let first = self.placed.iter().find(|placed| placed.bar == touch.bar);
        let place = first.map(|placed| self.place(placed.space, Some(placed.base + touch.offset)));
        matches!(place, Some(Place::PendingBits(_)))
    }

    /// The first and the last byte of everything: BARs, table, Pending Bit Array.
    pub fn edges(&self) -> Vec<(Space, u64)> {
        let mut edges = Vec::new();
        for placed in &self.placed {
            edges.extend([(placed.space, placed.base), (placed.space, placed.base + (placed.size - 1))]);
        }
        if let Some(plan) = self.msix {
            let count = u64::from(plan.vectors);
            for ((bar, first), size) in [(plan.table, 16 * count), (plan.pba, 8 * count.div_ceil(64))] {
                for placed in self.placed.iter().filter(|placed| placed.bar == bar) {
                    let first = placed.base + u64::from(first);
                    edges.extend([(placed.space, first), (placed.space, first + (size - 1))]);
                }
            }
        }
        edges
    }
}

/// A port access has at most four bytes.
fn widest(space: Space) -> usize {
    match space {
        Space::Memory => 8,
        Space::Ports => 4,
    }
}

/// M1: the bits of byte `at` of a table entry that a guest changes.
fn writable(at: usize) -> u8 {
    match at {
        0 => 0xfc,
        12 => 1,
        13..=15 => 0,
        _ => 0xff,
    }
}

/// A memory BAR with this index, size and place.
pub fn memory_at(index: u8, base: u64, size: u64) -> Placed {
    Placed { bar: bar(index), space: Space::Memory, base, size }
}
