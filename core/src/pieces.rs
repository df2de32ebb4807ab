//! The pieces of an access: which register or which bytes of a BAR each of them is, and what it does there.

mod config;

use crate::access::{ByteLanes, Bytes, Width};
use crate::addr::{BarIndex, ConfigOffset, GuestBarOffset, PhysBarOffset, VectorIndex};
use crate::bars::BarKind;
use crate::decoder::physical;
use crate::function::AssignedFunction;
use crate::host::{GuestRange, InterruptKind, Outcome, Step};
use crate::interrupts::{PendingQuery, Vector};
use crate::operation::{Target, Task, WIDEST_PORT};
use crate::phases::Phase;
use crate::span::Span;
use crate::windows::Window;

/// What is being read for the piece under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    /// Nothing.
    None,
    /// Bytes of a configuration dword.
    Config {
        dword: ConfigOffset,
        /// The byte of the access that lane 0 would be; wraps if the access starts in another lane.
        base: usize,
        /// The lanes that are still to be read from hardware.
        lanes: ByteLanes,
        /// The bits that are not hardware's.
        virtual_read: u32,
    },
    /// Pending Bits of MSI, of a configuration dword.
    MsiPending { base: usize, lanes: ByteLanes, query: PendingQuery, bits: u64 },
    /// Bytes of a BAR.
    Bar { bar: BarIndex, offset: PhysBarOffset, at: usize, width: Width },
    /// Bytes of the Pending Bit Array.
    Pending { first: VectorIndex, query: PendingQuery, bits: u64, at: usize, width: Width, byte: u64 },
}

