//! The person's side of the console: keys to the guest, Ctrl-A x to leave, signals that end the command.

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::process::Signal;
use vmm_sys_util::errno::Error as SignalErrno;
use vmm_sys_util::signal::register_signal_handler;

use super::event::Event;
use super::power::Stop;
use super::serial::SerialPort;
use super::terminal::{Input, RawTerminal};
use crate::help::Help;

/// Ctrl-A.
const ESCAPE: u8 = 0x01;
const ENDING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// The last signal that asked the command to end; 0 if none did.
static CAUGHT: AtomicI32 = AtomicI32::new(0);
/// Wakes the thread after a signal.
static WAKE: OnceLock<Event> = OnceLock::new();

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
    #[error("cannot catch signal {signal}: {source}")]
    Signal {
        /// The signal's number.
        signal: i32,
        /// The kernel's answer.
        source: SignalErrno,
    },
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
            Self::Signal { .. } => None,
        }
    }
}

/// The console of a running machine. Dropping it gives the terminal back.
pub(crate) struct Console {
    quit: Arc<Event>,
    thread: Option<JoinHandle<()>>,
    _raw: Option<RawTerminal>,
}

impl Console {
    /// Takes the terminal and the signals, and starts to read.
    pub(crate) fn start(serial: Arc<SerialPort>, stop: Sender<Stop>) -> Result<Self, ConsoleError> {
        let event = || Event::new().map_err(|source| ConsoleError::Setup { source });
        if WAKE.get().is_none() {
            // Set once for the process; a loser of a race would have an event that nobody waits for.
            let _first = WAKE.set(event()?);
        }
        for signal in ENDING {
            let signal = signal.as_raw();
            register_signal_handler(signal, caught)
                .map_err(|source| ConsoleError::Signal { signal, source })?;
        }
        let (raw, input) = RawTerminal::enter().map_err(|source| ConsoleError::Terminal { source })?;
        let quit = Arc::new(event()?);
        let reader =
            Reader { serial, stop, quit: Arc::clone(&quit), keys: Keys::default(), waiting: Vec::new() };
        let thread = Builder::new()
            .name("console".into())
            .spawn(move || reader.run(input))
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

/// Handler of the signals that end the command: only notes the signal and wakes the thread.
extern "C" fn caught<I>(signal: c_int, _info: *mut I, _context: *mut c_void) {
    CAUGHT.store(signal, Ordering::SeqCst);
    if let Some(wake) = WAKE.get() {
        wake.raise();
    }
}

struct Reader {
    serial: Arc<SerialPort>,
    stop: Sender<Stop>,
    quit: Arc<Event>,
    keys: Keys,
    /// Input that the guest has no room for yet.
    waiting: Vec<u8>,
}

impl Reader {
    fn run(mut self, input: Input) {
        let stdin = io::stdin();
        let mut open = input == Input::Readable;
        let Some(wake) = WAKE.get() else { return };
        loop {
            let reading = open && self.waiting.is_empty();
            let ready = wait([
                Some(wake.as_fd()),
                Some(self.quit.as_fd()),
                (!self.waiting.is_empty()).then(|| self.serial.drained().as_fd()),
                reading.then(|| stdin.as_fd()),
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
            if signal {
                wake.clear();
                self.tell(Stop::Signal(CAUGHT.load(Ordering::SeqCst)));
            }
            if drained {
                self.serial.drained().clear();
                self.give(Vec::new());
            }
            if key {
                open = self.read(stdin.as_fd());
            }
        }
    }

    /// Reads once; false at the end of input.
    fn read(&mut self, stdin: BorrowedFd<'_>) -> bool {
        let mut bytes = [0; 256];
        match rustix::io::read(stdin, &mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                let (for_guest, leave) = self.keys.press(&bytes[..count]);
                self.give(for_guest);
                if leave {
                    self.tell(Stop::Left);
                }
                true
            }
            Err(Errno::INTR | Errno::AGAIN) => true,
            // A closed descriptor, a terminal that hung up.
            Err(errno) => {
                log::debug!("standard input ends: {errno}");
                false
            }
        }
    }

    fn give(&mut self, bytes: Vec<u8>) {
        self.waiting.extend(bytes);
        while !self.waiting.is_empty() {
            let taken = self.serial.enqueue(&self.waiting);
            if taken == 0 {
                return;
            }
            self.waiting.drain(..taken);
        }
    }

    fn tell(&self, stop: Stop) {
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
    use super::*;

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
