//! How often the guest accessed which part of a BAR, where that left guest mode.

use crate::assigned::Function;
use std::sync::atomic::{AtomicU64, Ordering};
use vfio_assign_core::host::GuestRange;
use vfio_assign_core::{BarIndex, BarPiece, Decoder, GuestAddr, GuestBarOffset, GuestPort};

/// How often the guest accessed a piece of a BAR. What it does to a mapped piece is seen only while that is not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PieceAccesses {
    /// The BAR.
    pub bar: BarIndex,
    /// The piece, as [`explain_bar`](vfio_assign_core::AssignedFunction::explain_bar) has it.
    pub piece: BarPiece,
    /// Reads that began in it.
    pub reads: u64,
    /// Writes that began in it.
    pub writes: u64,
}

/// The counters of every piece. vCPUs count side by side.
#[derive(Debug)]
pub(crate) struct Traffic {
    pieces: Vec<Counted>,
}

#[derive(Debug)]
struct Counted {
    bar: BarIndex,
    piece: BarPiece,
    reads: AtomicU64,
    writes: AtomicU64,
}

/// Which way an access goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Traffic {
    /// Counters for the pieces of a function.
    pub(crate) fn new(function: &Function) -> Self {
        let counted =
            |bar, piece| Counted { bar, piece, reads: AtomicU64::new(0), writes: AtomicU64::new(0) };
        let of = |bar| function.explain_bar(bar).map(move |piece| counted(bar, piece));
        Self { pieces: BarIndex::ALL.into_iter().flat_map(of).collect() }
    }

    /// An access that begins at this byte of a BAR.
    pub(crate) fn count(&self, bar: BarIndex, offset: GuestBarOffset, direction: Direction) {
        let hit = |counted: &&Counted| counted.bar == bar && counted.piece.span.contains(offset);
        if let Some(Counted { reads, writes, .. }) = self.pieces.iter().find(hit) {
            let counter = if direction == Direction::Read { reads } else { writes };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An access of memory that begins at this address.
    pub(crate) fn count_memory(&self, decoder: &Decoder, address: GuestAddr, direction: Direction) {
        self.count_first(direction, |bar| match decoder.range(bar)? {
            GuestRange::Memory(span) => span.contains(address).then(|| address.get() - span.first().get()),
            GuestRange::Ports(_) => None,
        });
    }

    /// An access of ports that begins at this one.
    pub(crate) fn count_ports(&self, decoder: &Decoder, port: GuestPort, direction: Direction) {
        self.count_first(direction, |bar| match decoder.range(bar)? {
            GuestRange::Ports(span) => span.contains(port).then(|| port.get() - span.first().get()),
            GuestRange::Memory(_) => None,
        });
    }

    /// Of BARs that lie over each other the lowest answers.
    fn count_first(&self, direction: Direction, offset: impl Fn(BarIndex) -> Option<u64>) {
        let found = BarIndex::ALL.into_iter().find_map(|bar| Some((bar, offset(bar)?)));
        if let Some((bar, offset)) = found {
            self.count(bar, GuestBarOffset::new(offset), direction);
        }
    }

    /// Every piece of every BAR, in their order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = PieceAccesses> {
        self.pieces.iter().map(|Counted { bar, piece, reads, writes }| PieceAccesses {
            bar: *bar,
            piece: *piece,
            reads: reads.load(Ordering::Relaxed),
            writes: writes.load(Ordering::Relaxed),
        })
    }
}
