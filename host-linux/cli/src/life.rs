//! A machine from its start to its end, over reboots and pauses, with what is asked of it in between.

use std::path::Path;
use std::sync::mpsc::Receiver;

use crate::assignment::{Assignment, NotHandedOn};
use crate::control::{Answer, Ask, Reply, Wish};
use crate::help::{Help, Problem};
use crate::machine::Machine;
use crate::machine::power::Stop;
use crate::run::Ending;
use crate::saved::{SavedRun, Shape};

/// A machine over all its reboots and pauses.
pub(crate) struct Life<'a> {
    machine: &'a mut Machine,
    assignment: &'a mut Assignment,
    asks: Receiver<Ask>,
    reboots: &'a mut u64,
    shape: Shape,
    state: State,
}

/// What the machine does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    /// Paused, and nothing has changed since it was saved.
    Saved,
}

/// What was asked is not possible now.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the machine runs")]
    Running,
    #[error("the machine was not saved since it was paused")]
    NotSaved,
    #[error("guest memory is this process's alone")]
    NoFiles,
    #[error("descriptors cannot be duplicated: {0}")]
    Descriptors(#[from] std::io::Error),
    #[error(transparent)]
    Device(#[from] NotHandedOn),
}

impl Help for Refusal {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Running => "pause it first".into(),
            Self::NotSaved => "save it first".into(),
            Self::NoFiles => "start the run with --control".into(),
            Self::Descriptors(_) => "raise the number of open files: `ulimit -n`".into(),
            Self::Device(error) => return error.help(),
        })
    }
}

impl<'a> Life<'a> {
    /// The life of a machine of this shape, of which things are asked by `asks`.
    pub(crate) fn new(
        (machine, assignment): (&'a mut Machine, &'a mut Assignment),
        asks: Receiver<Ask>,
        reboots: &'a mut u64,
        shape: Shape,
    ) -> Self {
        Self { machine, assignment, asks, reboots, shape, state: State::Running }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Result<Ending, Problem> {
        loop {
            let running = self.state == State::Running;
            let stop = if running { self.machine.run()? } else { self.machine.wait() };
            match stop {
                Stop::Attend => {}
                Stop::Reset => {
                    *self.reboots += 1;
                    if *self.reboots == 1 {
                        // The others are in the report: a guest may do it for ever.
                        log::info!("the guest resets the machine");
                    }
                    self.assignment.devices().reset();
                    self.machine.reset()?;
                }
                Stop::PowerOff => return Ok(Ending::PoweredOff),
                Stop::Left => return Ok(Ending::Left),
                Stop::Signal(signal) => return Ok(Ending::Signal(signal)),
                Stop::NoDevices => {
                    if let Some(error) = self.assignment.failure() {
                        return Err(error.into());
                    }
                }
                Stop::Quarantined(quarantine) => return Err(quarantine.into()),
                Stop::Failed(error) => return Err(error.into()),
            }
            // Also after a reset: what was asked at that moment was not told by itself.
            while let Ok(Ask { wish, reply }) = self.asks.try_recv() {
                let ending = match wish {
                    Wish::Quit => Some(Ending::Left),
                    Wish::Vanish => Some(Ending::HandedOver),
                    _ => None,
                };
                let refused = |error: Problem| Reply { answer: Answer::refusal(&*error), files: Vec::new() };
                let fulfilled = self.fulfil(wish).unwrap_or_else(refused);
                // Nobody waits only when the client has left.
                drop(reply.send(fulfilled));
                if let Some(ending) = ending {
                    return Ok(ending);
                }
            }
        }
    }

    /// Does what was asked, where it is not so already.
    fn fulfil(&mut self, wish: Wish) -> Result<Reply, Problem> {
        let mut files = Vec::new();
        match wish {
            Wish::Pause if self.state == State::Running => {
                self.assignment.devices().stop();
                self.state = State::Paused;
            }
            Wish::Resume if self.state != State::Running => {
                self.assignment.devices().start();
                self.state = State::Running;
            }
            Wish::Save(path) => self.save(&path)?,
            Wish::Files => {
                if self.state != State::Saved {
                    return Err(Refusal::NotSaved.into());
                }
                files = self.machine.ram_files().map_err(Refusal::from)?.ok_or(Refusal::NoFiles)?;
                files.extend(self.assignment.devices().hand_on().map_err(Refusal::from)?.1);
            }
            Wish::Pause | Wish::Resume | Wish::Vanish | Wish::Quit => {}
        }
        Ok(Reply { answer: Answer::Done, files })
    }

    fn save(&mut self, path: &Path) -> Result<(), Problem> {
        if self.state == State::Running {
            return Err(Refusal::Running.into());
        }
        let (devices, _files) = self.assignment.devices().hand_on().map_err(Refusal::from)?;
        SavedRun::new(self.shape, self.machine.save()?, devices).write(path)?;
        self.state = State::Saved;
        Ok(())
    }
}
