//! The synchronous host: each step is a call of a trait method, one after the other.

use crate::access::Bytes;
use crate::function::{AssignedFunction, ResetOutcome};
use crate::host::{Host, HostError, Outcome, Step};
use crate::interrupts::Vector;
use crate::operation::{Access, Begin, Completion};
use crate::stop::BusMastering;
use crate::windows::Window;

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// The guest accesses the function: [`begin`](Self::begin), and all steps taken by `host`.
    ///
    /// Returns what was read, nothing for a write. While another operation is under way the access is answered
    /// as by a device that is gone.
    pub fn access<H: Host>(&mut self, access: Access, host: &mut H) -> Bytes {
        match self.at_once(&access) {
            Some((value, size)) => Bytes::from_value(value, size),
            None => self.access_in_steps(&access, host),
        }
    }

    #[inline(never)]
    fn access_in_steps<H: Host>(&mut self, access: &Access, host: &mut H) -> Bytes {
        match self.begin_access(access) {
            Begin::Done(bytes) => bytes,
            Begin::Steps => self.drive(host),
            Begin::Busy => match access {
                Access::Read { size, .. } => Bytes::all_ones(*size),
                Access::Write { .. } => Bytes::EMPTY,
            },
        }
    }

    /// [`begin_settle`](Self::begin_settle), driven.
    pub fn settle<H: Host>(&mut self, host: &mut H) {
        if self.begin_settle() == Begin::Steps {
            let _ = self.drive(host);
        }
    }

    /// [`begin_attach`](Self::begin_attach), driven.
    pub fn attach<H: Host>(&mut self, host: &mut H) {
        if self.begin_attach() == Begin::Steps {
            let _ = self.drive(host);
        }
    }

    /// [`begin_reset`](Self::begin_reset), driven.
    pub fn reset<H: Host>(&mut self, host: &mut H) -> ResetOutcome {
        match self.begin_reset() {
            Begin::Steps => {
                let _ = self.drive(host);
            }
            Begin::Done(_) => {}
            Begin::Busy => return ResetOutcome::NotReset,
        }
        self.last_reset.unwrap_or(ResetOutcome::NotReset)
    }

    /// [`begin_stop`](Self::begin_stop), driven.
    pub fn stop<H: Host>(&mut self, bus_mastering: BusMastering, host: &mut H) {
        if self.begin_stop(bus_mastering) == Begin::Steps {
            let _ = self.drive(host);
        }
    }

    /// [`begin_start`](Self::begin_start), driven.
    pub fn start<H: Host>(&mut self, host: &mut H) {
        if self.begin_start() == Begin::Steps {
            let _ = self.drive(host);
        }
    }

    /// [`begin_detach`](Self::begin_detach), driven.
    pub fn detach<H: Host>(&mut self, host: &mut H) {
        if self.begin_detach() == Begin::Steps {
            let _ = self.drive(host);
        }
    }

    /// Takes the steps of the operation under way, to its end; returns what it read.
    pub fn drive<H: Host>(&mut self, host: &mut H) -> Bytes {
        loop {
            match self.drive_steps(host, true) {
                Some(Completion::Done(bytes)) => return bytes,
                Some(_) => {}
                None => return Bytes::EMPTY,
            }
        }
    }

    /// Takes the next step of the operation under way; `None` if none is. For who has to do something between two.
    pub fn drive_step<H: Host>(&mut self, host: &mut H) -> Option<Completion> {
        self.drive_steps(host, false)
    }

    /// Takes the next step; with `many` also those after it that are the same of other vectors, as far as they are
    /// done: nothing has to be found out between them.
    fn drive_steps<H: Host>(&mut self, host: &mut H, many: bool) -> Option<Completion> {
        let step = self.operation.step?;
        if many && step.is_of_vector() {
            let mut failed = None;
            self.interrupts.run(|step| match take_vector(step, host) {
                Ok(()) => {
                    host.step_done(step);
                    true
                }
                Err(error) => {
                    host.step_failed(step, &error);
                    failed = Some(step);
                    false
                }
            });
            let outcome = failed.map(|_| Outcome::Failed);
            self.operation.step = failed;
            return Some(self.completed(outcome));
        }
        let outcome = match self.perform(step, host) {
            Ok(outcome) => {
                host.step_done(step);
                outcome
            }
            Err(error) => {
                host.step_failed(step, &error);
                H::fewer(&error).map_or(Outcome::Failed, Outcome::Fewer)
            }
        };
        Some(self.completed(Some(outcome)))
    }

    /// Has `host` take one step: what [`drive`](Self::drive) does for each, for an embedder with a loop of its own.
    ///
    /// # Errors
    ///
    /// What the host said. The step is to be [completed](Self::complete) as [`Outcome::Failed`], or as
    /// [`Outcome::Fewer`] if [`fewer`](crate::host::InterruptHost::fewer) knows how many vectors there are.
    pub fn perform<H: Host>(&self, step: Step, host: &mut H) -> Result<Outcome, <H as HostError>::Error> {
        let value = match step {
            Step::ReadConfig { offset, width } => u64::from(host.config_read(offset, width)?),
            Step::ReadBar { bar, offset, width } => host.bar_read(bar, offset, width)?,
            Step::PollPending { kind, first, mask } => host.poll_pending(kind, first, mask)?,
            Step::TakePending { kind, first, mask } => host.take_pending(kind, first, mask)?,
            Step::WriteConfig { offset, width, value } => done(host.config_write(offset, width, value)?),
            Step::WriteBar { bar, offset, width, value } => done(host.bar_write(bar, offset, width, value)?),
            Step::ResetFunction => done(host.reset()?),
            Step::Unmap(window) => done(host.unmap(window)?),
            Step::Map(window) => done(host.map(window)?),
            Step::Untrap { bar, range } => done(host.untrap(bar, range, self.decoder())?),
            Step::Trap { bar, range } => done(host.trap(bar, range, self.decoder())?),
            Step::DisableInterrupts { kind } => done(host.disable(kind)?),
            Step::ReleaseVectors { kind } => done(host.release(kind)?),
            Step::EnableInterrupts { kind } => done(host.enable(kind)?),
            Step::Wire { kind, first, last } => {
                done(host.wire(kind, first, last, &|vector| self.wants_event(kind, vector))?)
            }
            Step::CommitRoutes => done(host.commit_routes()?),
            Step::UnmaskIntx => done(host.unmask_intx()?),
            Step::Disarm { .. } | Step::Route { .. } | Step::Signal { .. } | Step::Arm { .. } => {
                done(take_vector(step, host)?)
            }
        };
        Ok(Outcome::Value(value))
    }
}

/// Has `host` take a step of one vector; another step it is not asked for.
#[inline]
fn take_vector<H: Host>(step: Step, host: &mut H) -> Result<(), <H as HostError>::Error> {
    match step {
        Step::Disarm { kind, vector } => host.disarm(kind, vector),
        Step::Route { kind, vector, message } => host.route(kind, vector, message),
        Step::Signal { kind, vector } => host.signal(kind, vector),
        Step::Arm { kind, vector } => host.arm(kind, vector),
        _ => Ok(()),
    }
}

/// A step without a value is done.
fn done((): ()) -> u64 {
    0
}
