//! What is said over a control socket: one JSON object a line, described in `docs/control.md`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::help::Help;

/// The version of what is said. It rises when something that was there means something else, or is gone.
pub(crate) const VERSION: u32 = 1;
/// The longest line that is listened to.
pub(crate) const LONGEST: usize = 64 << 10;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// What there is.
    Status,
    /// The processors stop, interrupts are held.
    Pause,
    /// They go on.
    Resume,
    /// A device is opened and put into a free slot.
    Add {
        /// Its address on the host.
        device: String,
    },
    /// The guest is asked to give a device up.
    Remove {
        /// Its address on the host.
        device: String,
    },
    /// What the run has to say of a device.
    Inspect {
        /// Its address on the host.
        device: String,
    },
    /// The paused run is written to a file, for another process to go on with.
    Save {
        /// The file, as the run sees it.
        file: PathBuf,
    },
    /// The run that was saved ends, without giving anything back: guest memory and devices come with the answer.
    HandOver,
    /// The run ends.
    Quit,
}

/// What a request is answered with, in the order of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// It is done; of [`Request::Remove`], the guest has been asked.
    Done,
    /// What there is.
    Status {
        /// Whether the processors are stopped.
        paused: bool,
        /// Every device.
        devices: Vec<DeviceStatus>,
        /// Slots in which there is room for another.
        free_slots: usize,
    },
    /// What there is to say of a device.
    Report {
        /// As the report at the end of the run has it.
        report: serde_json::Value,
    },
    /// Guest memory and devices are in the descriptors that come with this.
    HandedOver {
        /// How many there are.
        files: usize,
    },
    /// It was not done, and nothing has changed.
    Refused {
        /// Why.
        error: String,
        /// What to do, if anything can be done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        help: Option<String>,
    },
}

/// A device of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceStatus {
    /// Its address on the host.
    pub(crate) device: String,
    /// Its slot in the guest.
    pub(crate) slot: u8,
    /// Whether the guest has been asked to give it up.
    pub(crate) leaving: bool,
}

/// What every client is told unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Notice {
    /// The first line of every conversation.
    Hello {
        /// See [`VERSION`].
        version: u32,
    },
    /// The device reports an error.
    DeviceError {
        /// Its address on the host.
        device: String,
    },
    /// The host wants the device back, and the guest is asked for it unless it is paused. Comes again every few seconds.
    ReleaseRequest {
        /// Its address on the host.
        device: String,
    },
    /// The device has left the machine and is closed.
    Removed {
        /// Its address on the host.
        device: String,
        /// Whether the guest has given it up; else it was lost, or taken.
        given_up: bool,
    },
}

/// Anything that a client hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Message {
    /// To what it has asked.
    Answer(Answer),
    /// Unasked.
    Notice(Notice),
}

impl Answer {
    /// A refusal for this reason.
    pub(crate) fn refusal(error: &(impl Help + ?Sized)) -> Self {
        Self::Refused { error: error.to_string(), help: error.help() }
    }
}

/// Something that is said, as a line.
pub(crate) fn line(said: &impl Serialize) -> Vec<u8> {
    // What is said here has no maps with keys that are no text, which is all that JSON cannot say.
    let mut line = serde_json::to_vec(said).unwrap_or_default();
    line.push(b'\n');
    line
}

/// A line is no request.
#[derive(Debug, thiserror::Error)]
#[error("this is no request: {0}")]
pub(crate) struct NoRequest(#[from] serde_json::Error);

impl Help for NoRequest {
    fn help(&self) -> Option<String> {
        Some("say one JSON object a line, such as {\"request\":\"status\"}".into())
    }
}

/// The request in a line.
pub(crate) fn request(line: &[u8]) -> Result<Request, NoRequest> {
    Ok(serde_json::from_slice(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_the_document_says() {
        let add = Request::Add { device: "0000:00:04.0".into() };
        let said = [
            (Request::Status, r#"{"request":"status"}"#),
            (add, r#"{"request":"add","device":"0000:00:04.0"}"#),
        ];
        for (wanted, text) in said {
            assert_eq!(
                (request(text.as_bytes()).unwrap(), line(&wanted)),
                (wanted, [text.as_bytes(), b"\n"].concat())
            );
        }
    }

    #[test]
    fn what_is_no_request_is_named() {
        let error = request(br#"{"request":"dance"}"#).unwrap_err();
        assert!(error.to_string().contains("dance"), "{error}");
    }

    #[test]
    fn answers_and_notices_are_told_apart() {
        let said = [
            Message::Answer(Answer::Done),
            Message::Notice(Notice::Removed { device: "0000:00:04.0".into(), given_up: true }),
        ];
        for message in said {
            assert_eq!(serde_json::from_slice::<Message>(&line(&message)).unwrap(), message);
        }
    }

    #[test]
    fn a_refusal_without_a_way_out_has_no_help() {
        let refused = Answer::Refused { error: "no".into(), help: None };
        assert_eq!(line(&refused), b"{\"answer\":\"refused\",\"error\":\"no\"}\n");
    }
}
