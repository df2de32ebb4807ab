//! The person's side of the console: keys to the guest, Ctrl-A x to leave, signals that end the command.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{Builder, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;

use super::event::Event;
use super::power::Stop;
use super::serial::SerialPort;
use super::signals::{NotCaught, Signals};
use super::terminal::{Input, RawTerminal};
use crate::help::Help;

/// Ctrl-A.
const ESCAPE: u8 = 0x01;
/// Keys that wait for a guest that does not read them; what is typed beyond is lost, as in a terminal's own queue.
const TYPED_AHEAD: usize = 4096;

/// What kept the console from working.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    /// The terminal refused raw mode.
    #[error("cannot make the terminal raw: {source}")]
    Terminal {
        /// The kernel's answer.
        source: Errno,
    },
    /// No event, or no thread.
    #[error("cannot set the console up: {source}")]
    Setup {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A signal has no handler.
    #[error("cannot catch signals: {0}")]
    Signal(#[from] NotCaught),
}

impl Help for ConsoleError {
    fn help(&self) -> Option<String> {
        match self {
            Self::Terminal { .. } => {
                Some("give the command another standard input, such as `< /dev/null`".into())
            }
            Self::Setup { .. } => {
                Some("raise the limits on open files and processes (`ulimit -n`, `ulimit -u`)".into())
            }
            Self::Signal(_) => None,
        }
    }
}

/// The console of a running machine. Dropping it gives the terminal back, and signals their effect.
pub(crate) struct Console {
    quit: Arc<Event>,
    thread: Option<JoinHandle<()>>,
    _raw: Option<RawTerminal>,
}

impl Console {
    /// Takes the terminal and the signals, and starts to read.
    pub(crate) fn start(serial: Arc<SerialPort>, stop: Sender<Stop>) -> Result<Self, ConsoleError> {
        let event = || Event::new().map_err(|source| ConsoleError::Setup { source });
        let signals = Signals::catch()?;
        let (raw, input) = RawTerminal::enter().map_err(|source| ConsoleError::Terminal { source })?;
        let quit = Arc::new(event()?);
        let reader = Reader::new(serial, stop, Arc::clone(&quit), input);
        let thread = Builder::new()
            .name("console".into())
            .spawn(move || reader.run(&signals))
            .map_err(|source| ConsoleError::Setup { source })?;
        Ok(Self { quit, thread: Some(thread), _raw: raw })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.quit.raise();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that reads the terminal ended by a panic");
        }
    }
}

struct Reader {
    serial: Arc<SerialPort>,
    stop: Sender<Stop>,
    quit: Arc<Event>,
    input: Input,
    keys: Keys,
    /// Input that the guest has no room for yet.
    waiting: Vec<u8>,
}

impl Reader {
    fn new(serial: Arc<SerialPort>, stop: Sender<Stop>, quit: Arc<Event>, input: Input) -> Self {
        Self { serial, stop, quit, input, keys: Keys::default(), waiting: Vec::new() }
    }

    /// Whether input is to be read now: a person's always, for the keys that leave; of anything else no more than
    /// the guest takes.
    fn reads(&self) -> bool {
        match self.input {
            Input::Terminal => true,
            Input::Stream => self.waiting.is_empty(),
            Input::None => false,
        }
    }

    fn run(mut self, signals: &Signals) {
        let stdin = io::stdin();
        loop {
            let ready = wait([
                Some(signals.as_fd()),
                Some(self.quit.as_fd()),
                (!self.waiting.is_empty()).then(|| self.serial.drained().as_fd()),
                self.reads().then(|| stdin.as_fd()),
            ]);
            let [signal, quit, drained, key] = match ready {
                Ok(ready) => ready,
                Err(errno) => {
                    log::error!("the console stops: poll: {errno}");
                    return;
                }
            };
            if quit {
                return;
            }
            if signal && let Some(number) = signals.take() {
                self.tell(Stop::Signal(number));
            }
            if drained {
                self.serial.drained().clear();
                self.give(&[]);
            }
            if key {
                self.read(stdin.as_fd());
            }
        }
    }

