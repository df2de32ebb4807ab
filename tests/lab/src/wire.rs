//! The lines from L1: QEMU's console and complaints, and the agent's events, all into one channel.

use crate::l1::L1Error;
use crate::protocol::Event;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What comes through the channel.
pub(crate) enum Message {
    /// The agent's line is there, to be spoken into.
    Connected(UnixStream),
    /// The agent says this.
    Agent(Event),
    /// A line cannot be understood or is broken.
    Failed(L1Error),
    /// A line of L1's console, or a complaint of QEMU's.
    Console(String),
    /// QEMU has ended, and this is the last message.
    Closed,
}

/// Starts the threads that listen to QEMU and to the agent.
pub(crate) fn listen(qemu: &mut Child, listener: UnixListener) -> Receiver<Message> {
    let (sender, messages) = channel();
    let (out, err, agent) = (sender.clone(), sender.clone(), sender);
    let complaints = qemu.stderr.take().map(|stderr| std::thread::spawn(move || relay_console(stderr, &err)));
    if let Some(stdout) = qemu.stdout.take() {
        std::thread::spawn(move || {
            relay_console(stdout, &out);
            // The end comes after the last word; a lab that no longer listens need not be told of either.
            let _complained = complaints.map(std::thread::JoinHandle::join);
            let _gone = out.send(Message::Closed);
        });
    }
    std::thread::spawn(move || relay_agent(&listener, &agent));
    messages
}

fn relay_console(source: impl Read, sender: &Sender<Message>) {
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    while let Ok(1..) = source.read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line).into_owned();
        line.clear();
        if sender.send(Message::Console(text)).is_err() {
            return;
        }
    }
}

fn relay_agent(listener: &UnixListener, sender: &Sender<Message>) {
    let failed =
        |source| Message::Failed(L1Error::Channel { operation: "take the agent's connection", source });
    let stream = listener.accept().and_then(|(stream, _address)| Ok((stream.try_clone()?, stream)));
    let (stream, writing) = match stream {
        Ok(both) => both,
        Err(error) => {
            let _gone = sender.send(failed(error));
            return;
        }
    };
    if sender.send(Message::Connected(writing)).is_err() {
        return;
    }
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let message = match serde_json::from_str(&line) {
            Ok(event) => Message::Agent(event),
            Err(source) => Message::Failed(L1Error::NoMessage { line, source }),
        };
        if sender.send(message).is_err() {
            return;
        }
    }
}
