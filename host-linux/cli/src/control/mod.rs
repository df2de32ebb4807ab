//! A run that is told what to do while it runs: the protocol, the monitor's end of it, and the command's.

mod client;
mod protocol;
mod server;

use std::sync::mpsc::{Sender, channel};

use crate::machine::power::Stop;

pub(crate) use client::{ControlError, ask, control};
pub(crate) use protocol::{Answer, DeviceStatus, Notice, Request};
pub(crate) use server::Server;

/// What only the thread can do that runs the machine.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Stop the processors.
    Pause,
    /// Let them go on.
    Resume,
    /// End the run.
    Quit,
}

/// A wish, and where its answer goes.
pub(crate) struct Ask {
    pub(crate) wish: Wish,
    pub(crate) reply: Sender<Answer>,
}

/// The way to the thread that runs the machine.
pub(crate) struct MachineLine {
    pub(crate) asks: Sender<Ask>,
    pub(crate) stops: Sender<Stop>,
}

impl MachineLine {
    /// Has a wish fulfilled; none if the machine has ended.
    pub(crate) fn ask(&self, wish: Wish) -> Option<Answer> {
        let (reply, answer) = channel();
        self.asks.send(Ask { wish, reply }).ok()?;
        self.stops.send(Stop::Attend).ok()?;
        answer.recv().ok()
    }
}
