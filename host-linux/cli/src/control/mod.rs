//! A run that is told what to do while it runs: the protocol, the monitor's end of it, and the command's.

mod client;
mod files;
mod protocol;
mod server;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use crate::machine::power::Stop;

pub(crate) use client::{ControlError, ask, control, take_over};
#[cfg(test)]
pub(crate) use protocol::line;
pub(crate) use protocol::{Answer, DeviceStatus, Notice, Request};
pub(crate) use server::Server;

/// What only the thread can do that runs the machine.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Stop the processors.
    Pause,
    /// Let them go on.
    Resume,
    /// Write the state of the paused machine to this file.
    Save(PathBuf),
    /// Give copies of the descriptors that go with the state.
    Files,
    /// End without giving anything back: another process has it all.
    Vanish,
    /// End the run.
    Quit,
}

/// A wish, and where its answer goes.
pub(crate) struct Ask {
    pub(crate) wish: Wish,
    pub(crate) reply: Sender<Reply>,
}

/// How a wish was fulfilled.
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    /// Of [`Wish::Files`].
    pub(crate) files: Vec<OwnedFd>,
}

/// The way to the thread that runs the machine.
pub(crate) struct MachineLine {
    pub(crate) asks: Sender<Ask>,
    pub(crate) stops: Sender<Stop>,
}

impl MachineLine {
    /// Has a wish fulfilled; none if the machine has ended.
    pub(crate) fn ask(&self, wish: Wish) -> Option<Reply> {
        let (reply, answer) = channel();
        self.asks.send(Ask { wish, reply }).ok()?;
        self.stops.send(Stop::Attend).ok()?;
        answer.recv().ok()
    }
}
