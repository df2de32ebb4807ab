//! The events of one function's vectors: for each a vector of the processor, whose handler sets a latch.

use crate::sys::apic::{DEVICE_VECTORS, is_latched, latch, take_latched};
use crate::sys::{Room, words};
use vfio_assign_core::VectorIndex;
use vfio_assign_core::host::Message;

/// How many vectors the processor has for devices.
const COUNT: usize = (*DEVICE_VECTORS.end() - *DEVICE_VECTORS.start()) as usize + 1;

/// All events, in the order of [`DEVICE_VECTORS`].
pub(crate) struct Lines<'a>(&'a mut [Option<Line>; COUNT]);

/// Room for them.
pub(crate) type LinesRoom = Room<{ words::<[Option<Line>; COUNT]>() }>;

/// The event of one vector of the function's.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    vector: VectorIndex,
    /// The message that is to take effect.
    pub(crate) noted: Option<Message>,
    /// The message in effect.
    message: Option<Message>,
    pub(crate) armed: bool,
}

/// Why there is no event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// The processor has no vector left.
    #[error("all {COUNT} vectors of the processor are taken")]
    NoVector,
    /// The vector has no event.
    #[error("vector {0} is not wired")]
    NotWired(VectorIndex),
}

impl<'a> Lines<'a> {
    /// No events.
    pub(crate) fn new(room: &'a mut LinesRoom) -> Self {
        Self(room.fill(None))
    }

    /// Takes all of them away.
    pub(crate) fn clear(&mut self) {
        self.0.fill(None);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// Gives each of these vectors an event, if it has none; none of them, if there are not enough.
    pub(crate) fn give(&mut self, vectors: impl Iterator<Item = VectorIndex>) -> Result<(), LineError> {
        let mut given = [false; COUNT];
        for vector in vectors {
            if self.place(vector).is_ok() {
                continue;
            }
            let Some(place) = self.0.iter().position(Option::is_none) else {
                self.0.iter_mut().zip(given).filter(|(_, given)| *given).for_each(|(line, _)| *line = None);
                return Err(LineError::NoVector);
            };
            // What came for the last owner is nothing to this one.
            take_latched(host_vector(place));
            self.0[place] = Some(Line { vector, noted: None, message: None, armed: false });
            given[place] = true;
        }
        Ok(())
    }

    /// The vector of the processor that a vector's event is.
    pub(crate) fn host_vector(&self, vector: VectorIndex) -> Result<u8, LineError> {
        self.place(vector).map(host_vector)
    }

    /// A vector's event.
    pub(crate) fn line(&mut self, vector: VectorIndex) -> Result<&mut Line, LineError> {
        let place = self.place(vector)?;
        self.0[place].as_mut().ok_or(LineError::NotWired(vector))
    }

    /// Messages noted take effect.
    pub(crate) fn commit(&mut self) {
        self.0.iter_mut().flatten().for_each(|line| line.message = line.noted);
    }

    /// Signals a vector's event.
    pub(crate) fn signal(&self, vector: VectorIndex) -> Result<(), LineError> {
        latch(self.host_vector(vector)?);
        Ok(())
    }

    /// Takes one interrupt that has come for an armed vector: its message is the guest's to have.
    pub(crate) fn take(&self) -> Option<Message> {
        self.due().find_map(|(vector, message)| take_latched(vector).then_some(message))
    }

    /// Whether [`take`](Self::take) would return one.
    pub(crate) fn has(&self) -> bool {
        self.due().any(|(vector, _)| is_latched(vector))
    }

    /// The vectors from `first` on, of those in `mask`, whose event is signalled.
    pub(crate) fn poll(&self, first: VectorIndex, mask: u64) -> u64 {
        self.signalled(first, mask, is_latched)
    }

    /// The same, and the signals are consumed.
    pub(crate) fn take_signals(&self, first: VectorIndex, mask: u64) -> u64 {
        self.signalled(first, mask, take_latched)
    }

    fn signalled(&self, first: VectorIndex, mask: u64, has: fn(u8) -> bool) -> u64 {
        let bit = |(place, line): (usize, &Option<Line>)| {
            let from_first = line.as_ref()?.vector.get().checked_sub(first.get())?;
            let bit = mask & 1u64.checked_shl(u32::from(from_first))?;
            (bit != 0 && has(host_vector(place))).then_some(bit)
        };
        self.0.iter().enumerate().filter_map(bit).fold(0, |all, bit| all | bit)
    }

    /// The events that reach the guest: the processor's vector, and the guest's message.
    fn due(&self) -> impl Iterator<Item = (u8, Message)> {
        self.0.iter().enumerate().filter_map(|(place, line)| {
            let line = line.filter(|line| line.armed)?;
            Some((host_vector(place), line.message?))
        })
    }

    fn place(&self, vector: VectorIndex) -> Result<usize, LineError> {
        let found = self.0.iter().position(|line| line.is_some_and(|line| line.vector == vector));
        found.ok_or(LineError::NotWired(vector))
    }
}

fn host_vector(place: usize) -> u8 {
    DEVICE_VECTORS.start() + place as u8
}