/// Where a byte of a BAR access goes.
enum Place {
    Table(u64),
    PendingBits(u64),
    /// The guest's BAR is larger than the device's.
    Nothing,
    Device,
}

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// Looks at the next piece of the access, or finds that there is none.
    pub(crate) fn next_piece(&mut self) {
        if self.operation.done < self.operation.bytes.len() {
            return match self.operation.task {
                Task::Read(Target::Config(offset)) => self.config_piece(offset, false),
                Task::Write(Target::Config(offset)) => self.config_piece(offset, true),
                Task::Read(target) => self.bar_piece(target, false),
                Task::Write(target) => self.bar_piece(target, true),
                _ => self.operation.phase = Phase::Finish,
            };
        }
        if self.interrupts.is_settled() {
            self.operation.phase = Phase::Finish;
        } else {
            self.operation.settling_all = true;
            self.enter_revoke();
        }
    }

    fn missed(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.counters.missed_bytes = self.counters.missed_bytes.wrapping_add(bytes);
    }

    /// The BAR, the offset in it and the width of the access's next naturally aligned piece.
    fn locate(&self, target: Target) -> Option<(BarIndex, GuestBarOffset, Width)> {
        let done = u64::try_from(self.operation.done).ok()?;
        let left = u64::try_from(self.operation.bytes.len()).ok()?.checked_sub(done)?;
        let (bar, offset) = match target {
            Target::Memory(address) => self.decoder.memory_byte(address.checked_add(done)?)?,
            Target::Port(port) => self.decoder.port_byte(port.checked_add(done)?)?,
            Target::Config(_) => return None,
        };
        let size = self.bars.get(bar)?.size;
        let room = left.min(size.checked_sub(offset.get())?);
        let width = Width::natural(offset.get(), room);
        let width = if matches!(target, Target::Port(_)) { width.min(WIDEST_PORT) } else { width };
        Some((bar, offset, width))
    }

    fn bar_piece(&mut self, target: Target, write: bool) {
        let at = self.operation.done;
        let Some((bar, offset, width)) = self.locate(target) else {
            self.operation.done = at.saturating_add(1);
            self.missed(1);
            return;
        };
        self.operation.done = at.saturating_add(width.bytes());
        let place = self.place(bar, offset);
        let Some(msix) = self.interrupts.msix.as_mut().filter(|_| !matches!(place, Place::Device)) else {
            return self.device_piece(bar, physical(offset), at, width, write);
        };
        let bytes = &mut self.operation.bytes;
        match place {
            Place::Table(byte) if write => {
                msix.write_table(byte, width, bytes.value(at, width));
            }
            Place::Table(byte) => bytes.store(at, width, msix.read_table(byte, width)),
            Place::PendingBits(byte) if !write => {
                let qword = u16::try_from(byte / 8).unwrap_or(u16::MAX);
                let first = VectorIndex::new(qword.saturating_mul(64)).unwrap_or_default();
                let query = msix.pending(first);
                let bits = query.known;
                self.operation.piece = Piece::Pending { first, query, bits, at, width, byte };
                self.operation.phase = Phase::Read;
            }
            Place::Nothing => self.missed(width.bytes()),
            // The Pending Bit Array is read-only.
            Place::PendingBits(_) | Place::Device => {}
        }
    }

    /// What stands at `offset` of `bar`. The structures start and end at multiples of eight bytes, so that a
    /// naturally aligned piece lies wholly in one of them or in none.
    fn place(&self, bar: BarIndex, offset: GuestBarOffset) -> Place {
        let Some((table, pba)) = self.emulated() else {
            return Place::Device;
        };
        let within = |span: Span<GuestBarOffset>| offset.get().wrapping_sub(span.first().get());
        if table.bar == bar && table.span.contains(offset) {
            return Place::Table(within(table.span));
        }
        if pba.bar == bar && pba.span.contains(offset) {
            return Place::PendingBits(within(pba.span));
        }
        if self
            .decoder
            .beyond_device()
            .is_some_and(|beyond| beyond.bar == bar && beyond.span.contains(offset))
        {
            return Place::Nothing;
        }
        Place::Device
    }

    fn device_piece(&mut self, bar: BarIndex, offset: PhysBarOffset, at: usize, width: Width, write: bool) {
        if !write {
            self.operation.piece = Piece::Bar { bar, offset, at, width };
            self.operation.phase = Phase::Read;
            return;
        }
        let rom = self.bars.get(bar).is_some_and(|found| found.kind == BarKind::Rom);
        if rom {
            return;
        }
        let value = self.operation.bytes.value(at, width);
        self.operation.forwards.clear();
        let _ = self.operation.forwards.push(Step::WriteBar { bar, offset, width, value });
        self.operation.phase = Phase::Forward;
    }

    /// The next hardware read of the piece under way.
    pub(crate) fn next_read(&mut self) -> Option<Step> {
        let step = if self.gone { None } else { self.piece_read() };
        if step.is_none() {
            self.operation.piece = Piece::None;
            self.operation.phase = Phase::Piece;
        }
        step
    }

    fn piece_read(&mut self) -> Option<Step> {
        let hardware_pba = self.interrupts.msix.as_ref().and_then(|msix| msix.layout().hardware_pba);
        match &mut self.operation.piece {
            Piece::None => None,
            Piece::Config { dword, lanes, .. } => {
                let (at, width) = lanes.take_run()?;
                Some(Step::ReadConfig { offset: dword.checked_add(u16::from(at))?, width })
            }
            Piece::MsiPending { base, lanes, query, bits } => {
                if query.poll != 0 {
                    let (kind, first) = (InterruptKind::Msi, VectorIndex::default());
                    return Some(Step::PollPending { kind, first, mask: query.poll });
                }
                let value = u32::try_from(*bits & 0xffff_ffff).unwrap_or(0);
                set_lanes(&mut self.operation.bytes, *base, *lanes, value);
                None
            }
            Piece::Bar { bar, offset, width, .. } => {
                let step = Step::ReadBar { bar: *bar, offset: *offset, width: *width };
                Some(step)
            }
            Piece::Pending { first, query, bits, at, width, byte } => {
                if query.poll != 0 {
                    let kind = InterruptKind::Msix;
                    return Some(Step::PollPending { kind, first: *first, mask: query.poll });
                }
                if let Some((bar, offset)) = hardware_pba.filter(|_| query.hardware != 0) {
                    let offset = offset.checked_add(*byte & !7)?;
                    return Some(Step::ReadBar { bar, offset, width: Width::Qword });
                }
                let shift = u32::try_from((*byte & 7).wrapping_mul(8)).unwrap_or(0);
                self.operation.bytes.store(*at, *width, bits.wrapping_shr(shift));
                None
            }
        }
    }

    /// A hardware read is done: its bytes go into the access, all-ones if it failed.
    pub(crate) fn read_done(&mut self, step: Step, outcome: Outcome) {
        let done = outcome.is_done();
        match (&mut self.operation.piece, step) {
            (Piece::Config { dword, base, virtual_read, .. }, Step::ReadConfig { offset, width }) => {
                let lane = u32::from(offset.get().wrapping_sub(dword.get()));
                let read = u32::try_from(outcome.value() & 0xffff_ffff).unwrap_or(0);
                let bytes = &mut self.operation.bytes;
                let old = lane_values(bytes, *base);
                let read = read.wrapping_shl(lane.wrapping_mul(8));
                let new = if done { (old & *virtual_read) | (read & !*virtual_read) } else { u32::MAX };
                let lanes = match width {
                    Width::Byte => 0x1u8,
                    Width::Word => 0x3,
                    Width::Dword | Width::Qword => 0xf,
                };
                set_lanes(bytes, *base, ByteLanes::from_bits(lanes.wrapping_shl(lane)), new);
            }
            (Piece::Bar { at, width, .. }, Step::ReadBar { .. }) => {
                if done {
                    self.operation.bytes.store(*at, *width, outcome.value());
                }
                self.operation.piece = Piece::None;
            }
            (
                Piece::Pending { query, bits, .. } | Piece::MsiPending { query, bits, .. },
                Step::PollPending { mask, .. },
            ) => {
                *bits |= outcome.value() & mask;
                query.poll = 0;
            }
            (Piece::Pending { query, bits, .. }, Step::ReadBar { .. }) => {
                *bits |= outcome.value() & query.hardware;
                query.hardware = 0;
            }
            _ => {}
        }
    }

    /// A range that the host traps and should not, or not there, if something is to be taken `away`; else one that it
    /// should trap and does not.
    #[inline(never)]
    pub(crate) fn next_trap(&mut self, away: bool) -> Option<Step> {
        for bar in &BarIndex::ALL {
            let bar = *bar;
            let now = self.decoder.range(bar);
            if now.is_some() != away || self.trap_refused(bar) {
                continue;
            }
            let wanted = self.wanted_range(bar);
            let found = if away { now.filter(|range| wanted != Some(*range)) } else { wanted };
            let Some(range) = found else {
                continue;
            };
            // vCPUs must not find a range in the decoder that the host publishes with a step that takes it away.
            self.decoder.set(bar, if away { None } else { wanted });
            return Some(if away { Step::Untrap { bar, range } } else { Step::Trap { bar, range } });
        }
        None
    }

    /// The host could not trap the range of `bar`.
    pub(crate) fn trap_failed(&mut self, bar: BarIndex) {
        self.decoder.set(bar, None);
        self.refused_traps |= 1u8.wrapping_shl(u32::from(bar.get()));
    }

    /// The host could not give up the range of `bar`: it is left for the teardown.
    pub(crate) fn untrap_failed(&mut self, bar: BarIndex, range: GuestRange) {
        self.decoder.set(bar, Some(range));
        self.refused_traps |= 1u8.wrapping_shl(u32::from(bar.get()));
    }
}

/// The bytes of a dword, zero where the access has none; `base` is where lane 0 would be.
// One copy of it: the core is to be small.
#[inline(never)]
fn lane_values(bytes: &Bytes, base: usize) -> u32 {
    u32::from_le_bytes([0usize, 1, 2, 3].map(|lane| bytes.byte(base.wrapping_add(lane))))
}

/// Stores the bytes of a dword whose lanes are enabled; `base` is where lane 0 would go.
fn set_lanes(bytes: &mut Bytes, base: usize, lanes: ByteLanes, value: u32) {
    let enabled = lanes.mask().to_le_bytes();
    for (lane, (byte, enabled)) in value.to_le_bytes().into_iter().zip(enabled).enumerate() {
        if enabled != 0 {
            bytes.set(base.wrapping_add(lane), byte);
        }
    }
}

/// The bytes of an access are at most a cache line, so that positions never come near the end of `usize`.
const _: () = assert!(Bytes::LIMIT == 64);

/// A range is memory or ports, never both.
const _: () = assert!(size_of::<GuestRange>() <= 24);
