//! The socket as clients meet it.

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
fn who_says_nothing_more_is_still_answered() {
    let (_folder, mut server) = server();
    let mut client = connect(&mut server);
    client.get_mut().write_all(b"{\"request\":\"status\"}\n").unwrap();
    client.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    let said = server.listen_to_all().pop().unwrap();
    server.answer(said.client, &Answer::Done);
    server.listen_to_all();
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert!(heard.contains("done") && server.clients.is_empty());
}

#[test]
fn a_turn_hears_some_requests_of_a_client_and_the_next_is_not_waited_for() {
    let (_folder, mut server) = server();
    let mut client = connect(&mut server);
    client.get_mut().write_all(&b"{\"request\":\"status\"}\n".repeat(REQUESTS + 1)).unwrap();
    let first = (server.listen_to_all().len(), server.patience().map(|time| time.tv_sec));
    assert_eq!((first, server.listen_to_all().len()), ((REQUESTS, Some(0)), 1));
    assert!(server.patience().is_none());
}

#[test]
fn nothing_is_kept_for_who_is_gone() {
    let (_folder, mut server) = server();
    drop(connect(&mut server));
    (0..2).for_each(|_| server.answer(0, &Answer::Done));
    assert!(!server.has(0));
    let before = server.clients[0].unread.len();
    server.answer(0, &Answer::Done);
    assert_eq!(server.clients[0].unread.len(), before);
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

#[test]
fn the_file_of_another_run_at_the_same_path_stays() {
    let (_folder, server) = server();
    let path = server.path.clone();
    std::fs::remove_file(&path).unwrap();
    let second = Server::listen(&path).unwrap();
    drop(server);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

#[test]
fn a_file_that_cannot_be_looked_for_is_told_of_and_one_that_is_not_there_is_not() {
    let (folder, server) = server();
    let folder = folder.path();
    std::fs::remove_dir_all(folder).unwrap();
    assert!(server.remove().is_ok());
    std::fs::write(folder, "").unwrap();
    assert_eq!(server.remove().unwrap_err().kind(), io::ErrorKind::NotADirectory);
    std::fs::remove_file(folder).unwrap();
}
