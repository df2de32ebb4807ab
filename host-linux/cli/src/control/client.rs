//! `vfio-assign control`: one request to a run, its answer, and what there is to hear.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use vfio_assign_core::Bdf;

use super::files;
use super::protocol::{Answer, Message, Notice, Request, VERSION, line};
use crate::arguments::{ControlArguments, ControlVerb};
use crate::help::{Help, Problem};

/// Why a run was not reached, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Nobody listens.
    #[error("cannot reach a run at {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the run has ended before it answered")]
    Ended,
    /// It could not be spoken or listened to.
    #[error("the run cannot be spoken to: {0}")]
    Lost(#[from] io::Error),
    /// It says something else than this program understands.
    #[error("the run says what version {VERSION} of the protocol does not know: {said}")]
    Strange {
        /// What it said.
        said: String,
    },
    /// It refused.
    #[error("{error}")]
    Refused {
        /// Why.
        error: String,
        /// What to do.
        help: Option<String>,
    },
}

impl Help for ControlError {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Connect { .. } => {
                "give the path that the run was given with --control, as the same user".into()
            }
            Self::Ended | Self::Lost(_) => "look at what the run itself has said".into(),
            Self::Strange { .. } => "use the vfio-assign that the run was started with".into(),
            Self::Refused { help, .. } => return help.clone(),
        })
    }
}

/// Carries the request out.
pub(crate) fn control(arguments: &ControlArguments) -> Result<(), Problem> {
    let mut run = Conversation::begin(&arguments.socket)?;
    let request = match &arguments.verb {
        ControlVerb::Events => return Ok(run.follow()?),
        ControlVerb::Status => Request::Status,
        ControlVerb::Pause => Request::Pause,
        ControlVerb::Resume => Request::Resume,
        ControlVerb::Quit => Request::Quit,
        ControlVerb::Save { file } => Request::Save { file: absolute(file)? },
        ControlVerb::Add { device } => Request::Add { device: device.clone() },
        ControlVerb::Remove { device } => Request::Remove { device: device.clone() },
    };
    let answer = run.ask(&request)?;
    if let (Request::Remove { device }, Answer::Done) = (&request, &answer) {
        run.until_removed(device)?;
    }
    Ok(io::stdout().write_all(&line(&answer)).map_err(ControlError::Lost)?)
}

/// One request to the run at this socket, and its answer.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<Answer, ControlError> {
    Conversation::begin(socket)?.ask(request)
}

/// The run may have another current folder.
fn absolute(file: &Path) -> Result<PathBuf, ControlError> {
    Ok(std::path::absolute(file)?)
}

/// Has a saved run hand over guest memory and devices, and waits until it has ended: only then are they nobody else's.
pub(crate) fn take_over(path: &Path) -> Result<Vec<OwnedFd>, ControlError> {
    let refused = |source| ControlError::Connect { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(refused)?;
    stream.write_all(&line(&Request::HandOver))?;
    let (mut heard, mut files, mut bytes) = (Vec::new(), Vec::new(), [0; 4096]);
    loop {
        match files::receive(&stream, &mut bytes, &mut files)? {
            0 => break,
            count => heard.extend_from_slice(&bytes[..count]),
        }
        if let Some(error) = refusal(&heard) {
            return Err(error);
        }
    }
    let wanted = messages(&heard).find_map(|message| match message {
        Message::Answer(Answer::HandedOver { files }) => Some(files),
        _ => None,
    });
    if wanted == Some(files.len()) { Ok(files) } else { Err(ControlError::Ended) }
}

/// What was said in whole lines.
fn messages(heard: &[u8]) -> impl Iterator<Item = Message> {
    heard.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

fn refusal(heard: &[u8]) -> Option<ControlError> {
    messages(heard).find_map(|message| match message {
        Message::Answer(Answer::Refused { error, help }) => Some(ControlError::Refused { error, help }),
        _ => None,
    })
}

struct Conversation {
    stream: BufReader<UnixStream>,
}

impl Conversation {
    fn begin(path: &Path) -> Result<Self, ControlError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| ControlError::Connect { path: path.to_owned(), source })?;
        let mut run = Self { stream: BufReader::new(stream) };
        match run.hear()? {
            Message::Notice(Notice::Hello { version: VERSION }) => Ok(run),
            other => Err(ControlError::Strange { said: format!("{other:?}") }),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, ControlError> {
        self.stream.get_mut().write_all(&line(request))?;
        loop {
            match self.hear()? {
                Message::Answer(Answer::Refused { error, help }) => {
                    return Err(ControlError::Refused { error, help });
                }
                Message::Answer(answer) => return Ok(answer),
                Message::Notice(_) => {}
            }
        }
    }

    /// The device may be written otherwise here than there.
    fn until_removed(&mut self, wanted: &str) -> Result<(), ControlError> {
        let wanted: Result<Bdf, _> = wanted.parse();
        loop {
            if let Message::Notice(Notice::Removed { device, .. }) = self.hear()?
                && device.parse().is_ok_and(|device| Ok(device) == wanted)
            {
                return Ok(());
            }
        }
    }

    /// Shows what there is to hear until the run ends.
    fn follow(&mut self) -> Result<(), ControlError> {
        // Who reads this knows that nothing is missed from here on.
        io::stdout().write_all(&line(&Notice::Hello { version: VERSION }))?;
        loop {
            match self.hear() {
                Ok(message) => io::stdout().write_all(&line(&message))?,
                Err(ControlError::Ended) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn hear(&mut self) -> Result<Message, ControlError> {
        let mut said = String::new();
        if self.stream.read_line(&mut said)? == 0 {
            return Err(ControlError::Ended);
        }
        serde_json::from_str(&said).map_err(|_| ControlError::Strange { said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_left_is_the_one_that_was_named_however_it_was_written() {
        let (here, mut there) = UnixStream::pair().unwrap();
        for device in ["0001:00:04.0", "0000:10:04.0", "0000:00:04.0"] {
            there.write_all(&line(&Notice::Removed { device: device.into(), given_up: true })).unwrap();
        }
        there.write_all(&line(&Answer::Done)).unwrap();
        drop(there);
        let mut run = Conversation { stream: BufReader::new(here) };
        run.until_removed("0:4.0").unwrap();
        assert_eq!(run.hear().unwrap(), Message::Answer(Answer::Done));
    }
}
