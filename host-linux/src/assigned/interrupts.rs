//! The interrupts of a function as its guest sees them, for a person who looks at a guest that runs.

use super::{Assigned, Driven, Function};
use crate::guest::GuestSide;
use vfio_assign_core::host::{InterruptKind, Message};
use vfio_assign_core::regs::msix;
use vfio_assign_core::{VectorIndex, Width};

/// MSI-X as the guest sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MsixState {
    /// Message Control.
    pub message_control: u16,
    /// The table, in order, with what is pending.
    pub entries: Vec<MsixEntry>,
}

/// An entry of the MSI-X table, and its pending bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MsixEntry {
    /// What the guest has programmed.
    pub message: Message,
    /// The guest has masked it.
    pub masked: bool,
    /// The guest reads its pending bit as set; none where that cannot be told.
    pub pending: Option<bool>,
    /// An event of the host's stands for it.
    pub has_event: bool,
}

impl<G: GuestSide> Assigned<G> {
    /// The MSI-X table and Pending Bit Array as the guest would read them now; none if it is not offered MSI-X. Nothing
    /// changes by being looked at.
    pub fn msix(&self) -> Option<MsixState> {
        let driven = self.lock();
        let table = driven.function.msix()?;
        let message_control = table.message_control();
        let vectors = (0..table.count()).filter_map(VectorIndex::new);
        let mut entries: Vec<MsixEntry> = vectors.map(|vector| entry(&driven.function, vector)).collect();
        for (first, entries) in (0..).step_by(64).zip(entries.chunks_mut(64)) {
            let pending = VectorIndex::new(first).and_then(|first| self.pending(&driven, first));
            for (bit, entry) in entries.iter_mut().enumerate() {
                entry.pending = pending.map(|bits| bits >> bit & 1 != 0);
            }
        }
        for (vector, entry) in (0..).filter_map(VectorIndex::new).zip(&mut entries) {
            entry.has_event = driven.host.irqs.of(InterruptKind::Msix).event(vector).is_some();
        }
        Some(MsixState { message_control, entries })
    }

    /// The pending bits of the 64 vectors from `first` on; none if the host does not tell.
    fn pending(&self, driven: &Driven<G>, first: VectorIndex) -> Option<u64> {
        let table = driven.function.msix()?;
        let query = table.pending(first);
        let mut bits = query.known;
        if query.poll != 0 {
            bits |= driven.host.irqs.of(InterruptKind::Msix).poll(first, query.poll).ok()?;
        }
        if let Some((bar, offset)) = table.layout().hardware_pba.filter(|_| query.hardware != 0) {
            let offset = offset.checked_add(u64::from(first.get() / 64 * 8))?;
            bits |= self.bars().read(bar, offset, Width::Qword).ok()? & query.hardware;
        }
        Some(bits)
    }
}

/// An entry, of whose pending bit nothing is known yet.
fn entry(function: &Function, vector: VectorIndex) -> MsixEntry {
    let at = u64::from(vector.get()) * msix::ENTRY_SIZE;
    let read = |offset| function.msix().map_or(0, |table| table.read_table(at + offset, Width::Qword));
    let (address, upper) = (read(0), read(8));
    let [data, control] = [upper as u32, (upper >> 32) as u32];
    let masked = control & msix::CONTROL_MASK_BIT != 0;
    MsixEntry { message: Message { address, data }, masked, pending: None, has_event: false }
}
