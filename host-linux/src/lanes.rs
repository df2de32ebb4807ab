//! What vCPUs know of a function without its lock: what it decodes, and how often they accessed what. Each vCPU has a
//! lane of its own, so that they wait for nobody but a change of what is decoded.

use crate::traffic::{Counts, Direction, PieceAccesses, Pieces};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use vfio_assign_core::{BarIndex, Decoder, GuestAddr, GuestBarOffset, GuestPort};

/// The lanes of one function.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Box<[Lane]>,
    pieces: Pieces,
}

/// On cache lines of its own, with the neighbours that processors fetch along.
#[derive(Debug)]
#[repr(align(128))]
struct Lane(Mutex<Inside>);

#[derive(Debug)]
struct Inside {
    decoder: Decoder,
    counts: Counts,
}

/// A lane in use: what the function decodes stays as it is.
pub(crate) struct Entered<'a> {
    inside: MutexGuard<'a, Inside>,
    pieces: &'a Pieces,
}

impl Lanes {
    /// A lane for as many vCPUs as can run at once, and up to the next power of two: a mask finds each thread's.
    pub(crate) fn new(decoder: &Decoder, pieces: Pieces) -> Self {
        let count = thread::available_parallelism().map_or(1, usize::from).next_power_of_two();
        let lane = || Lane(Mutex::new(Inside { decoder: *decoder, counts: pieces.counts() }));
        Self { lanes: (0..count).map(|_| lane()).collect(), pieces }
    }

    /// The calling thread's.
    #[inline]
    pub(crate) fn enter(&self) -> Entered<'_> {
        Entered { inside: self.lanes[own() & (self.lanes.len() - 1)].lock(), pieces: &self.pieces }
    }

    /// Has every vCPU use another decoder. Returns once none uses the old one.
    pub(crate) fn publish(&self, decoder: &Decoder) {
        for lane in self.lanes.iter() {
            lane.lock().decoder = *decoder;
        }
    }

    /// How often each piece of each BAR was accessed, in their order.
    pub(crate) fn accesses(&self) -> impl Iterator<Item = PieceAccesses> {
        let counts = self.lanes.iter().fold(self.pieces.counts(), |sum, lane| sum.plus(&lane.lock().counts));
        self.pieces.accesses(counts)
    }
}

impl Lane {
    #[inline]
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entered<'_> {
    /// What the function decodes.
    #[inline]
    pub(crate) fn decoder(&self) -> &Decoder {
        &self.inside.decoder
    }

    /// Counts an access that begins at this byte of a BAR.
    #[inline]
    pub(crate) fn count(&mut self, bar: BarIndex, offset: GuestBarOffset, direction: Direction) {
        self.inside.counts.rise(self.pieces.find(bar, offset), direction);
    }

    /// Counts an access of memory that begins at this address.
    #[inline]
    pub(crate) fn count_memory(&mut self, address: GuestAddr, direction: Direction) {
        let piece = self.pieces.find_memory(&self.inside.decoder, address);
        self.inside.counts.rise(piece, direction);
    }

    /// Counts an access of ports that begins at this one.
    pub(crate) fn count_ports(&mut self, port: GuestPort, direction: Direction) {
        let piece = self.pieces.find_port(&self.inside.decoder, port);
        self.inside.counts.rise(piece, direction);
    }
}

/// The calling thread's number: threads that start one after the other have lanes side by side.
fn own() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static OWN: Cell<Option<usize>> = const { Cell::new(None) });
    OWN.with(|own| match own.get() {
        Some(number) => number,
        None => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            own.set(Some(number));
            number
        }
    })
}
