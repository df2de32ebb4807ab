//! The monitor's end of the control socket: who is connected, and lines in both directions. Nobody who listens or
//! speaks slowly keeps the monitor waiting.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Once;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Uid, geteuid};

use super::files;
use super::protocol::{Answer, LONGEST, NoRequest, Notice, Request, VERSION, line, request};
use crate::help::Help;

/// What may wait for a client that does not read.
const UNREAD: usize = 1 << 20;
/// How many may be connected.
const CLIENTS: usize = 16;
/// How many requests of a client are heard in one turn.
const REQUESTS: usize = 16;

/// There is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {}: {source}", path.display())]
pub(crate) struct NoSocket {
    path: PathBuf,
    source: io::Error,
}

impl Help for NoSocket {
    fn help(&self) -> Option<String> {
        Some(match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                "another run listens there, or one that was killed did: give another path, or remove the file"
                    .into()
            }
            _ => "give --control a path of less than 108 bytes in a folder that can be written".into(),
        })
    }
}

/// The socket. Dropping it removes its file, if it is still there.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// The file that was made there; none where that cannot be told.
    file: Option<FileNumber>,
    clients: Vec<Client>,
    /// The number of the next client.
    next: u64,
    /// Who waits could not be let in when that was last tried: descriptors have run out.
    full: bool,
    /// Whoever is turned away can come again for ever, and is told of once.
    strangers: Once,
    too_many: Once,
}

/// A file's file system, and its number in that.
type FileNumber = (u64, u64);

struct Client {
    number: u64,
    stream: UnixStream,
    heard: Vec<u8>,
    unread: Vec<u8>,
    /// It says nothing more, but listens.
    ended: bool,
    gone: bool,
}

/// What a client has said, and which one.
pub(crate) struct Said {
    pub(crate) client: u64,
    pub(crate) request: Result<Request, NoRequest>,
}

impl Server {
    /// Listens at a path where there is no file.
    pub(crate) fn listen(path: &Path) -> Result<Self, NoSocket> {
        let refused = |source| NoSocket { path: path.to_owned(), source };
        let listener = UnixListener::bind(path).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let file = file_at(path).inspect_err(|error| stays(path, error)).ok();
        Ok(Self {
            listener,
            path: path.to_owned(),
            file,
            clients: Vec::new(),
            next: 0,
            full: false,
            strangers: Once::new(),
            too_many: Once::new(),
        })
    }

