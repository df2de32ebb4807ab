//! Somebody in the network of a guest who sends back what is sent, and remembers what it was.
//!
//! It listens on this machine's own loopback address, where QEMU's user network leads what a guest sends to its gateway.

use crate::disk::hexadecimal;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// A server of one port, for as long as the lab lives.
pub(crate) struct Echo {
    /// Its port.
    pub(crate) port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Echo {
    /// Starts to listen.
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = heard.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A conversation that breaks leaves no digest, and that fails the check.
                if let Ok(digest) = converse(stream) {
                    hearing.lock().unwrap_or_else(PoisonError::into_inner).push(digest);
                }
            }
        });
        Ok(Self { port, heard })
    }

    /// SHA-256 of all that came in each conversation that ended well.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Hears everything, then sends all of it back.
fn converse(mut stream: TcpStream) -> io::Result<String> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    stream.write_all(&all)?;
    Ok(hexadecimal(&Sha256::digest(&all)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    #[test]
    fn what_is_sent_comes_back_and_is_remembered() {
        let echo = Echo::start().expect("a port");
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, echo.port)).expect("it listens");
        stream.write_all(b"hello").expect("it hears");
        stream.shutdown(Shutdown::Write).expect("that was all");
        let mut back = String::new();
        stream.read_to_string(&mut back).expect("it answers");
        assert_eq!(back, "hello");
        let digest = hexadecimal(&Sha256::digest(b"hello"));
        // The answer is sent before it is remembered.
        while echo.heard().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(echo.heard(), [digest]);
    }
}