    /// Reads once.
    fn read(&mut self, stdin: BorrowedFd<'_>) {
        let mut bytes = [0; 256];
        match rustix::io::read(stdin, &mut bytes) {
            Ok(0) => self.input = Input::None,
            Ok(count) => {
                let (for_guest, leave) = self.keys.press(&bytes[..count]);
                self.give(&for_guest);
                if leave {
                    self.tell(Stop::Left);
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A closed descriptor, a terminal that hung up.
            Err(errno) => {
                log::debug!("standard input ends: {errno}");
                self.input = Input::None;
            }
        }
    }

    fn give(&mut self, bytes: &[u8]) {
        let room = TYPED_AHEAD.saturating_sub(self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..room.min(bytes.len())]);
        while !self.waiting.is_empty() {
            let taken = self.serial.enqueue(&self.waiting);
            if taken == 0 {
                return;
            }
            self.waiting.drain(..taken);
        }
    }

    /// The person, or a signal, ends the run.
    fn tell(&self, stop: Stop) {
        // First: a processor may wait for a reader of the output that reads no more.
        self.serial.abandon_output();
        // Nobody listens only when the machine is already gone.
        drop(self.stop.send(stop));
    }
}

/// Which of some descriptors can be read, or have ended.
fn wait<const N: usize>(wanted: [Option<BorrowedFd<'_>>; N]) -> rustix::io::Result<[bool; N]> {
    let mut polled: Vec<_> =
        wanted.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    while let Err(errno) = poll(&mut polled, None) {
        if errno != Errno::INTR {
            return Err(errno);
        }
    }
    let mut results = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(wanted.map(|fd| fd.is_some() && results.next().unwrap_or(false)))
}

/// What the person typed, with Ctrl-A as the key that speaks to the monitor.
#[derive(Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    /// Bytes for the guest, and whether to leave. Ctrl-A x leaves, Ctrl-A twice is one for the guest, any other
    /// key after Ctrl-A is dropped.
    fn press(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut for_guest = Vec::with_capacity(typed.len());
        for &key in typed {
            match (std::mem::take(&mut self.escaped), key) {
                (false, ESCAPE) => self.escaped = true,
                (false, key) | (true, key @ ESCAPE) => for_guest.push(key),
                (true, b'x' | b'X') => return (for_guest, true),
                (true, _) => {}
            }
        }
        (for_guest, false)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::machine::output::Output;

    /// The reader of an input, for a guest that never looks at its serial port.
    fn reader(input: Input) -> (Reader, Receiver<Stop>) {
        let (output, _writer) = Output::start(io::pipe().unwrap().1, || ()).unwrap();
        let serial = Arc::new(SerialPort::unwired(output).unwrap());
        let (stop, stops) = channel();
        (Reader::new(serial, stop, Arc::new(Event::new().unwrap()), input), stops)
    }

    /// Has `reader` read what is typed; true if it would go on reading after that.
    fn type_in(reader: &mut Reader, typed: &[u8]) -> bool {
        let (stdin, mut keyboard) = io::pipe().unwrap();
        for keys in typed.chunks(256) {
            keyboard.write_all(keys).unwrap();
            reader.read(stdin.as_fd());
        }
        reader.reads()
    }

    #[test]
    fn a_person_can_leave_a_guest_that_reads_nothing() {
        let (mut reader, stops) = reader(Input::Terminal);
        assert!(type_in(&mut reader, &[b'k'; 2 * TYPED_AHEAD]));
        type_in(&mut reader, b"\x01x");
        assert!(matches!(stops.try_recv(), Ok(Stop::Left)));
    }

    #[test]
    fn keys_that_nobody_takes_are_kept_up_to_a_limit() {
        let (mut reader, _stops) = reader(Input::Terminal);
        type_in(&mut reader, &[b'k'; 2 * TYPED_AHEAD]);
        assert_eq!(reader.waiting.len(), TYPED_AHEAD);
    }

    #[test]
    fn a_file_waits_until_the_guest_has_read() {
        let (mut reader, _stops) = reader(Input::Stream);
        let first = type_in(&mut reader, b"short");
        assert_eq!((first, type_in(&mut reader, &[b'k'; 256])), (true, false));
    }

    #[test]
    fn the_end_of_input_is_not_read_again() {
        let (mut reader, _stops) = reader(Input::Terminal);
        let (stdin, keyboard) = io::pipe().unwrap();
        drop(keyboard);
        reader.read(stdin.as_fd());
        assert!(!reader.reads());
    }

    #[test]
    fn keys_go_to_the_guest() {
        assert_eq!(Keys::default().press(b"ls\r"), (b"ls\r".to_vec(), false));
    }

    #[test]
    fn ctrl_a_x_leaves_and_what_came_before_is_the_guest_s() {
        assert_eq!(Keys::default().press(b"ab\x01xcd"), (b"ab".to_vec(), true));
    }

    #[test]
    fn ctrl_a_twice_is_one_for_the_guest() {
        assert_eq!(Keys::default().press(b"\x01\x01"), (b"\x01".to_vec(), false));
    }

    #[test]
    fn ctrl_a_and_its_key_may_come_apart() {
        let mut keys = Keys::default();
        assert_eq!((keys.press(b"\x01"), keys.press(b"x")), ((vec![], false), (vec![], true)));
    }

    #[test]
    fn an_x_alone_is_a_key() {
        assert_eq!(Keys::default().press(b"x"), (b"x".to_vec(), false));
    }
}