    /// What to wait for before [`Self::listen_to_all`] has something to do.
    pub(crate) fn waits_for(&self) -> Vec<PollFd<'_>> {
        let client = |client: &'_ Client| match (client.unread.is_empty(), client.ended) {
            (true, _) => PollFlags::IN,
            (false, false) => PollFlags::IN | PollFlags::OUT,
            // The end would be there to read again and again.
            (false, true) => PollFlags::OUT,
        };
        let clients = self.clients.iter().map(|one| PollFd::new(&one.stream, client(one)));
        let listener = (!self.full).then(|| PollFd::new(&self.listener, PollFlags::IN));
        listener.into_iter().chain(clients).collect()
    }

    /// Lets new clients in and hears what all have said, without waiting. All that was heard before has been answered.
    pub(crate) fn listen_to_all(&mut self) -> Vec<Said> {
        self.clients.retain(|client| !client.is_done());
        self.let_in(|listener| listener.accept().map(|(stream, _)| stream));
        let said = self.clients.iter_mut().flat_map(Client::listen).collect();
        self.clients.iter_mut().for_each(Client::flush);
        self.clients.retain(|client| !client.gone);
        said
    }

    /// How long to wait for that; none: for ever. What was said already is not waited for, and who could not be let in
    /// is tried again.
    pub(crate) fn patience(&self) -> Option<Timespec> {
        let heard = self.clients.iter().any(Client::has_line);
        (heard || self.full).then_some(Timespec { tv_sec: i64::from(!heard), tv_nsec: 0 })
    }

    /// Whether a client is there to hear an answer.
    pub(crate) fn has(&self, client: u64) -> bool {
        self.clients.iter().any(|one| one.number == client && !one.gone)
    }

    /// Lets in who waits, and no more in one turn than can be connected.
    fn let_in(&mut self, accept: impl Fn(&UnixListener) -> io::Result<UnixStream>) {
        for _ in 0..CLIENTS {
            match accept(&self.listener) {
                Ok(stream) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.full = false;
                    return;
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => {
                    // Who waits stays, and would end each wait at once.
                    if !std::mem::replace(&mut self.full, true) {
                        log::warn!("{}: nobody can be let in: {error}", self.path.display());
                    }
                    return;
                }
            }
        }
    }

    /// Answers a client.
    pub(crate) fn answer(&mut self, client: u64, answer: &Answer) {
        if let Some(client) = self.clients.iter_mut().find(|one| one.number == client) {
            client.say(&line(answer));
        }
    }

    /// Answers a client with files, at once or not at all.
    pub(crate) fn hand_over(&mut self, client: u64, files: &[OwnedFd]) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let client = self.clients.iter().find(|one| one.number == client).ok_or_else(gone)?;
        if !client.unread.is_empty() {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        let kept = client.stream.try_clone()?;
        files::send(&client.stream, &line(&Answer::HandedOver { files: files.len() }), files)?;
        // The other process waits for the end of the conversation, which is to be that of this process.
        std::mem::forget(kept);
        Ok(())
    }

    /// Tells everybody.
    pub(crate) fn tell(&mut self, notice: &Notice) {
        let line = line(notice);
        self.clients.iter_mut().for_each(|client| client.say(&line));
    }

    fn admit(&mut self, stream: UnixStream) {
        // What the file's permissions are depends on the umask.
        match socket_peercred(&stream) {
            Ok(peer) if may_ask(peer.uid, geteuid()) => {}
            peer => {
                let who = peer.map_or_else(|errno| errno.to_string(), |peer| peer.uid.to_string());
                let path = self.path.display();
                self.strangers.call_once(|| {
                    log::debug!("{path}: a client that is not the owner's was turned away: {who}");
                });
                return;
            }
        }
        if self.clients.len() >= CLIENTS || stream.set_nonblocking(true).is_err() {
            let path = self.path.display();
            self.too_many.call_once(|| log::warn!("{path}: a client too many was turned away"));
            return;
        }
        let number = self.next;
        self.next += 1;
        let mut client =
            Client { number, stream, heard: Vec::new(), unread: Vec::new(), ended: false, gone: false };
        client.say(&line(&Notice::Hello { version: VERSION }));
        self.clients.push(client);
    }
}

/// Whether a client of this user is listened to by a run of that one.
fn may_ask(client: Uid, own: Uid) -> bool {
    client == own || client.is_root()
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            stays(&self.path, &error);
        }
    }
}

impl Server {
    /// Removes the file, if it is there and the one that was made: another run may listen there, where somebody has
    /// removed that before. Its number is not another's while the listener is open.
    fn remove(&self) -> io::Result<()> {
        let Some(made) = self.file else { return Ok(()) };
        match file_at(&self.path) {
            Ok(there) if there == made => std::fs::remove_file(&self.path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn stays(path: &Path, error: &io::Error) {
    log::warn!("{} stays: {error}", path.display());
}

fn file_at(path: &Path) -> io::Result<FileNumber> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

impl Client {
    /// Whole lines that have come, and no more of them than one client may have done in a turn.
    fn listen(&mut self) -> Vec<Said> {
        if !self.has_line() {
            self.hear();
        }
        let mut said = Vec::new();
        while said.len() < REQUESTS
            && let Some(end) = self.heard.iter().position(|&byte| byte == b'\n')
        {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            if end != 0 {
                said.push(Said { client: self.number, request: request(&line[..end]) });
            }
        }
        // Nobody has to say so much in one line.
        self.gone |= self.heard.len() > LONGEST && !self.has_line();
        said
    }

    /// Whether a whole line has come and was not listened to.
    fn has_line(&self) -> bool {
        self.heard.contains(&b'\n')
    }

    /// Whether it has said all, and heard all answers.
    fn is_done(&self) -> bool {
        self.ended && self.unread.is_empty() && !self.has_line()
    }

    fn hear(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match (&self.stream).read(&mut bytes) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.heard.extend_from_slice(&bytes[..count]);
                    if self.heard.len() <= LONGEST {
                        continue;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.gone = true,
            }
            break;
        }
    }

    fn say(&mut self, line: &[u8]) {
        if self.gone {
            return;
        }
        self.unread.extend_from_slice(line);
        self.flush();
        self.gone |= self.unread.len() > UNREAD;
    }

    fn flush(&mut self) {
        while !self.unread.is_empty() {
            match (&self.stream).write(&self.unread) {
                Ok(count) => drop(self.unread.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
