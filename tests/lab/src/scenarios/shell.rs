//! The guest's shell on the terminal of the person who started the lab.
//!
//! Keys go to the monitor as they are: no QEMU on the way has a console of its own, so Ctrl-A is the monitor's.

use super::{Cause, Choice, Failure, check_kernel_log, demo, named, read_in_l1};
use crate::bench::Bench;
use crate::disk::Disk;
use crate::driver::{self, VFIO};
use crate::guest::{Mark, Work};
use crate::l1::{Keyboard, L1, Watch};
use crate::machine::{DISK_BDF, Machine};
use crate::progress::Progress;
use crate::protocol::{End, Event};
use crate::report::Report;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::io::{self, Read, Write};
use std::rc::Rc;

/// Which guest.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    disk: demo::Options,
    /// Which monitor runs the guest.
    #[arg(long, value_enum, default_value_t = Choice::Ours)]
    monitor: Choice,
}

/// Runs until the guest is off or the person leaves.
pub(crate) fn run(options: &Options, progress: &Rc<Progress>) -> Result<Report, Failure> {
    named("shell", carry_through(options, progress))
}

fn carry_through(options: &Options, progress: &Rc<Progress>) -> Result<Report, Cause> {
    let bench = Bench::on(options.disk.host(), progress, options.monitor == Choice::Ours)?;
    let mut disk = Disk::random()?;
    let (monitor, machine) =
        options.monitor.monitor(&bench, Machine::new().nvme(&disk, options.disk.vectors()));
    let mut l1 = bench.boot(&machine, Watch::patient())?;
    driver::bind(&mut l1, DISK_BDF, VFIO)?;
    progress.clear();
    println!("A 64 MiB NVMe disk of random bytes is assigned to the guest that boots now.");
    println!("sha256 of the disk, from outside: {}", disk.digest()?);
    println!("Leave with 'exit' in the guest's shell, or at any time with Ctrl-A x.\n");
    let launch = options.disk.host().tell(&monitor, monitor.launch(DISK_BDF, Work::Shell));
    let process = l1.spawn(launch)?;
    let end = converse(&mut l1, process)?;
    println!();
    progress.step("L1 takes the disk back and reads it");
    let in_l1 = read_in_l1(&mut l1)?;
    let log = l1.power_off()?;
    let mut report = Report::new("shell");
    report.equal("the monitor ends well", format!("{:?}", End::Status(0)), format!("{end:?}"));
    report.equal("the disk is back in L1 and reads as the host's file", disk.digest()?, in_l1);
    check_kernel_log(&mut report, &log);
    Ok(report)
}

/// Carries keys and characters until the monitor ends.
pub(super) fn converse(l1: &mut L1, process: u32) -> Result<End, Cause> {
    let mut keyboard = Some(l1.keyboard(process)?);
    let _raw = if isatty(io::stdin()) {
        let raw = RawTerminal::enter()?;
        if let Some(keyboard) = keyboard.take() {
            follow_keys(keyboard);
        }
        Some(raw)
    } else {
        None
    };
    let mut line = Vec::new();
    loop {
        match l1.next()? {
            Event::Output { process: from, bytes, .. } if from == process => {
                io::stdout().write_all(&bytes.0)?;
                io::stdout().flush()?;
                line.extend_from_slice(&bytes.0);
                // What does not come from a terminal is no person's and waits until somebody listens.
                if keyboard.is_some()
                    && says_shell(&mut line)
                    && let Some(keyboard) = keyboard.take()
                {
                    follow_keys(keyboard);
                }
            }
            Event::Exited { process: ended, end, .. } if ended == process => return Ok(end),
            _ => {}
        }
    }
}

/// Whether the guest has said that its shell is there; keeps the part of the text that is no whole line yet.
fn says_shell(text: &mut Vec<u8>) -> bool {
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let lines = String::from_utf8_lossy(&text[..whole]).into_owned();
    text.drain(..whole);
    lines.lines().filter_map(|line| Mark::parse(line, 0)).any(|mark| mark.word == "shell")
}

fn follow_keys(mut keyboard: Keyboard) {
    std::thread::spawn(move || {
        let mut keys = [0; 1024];
        while let Ok(count @ 1..) = io::stdin().read(&mut keys) {
            if keyboard.press(&keys[..count]).is_err() {
                return;
            }
        }
    });
}

/// The terminal in raw mode, until dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.before) {
            eprintln!("the terminal stays in raw mode ({error}); 'reset' mends it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_in_two_pieces_is_heard() {
        let mut text = b"[    1.0] lab: sh".to_vec();
        assert!(!says_shell(&mut text));
        text.extend_from_slice(b"ell\r\n");
        assert!(says_shell(&mut text));
    }
}
