//! M5, M6: what a Linux guest did, replayed: the reads give it what they gave it, and the host calls are counted.

use crate::capture;
use vfio_assign_core::fake::CallKind::{
    self, Arm, CommitRoutes, DisableInterrupts, EnableInterrupts, Route, Wire,
};
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::Step;
use vfio_assign_tests::Rig;

const TRACE: &str = include_str!("../../captures/linux-nvme-msix.trace");

/// Message Control of the capture's MSI-X, and its table.
const CONTROL: u64 = 0x42;
const TABLE: u64 = 0x2000;
const VECTORS: u64 = 65;

/// One trapped access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Line {
    memory: bool,
    write: bool,
    at: u64,
    size: usize,
    value: u64,
}

impl Line {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| {
            let digits = word.strip_prefix("0x").expect("hexadecimal digits");
            u64::from_str_radix(digits, 16).expect("a number")
        };
        let [space, direction, at, size, value] = words[..] else { panic!("`{line}` is no access") };
        assert!(["config", "memory"].contains(&space) && ["read", "write"].contains(&direction), "`{line}`");
        let size = size.parse().expect("a number of bytes");
        Self {
            memory: space == "memory",
            write: direction == "write",
            at: number(at),
            size,
            value: number(value),
        }
    }

    /// The vector and the byte of its entry, if this is an access of the table, which stands where `base` says.
    fn entry(self, base: u64) -> Option<(u64, u64)> {
        let into = self.at.checked_sub(base + TABLE).filter(|into| self.memory && *into < 16 * VECTORS)?;
        Some((into / 16, into % 16))
    }

    /// The vector that this unmasks.
    fn unmasks(self, base: u64) -> Option<u64> {
        let unmasks = self.write && self.value & 1 == 0;
        self.entry(base).filter(|(_, at)| unmasks && *at == 12).map(|(vector, _)| vector)
    }

    /// What it writes to Message Control.
    fn control(self) -> Option<u64> {
        (!self.memory && self.write && self.at == CONTROL).then_some(self.value)
    }
}

fn trace() -> Vec<Line> {
    let (_, lines) = TRACE.split_once("trace 1\n").expect("a trace");
    lines.lines().filter(|line| !line.starts_with('#')).map(Line::parse).collect()
}

/// Where the guest has put BAR 0: the last time that it wrote its address.
fn base() -> u64 {
    let mut writes = trace().into_iter().filter(|line| !line.memory && line.write && line.at == 0x10);
    writes.next_back().expect("BAR 0 is written").value & !0xf
}

/// The device of the trace, on a host like the one that it was recorded on.
fn shape() -> Shape {
    let (device, _) = TRACE.split_once("trace 1\n").expect("a capture before the trace");
    capture(device).shape()
}

/// Replays the trace; `each` hears of the host calls that an access led to.
fn replay(shape: &Shape, mut each: impl FnMut(&Rig, Line, &[Step])) {
    let mut rig = Rig::new(shape);
    for line in trace() {
        let offset = u32::try_from(line.at).unwrap_or(u32::MAX);
        match (line.memory, line.write) {
            (false, false) => assert_eq!(rig.config_read(offset, line.size), line.value, "{line:x?}"),
            (false, true) => rig.config_write(offset, line.size, line.value),
            (true, false) => assert_eq!(rig.read(line.at, line.size), line.value, "{line:x?}"),
            (true, true) => rig.write(line.at, line.size, line.value),
        }
        let steps = rig.steps();
        each(&rig, line, &steps);
    }
    assert_eq!(
        (rig.host.held(), rig.host.interrupts_on(), rig.host.lost_interrupts()),
        ((0, 0, 0), false, 0)
    );
}

fn count(steps: &[Step], kind: CallKind) -> usize {
    steps.iter().filter(|step| CallKind::of(**step) == kind).count()
}

