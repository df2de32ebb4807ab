//! Open devices that pass to another process, as when a monitor is replaced by a newer one: the first process stops and
//! saves them, hands its descriptors on, and is gone before the second goes on. No interrupt is lost on the way.
//!
//! Three processes run the same test: the harness's own, which only looks on, and the two.

use crate::card::Card;
use crate::edu::{Edu, NoGuest, wait};
use crate::rig::{Rig, become_readable, vm};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::env;
use std::io::{Read, Write, stdin};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio, exit};
use vfio_assign_core::host::InterruptKind::{self, Intx, Msi, Msix};
use vfio_assign_core::{Bdf, BusMastering, GuestAddr};
use vfio_assign_linux::{AssignOptions, Assigned, HandedDevice, HandedWay, LineEnd};

/// There in the first process, and in the second.
const FIRST: &str = "VFIO_ASSIGN_TEST_FIRST";
/// There in the second: numbers of the first process, of the device, and of what it is handed.
const HANDED: &str = "VFIO_ASSIGN_TEST_HANDED";
/// What the second says when all went well.
const WELL: &str = "the first is gone, and each interrupt has come";

/// A device and its interrupt, as its driver would have it.
struct Interrupt {
    kind: InterruptKind,
    line: Option<LineEnd>,
    open: fn(Bdf) -> Assigned<NoGuest>,
    /// Whether one is raised while the function is stopped. The pin's would be lost in L1: QEMU's interrupt controller
    /// forgets a level that nobody has asked for, which a real one does not.
    while_stopped: bool,
    /// Writing this there raises it.
    raise: (u64, u32),
    /// And this ends it.
    end: (u64, u32),
}

const PIN: Interrupt = Interrupt {
    kind: Intx,
    line: Some(LineEnd::Told),
    open: |device| Edu::with_line(device, Some(LineEnd::Told)).assigned,
    while_stopped: false,
    raise: (Edu::RAISE, 1),
    end: (Edu::ACKNOWLEDGE, 1),
};

const MESSAGE: Interrupt = Interrupt {
    kind: Msi,
    line: None,
    open: |device| Edu::with_msi(device).assigned,
    while_stopped: true,
    ..PIN
};

const VECTOR: Interrupt =
    Interrupt { kind: Msix, open: Card::with_msix, raise: Card::RAISE, end: Card::END, ..MESSAGE };

#[test]
fn the_pin_reaches_the_next_process() {
    let Some(rig) = Rig::get() else { return };
    hand_on("the_pin_reaches_the_next_process", rig.edu, &PIN);
}

#[test]
fn a_message_reaches_the_next_process() {
    let Some(rig) = Rig::get() else { return };
    hand_on("a_message_reaches_the_next_process", rig.edu, &MESSAGE);
}

#[test]
fn a_vector_of_msix_reaches_the_next_process() {
    let Some(rig) = Rig::get() else { return };
    hand_on("a_vector_of_msix_reaches_the_next_process", rig.erring, &VECTOR);
}

fn hand_on(test: &str, device: Bdf, interrupt: &Interrupt) {
    match (env::var(FIRST), env::var(HANDED)) {
        (Err(_), _) => look_on(test),
        (Ok(_), Err(_)) => first(test, device, interrupt),
        (Ok(_), Ok(handed)) => second(&handed, device, interrupt),
    }
}

/// This test in a process of its own.
fn process(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("it is known"));
    command.args([&format!("handed_on::{test}"), "--exact", "--nocapture", "--test-threads=1"]);
    command
}

/// Until nobody has the pipe any more, the second process neither.
fn look_on(test: &str) {
    let mut first = process(test);
    let mut first = first.env(FIRST, "").stdout(Stdio::piped()).spawn().expect("it can be started");
    let mut said = String::new();
    first.stdout.take().expect("a pipe").read_to_string(&mut said).expect("it is text");
    // Not at the beginnings of lines, where it looks like what this process has to say.
    let said = said.replace('\n', "\n    ");
    assert!(first.wait().expect("it ends").success() && said.contains(WELL), "    {said}");
}

