//! How often the guest accessed which part of a BAR, where that left guest mode.

use crate::assigned::Function;
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

/// The pieces of every BAR, in their order.
#[derive(Debug)]
pub(crate) struct Pieces(Vec<(BarIndex, BarPiece)>);

/// Reads and writes of each of them.
#[derive(Debug)]
pub(crate) struct Counts(Box<[[u64; 2]]>);

/// Which way an access goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Pieces {
    /// A function's.
    pub(crate) fn new(function: &Function) -> Self {
        let of = |bar| function.explain_bar(bar).map(move |piece| (bar, piece));
        Self(BarIndex::ALL.into_iter().flat_map(of).collect())
    }

    /// Nothing counted yet.
    pub(crate) fn counts(&self) -> Counts {
        Counts(vec![[0; 2]; self.0.len()].into())
    }

    /// The place of the piece that holds this byte of a BAR.
    pub(crate) fn find(&self, bar: BarIndex, offset: GuestBarOffset) -> Option<usize> {
        self.0.iter().position(|(of, piece)| *of == bar && piece.span.contains(offset))
    }

    /// The place of the piece that holds this address.
    pub(crate) fn find_memory(&self, decoder: &Decoder, address: GuestAddr) -> Option<usize> {
        self.find_first(|bar| match decoder.range(bar)? {
            GuestRange::Memory(span) => span.contains(address).then(|| address.get() - span.first().get()),
            GuestRange::Ports(_) => None,
        })
    }

    /// The place of the piece that holds this port.
    pub(crate) fn find_port(&self, decoder: &Decoder, port: GuestPort) -> Option<usize> {
        self.find_first(|bar| match decoder.range(bar)? {
            GuestRange::Ports(span) => span.contains(port).then(|| port.get() - span.first().get()),
            GuestRange::Memory(_) => None,
        })
    }

    /// Of BARs that lie over each other the lowest answers.
    fn find_first(&self, offset: impl Fn(BarIndex) -> Option<u64>) -> Option<usize> {
        let (bar, offset) = BarIndex::ALL.into_iter().find_map(|bar| Some((bar, offset(bar)?)))?;
        self.find(bar, GuestBarOffset::new(offset))
    }

    /// Each piece with its count.
    pub(crate) fn accesses(&self, counts: Counts) -> impl Iterator<Item = PieceAccesses> {
        let counted = |((bar, piece), [reads, writes]): (&(BarIndex, BarPiece), [u64; 2])| PieceAccesses {
            bar: *bar,
            piece: *piece,
            reads,
            writes,
        };
        self.0.iter().zip(counts.0).map(counted)
    }
}

impl Counts {
    /// One more at this place.
    pub(crate) fn rise(&mut self, place: Option<usize>, direction: Direction) {
        if let Some([reads, writes]) = place.and_then(|place| self.0.get_mut(place)) {
            *(if direction == Direction::Read { reads } else { writes }) += 1;
        }
    }

    /// Both together.
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        for (sum, more) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *sum += more;
        }
        self
    }
}
