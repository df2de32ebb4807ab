//! Who looks after devices while the guest runs: what the host says of them, what the guest gives up, and what a
//! control socket asks for.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vfio_assign_core::Bdf;
use vfio_assign_linux::{DeviceEvent, Reservation};

use super::devices::{Devices, Member, report};
use super::{AssignmentError, Opener, address};
use crate::control::{Answer, DeviceStatus, MachineLine, Notice, Reply, Request, Server, Wish};
use crate::machine::event::Event;
use crate::machine::pci::{FIRST_SLOT, PciBus};

/// How often devices are looked at of which nobody has said anything: one that vanishes does so silently.
const WATCH_SECONDS: i64 = 1;

/// The keeper of the machine's devices, on a thread of its own.
pub(super) struct Keeper {
    pub(super) bus: Arc<PciBus>,
    pub(super) devices: Arc<Devices>,
    /// How devices are opened; none in a machine that never has any.
    pub(super) opener: Option<Opener>,
    pub(super) control: Option<Control>,
    /// Raised when it is to end.
    pub(super) quit: Arc<Event>,
}

/// A control socket, and what it has done to the machine.
pub(crate) struct Control {
    server: Server,
    machine: MachineLine,
    paused: bool,
    /// It is paused, and was saved with the devices that it has.
    saved: bool,
}

impl Control {
    /// A socket by which the machine at the end of this line is told what to do.
    pub(crate) fn new(server: Server, machine: MachineLine) -> Self {
        Self { server, machine, paused: false, saved: false }
    }
}

/// What has come.
struct Come {
    quit: bool,
    look: bool,
    events: Vec<(Bdf, DeviceEvent)>,
}

impl Keeper {
    /// Opens what the machine starts with, into the first slots.
    pub(super) fn open(&self, reserved: Vec<Reservation>) -> Result<(), AssignmentError> {
        let Some(opener) = &self.opener else { return Ok(()) };
        // What was reset meanwhile would be reset without those that are not open yet, or not at all.
        let opening = self.devices.opening();
        reserved.into_iter().zip(FIRST_SLOT..).try_for_each(|(device, slot)| {
            opening.put(slot, opener.open(device, slot, &opening)?);
            Ok(())
        })
    }

