//! L1's files.

use super::{L1, L1Error};
use crate::protocol::{Answer, Bytes, Request};

impl L1 {
    /// A file of L1's, as text.
    pub(crate) fn read(&mut self, path: &str) -> Result<String, L1Error> {
        Ok(String::from_utf8_lossy(&self.read_bytes(path)?).into_owned())
    }

    /// A file of L1's.
    pub(crate) fn read_bytes(&mut self, path: &str) -> Result<Vec<u8>, L1Error> {
        match self.ask(Request::Read { path: path.into() })? {
            Answer::Content(bytes) => Ok(bytes.0),
            answer => Err(L1Error::WrongAnswer { wanted: "file", answer }),
        }
    }

    /// Writes a file of L1's.
    pub(crate) fn write(&mut self, path: &str, text: &str) -> Result<(), L1Error> {
        self.ask(Request::Write { path: path.into(), bytes: Bytes(text.into()) }).map(|_done| ())
    }

    /// Names in a folder of L1's.
    pub(crate) fn list(&mut self, path: &str) -> Result<Vec<String>, L1Error> {
        match self.ask(Request::List { path: path.into() })? {
            Answer::Names(names) => Ok(names),
            answer => Err(L1Error::WrongAnswer { wanted: "list", answer }),
        }
    }

    /// SHA-256 of a file or disk of L1's.
    pub(crate) fn digest(&mut self, path: &str) -> Result<String, L1Error> {
        match self.ask(Request::Digest { path: path.into() })? {
            Answer::Digest { sha256, .. } => Ok(sha256),
            answer => Err(L1Error::WrongAnswer { wanted: "digest", answer }),
        }
    }
}
