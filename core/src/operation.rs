//! One access, from its beginning to its end: the state of the operation, and how a host drives it.
//!
//! Its phases are in `phases.rs`; what the pieces of an access do to the machines is in `pieces.rs`.

use crate::access::{Bytes, Width};
use crate::addr::{ConfigOffset, GuestAddr, GuestPort, VectorIndex};
use crate::function::AssignedFunction;
use crate::host::{InterruptKind, Outcome, Step};
use crate::interrupts::Vector;
use crate::phases::Phase;
use crate::pieces::Piece;
use crate::windows::Window;

/// Where an access of the guest's goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// An offset into configuration space, in bytes; past 4095 nobody answers.
    Config(u32),
    /// A guest-physical address.
    Memory(GuestAddr),
    /// An I/O port.
    Port(GuestPort),
}

/// An access of the guest's, of 0 to 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// The guest reads.
    Read {
        /// Where.
        target: Target,
        /// How many bytes; 64 at most are read.
        size: usize,
    },
    /// The guest writes.
    Write {
        /// Where.
        target: Target,
        /// What.
        data: Bytes,
    },
}

/// Names one step of one operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(u32);

/// What has come of beginning an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Begin {
    /// It is complete: what was read, nothing for a write.
    Done(Bytes),
    /// The host has to take the steps that [`AssignedFunction::next_step`] names.
    Steps,
    /// Another operation is under way; this one was not begun.
    Busy,
}

/// What has come of completing a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Completion {
    /// The operation is complete: what was read, nothing for a write.
    Done(Bytes),
    /// There is another step.
    Steps,
    /// The token is not that of the step under way; nothing was changed.
    Stale,
}

/// What an operation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    /// There is none.
    Idle,
    /// A read of the guest's.
    Read(Target),
    /// A write of the guest's.
    Write(Target),
    /// Bring the host into step with what has happened.
    Settle,
    /// The beginning of an assignment.
    Attach,
    /// A reset of the virtual machine.
    Reset,
    /// The end of an assignment.
    Detach,
}

/// The operation under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Operation {
    pub(crate) task: Task,
    pub(crate) phase: Phase,
    /// What is read so far, or what is written.
    pub(crate) bytes: Bytes,
    /// How many of the bytes have been looked at.
    pub(crate) done: usize,
    pub(crate) piece: Piece,
    /// Hardware writes that the piece has led to, last first.
    pub(crate) forwards: heapless::Vec<Step, 4>,
    /// The machines are to be as after reset once the writes are made.
    pub(crate) resetting: bool,
    /// All pieces are done; what they have led to is being settled.
    pub(crate) settling_all: bool,
    /// Something could not be taken away from the guest.
    pub(crate) unknown: bool,
    pub(crate) step: Option<Step>,
    token: u32,
}

impl Operation {
    /// No operation.
    pub(crate) const IDLE: Self = Self {
        task: Task::Idle,
        phase: Phase::Finish,
        bytes: Bytes::EMPTY,
        done: 0,
        piece: Piece::None,
        forwards: heapless::Vec::new(),
        resetting: false,
        settling_all: false,
        unknown: false,
        step: None,
        token: 0,
    };

    #[inline(never)]
    fn start(&mut self, task: Task, bytes: &Bytes, phase: Phase) {
        (self.task, self.phase, self.bytes) = (task, phase, *bytes);
        (self.done, self.piece) = (0, Piece::None);
        self.forwards.clear();
        (self.resetting, self.settling_all, self.unknown) = (false, false, false);
        self.step = None;
    }

