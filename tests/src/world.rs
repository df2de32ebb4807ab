//! [`World`]: a function on a fake host that takes [`Op`]s, and says what is wrong after each.

use crate::bound::most_host_calls;
use crate::op::Op;
use crate::rig::Rig;
use crate::setup::Setup;
use vfio_assign_core::fake::{CallKind, FakeHost};
use vfio_assign_core::host::{GuestRange, InterruptKind, Outcome};
use vfio_assign_core::{
    Access, Address, AssignedFunction, BarIndex, Begin, BusMastering, Bytes, GuestAddr, GuestPort,
    PhysBarOffset, Pin, Span, Target, Vector, VectorIndex, Window,
};

/// Windows that there is storage for.
const WINDOWS: usize = 8;

/// A function, its host, and what is known of what has happened to them.
#[derive(Clone, Debug)]
pub struct World {
    /// The function and its host.
    pub rig: Rig,
    setup: Setup,
    vectors: u16,
    /// An interrupt that is to come in the middle of the next operation.
    interrupt: Option<(VectorIndex, u8)>,
    /// A call that empties events was told to fail: what they held may be lost.
    may_lose: bool,
    /// A call that unmasks the pin was told to fail: it may be masked for longer.
    may_mask: bool,
}

impl World {
    /// The device of this shape or setup, attached; `None` if it is none that can be assigned.
    pub fn new(setup: impl Into<Setup>) -> Option<Self> {
        let mut world = Self::unattached(setup.into())?;
        world.rig.function.attach(&mut world.rig.host);
        Some(world)
    }

    fn unattached(setup: Setup) -> Option<Self> {
        let (vectors, windows) = (vec![Vector::RESET; 300], vec![Window::default(); WINDOWS]);
        let function = AssignedFunction::new(&setup.description(), vectors, windows, |_| {}).ok()?;
        let vectors = function.msix().map_or(0, |msix| msix.count());
        let rig = Rig { function, host: FakeHost::new(&setup.shape), findings: Vec::new() };
        let (interrupt, may_lose, may_mask) = (None, false, false);
        Some(Self { rig, setup, vectors, interrupt, may_lose, may_mask })
    }

    /// Lets it happen, and looks whether everything is as it must be.
    ///
    /// # Panics
    ///
    /// It is not.
    pub fn apply(&mut self, op: Op) {
        self.observe(op);
    }

    /// The same; returns what the guest reads.
    ///
    /// # Panics
    ///
    /// Something is not as it must be.
    pub fn observe(&mut self, op: Op) -> Bytes {
        self.rig.host.take_steps();
        let mut bytes = Bytes::EMPTY;
        let target = |address| Target::Memory(GuestAddr::new(address));
        match op {
            Op::ConfigRead { offset, size } => {
                bytes = self.read(Target::Config(offset), size);
                self.check_ids(offset, bytes);
            }
            Op::ConfigWrite { offset, size, value } => self.write(Target::Config(offset), size, value),
            Op::Read { address, size } => bytes = self.read(target(address), size),
            Op::Write { address, size, value } => self.write(target(address), size, value),
            Op::PortRead { port, size } => {
                bytes = self.read(Target::Port(GuestPort::new(u64::from(port))), size);
            }
            Op::PortWrite { port, size, value } => {
                self.write(Target::Port(GuestPort::new(u64::from(port))), size, value);
            }
            Op::Raise { vector } => {
                let vector = self.vector(vector);
                self.rig.host.raise(vector);
            }
            Op::Latch { vector } => {
                let vector = self.vector(vector);
                self.latch(vector);
            }
            Op::Pin { asserted } => self.rig.host.assert_pin(asserted),
            Op::EndInterrupt => self.rig.end_interrupt(),
            Op::Interrupt { vector, after } => self.interrupt = Some((self.vector(vector), after)),
            Op::Settle => self.task(AssignedFunction::begin_settle),
            Op::Stop { bus_mastering: BusMastering::Kept } => {
                self.task(|function| function.begin_stop(BusMastering::Kept));
            }
            Op::Stop { bus_mastering: BusMastering::Off } => {
                self.task(|function| function.begin_stop(BusMastering::Off));
            }
            Op::Start => self.task(AssignedFunction::begin_start),
            Op::Reset => {
                self.task(AssignedFunction::begin_reset);
                self.check_pins();
            }
            Op::Reassign => {
                self.task(AssignedFunction::begin_detach);
                self.check_detached();
                self.task(AssignedFunction::begin_attach);
            }
            Op::Fail { kind, after } => {
                self.may_lose |= kind == CallKind::TakePending;
                self.may_mask |= kind == CallKind::UnmaskIntx;
                self.rig.host.faults.fail_nth(kind, u32::from(after));
            }
            Op::Unplug => {
                self.rig.host.unplug();
                self.rig.function.handle_gone();
                self.task(AssignedFunction::begin_settle);
            }
        }
        self.check();
        bytes
    }

