//! Real faults: a file in memory, mapped and then cut off under its mapping. What ends a process, or changes what its
//! signals do, is in a child: the same test in a process of its own, told by a variable to play the other part.

use super::*;
use crate::sys::{Mapping, Placement};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, exit};

const CHILD: &str = "VFIO_ASSIGN_FAULT_CHILD";
/// The exit status of the former handler.
const FORMER_HANDLER: i32 = 42;

/// A page of a file that has gone, mapped for reading and writing.
fn gone() -> (Mapping, OwnedFd) {
    let file = memfd_create("registers", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 0x1000).unwrap();
    let place = Placement { modulus: 0x1000, remainder: 0 };
    let mapping = Mapping::new(file.as_fd(), 0, 0x1000, place, true).unwrap();
    ftruncate(&file, 0).unwrap();
    (mapping, file)
}

/// Runs `part` in a process of its own, which is to end by it, and gives how it ended. `test` is the caller's name.
fn in_child(test: &str, part: fn()) -> ExitStatus {
    if std::env::var_os(CHILD).is_some() {
        part();
        exit(0);
    }
    let test = format!("sys::fault::tests::{test}");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &test, "--nocapture", "--test-threads=1"]).env(CHILD, "1").status().unwrap()
}

/// An access that is none of ours to a page that has gone.
fn fault_elsewhere() {
    let (mapping, _file) = gone();
    let address = mapping.range(0, 1).unwrap().address() as *const u8;
    // SAFETY: the page is mapped; that there is nothing behind it is what the test is about.
    let _never = unsafe { address.read_volatile() };
}

extern "C" fn former(_: c_int) {
    // SAFETY: it ends the process and takes a number.
    unsafe { libc::_exit(FORMER_HANDLER) }
}

fn handle_by(handler: usize) {
    let mut action = set_action(None).unwrap();
    action.sa_sigaction = handler;
    action.sa_flags = 0;
    set_action(Some(&action)).unwrap();
}

#[test]
fn a3_reads_of_every_width_from_what_is_gone_are_faults() {
    install().unwrap();
    let (mapping, _file) = gone();
    for width in [1, 2, 4, 8] {
        assert_eq!(mapping.read(8, width), Some(Err(Fault)));
    }
}

#[test]
fn a3_writes_of_every_width_to_what_is_gone_are_faults() {
    install().unwrap();
    let (mapping, _file) = gone();
    for width in [1, 2, 4, 8] {
        assert_eq!(mapping.write(8, width, 0), Some(Err(Fault)));
    }
}

#[test]
fn what_comes_back_is_read_again() {
    install().unwrap();
    let (mapping, file) = gone();
    let lost = mapping.read(4, 4);
    ftruncate(&file, 0x1000).unwrap();
    rustix::io::pwrite(&file, &[1, 2, 3, 4], 4).unwrap();
    assert_eq!((lost, mapping.read(4, 4)), (Some(Err(Fault)), Some(Ok(0x0403_0201))));
}

#[test]
fn fault_elsewhere_reaches_the_former_handler() {
    let ended = in_child("fault_elsewhere_reaches_the_former_handler", || {
        handle_by(former as *const () as usize);
        install().unwrap();
        fault_elsewhere();
    });
    assert_eq!(ended.code(), Some(FORMER_HANDLER));
}

#[test]
fn our_fault_does_not_reach_the_former_handler() {
    let ended = in_child("our_fault_does_not_reach_the_former_handler", || {
        handle_by(former as *const () as usize);
        install().unwrap();
        assert_eq!(gone().0.read(0, 1), Some(Err(Fault)));
    });
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn fault_elsewhere_kills_where_nobody_handled_it() {
    let ended = in_child("fault_elsewhere_kills_where_nobody_handled_it", || {
        handle_by(SIG_DFL);
        install().unwrap();
        fault_elsewhere();
    });
    assert_eq!(ended.signal(), Some(SIGBUS));
}

#[test]
fn signal_that_a_process_sent_kills_where_nobody_handled_it() {
    let ended = in_child("signal_that_a_process_sent_kills_where_nobody_handled_it", || {
        handle_by(SIG_DFL);
        install().unwrap();
        // SAFETY: it takes a number.
        unsafe { libc::raise(SIGBUS) };
    });
    assert_eq!(ended.signal(), Some(SIGBUS));
}

#[test]
fn signal_that_a_process_sent_stays_ignored() {
    let ended = in_child("signal_that_a_process_sent_stays_ignored", || {
        handle_by(SIG_IGN);
        install().unwrap();
        // SAFETY: it takes a number.
        unsafe { libc::raise(SIGBUS) };
    });
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn second_installation_keeps_the_former_handler() {
    let ended = in_child("second_installation_keeps_the_former_handler", || {
        handle_by(former as *const () as usize);
        install().unwrap();
        install().unwrap();
        fault_elsewhere();
    });
    assert_eq!(ended.code(), Some(FORMER_HANDLER));
}
