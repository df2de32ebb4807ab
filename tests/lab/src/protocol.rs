//! What the lab and its agent say to each other: one JSON object a line, over a virtio serial port.
//!
//! The lab, on the outer machine, sends numbered requests; the agent, which is L1's process 1, answers each and
//! reports on its own what the processes it started print and how they end, with the time since their start
//! by L1's clock. All knowledge of what a scenario does stays in the lab.

use serde::{Deserialize, Serialize};

/// The name of the serial port, as the kernel shows it in `/sys/class/virtio-ports`.
pub(crate) const PORT_NAME: &str = "vfio-assign-lab";

/// Where in L1's file system the agent finds what to do before it reports itself ready.
pub(crate) const PLAN_PATH: &str = "/lab/plan.json";

/// Where L1 shows the outer machine's files.
pub(crate) const HOST_ROOT: &str = "/host";

/// What the agent does at boot.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Kernel modules in an order in which each finds what it needs.
    pub(crate) modules: Vec<String>,
    /// Whether to make the outer machine's files visible under [`HOST_ROOT`].
    pub(crate) host_root: bool,
}

/// A request and the number that its answer will carry.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) request: Request,
}

/// Something for the agent to do in L1.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Start a process; it is called `process` from then on.
    Spawn { process: u32, launch: Launch },
    /// Bytes for a process's standard input.
    Input { process: u32, bytes: Bytes },
    /// SIGKILL.
    Kill { process: u32 },
    /// Turn memory decoding off, as VFIO sees it, in the assigned device that a process holds, behind its back: the
    /// kernel then takes the device's registers out of every mapping.
    StopDecoding { process: u32 },
    /// Write a file with one `write`, as sysfs wants it.
    Write { path: String, bytes: Bytes },
    /// Read a file whole.
    Read { path: String },
    /// The last component of what a symbolic link points to.
    LinkName { path: String },
    /// The names in a folder, sorted.
    List { path: String },
    /// Give a path another name.
    Rename { from: String, to: String },
    /// SHA-256 of a file or block device.
    Digest { path: String },
    /// Wait until a path exists.
    AwaitPath { path: String, milliseconds: u64 },
    /// Nothing, and no answer: L1 has an interrupt to take.
    Nudge,
    /// Switch L1 off.
    PowerOff,
}

/// A process to start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) arguments: Vec<String>,
    /// Run as this user and group instead of root.
    pub(crate) user: Option<u32>,
}

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// L1 is up. The time is L1's uptime.
    Ready { milliseconds: u64 },
    /// A record of L1's kernel log.
    Kernel { level: u8, text: String },
    /// A process printed something, `microseconds` after its start.
    Output { process: u32, microseconds: u64, stream: Stream, bytes: Bytes },
    /// A process ended and everything it printed has been reported.
    Exited { process: u32, microseconds: u64, end: End },
    /// The answer to a request.
    Answer { number: u64, result: Result<Answer, Refusal> },
}

/// Which of its two streams a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    Status(i32),
    Signal(i32),
}

/// What a request brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Content(Bytes),
    Name(String),
    Names(Vec<String>),
    Digest { sha256: String, length: u64 },
}

/// Why the agent could not do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("in L1: {operation} {object}: {cause}")]
pub(crate) struct Refusal {
    pub(crate) operation: String,
    pub(crate) object: String,
    pub(crate) cause: String,
    pub(crate) errno: Option<i32>,
}

/// Bytes of no particular encoding; in JSON a string with one character a byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.iter().map(|&byte| char::from(byte)).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.chars()
            .map(|character| u8::try_from(character).map_err(serde::de::Error::custom))
            .collect::<Result<Vec<u8>, D::Error>>()
            .map(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_line() {
        let all = Bytes((0..=255).collect());
        let line = serde_json::to_string(&all).expect("bytes are a JSON string");
        assert_eq!(serde_json::from_str::<Bytes>(&line).expect("and back"), all);
    }

    #[test]
    fn a_message_is_one_line() {
        let event = Event::Output {
            process: 1,
            microseconds: 2,
            stream: Stream::Out,
            bytes: Bytes(b"a\nb\r\n".to_vec()),
        };
        assert!(!serde_json::to_string(&event).expect("serialises").contains('\n'));
    }

    #[test]
    fn a_character_that_is_no_byte_is_refused() {
        assert!(serde_json::from_str::<Bytes>("\"\u{20ac}\"").is_err());
    }
}
