//! The guest's output on its way to standard output: bytes are collected while the last ones are written.
//!
//! A guest writes its console byte by byte, with an exit for each. A system call for each would double the cost,
//! and a terminal that is slow would stop the guest; so a thread writes, and takes what has come meanwhile. A
//! reader that stops for long does stop the guest, which waits for room; never the person who wants to leave.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;

use crate::help::Help;

/// How long the first byte waits for company, and how many bytes do not wait.
const GATHER: Duration = Duration::from_millis(2);
const ENOUGH: usize = 1024;
/// The guest waits when this much has not been written yet.
const LIMIT: usize = 256 * 1024;

/// Where the guest's output goes; clones write to the same place.
#[derive(Clone)]
pub(crate) struct Output {
    shared: Arc<Shared>,
}

/// There is no standard output, or no thread that writes to it.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the guest's output: {source}")]
pub(crate) struct NoOutput {
    /// The kernel's answer.
    pub(crate) source: io::Error,
}

impl Help for NoOutput {
    fn help(&self) -> Option<String> {
        Some("give the command a standard output, such as `> /dev/null`".into())
    }
}

/// The thread that writes.
pub(crate) struct OutputThread {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    /// There is room, or nothing more to wait for.
    emptied: Condvar,
    first: OnceLock<Instant>,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The thread waits for bytes: the only time it needs to be woken.
    idle: bool,
    /// No more bytes will come.
    closed: bool,
    /// Nobody waits for what is left any more.
    abandoned: bool,
    /// The thread writes no more.
    ended: bool,
    /// How many wait for room, which is the only time anybody needs to be told of it.
    waiting: usize,
}

impl Output {
    /// Starts the thread that writes to `sink`, and does this `before` it writes anything.
    pub(crate) fn start(
        sink: impl AsFd + Send + 'static,
        before: impl FnOnce() + Send + 'static,
    ) -> io::Result<(Self, OutputThread)> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            first: OnceLock::new(),
        });
        let ends = Ends(Arc::clone(&shared));
        let thread =
            Builder::new().name("output".into()).spawn(move || ends.0.write_to(sink.as_fd(), before))?;
        Ok((Self { shared: Arc::clone(&shared) }, OutputThread { shared, thread }))
    }

    /// When the first byte came.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.shared.first.get().copied()
    }

    /// Waits while too much has not been written yet. Whoever waits holds nothing that others need to leave.
    pub(crate) fn wait_for_room(&self) {
        let full = |queue: &mut Queue| queue.bytes.len() >= LIMIT && !queue.closed && !queue.abandoned;
        let mut queue = self.shared.queue();
        queue.waiting += 1;
        queue = self.shared.emptied.wait_while(queue, full).unwrap_or_else(PoisonError::into_inner);
        queue.waiting -= 1;
    }

    /// Whether anybody waits for room.
    #[cfg(test)]
    pub(super) fn has_waiter(&self) -> bool {
        self.shared.queue().waiting != 0
    }

    /// From now on nobody waits for what has not been written: who reads may never read again.
    pub(crate) fn abandon(&self) {
        self.shared.queue().abandoned = true;
        self.shared.emptied.notify_all();
    }
}