fn first(test: &str, device: Bdf, interrupt: &Interrupt) {
    let assigned = (interrupt.open)(device);
    interrupt.raise(&assigned);
    assert_eq!(wait(&assigned, interrupt.kind), 1);
    interrupt.end(&assigned);
    assigned.stop(BusMastering::Kept);
    if interrupt.while_stopped {
        // Nobody hears of it here.
        interrupt.raise(&assigned);
    }
    let state = assigned.save().expect("it is stopped");
    let HandedDevice { group, space, file, way, .. } =
        assigned.device().hand_on().expect("descriptors are left");
    // The number of no iommufd's device.
    let (id, others) = match way {
        HandedWay::Group { group, container } => (0, vec![group, container]),
        HandedWay::Cdev { iommufd, id } => (id, vec![iommufd]),
        other => panic!("{other:?}"),
    };
    let files: Vec<OwnedFd> = [file].into_iter().chain(others).collect();
    let own = getpid().as_raw_nonzero().get().unsigned_abs();
    let mut handed = format!("{own} {group} {space} {id}");
    for file in &files {
        fcntl_setfd(file, FdFlags::empty()).expect("it is open");
        handed += &format!(" {}", file.as_raw_fd());
    }
    let mut second = process(test);
    let second = second.env(FIRST, "").env(HANDED, handed).stdin(Stdio::piped()).spawn();
    let mut pipe = second.expect("it can be started").stdin.take().expect("a pipe");
    pipe.write_all(&state).expect("the second process reads");
    // Nothing is dropped: the device has another owner.
    exit(0);
}

fn second(handed: &str, bdf: Bdf, interrupt: &Interrupt) {
    let mut state = Vec::new();
    stdin().read_to_end(&mut state).expect("the first process writes");
    let mut numbers = handed.split(' ').map(|number| number.parse::<u32>().expect("numbers were handed"));
    let mut next = || numbers.next().expect("all numbers were handed");
    let (first, group, space, id) = (next(), next(), next(), next());
    let first = Pid::from_raw(first as i32).expect("it is a process");
    // Where it has been waited for it is gone, too.
    if let Ok(first) = pidfd_open(first, PidfdFlags::empty()) {
        become_readable(first.as_fd());
    }
    let own = pidfd_open(getpid(), PidfdFlags::empty()).expect("this process exists");
    let files: Vec<OwnedFd> = numbers.map(|number| inherited(&own, number)).collect();
    let mut files = files.into_iter();
    let mut next = || files.next().expect("all files were inherited");
    let file = next();
    let way = match id {
        0 => HandedWay::Group { group: next(), container: next() },
        _ => HandedWay::Cdev { iommufd: next(), id },
    };
    let vm = vm();
    let device = vm.take_over(HandedDevice { bdf, group, space, file, way }).expect("it is open");
    let (guest, options) = (NoGuest::with(interrupt.line), AssignOptions::default());
    let assigned = Assigned::take_over(device, guest, &options, &state).expect("the state is its own");
    // The device may have no reset, and the next test is to find its line as it was: each is ended.
    if interrupt.while_stopped {
        assert_eq!(wait(&assigned, interrupt.kind), 1);
        interrupt.end(&assigned);
    }
    for _ in 0..2 {
        interrupt.raise(&assigned);
        assert_eq!(wait(&assigned, interrupt.kind), 1);
        interrupt.end(&assigned);
    }
    println!("{WELL}");
}

/// A descriptor that this process was started with, by its number.
fn inherited(own: &OwnedFd, number: u32) -> OwnedFd {
    pidfd_getfd(own, number as i32, PidfdGetfdFlags::empty()).expect("it was inherited")
}

impl Interrupt {
    fn raise(&self, assigned: &Assigned<NoGuest>) {
        write(assigned, self.raise);
    }

    fn end(&self, assigned: &Assigned<NoGuest>) {
        write(assigned, self.end);
        if self.line.is_some() {
            assigned.handle_intx_eoi();
        }
    }
}

fn write(assigned: &Assigned<NoGuest>, (address, value): (u64, u32)) {
    assert!(assigned.memory_write(GuestAddr::new(address), &value.to_le_bytes()), "it decodes");
}