    /// Looks after the devices until it is to end.
    pub(super) fn run(mut self) {
        let mut watched = Instant::now();
        loop {
            match self.wait() {
                Ok(come) if come.quit => return,
                Ok(Come { look, events, .. }) => {
                    events.into_iter().for_each(|(bdf, event)| self.happened(bdf, event));
                    if look {
                        self.bus.look().clear();
                        self.look();
                    }
                }
                Err(errno) => {
                    log::error!("nobody looks after the devices any more: poll: {errno}");
                    return;
                }
            }
            if watched.elapsed().as_secs().cast_signed() >= WATCH_SECONDS {
                watched = Instant::now();
                // One that is found gone says so by its event.
                for member in self.devices.there() {
                    member.device.watch();
                }
            }
            self.serve();
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Result<Come, Errno> {
        // Devices are not held any longer than this: one that leaves is closed by who holds it last.
        let members = self.devices.there();
        let watched = members
            .iter()
            .flat_map(|member| member.device.event_fds().map(move |(event, fd)| (member, event, fd)));
        let watched: Vec<(&Member, DeviceEvent, BorrowedFd<'_>)> = watched.collect();
        let own = [self.quit.as_fd(), self.bus.look().as_fd()];
        let fds = own.into_iter().chain(watched.iter().map(|(.., fd)| *fd));
        let mut polled: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if let Some(control) = &self.control {
            polled.extend(control.server.waits_for());
        }
        let patience = self.control.as_ref().and_then(|control| control.server.patience());
        let watch = (!members.is_empty()).then_some(Timespec { tv_sec: WATCH_SECONDS, tv_nsec: 0 });
        let patience = [patience, watch].into_iter().flatten().min();
        while let Err(errno) = poll(&mut polled, patience.as_ref()) {
            if errno != Errno::INTR {
                return Err(errno);
            }
        }
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || ready.next() == Some(true);
        let (quit, look) = (next(), next());
        let mut events = Vec::new();
        for (member, event, _) in &watched {
            if next() && member.device.take_event(*event) {
                events.push((member.device.bdf(), *event));
            }
        }
        Ok(Come { quit, look, events })
    }

    /// The host has said something of a device.
    fn happened(&mut self, bdf: Bdf, event: DeviceEvent) {
        let Some(Member { slot, device }) = self.devices.find(bdf) else { return };
        let first = device.count_event(event);
        let alive = device.is_alive();
        drop(device);
        let name = bdf.to_string();
        match event {
            DeviceEvent::Error => {
                if first {
                    log::error!("{bdf}: {event}; the guest goes on with it, see `dmesg` of the host");
                }
                self.tell(&Notice::DeviceError { device: name });
            }
            // Whoever found it out has said so.
            DeviceEvent::Gone => {}
            DeviceEvent::ReleaseRequest => {
                self.tell(&Notice::ReleaseRequest { device: name });
                if alive {
                    self.wanted_back(bdf, slot, first);
                }
            }
        }
        if !alive {
            self.bus.look().raise();
        }
    }

    /// The host wants a device back, and says so again every few seconds.
    fn wanted_back(&mut self, bdf: Bdf, slot: u8, first: bool) {
        let event = DeviceEvent::ReleaseRequest;
        if self.bus.has_ports() {
            let asked = !self.is_paused() && self.bus.ask_back(slot);
            if first {
                let when = if asked { "" } else { " when it goes on" };
                log::warn!("{bdf}: {event}: the guest is asked to give it up{when}");
            }
        } else if self.is_saved() {
            if first {
                log::warn!("{bdf}: {event}: it is taken when the machine goes on, which was saved with it");
            }
        } else {
            log::warn!("{bdf}: {event}: it is taken from the guest, which cannot be asked");
            self.take(bdf, false);
        }
    }

    /// Takes what the guest has given up, and what has died, and asks for what the host has wanted back while nobody
    /// could be asked. From a machine that was saved nothing is taken before it goes on.
    fn look(&mut self) {
        if self.is_saved() {
            return;
        }
        for Member { slot, device } in self.devices.there() {
            let (bdf, alive, wanted) = (device.bdf(), device.is_alive(), device.is_wanted_back());
            drop(device);
            if self.bus.is_released(slot) {
                log::info!("{bdf}: the guest has given it up");
                self.take(bdf, true);
            } else if !alive {
                self.take(bdf, false);
            } else if wanted && !self.is_paused() && !self.bus.is_asked_back(slot) {
                self.wanted_back(bdf, slot, true);
            }
        }
    }

    fn take(&mut self, bdf: Bdf, given_up: bool) {
        self.devices.take(bdf);
        self.tell(&Notice::Removed { device: bdf.to_string(), given_up });
    }

    fn tell(&mut self, notice: &Notice) {
        if let Some(control) = &mut self.control {
            control.server.tell(notice);
        }
    }

    /// Does what clients of the control socket ask for.
    fn serve(&mut self) {
        let said = self.control.as_mut().map(|control| control.server.listen_to_all());
        for one in said.into_iter().flatten() {
            // Who has left may have asked for more, but wants nothing of it.
            if !self.control.as_ref().is_some_and(|control| control.server.has(one.client)) {
                continue;
            }
            let answer = match one.request {
                Ok(request) => self.answer(one.client, request),
                Err(error) => Some(Answer::refusal(&error)),
            };
            // None where the machine has ended, and soon everybody is told by the end of the conversation.
            let Some(answer) = answer else { return };
            if let Some(control) = &mut self.control {
                control.server.answer(one.client, &answer);
            }
        }
    }

    fn answer(&mut self, client: u64, request: Request) -> Option<Answer> {
        let done = |result: Result<(), AssignmentError>| {
            Some(result.map_or_else(|error| Answer::refusal(&error), |()| Answer::Done))
        };
        match request {
            Request::Status => Some(self.status()),
            Request::Pause => self.wish(Wish::Pause, |control| control.paused = true),
            Request::Resume => {
                self.wish(Wish::Resume, |control| (control.paused, control.saved) = (false, false))
            }
            Request::Inspect { device } => {
                Some(self.inspect(&device).unwrap_or_else(|error| Answer::refusal(&error)))
            }
            Request::Quit => self.wish(Wish::Quit, |_| {}),
            Request::Save { file } => self.wish(Wish::Save(file), |control| control.saved = true),
            Request::HandOver => self.hand_over(client),
            Request::Add { device } => done(self.add(&device)),
            Request::Remove { device } => done(self.remove(&device)),
        }
    }

    /// Has the machine do something, and notes that it was done.
    fn wish(&mut self, wish: Wish, done: impl FnOnce(&mut Control)) -> Option<Answer> {
        let control = self.control.as_mut()?;
        let answer = control.machine.ask(wish)?.answer;
        if answer == Answer::Done {
            done(control);
            // What had to wait may be possible now.
            self.bus.look().raise();
        }
        Some(answer)
    }

    /// Hands all over to the process that a client is, and has this one end; none where that has gone well.
    fn hand_over(&mut self, client: u64) -> Option<Answer> {
        let control = self.control.as_mut()?;
        let Reply { answer, files } = control.machine.ask(Wish::Files)?;
        if answer != Answer::Done {
            return Some(answer);
        }
        if let Err(error) = control.server.hand_over(client, &files) {
            let error = format!("the files were not sent: {error}");
            return Some(Answer::Refused { error, help: None });
        }
        control.machine.ask(Wish::Vanish)?;
        None
    }

    fn is_paused(&self) -> bool {
        self.control.as_ref().is_some_and(|control| control.paused)
    }

    fn is_saved(&self) -> bool {
        self.control.as_ref().is_some_and(|control| control.saved)
    }

    fn status(&self) -> Answer {
        let status = |Member { slot, device }: &Member| DeviceStatus {
            device: device.bdf().to_string(),
            slot: *slot,
            leaving: self.bus.is_asked_back(*slot),
        };
        Answer::Status {
            paused: self.is_paused(),
            devices: self.devices.there().iter().map(status).collect(),
            free_slots: self.bus.free_slots().count(),
        }
    }

    /// What there is to say of a device.
    fn inspect(&self, device: &str) -> Result<Answer, AssignmentError> {
        let bdf = address(device)?;
        let Member { device, .. } = self.devices.find(bdf).ok_or(AssignmentError::NotHere { bdf })?;
        Ok(Answer::Report { report: report(&device).unwrap_or_default() })
    }

    /// Opens a device and puts it into a free slot.
    fn add(&self, device: &str) -> Result<(), AssignmentError> {
        let bdf = address(device)?;
        if self.is_paused() {
            return Err(AssignmentError::Paused);
        }
        let slot = self.bus.free_slots().next().ok_or(AssignmentError::NoFreeSlot { bdf })?;
        let opener = self.opener.as_ref().ok_or(AssignmentError::NoFreeSlot { bdf })?;
        let opening = self.devices.opening();
        opening.put(slot, opener.open(opener.vm.reserve(bdf)?, slot, &opening)?);
        Ok(())
    }

    /// Asks the guest to give a device up.
    fn remove(&self, device: &str) -> Result<(), AssignmentError> {
        let bdf = address(device)?;
        if self.is_paused() {
            return Err(AssignmentError::Paused);
        }
        let Member { slot, .. } = self.devices.find(bdf).ok_or(AssignmentError::NotHere { bdf })?;
        let asked = self.bus.ask_back(slot);
        if asked { Ok(()) } else { Err(AssignmentError::NotHotPlug { bdf }) }
    }
}

#[cfg(test)]
mod tests;
