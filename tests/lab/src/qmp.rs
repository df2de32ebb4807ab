//! What the outer QEMU is told while L1 runs, by its own protocol: one JSON object a line, in both directions.

use crate::l1::L1Error;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A conversation with QEMU.
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    /// What QEMU said unasked and nobody has waited for.
    events: Vec<Value>,
}

impl Qmp {
    /// Begins one at QEMU's socket.
    pub(crate) fn connect(socket: &Path) -> Result<Self, L1Error> {
        let stream = UnixStream::connect(socket).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        let stream = stream.map_err(|source| L1Error::Channel { operation: "reach QEMU", source })?;
        let mut qmp = Self { stream: BufReader::new(stream), events: Vec::new() };
        let _greeting = qmp.hear()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Takes a device out of L1, as soon as L1 gives it up.
    pub(crate) fn delete_device(&mut self, id: &str) -> Result<(), L1Error> {
        self.execute("device_del", json!({ "id": id })).map(|_nothing| ())
    }

    /// Waits until a device that was deleted has left L1.
    pub(crate) fn until_deleted(&mut self, id: &str) -> Result<(), L1Error> {
        let is_it = |event: &Value| event["event"] == "DEVICE_DELETED" && event["data"]["device"] == id;
        while !self.events.iter().any(is_it) {
            let said = self.hear()?;
            self.events.push(said);
        }
        Ok(())
    }

    fn execute(&mut self, command: &'static str, arguments: Value) -> Result<Value, L1Error> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        let told = self.stream.get_mut().write_all(line.as_bytes());
        told.map_err(|source| L1Error::Channel { operation: "speak to QEMU", source })?;
        loop {
            let mut said = self.hear()?;
            if said.get("error").is_some() {
                return Err(L1Error::Qemu { command, error: said["error"]["desc"].to_string() });
            }
            match said.get_mut("return") {
                Some(value) => return Ok(value.take()),
                None => self.events.push(said),
            }
        }
    }

    fn hear(&mut self) -> Result<Value, L1Error> {
        let mut line = String::new();
        let heard = self.stream.read_line(&mut line);
        let heard = heard.and_then(|count| match count {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(()),
        });
        heard.map_err(|source| L1Error::Channel { operation: "listen to QEMU", source })?;
        serde_json::from_str(&line).map_err(|source| L1Error::NoMessage { line, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// A conversation with somebody who says these lines, whatever is asked.
    fn with(lines: &'static str) -> Result<Qmp, L1Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).expect("a socket");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the test connects");
            stream.write_all(b"{\"QMP\":{}}\n{\"return\":{}}\n").expect("the test listens");
            stream.write_all(lines.as_bytes()).expect("the test listens");
            // Who leaves what is said to it unheard breaks the conversation.
            stream.read_to_end(&mut Vec::new()).expect("the test speaks");
        });
        Qmp::connect(&path)
    }

    #[test]
    fn an_event_that_comes_before_the_answer_is_not_lost() {
        let mut qmp = with("{\"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"d\"}}\n{\"return\":{}}\n")
            .expect("talks");
        qmp.delete_device("d").expect("it does");
        qmp.until_deleted("d").expect("it has");
    }

    #[test]
    fn a_refusal_says_why() {
        let mut qmp =
            with("{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such device\"}}\n").expect("talks");
        let error = qmp.delete_device("d").expect_err("it refuses");
        assert!(error.to_string().contains("no such device"), "{error}");
    }
}
