//! A run with a control socket: what it is told by `vfio-assign control`, and what it tells.

use super::Stage;
use crate::l1::L1;
use crate::monitor::{Life, Monitor, OURS, REPORT};
use crate::orders::Servant;
use crate::pages;
use crate::progress::Progress;
use crate::protocol::{End, Event, Launch, Stream};
use crate::report::Report;
use crate::scenarios::Cause;
use crate::scenarios::command::{Ran, run_line};
use std::rc::Rc;

/// The run's socket in L1.
pub(super) const SOCKET: &str = "/run/vm";

/// A guest whose run has a control socket.
pub(super) struct Told<'a> {
    pub(super) guest: Servant,
    progress: &'a Rc<Progress>,
}

impl<'a> Stage<'a> {
    /// Starts a run with these devices, a control socket and more arguments, and waits until its guest takes orders.
    pub(super) fn serve_told(
        &self,
        l1: &mut L1,
        devices: &[String],
        more: &[&str],
    ) -> Result<Told<'a>, Cause> {
        let life = self.start_told(l1, devices, more)?;
        Ok(Told { guest: Servant::new(life, l1)?, progress: self.progress })
    }

    /// Starts one only.
    pub(super) fn start_told(&self, l1: &mut L1, devices: &[String], more: &[&str]) -> Result<Life, Cause> {
        pages::give_huge(l1)?;
        let mut launch = self.options.host.tell(&Monitor::Ours, Monitor::serving(devices, 2, REPORT));
        launch.arguments.extend(["--control", SOCKET].iter().chain(more).map(|word| (*word).to_owned()));
        Ok(Life::start(l1, &Monitor::Ours, launch, self.progress)?)
    }
}

impl Told<'_> {
    /// The same guest, with whose run another process goes on that has just been started.
    pub(super) fn go_on_as(self, next: Life) -> Self {
        Self { guest: self.guest.go_on_as(next), ..self }
    }

    /// Tells the run something.
    pub(super) fn tell(&self, l1: &mut L1, what: &str) -> Result<Ran, Cause> {
        run_line(l1, &format!("vfio-assign control {SOCKET} {what}"), self.progress)
    }

    /// The same, which must be done.
    pub(super) fn done(
        &self,
        report: &mut Report,
        title: &str,
        l1: &mut L1,
        what: &str,
    ) -> Result<(), Cause> {
        let Ran { output, errors, end } = self.tell(l1, what)?;
        let done = end == End::Status(0) && output.trim() == "{\"answer\":\"done\"}";
        report.holds(title, done, "done", format!("{end:?} {output}{errors}"));
        Ok(())
    }

    /// What the run says of itself.
    pub(super) fn status(&self, l1: &mut L1) -> Result<serde_json::Value, Cause> {
        let Ran { output, .. } = self.tell(l1, "status")?;
        // What is no JSON fails the check that wants something of it.
        Ok(serde_json::from_str(&output).unwrap_or_default())
    }
}

/// What a run tells, as it comes.
pub(super) struct Events {
    process: u32,
    told: String,
}

impl Events {
    /// Begins to listen; what happens from then on is heard.
    pub(super) fn listen(l1: &mut L1) -> Result<Self, Cause> {
        let arguments = [OURS, "control", SOCKET, "events"].map(str::to_owned).into();
        let process = l1.spawn(Launch { arguments, user: None })?;
        let mut events = Self { process, told: String::new() };
        events.until(l1, "{\"event\":\"hello\",\"version\":1}")?;
        Ok(events)
    }

    /// Waits until it has told this, and that it has.
    pub(super) fn until(&mut self, l1: &mut L1, wanted: &str) -> Result<bool, Cause> {
        while !self.told.lines().any(|line| line == wanted) {
            match l1.next_of(self.process)? {
                Event::Output { stream: Stream::Out, bytes, .. } => {
                    self.told.push_str(&String::from_utf8_lossy(&bytes.0));
                }
                Event::Exited { .. } => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }

    /// All that was told so far.
    pub(super) fn told(&self) -> &str {
        &self.told
    }
}

/// Whether nobody has the group: its file can be opened by one only, by whichever interface.
pub(super) fn free(l1: &mut L1, group: &str, progress: &Rc<Progress>) -> Result<bool, Cause> {
    Ok(run_line(l1, &format!(": <>/dev/vfio/{group}"), progress)?.end == End::Status(0))
}