    /// The machine stops; what the guest can see is saved, and the assignment ends. A new function of the same device,
    /// into which it is restored, takes its place, and settles.
    ///
    /// # Panics
    ///
    /// It cannot be saved or restored, or something is not as it must be.
    #[must_use]
    pub fn restored(&self) -> Self {
        let mut old = self.clone();
        old.task(|function| function.begin_stop(BusMastering::Kept));
        let mut state = vec![0; old.rig.function.saved_size()];
        assert_eq!(old.rig.function.save(&mut state), Ok(state.len()), "saving");
        old.task(AssignedFunction::begin_detach);
        old.check_detached();
        let mut new = Self::unattached(self.setup.clone()).expect("the device could be assigned before");
        new.rig.host = old.rig.host;
        (new.may_lose, new.may_mask) = (self.may_lose, self.may_mask);
        assert_eq!(new.rig.function.restore(&state), Ok(()), "restoring");
        new.task(AssignedFunction::begin_settle);
        new.check();
        new
    }

    /// One of the function's vectors, or now and then none of them.
    fn vector(&self, choice: u16) -> VectorIndex {
        VectorIndex::new(choice % (self.vectors + 1)).unwrap_or_default()
    }

    /// The embedder has seen an interrupt of the kind that the guest uses.
    fn latch(&mut self, vector: VectorIndex) {
        let kind = self.rig.function.interrupt_mode().unwrap_or(InterruptKind::Msix);
        self.rig.function.handle_interrupt(kind, vector);
    }

    fn read(&mut self, target: Target, size: u8) -> Bytes {
        let size = usize::from(size);
        let begin = self.rig.function.begin(Access::Read { target, size });
        let bytes = self.run(begin);
        assert_eq!(bytes.len(), size.min(Bytes::LIMIT), "the length of what was read");
        bytes
    }

    fn write(&mut self, target: Target, size: u8, value: u64) {
        let data = Bytes::from_slice(&value.to_le_bytes()[..usize::from(size)]);
        let begin = self.rig.function.begin(Access::Write { target, data });
        assert!(self.run(begin).is_empty(), "a write read something");
    }

    fn task(&mut self, begin: fn(&mut AssignedFunction<Vec<Vector>, Vec<Window>>) -> Begin) {
        let begin = begin(&mut self.rig.function);
        self.run(begin);
    }

    /// Takes the steps of an operation, of which there may be only so many.
    fn run(&mut self, begin: Begin) -> Bytes {
        let mut bytes = match begin {
            Begin::Done(bytes) => bytes,
            Begin::Steps => Bytes::EMPTY,
            Begin::Busy => panic!("no operation is under way"),
        };
        let bound = most_host_calls(self.vectors.into(), WINDOWS);
        let mut taken = 0;
        while let Some((token, step)) = self.rig.function.next_step() {
            assert!(taken < bound, "more than {bound} steps");
            if let Some((vector, _)) = self.interrupt.take_if(|(_, after)| usize::from(*after) == taken) {
                self.rig.host.raise(vector);
                self.latch(vector);
            }
            let outcome = self.rig.function.perform(step, &mut self.rig.host).unwrap_or(Outcome::Failed);
            if let vfio_assign_core::Completion::Done(read) = self.rig.function.complete(token, outcome) {
                bytes = read;
            }
            taken += 1;
        }
        bytes
    }

    /// Nothing that the host did is left, unless it refused to undo it.
    fn check_detached(&self) {
        let Rig { function, host, .. } = &self.rig;
        if function.is_quarantined() {
            return;
        }
        assert_eq!(host.windows(), [], "windows after detach");
        assert_eq!(host.armed(), [], "armed vectors after detach");
        assert_eq!(host.interrupt_mode(), None, "interrupts after detach");
        assert!(BarIndex::ALL.iter().all(|bar| host.trapped(*bar).is_none()), "traps after detach");
    }

    fn check(&self) {
        let Rig { function, host, .. } = &self.rig;
        self.check_windows();
        if function.is_quarantined() {
            return;
        }
        for bar in BarIndex::ALL {
            let trapped = host.trapped(bar);
            assert_eq!(trapped, function.decoder().range(bar), "what is trapped for {bar}");
            assert!(trapped.is_none_or(|range| self.may_decode(range)), "{bar} decodes {trapped:?}");
        }
        if let Some(msix) = function.msix() {
            let on = msix.message_control() & 0x8000 != 0;
            assert!(host.interrupts_on() == on || function.is_gone(), "MSI-X Enable");
        }
        self.check_interrupts();
        if !self.may_lose {
            assert_eq!(host.lost_interrupts(), 0, "interrupts that an event held");
        }
    }

    /// Whether the embedder lets BARs decode this.
    fn may_decode(&self, range: GuestRange) -> bool {
        fn covers<A: Address>(given: &[Option<Span<A>>], range: Span<A>) -> bool {
            let mut given = given.iter().flatten().peekable();
            given.peek().is_none()
                || given.any(|span| span.first() <= range.first() && range.last() <= span.last())
        }
        let apertures = self.setup.options.apertures;
        match range {
            GuestRange::Memory(range) => covers(&apertures.memory, range),
            GuestRange::Ports(range) => covers(&[apertures.ports], range),
        }
    }