#[test]
fn linux_masks_every_entry_under_function_mask_and_then_unmasks_one_by_one() {
    let mut masked = None;
    let mut starts = Vec::new();
    let mut unmasked = 0;
    for line in trace() {
        match (line.control(), line.entry(base())) {
            (Some(0xc040), _) => masked = Some(Vec::new()),
            (Some(0x8040), _) => {
                starts.push(masked.take().expect("on under Function Mask before"));
            }
            (_, Some((vector, 12))) if line.write && line.value == 1 => {
                masked.iter_mut().for_each(|found| found.push(vector));
            }
            _ => unmasked += usize::from(line.unmasks(base()).is_some()),
        }
    }
    // Once for the queue of commands alone, once for a queue a processor besides.
    let all: Vec<u64> = (0..VECTORS).collect();
    assert_eq!((starts, unmasked), (vec![all.clone(), all], 1 + 5));
}

#[test]
fn m5_linux_gets_each_vector_by_one_wire_one_commit_and_one_arm_and_no_other() {
    let (mut first_unmasks, mut enables) = (0, 0);
    let mut seen = Vec::new();
    replay(&shape(), |rig, line, steps| {
        let kinds: Vec<CallKind> = steps.iter().copied().map(CallKind::of).collect();
        if let Some(control) = line.control() {
            seen.clear();
            enables += usize::from(control == 0xc040);
            let expected: &[CallKind] = if control == 0xc040 { &[EnableInterrupts] } else { &[] };
            assert!(control & 0x8000 == 0 || kinds == expected, "{line:x?}: {kinds:?}");
        } else if let Some(vector) = line.unmasks(base()) {
            assert!(!seen.contains(&vector), "a vector that is unmasked again");
            seen.push(vector);
            first_unmasks += 1;
            assert_eq!(kinds, [Wire, Route, CommitRoutes, Arm], "{line:x?}");
        } else {
            assert_eq!([Wire, CommitRoutes, Arm].map(|kind| count(steps, kind)), [0; 3], "{line:x?}");
        }
        let wired: Vec<u64> = rig.host.wired().iter().map(|vector| u64::from(vector.get())).collect();
        assert!(wired == seen, "{line:x?}: {wired:?} are wired, {seen:?} were unmasked");
    });
    assert_eq!((first_unmasks, enables), (6, 2));
}

#[test]
fn m5_linux_without_resizing_grows_by_doubling_and_as_seldom_as_that_allows() {
    let (mut sizes, mut starts) = (Vec::new(), Vec::new());
    replay(&shape().noresize(), |_, line, steps| {
        if line.unmasks(base()).is_some() {
            assert!([Wire, CommitRoutes].iter().all(|kind| count(steps, *kind) == 1), "{line:x?}: {steps:?}");
            if count(steps, DisableInterrupts) == 1 {
                sizes.extend(steps.iter().filter_map(|step| match step {
                    Step::Wire { first, last, .. } => Some((first.get(), last.get() + 1)),
                    _ => None,
                }));
            }
        } else {
            assert_eq!([Wire, CommitRoutes].map(|kind| count(steps, kind)), [0; 2], "{line:x?}");
        }
        if line.control() == Some(0x40) {
            starts.push(std::mem::take(&mut sizes));
        }
    });
    // One vector needs no growth; five need three, from 1 to 2 to 4 to 8.
    assert_eq!(starts, [vec![], vec![(0, 2), (0, 4), (0, 8)]]);
}

#[test]
fn m6_linux_writing_an_entry_that_is_masked_costs_no_call() {
    replay(&shape(), |_, line, steps| {
        let quiet = line.entry(base()).is_some() && line.unmasks(base()).is_none();
        let masks = count(steps, CallKind::Disarm);
        assert!(!quiet || steps.len() == masks, "{line:x?}: {steps:?}");
    });
}

#[test]
fn f4_linux_sizing_bars_costs_no_call() {
    let sizing = |line: Line| !line.memory && matches!(line.at, 0x10..0x28 | 0x30);
    let mut sized = 0;
    replay(&shape(), |_, line, steps| {
        sized += usize::from(sizing(line));
        assert!(!sizing(line) || steps.is_empty(), "{line:x?}: {steps:?}");
    });
    assert!(sized > 20);
}
