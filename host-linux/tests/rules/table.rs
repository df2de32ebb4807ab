//! What VFIO answers to orders of requests, as a table. It is run against the scripted kernel (`tests/tests/rules`) and
//! against a real one (`real_kernel`), so that the first says no other than the second.

use std::fmt;
use std::sync::Arc;
use vfio_assign_core::{BarIndex, VectorIndex};
use vfio_assign_linux::{Device, Errno, IrqError, IrqKind, IrqVectors, RegionError, RegionIndex, ResetError};

/// Somebody who changes interrupts of the device: each knows only of what they have done themselves.
#[derive(Clone, Copy, Debug)]
enum Who {
    /// By MSI-X.
    One,
    /// By MSI-X, too.
    Other,
    /// By the pin.
    Pin,
}

/// A request.
#[derive(Clone, Copy, Debug)]
enum Do {
    /// On, with no vector that signals anything.
    Enable(Who),
    /// Leads the vectors from the first to the last to events.
    Wire(Who, u16, u16),
    /// Takes them off their events.
    Unwire(Who, u16, u16),
    Off(Who),
    /// Writes Command: memory decoding on, or off.
    Decode(bool),
    /// Reads the BAR's first register.
    ReadBar,
    WriteBar,
    ReadConfig,
    Reset,
    /// Resets the bus or slot.
    ResetTogether,
}

/// What the kernel says to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Says {
    Done,
    Refused(Errno),
    /// Done where vectors can be added while they are on, else `EINVAL`.
    DoneUnlessNoresize,
}

use Do::{Decode, Enable, Off, ReadBar, ReadConfig, Reset, ResetTogether, Unwire, Wire, WriteBar};
use Says::{Done, DoneUnlessNoresize, Refused};
use Who::{One, Other, Pin};

type Script = (&'static str, &'static [(Do, Says)]);

/// Each starts with a device that was just opened.
const SCRIPTS: &[Script] = &[
    (
        "one kind at a time",
        &[
            (Wire(Pin, 0, 0), Done),
            (Wire(One, 0, 0), Refused(Errno::EINVAL)),
            (Enable(One), Refused(Errno::EINVAL)),
            (Off(Pin), Done),
            (Wire(One, 0, 0), Done),
            (Wire(Pin, 0, 0), Refused(Errno::EINVAL)),
            (Off(One), Done),
            (Wire(Pin, 0, 0), Done),
        ],
    ),
    (
        "what is off cannot be switched off",
        &[(Enable(One), Done), (Enable(Other), Done), (Off(Other), Done), (Off(One), Refused(Errno::EINVAL))],
    ),
    (
        "vectors are added, or not",
        &[
            (Wire(One, 0, 1), Done),
            (Wire(One, 2, 3), DoneUnlessNoresize),
            (Off(One), Done),
            (Wire(One, 0, 3), Done),
        ],
    ),
    (
        "vectors within those that are on are taken off and put back",
        &[
            (Wire(One, 0, 3), Done),
            (Unwire(One, 1, 2), Done),
            (Wire(One, 2, 2), Done),
            (Unwire(One, 0, 3), Done),
        ],
    ),
    (
        "all vectors can be taken off, and MSI-X stays on",
        &[(Wire(One, 0, 1), Done), (Unwire(One, 0, 1), Done), (Wire(Pin, 0, 0), Refused(Errno::EINVAL))],
    ),
    (
        "the pin can be led elsewhere while it is on",
        &[(Wire(Pin, 0, 0), Done), (Unwire(Pin, 0, 0), Done), (Off(Pin), Done), (Off(Pin), Done)],
    ),
    (
        "registers answer while the device decodes them",
        &[
            (Decode(true), Done),
            (ReadBar, Done),
            (Decode(false), Done),
            (ReadBar, Refused(Errno::EIO)),
            (WriteBar, Refused(Errno::EIO)),
            (ReadConfig, Done),
            (Decode(true), Done),
            (ReadBar, Done),
        ],
    ),
    ("a device that was opened decodes", &[(ReadBar, Done)]),
    ("a reset leaves decoding on", &[(Decode(true), Done), (Reset, Done), (ReadBar, Done)]),
    ("a reset leaves decoding off", &[(Decode(false), Done), (Reset, Done), (ReadBar, Refused(Errno::EIO))]),
    (
        "a reset leaves MSI-X on",
        &[
            (Wire(One, 0, 1), Done),
            (Reset, Done),
            (Wire(Pin, 0, 0), Refused(Errno::EINVAL)),
            (Wire(One, 0, 0), Done),
            (Off(One), Done),
        ],
    ),
];