/// Never waits, since a caller may hold a lock; [`Output::wait_for_room`] comes before, and before the lock.
impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.first.get_or_init(Instant::now);
        let mut queue = self.shared.queue();
        queue.bytes.extend_from_slice(bytes);
        if queue.idle {
            queue.idle = false;
            self.shared.filled.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OutputThread {
    /// Writes what is left and ends the thread; gives up what is left where the output is or gets abandoned.
    pub(crate) fn finish(self) {
        self.shared.close();
        let writing = |queue: &mut Queue| !queue.ended && !queue.abandoned;
        let waited = self.shared.emptied.wait_while(self.shared.queue(), writing);
        let ended = waited.unwrap_or_else(PoisonError::into_inner).ended;
        if ended && self.thread.join().is_err() {
            log::error!("the thread that writes the guest's output ended by a panic");
        }
    }
}

/// Tells that the thread has ended, in whatever way.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.queue().ended = true;
        self.0.emptied.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.queue().closed = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    /// Waits for bytes, and a moment more for those that follow; none at the end.
    fn next(&self) -> Option<MutexGuard<'_, Queue>> {
        let mut queue = self.queue();
        if queue.bytes.is_empty() {
            while queue.bytes.is_empty() {
                if queue.closed {
                    return None;
                }
                queue.idle = true;
                queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.idle = false;
            let more = |queue: &mut Queue| queue.bytes.len() < ENOUGH && !queue.closed;
            let waited = self.filled.wait_timeout_while(queue, GATHER, more);
            (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Some(queue)
    }

    fn write_to(&self, sink: BorrowedFd<'_>, before: impl FnOnce()) {
        let (mut batch, mut before) = (Vec::new(), Some(before));
        let mut broken = false;
        loop {
            let Some(mut queue) = self.next() else { return };
            std::mem::swap(&mut batch, &mut queue.bytes);
            if queue.waiting != 0 {
                self.emptied.notify_all();
            }
            drop(queue);
            if let Some(before) = before.take() {
                before();
            }
            if !broken && let Err(errno) = write_all(sink, &batch) {
                // The guest goes on without a console when its reader has gone.
                log::warn!("standard output does not take the guest's output any more: {errno}");
                broken = true;
            }
            batch.clear();
        }
    }
}

fn write_all(sink: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(sink, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // A terminal that another program left non-blocking.
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::from_borrowed_fd(sink, PollFlags::OUT)], None)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn everything_arrives_in_order_before_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (mut output, thread) = Output::start(writer, || ()).unwrap();
        let sent: Vec<u8> = (0..=255).cycle().take(20_000).collect();
        sent.iter().for_each(|byte| output.write_all(&[*byte]).unwrap());
        thread.finish();
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        assert_eq!(received, sent);
    }

    #[test]
    fn a_reader_that_left_does_not_stop_the_guest() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let (mut output, thread) = Output::start(writer, || ()).unwrap();
        output.write_all(&vec![b'x'; 2 * LIMIT]).unwrap();
        output.write_all(b"more").unwrap();
        thread.finish();
    }

    /// An output whose reader reads nothing, with more in it than there is room for.
    pub(crate) fn stalled() -> (io::PipeReader, Output, OutputThread) {
        let (reader, writer) = io::pipe().unwrap();
        let (mut output, thread) = Output::start(writer, || ()).unwrap();
        // The pipe takes some of it.
        output.write_all(&vec![b'x'; 8 * LIMIT]).unwrap();
        // One batch is with the thread, which waits for the reader; what follows stays in the queue.
        while !output.shared.queue().bytes.is_empty() {
            std::thread::yield_now();
        }
        output.write_all(&vec![b'y'; LIMIT]).unwrap();
        (reader, output, thread)
    }

    #[test]
    fn who_waits_for_room_goes_on_when_the_output_is_abandoned() {
        let (_reader, output, _thread) = stalled();
        let (told, hears) = std::sync::mpsc::channel();
        let waiting = output.clone();
        std::thread::spawn(move || {
            waiting.wait_for_room();
            told.send(())
        });
        assert!(hears.try_recv().is_err());
        output.abandon();
        assert_eq!(hears.recv_timeout(Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn the_end_is_not_waited_for_once_the_output_is_abandoned() {
        let (_reader, output, thread) = stalled();
        let (told, hears) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            thread.finish();
            told.send(())
        });
        assert!(hears.try_recv().is_err());
        output.abandon();
        assert_eq!(hears.recv_timeout(Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn a_stalled_reader_that_reads_again_makes_room() {
        let (mut reader, output, thread) = stalled();
        let drain = std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()).unwrap());
        output.wait_for_room();
        thread.finish();
        assert_eq!(drain.join().unwrap(), 9 * LIMIT as u64);
    }

    #[test]
    fn what_comes_before_the_first_byte_is_done_once() {
        let (mut reader, writer) = io::pipe().unwrap();
        let first = writer.try_clone().unwrap();
        let before = move || (&first).write_all(b"before ").unwrap();
        let (mut output, thread) = Output::start(writer, before).unwrap();
        output.write_all(b"one").unwrap();
        thread.finish();
        let mut received = String::new();
        reader.read_to_string(&mut received).unwrap();
        assert_eq!(received, "before one");
    }

    #[test]
    fn the_first_byte_is_timed() {
        let (mut output, thread) = Output::start(io::pipe().unwrap().1, || ()).unwrap();
        let before = output.first();
        output.write_all(b"x").unwrap();
        thread.finish();
        assert!(before.is_none() && output.first().is_some());
    }
}