    /// The guest reads the ids that the embedder gave.
    fn check_ids(&self, offset: u32, bytes: Bytes) {
        if self.rig.function.is_gone() || self.rig.function.is_quarantined() {
            return;
        }
        let ids = self.setup.options.ids;
        let given = [(0, ids.vendor), (2, ids.device), (0x2c, ids.subsystem_vendor), (0x2e, ids.subsystem)];
        for (at, id) in given.into_iter().filter_map(|(at, id)| Some((at, id?))) {
            for (at, byte) in (at..).zip(id.to_le_bytes()) {
                let read = u32::checked_sub(at, offset).and_then(|at| bytes.as_slice().get(at as usize));
                assert!(read.is_none_or(|read| *read == byte), "byte {at:#x} reads {read:x?}");
            }
        }
    }

    /// Pinned BARs are where they belong.
    fn check_pins(&self) {
        if self.rig.function.is_quarantined() {
            return;
        }
        for (bar, pin) in BarIndex::ALL.into_iter().zip(self.setup.options.pinned) {
            let address = match pin {
                Some(Pin::At(address)) => address,
                Some(Pin::Host) => {
                    let register = 0x10 + 4 * usize::from(bar.get());
                    let bytes = self.setup.shape.config[register..].first_chunk().expect("a whole header");
                    let size = self.rig.function.bars().get(bar).map_or(1, |found| found.size);
                    u64::from(u32::from_le_bytes(*bytes)) & !(size - 1)
                }
                None => continue,
            };
            let register = self.rig.function.bars().read(bar);
            assert_eq!(u64::from(register & !0xf), address & 0xffff_ffff, "{bar}");
        }
    }

    /// What the machines believe of the host is so, and no kind is on beside another.
    fn check_interrupts(&self) {
        let Rig { function, host, .. } = &self.rig;
        let none = (0, 0);
        let intx = function.intx().map_or((false, false), |intx| intx.live());
        let msix = function.msix().map_or(none, |msix| msix.live());
        let msi = function.msi().map_or(none, |msi| msi.live());
        let live = [msix, msi, (u16::from(intx.0), u16::from(intx.1))];
        assert!(live.iter().all(|(wired, armed)| armed <= wired), "an armed vector is not wired");
        assert!(live.iter().filter(|live| **live != none).count() <= 1, "two kinds at once: {live:?}");
        assert_eq!(
            host.wired().len(),
            live.iter().map(|(wired, _)| usize::from(*wired)).sum(),
            "wired vectors"
        );
        assert_eq!(
            host.armed().len(),
            live.iter().map(|(_, armed)| usize::from(*armed)).sum(),
            "armed vectors"
        );
        if function.is_gone() {
            return;
        }
        let (wanted, found) = (function.interrupt_mode(), host.interrupt_mode());
        // A pin that the host has refused is off in the host, and the guest has no register that says so.
        let refused = wanted == Some(InterruptKind::Intx) && found.is_none();
        assert!(wanted == found || refused, "{wanted:?} is on, and {found:?} in the host");
        if intx.1 && host.is_pin_asserted() && !self.may_mask {
            assert!(host.line().0, "the device asserts its pin, and the guest's line is not");
        }
    }

    /// Windows are whole pages of the BAR that they belong to, where the guest has put it, one beside the other,
    /// and on no page of an MSI-X structure.
    fn check_windows(&self) {
        let Rig { function, host, .. } = &self.rig;
        let windows = host.windows();
        for (index, window) in windows.iter().enumerate() {
            let page = self.setup.shape.page_size;
            assert_eq!(window.device.align_out(page), window.device, "{window:?} is no whole pages");
            assert_eq!(window.guest.align_out(page), window.guest, "{window:?} is at no page");
            assert!(
                windows[..index].iter().all(|other| !other.guest.overlaps(window.guest)),
                "{window:?} is over another"
            );
            if let Some(msix) = function.msix() {
                let layout = msix.layout();
                for place in [layout.table, layout.pba].iter().filter(|place| place.bar == window.bar) {
                    let first = PhysBarOffset::new(place.span.first().get());
                    let structure = place.span.moved_to(first).expect("a place within the BAR");
                    assert!(!structure.overlaps(window.device), "{window:?} is over {place:?}");
                }
            }
            let excluded = self.setup.unmapped.iter().filter(|found| found.bar == window.bar);
            for part in excluded.map(|found| found.part) {
                assert!(part.is_some_and(|part| !part.overlaps(window.device)), "{window:?} is excluded");
            }
            if function.is_quarantined() {
                continue;
            }
            assert!(host.decodes_memory(), "{window:?}, and the device does not answer");
            let Some(GuestRange::Memory(range)) = function.bars().memory(window.bar).map(GuestRange::Memory)
            else {
                panic!("{window:?}, and the BAR is nowhere");
            };
            let first = range.first().get() + window.device.first().get();
            assert_eq!(window.guest.first().get(), first, "{window:?} is not where its BAR is");
        }
    }
}
