//! Descriptors over a control socket, beside the line that announces them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// What the kernel passes at a time.
const MOST: usize = 253;

/// Sends a line and descriptors, all of it or nothing.
pub(super) fn send(stream: &UnixStream, line: &[u8], files: &[OwnedFd]) -> io::Result<()> {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::from(io::ErrorKind::ArgumentListTooLong));
    }
    let sent = sendmsg(stream, &[IoSlice::new(line)], &mut rights, SendFlags::NOSIGNAL)?;
    if sent == line.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
}

/// Reads some bytes, and the descriptors that came with them; no bytes at the end.
pub(super) fn receive(stream: &UnixStream, bytes: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    for message in rights.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_line_and_are_the_same_files() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        send(&here, b"line\n", &[file.try_clone().unwrap().into()]).unwrap();
        let (mut bytes, mut files) = ([0; 64], Vec::new());
        let count = receive(&there, &mut bytes, &mut files).unwrap();
        file.write_all(b"x").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        std::fs::File::from(files.pop().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!((&bytes[..count], text.as_str(), files.len()), (&b"line\n"[..], "x", 0));
    }
}