/// Each starts with two devices of one bus that were just opened, and makes its requests of the first. Here the pin is
/// what both have.
const RESETS_TOGETHER: &[Script] = &[
    (
        "a reset of the bus leaves decoding on",
        &[(Decode(true), Done), (ResetTogether, Done), (ReadBar, Done)],
    ),
    (
        "a reset of the bus leaves decoding off",
        &[(Decode(false), Done), (ResetTogether, Done), (ReadBar, Refused(Errno::EIO)), (ReadConfig, Done)],
    ),
    (
        "a reset of the bus leaves the pin on",
        &[(Wire(Pin, 0, 0), Done), (ResetTogether, Done), (Off(Pin), Done)],
    ),
];

/// Runs every script of [`RESETS_TOGETHER`], as [`run`] does.
pub(crate) fn run_reset_together(open: &dyn Fn() -> [Arc<Device>; 2]) -> (Vec<String>, usize) {
    let mut others = Vec::new();
    let result = run_scripts(RESETS_TOGETHER, &mut || {
        // The last script's are closed before they are opened again.
        others.clear();
        let [first, other] = open();
        others.push(other);
        first
    });
    drop(others);
    result
}

/// Runs every script on a device that `open` opens; where it went otherwise, and how many requests were made.
pub(crate) fn run(open: &dyn Fn() -> Arc<Device>) -> (Vec<String>, usize) {
    run_scripts(SCRIPTS, &mut || open())
}

fn run_scripts(scripts: &[Script], open: &mut dyn FnMut() -> Arc<Device>) -> (Vec<String>, usize) {
    let mut wrong = Vec::new();
    let mut requests = 0;
    for (name, steps) in scripts {
        let mut actors = Actors::new(open());
        for (place, (request, expected)) in steps.iter().enumerate() {
            requests += 1;
            let said = actors.make(*request);
            if said != actors.resolved(*expected) {
                wrong.push(
                    Difference { name, place, request: *request, expected: *expected, said }.to_string(),
                );
            }
        }
    }
    (wrong, requests)
}

struct Difference {
    name: &'static str,
    place: usize,
    request: Do,
    expected: Says,
    said: Says,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, place, request, expected, said } = self;
        write!(f, "{name}: request {place}, {request:?}: {said:?}, and not {expected:?}")
    }
}

struct Actors {
    vectors: [IrqVectors; 3],
    device: Arc<Device>,
}

impl Actors {
    fn new(device: Arc<Device>) -> Self {
        let kinds = [IrqKind::Msix, IrqKind::Msix, IrqKind::Intx];
        Self { vectors: kinds.map(|kind| IrqVectors::new(device.clone(), kind)), device }
    }

    /// What is expected of this device.
    fn resolved(&self, expected: Says) -> Says {
        match expected {
            DoneUnlessNoresize if self.device.irq(IrqKind::Msix).is_some_and(|irq| irq.noresize) => {
                Refused(Errno::EINVAL)
            }
            DoneUnlessNoresize => Done,
            expected => expected,
        }
    }

    fn of(&mut self, who: Who) -> &mut IrqVectors {
        &mut self.vectors[who as usize]
    }

    fn make(&mut self, request: Do) -> Says {
        let vector = |index| VectorIndex::new(index).expect("a vector of MSI-X");
        let bar = RegionIndex::bar(BarIndex::BARS[0]);
        match request {
            Enable(who) => of_irq(self.of(who).enable()),
            Wire(who, first, last) => of_irq(self.of(who).wire(vector(first), vector(last), &|_| true)),
            Unwire(who, first, last) => of_irq(self.of(who).wire(vector(first), vector(last), &|_| false)),
            Off(who) => of_irq(self.of(who).disable()),
            Decode(on) => {
                let command = [if on { 2 } else { 0 }, 0];
                of_region(self.device.write(RegionIndex::CONFIG, 4, &command))
            }
            ReadBar => of_region(self.device.read(bar, 0, &mut [0; 4])),
            WriteBar => of_region(self.device.write(bar, 0, &[0; 4])),
            ReadConfig => of_region(self.device.read(RegionIndex::CONFIG, 0, &mut [0; 4])),
            Reset => of_reset(self.device.reset()),
            ResetTogether => of_reset(self.device.hot_reset()),
        }
    }
}

fn of_irq(result: Result<(), IrqError>) -> Says {
    match result {
        Ok(()) => Done,
        Err(IrqError::Refused { errno, .. }) => Refused(errno),
        Err(error) => panic!("{error}"),
    }
}

fn of_reset(result: Result<(), ResetError>) -> Says {
    match result {
        Ok(()) => Done,
        Err(ResetError::Failed { errno, .. }) => Refused(errno),
        Err(error) => panic!("{error}"),
    }
}

fn of_region(result: Result<(), RegionError>) -> Says {
    match result {
        Ok(()) => Done,
        Err(RegionError::Failed { errno, .. }) => Refused(errno),
        Err(error) => panic!("{error}"),
    }
}