    /// One more write to hardware's configuration space, before those that are there.
    // One copy of it: the core is to be small.
    #[inline(never)]
    pub(crate) fn forward_config(&mut self, offset: ConfigOffset, width: Width, value: u32) {
        let _ = self.forwards.push(Step::WriteConfig { offset, width, value });
    }
}

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// The guest accesses the function.
    ///
    /// Any access is answered: what nobody decodes reads all-ones, and writes to it are dropped.
    pub fn begin(&mut self, access: Access) -> Begin {
        match self.at_once(&access) {
            Some((value, size)) => Begin::Done(Bytes::from_value(value, size)),
            None => self.begin_access(&access),
        }
    }

    /// The access goes through all phases.
    #[inline(never)]
    pub(crate) fn begin_access(&mut self, access: &Access) -> Begin {
        if self.is_busy() {
            return Begin::Busy;
        }
        let (task, target, bytes) = match access {
            Access::Read { target, size } => (Task::Read(*target), target, &Bytes::all_ones(*size)),
            Access::Write { target, data } => (Task::Write(*target), target, data),
        };
        let counter = match target {
            Target::Config(_) => &mut self.counters.config_accesses,
            Target::Memory(_) | Target::Port(_) => &mut self.counters.bar_accesses,
        };
        *counter = counter.wrapping_add(1);
        if self.quarantined || self.gone {
            return Begin::Done(if matches!(task, Task::Read(_)) { *bytes } else { Bytes::EMPTY });
        }
        self.at_rest = false;
        self.operation.start(task, bytes, Phase::Piece);
        self.interrupts.begin_operation();
        self.begun()
    }

    /// Brings the host into step with what [`handle_interrupt`](Self::handle_interrupt) or
    /// [`handle_gone`](Self::handle_gone) has told, and tries again what is worth another try.
    pub fn begin_settle(&mut self) -> Begin {
        self.begin_task(Task::Settle)
    }

    /// The assignment begins: hardware's Command register is written to match the guest's view of it.
    pub fn begin_attach(&mut self) -> Begin {
        self.begin_task(Task::Attach)
    }

    /// The virtual machine is reset: interrupts off, windows out, registers as after power-on, bus mastering
    /// off in hardware, and the device reset. How that went is in [`last_reset`](Self::last_reset).
    pub fn begin_reset(&mut self) -> Begin {
        self.begin_task(Task::Reset)
    }

    /// The assignment ends: everything that stands in the host is given back.
    ///
    /// This is also what a quarantined function needs: it tries again what could not be taken away, goes on
    /// after a step that fails, and ends the quarantine if none did. Until then it can be begun again.
    pub fn begin_detach(&mut self) -> Begin {
        self.begin_task(Task::Detach)
    }

    fn begin_task(&mut self, task: Task) -> Begin {
        if self.is_busy() {
            return Begin::Busy;
        }
        if task == Task::Reset {
            self.last_reset = None;
        }
        if self.quarantined && task != Task::Detach {
            return Begin::Done(Bytes::EMPTY);
        }
        self.at_rest = false;
        self.operation.start(task, &Bytes::EMPTY, Phase::Revoke);
        self.interrupts.begin_operation();
        self.operation.settling_all = true;
        if task != Task::Settle {
            self.start_reset(self.wake(), task == Task::Reset);
        } else if self.hardware_stale {
            self.rewrite_hardware();
        }
        if matches!(task, Task::Attach | Task::Detach) {
            self.set_stopped(false);
        }
        self.enter_revoke();
        self.begun()
    }

    pub(crate) fn is_busy(&mut self) -> bool {
        let busy = self.operation.task != Task::Idle;
        if busy {
            self.counters.busy = self.counters.busy.wrapping_add(1);
        }
        busy
    }

    fn begun(&mut self) -> Begin {
        self.advance();
        if self.operation.step.is_some() {
            return Begin::Steps;
        }
        if matches!(self.operation.task, Task::Read(_) | Task::Write(_)) {
            self.counters.local_accesses = self.counters.local_accesses.wrapping_add(1);
        }
        Begin::Done(self.finish())
    }

    /// The step that the host is to take now; the same one until it is completed. `None` if no operation is
    /// under way.
    pub fn next_step(&self) -> Option<(Token, Step)> {
        self.operation.step.map(|step| (Token(self.operation.token), step))
    }

    /// The host has taken a step. A token that is not that of [`next_step`](Self::next_step) changes nothing.
    pub fn complete(&mut self, token: Token, outcome: Outcome) -> Completion {
        if self.operation.step.is_none() || token.0 != self.operation.token {
            self.counters.stale_tokens = self.counters.stale_tokens.wrapping_add(1);
            return Completion::Stale;
        }
        self.completed(Some(outcome))
    }

    /// The step under way is complete. `None`: what came of it has been heard of already.
    pub(crate) fn completed(&mut self, outcome: Option<Outcome>) -> Completion {
        let step = self.operation.step.take();
        self.operation.token = self.operation.token.wrapping_add(1);
        if let (Some(step), Some(outcome)) = (step, outcome) {
            if !outcome.is_done() {
                self.counters.failed(step);
            }
            self.apply(step, outcome);
        }
        if self.quarantined && self.operation.task != Task::Detach {
            return Completion::Done(self.finish());
        }
        self.advance();
        if self.operation.step.is_some() { Completion::Steps } else { Completion::Done(self.finish()) }
    }

    /// An interrupt of `vector` has reached the embedder and not the guest. It is delivered at the next
    /// settling, or stays pending until the guest unmasks it.
    pub fn handle_interrupt(&mut self, kind: InterruptKind, vector: VectorIndex) {
        self.at_rest = false;
        self.interrupts.latch(kind, vector);
    }

    /// The guest has ended an interrupt of the function's pin: at the next settling the host unmasks it, and is
    /// interrupted again if the device still asserts it. A host that resamples by itself need not be told, and may.
    pub fn handle_intx_eoi(&mut self) {
        self.at_rest = false;
        if let Some(intx) = &mut self.interrupts.intx {
            intx.eoi();
        }
    }

    /// The device is gone: [settle](Self::begin_settle) to take away its windows and all that it decodes. From now
    /// on it reads all-ones.
    pub fn handle_gone(&mut self) {
        self.at_rest = false;
        self.gone = true;
    }

    /// The operation is complete: what it returns.
    fn finish(&mut self) -> Bytes {
        let bytes = match self.operation.task {
            Task::Read(_) if self.gone || self.quarantined => Bytes::all_ones(self.operation.bytes.len()),
            Task::Read(_) => self.operation.bytes,
            Task::Detach => {
                self.quarantined &= self.operation.unknown;
                Bytes::EMPTY
            }
            _ => Bytes::EMPTY,
        };
        self.operation.task = Task::Idle;
        self.operation.phase = Phase::Finish;
        self.at_rest = !self.gone && !self.quarantined && self.interrupts.is_at_rest();
        bytes
    }
}

/// The widest piece of a port access: ports have no qword accesses.
pub(crate) const WIDEST_PORT: Width = Width::Dword;
