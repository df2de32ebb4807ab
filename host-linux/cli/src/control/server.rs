//! The monitor's end of the control socket: who is connected, and lines in both directions. Nobody who listens or
//! speaks slowly keeps the monitor waiting.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

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

/// The socket. Dropping it removes its file.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    clients: Vec<Client>,
    /// The number of the next client.
    next: u64,
    /// Who waits could not be let in when that was last tried: descriptors have run out.
    full: bool,
}

struct Client {
    number: u64,
    stream: UnixStream,
    heard: Vec<u8>,
    unread: Vec<u8>,
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
        Ok(Self { listener, path: path.to_owned(), clients: Vec::new(), next: 0, full: false })
    }

    /// What to wait for before [`Self::listen_to_all`] has something to do.
    pub(crate) fn waits_for(&self) -> Vec<PollFd<'_>> {
        let client = |client: &'_ Client| match client.unread.is_empty() {
            true => PollFlags::IN,
            false => PollFlags::IN | PollFlags::OUT,
        };
        let clients = self.clients.iter().map(|one| PollFd::new(&one.stream, client(one)));
        let listener = (!self.full).then(|| PollFd::new(&self.listener, PollFlags::IN));
        listener.into_iter().chain(clients).collect()
    }

    /// Lets new clients in and hears what all have said, without waiting.
    pub(crate) fn listen_to_all(&mut self) -> Vec<Said> {
        self.let_in(|listener| listener.accept().map(|(stream, _)| stream));
        let said = self.clients.iter_mut().flat_map(Client::listen).collect();
        self.clients.iter_mut().for_each(Client::flush);
        self.clients.retain(|client| !client.gone);
        said
    }

    /// How long to wait for that; none: for ever. Who could not be let in is tried again.
    pub(crate) fn patience(&self) -> Option<Timespec> {
        self.full.then_some(Timespec { tv_sec: 1, tv_nsec: 0 })
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
                log::debug!(
                    "{}: a client that is not the owner's was turned away: {who}",
                    self.path.display()
                );
                return;
            }
        }
        if self.clients.len() >= CLIENTS || stream.set_nonblocking(true).is_err() {
            log::warn!("{}: a client too many was turned away", self.path.display());
            return;
        }
        let number = self.next;
        self.next += 1;
        let mut client = Client { number, stream, heard: Vec::new(), unread: Vec::new(), gone: false };
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
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{} stays: {error}", self.path.display());
        }
    }
}

impl Client {
    /// Whole lines that have come.
    fn listen(&mut self) -> Vec<Said> {
        let mut bytes = [0; 4096];
        loop {
            match (&self.stream).read(&mut bytes) {
                Ok(0) => self.gone = true,
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
        let whole = self.heard.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let lines: Vec<u8> = self.heard.drain(..whole).collect();
        // Nobody has to say so much in one line.
        self.gone |= self.heard.len() > LONGEST;
        let said = |line: &[u8]| Said { client: self.number, request: request(line) };
        lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(said).collect()
    }

    fn say(&mut self, line: &[u8]) {
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
mod tests {
    use std::io::{BufRead, BufReader};

    use rustix::io::Errno;

    use super::*;

    fn server() -> (tempfile::TempDir, Server) {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::listen(&folder.path().join("control")).unwrap();
        (folder, server)
    }

    fn connect(server: &mut Server) -> BufReader<UnixStream> {
        let client = UnixStream::connect(&server.path).unwrap();
        assert!(server.listen_to_all().is_empty());
        BufReader::new(client)
    }

    fn hear(client: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn a_client_is_greeted_with_the_version() {
        let (_folder, mut server) = server();
        let mut client = connect(&mut server);
        assert_eq!(hear(&mut client), "{\"event\":\"hello\",\"version\":1}\n");
    }

    #[test]
    fn a_request_is_answered_to_who_has_asked() {
        let (_folder, mut server) = server();
        let (mut first, mut second) = (connect(&mut server), connect(&mut server));
        for client in [&mut first, &mut second] {
            assert!(hear(client).contains("hello"));
        }
        second.get_mut().write_all(b"{\"request\":\"status\"}\n").unwrap();
        let said = server.listen_to_all().pop().unwrap();
        assert_eq!(said.request.unwrap(), Request::Status);
        server.answer(said.client, &Answer::Done);
        server.tell(&Notice::DeviceError { device: "x".into() });
        assert!(hear(&mut second).contains("done") && hear(&mut first).contains("device-error"));
    }

    #[test]
    fn only_the_owner_and_root_are_listened_to() {
        let [root, own, other] = [0, 1000, 1001].map(Uid::from_raw);
        assert_eq!([own, root, other].map(|client| may_ask(client, own)), [true, true, false]);
    }

    #[test]
    fn who_cannot_be_let_in_is_tried_again_without_a_wait_that_ends_at_once() {
        let (_folder, mut server) = server();
        let _waiting = UnixStream::connect(&server.path).unwrap();
        server.let_in(|_| Err(io::Error::from(Errno::MFILE)));
        let full = (server.waits_for().len(), server.patience().is_some());
        server.listen_to_all();
        let after = (server.waits_for().len(), server.patience().is_some());
        assert_eq!((full, after), ((0, true), (2, false)));
    }

    #[test]
    fn an_interrupted_accept_and_a_client_that_left_hold_nobody_up() {
        let (_folder, mut server) = server();
        let _waiting = UnixStream::connect(&server.path).unwrap();
        let errors = std::cell::RefCell::new(vec![Errno::INTR, Errno::CONNABORTED]);
        server.let_in(|listener| match errors.borrow_mut().pop() {
            Some(errno) => Err(errno.into()),
            None => listener.accept().map(|(stream, _)| stream),
        });
        assert_eq!(server.clients.len(), 1);
    }

    #[test]
    fn a_turn_lets_in_as_many_as_can_be_connected() {
        let (_folder, mut server) = server();
        let accepted = std::cell::Cell::new(0);
        server.let_in(|_| {
            accepted.set(accepted.get() + 1);
            UnixStream::pair().map(|(stream, _)| stream)
        });
        assert_eq!(accepted.get(), CLIENTS);
    }

    #[test]
    fn half_a_line_waits_for_the_rest() {
        let (_folder, mut server) = server();
        let mut client = connect(&mut server);
        client.get_mut().write_all(b"{\"request\":").unwrap();
        let before = server.listen_to_all().len();
        client.get_mut().write_all(b"\"pause\"}\n").unwrap();
        assert_eq!((before, server.listen_to_all().len()), (0, 1));
    }

    #[test]
    fn who_speaks_without_end_is_dropped() {
        let (_folder, mut server) = server();
        let mut client = connect(&mut server);
        client.get_mut().set_nonblocking(true).unwrap();
        for _ in 0..64 {
            // The kernel takes what it has room for.
            let _taken = client.get_mut().write(&[b'x'; 4096]);
            server.listen_to_all();
        }
        assert!(server.clients.is_empty());
    }

    #[test]
    fn who_listens_to_nothing_is_dropped() {
        let (_folder, mut server) = server();
        let _client = connect(&mut server);
        let notice = Notice::DeviceError { device: "x".repeat(4096) };
        (0..1024).for_each(|_| server.tell(&notice));
        server.listen_to_all();
        assert!(server.clients.is_empty());
    }

    #[test]
    fn the_file_is_there_once_and_goes_with_the_server() {
        let (_folder, server) = server();
        let path = server.path.clone();
        let second = Server::listen(&path).err().unwrap();
        drop(server);
        assert!(second.help().unwrap().contains("another run") && !path.exists());
    }
}
