//! What the report of a run says of a device, and what a person hears of it at the end.

use std::collections::BTreeMap;

use serde::Serialize;
use vfio_assign_core::host::Message;
use vfio_assign_core::regs::msix;
use vfio_assign_core::{BarIndex, ResetOutcome};
use vfio_assign_linux::{AccessFailures, DeviceEvent, Failure, MsixEntry, MsixState, PieceAccesses};

use super::GuestError;
use super::device::AssignedDevice;

/// A device in the report.
#[derive(Serialize)]
pub(super) struct DeviceReport {
    bdf: String,
    /// The kernel's interface that it is open on.
    backend: String,
    /// What was odd about it when it was assigned.
    findings: Vec<String>,
    bars: Vec<BarReport>,
    /// The kind of interrupt that the guest uses now.
    interrupt_mode: Option<String>,
    vectors: VectorReport,
    /// None where the guest is not offered it.
    msix: Option<MsixReport>,
    counters: BTreeMap<&'static str, u64>,
    failures: FailureReport,
    resets: ResetReport,
    events: EventReport,
    /// Something could not be taken away from the guest.
    quarantined: bool,
    /// Calls to the kernel for all devices together, by name.
    host_calls: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct BarReport {
    index: u8,
    size: u64,
    pieces: Vec<PieceReport>,
}

#[derive(Serialize)]
struct PieceReport {
    first: u64,
    last: u64,
    treatment: String,
    reason: String,
    /// Accesses of the guest's that began in it and left guest mode.
    reads: u64,
    writes: u64,
}

#[derive(Serialize)]
struct VectorReport {
    offered: u16,
    wired: u16,
    armed: u16,
}

/// MSI-X as the guest sees it.
#[derive(Serialize)]
struct MsixReport {
    enabled: bool,
    function_mask: bool,
    /// Those that are not as after a reset.
    entries: Vec<EntryReport>,
}

#[derive(Serialize)]
struct EntryReport {
    vector: usize,
    address: u64,
    data: u32,
    masked: bool,
    /// None where it cannot be told.
    pending: Option<bool>,
    /// Whether an event of the host's stands for it.
    event: bool,
}

impl From<MsixState> for MsixReport {
    fn from(state: MsixState) -> Self {
        let used = |(_, entry): &(usize, MsixEntry)| {
            let reset = Message { address: 0, data: 0 };
            entry.message != reset || !entry.masked || entry.pending != Some(false) || entry.has_event
        };
        let entries = state.entries.into_iter().enumerate().filter(used);
        Self {
            enabled: state.message_control & msix::ENABLE != 0,
            function_mask: state.message_control & msix::FUNCTION_MASK != 0,
            entries: entries.map(EntryReport::from).collect(),
        }
    }
}

impl From<(usize, MsixEntry)> for EntryReport {
    fn from((vector, entry): (usize, MsixEntry)) -> Self {
        let MsixEntry { message: Message { address, data }, masked, pending, has_event: event, .. } = entry;
        Self { vector, address, data, masked, pending, event }
    }
}

/// What failed while the guest ran; how often each kind of step did is among the counters.
#[derive(Default, Serialize)]
struct FailureReport {
    /// Steps of every kind.
    steps: u64,
    /// The last step that failed, and why.
    last_step: Option<String>,
    last_step_error: Option<String>,
    /// Reads of registers that only pass through: the guest read all-ones.
    passthrough_reads: u64,
    /// Writes to them: they were dropped.
    passthrough_writes: u64,
    last_passthrough_error: Option<String>,
}

#[derive(Serialize)]
struct ResetReport {
    /// Whether the last reset of the machine reset the device; none if there was no reset.
    last: Option<&'static str>,
    last_error: Option<String>,
    /// How many did not.
    failed: u64,
}

/// How often the host has said something of the device.
#[derive(Serialize)]
struct EventReport {
    errors: u64,
    release_requests: u64,
}

impl EventReport {
    fn of(device: &AssignedDevice) -> Self {
        let count =
            |wanted| device.events().find(|(event, _)| *event == wanted).map_or(0, |(_, count)| count);
        Self { errors: count(DeviceEvent::Error), release_requests: count(DeviceEvent::ReleaseRequest) }
    }
}

impl From<PieceAccesses> for PieceReport {
    fn from(PieceAccesses { piece, reads, writes, .. }: PieceAccesses) -> Self {
        Self {
            first: piece.span.first().get(),
            last: piece.span.last().get(),
            treatment: piece.treatment.to_string(),
            reason: piece.reason.to_string(),
            reads,
            writes,
        }
    }
}

impl FailureReport {
    fn new(steps: u64, last: Option<&Failure<GuestError>>, accesses: AccessFailures) -> Self {
        Self {
            steps,
            last_step: last.map(|failure| format!("{:?}", failure.step)),
            last_step_error: last.map(|failure| failure.error.to_string()),
            passthrough_reads: accesses.reads,
            passthrough_writes: accesses.writes,
            last_passthrough_error: accesses.last.map(|error| error.to_string()),
        }
    }

    /// One line of all that failed; none if nothing did.
    fn complaint(&self) -> Option<String> {
        let count = self.steps + self.passthrough_reads + self.passthrough_writes;
        let last = self.last_step_error.as_ref().or(self.last_passthrough_error.as_ref());
        let last = last.map_or_else(String::new, |error| format!(", lastly: {error}"));
        (count != 0).then(|| format!("{count} steps and accesses failed while the guest ran{last}"))
    }
}

impl DeviceReport {
    /// The device as it is now.
    pub(super) fn of(device: &AssignedDevice) -> Self {
        let assigned = &device.assigned;
        let (last_reset_error, msix) = (assigned.reset_error(), assigned.msix());
        assigned.inspect(|function, _, _, failure| {
            let bars = BarIndex::ALL.into_iter().filter_map(|index| {
                let bar = function.bars().get(index)?;
                let pieces = assigned.accesses().filter(|piece| piece.bar == index);
                let pieces = pieces.map(PieceReport::from).collect();
                Some(BarReport { index: index.get(), size: bar.size, pieces })
            });
            let counters = function.counters();
            let (wired, armed) = function.msix().map_or((0, 0), |msix| msix.live());
            let failed = [
                ("failed_reads", counters.failed_reads),
                ("failed_forwards", counters.failed_forwards),
                ("failed_revokes", counters.failed_revokes),
                ("failed_establishes", counters.failed_establishes),
            ];
            let steps = failed.iter().map(|(_, count)| count).sum();
            let accesses = [
                ("config_accesses", counters.config_accesses),
                ("bar_accesses", counters.bar_accesses),
                ("local_accesses", counters.local_accesses),
                ("missed_bytes", counters.missed_bytes),
            ];
            Self {
                bdf: assigned.bdf().to_string(),
                backend: assigned.device().backend().to_string(),
                findings: assigned.findings().iter().map(ToString::to_string).collect(),
                bars: bars.collect(),
                interrupt_mode: function.interrupt_mode().map(|kind| kind.to_string()),
                msix: msix.map(MsixReport::from),
                vectors: VectorReport {
                    offered: function.msix().map_or(0, |msix| msix.count()),
                    wired,
                    armed,
                },
                counters: accesses.into_iter().chain(failed).collect(),
                failures: FailureReport::new(steps, failure, assigned.access_failures()),
                resets: ResetReport {
                    last: function.last_reset().map(|outcome| match outcome {
                        ResetOutcome::Reset => "reset",
                        ResetOutcome::NotReset => "not-reset",
                    }),
                    last_error: last_reset_error.map(|error| error.to_string()),
                    failed: device.resets.count(),
                },
                events: EventReport::of(device),
                quarantined: function.is_quarantined(),
                host_calls: device.host.calls(),
            }
        })
    }

    /// One line of all that failed; none if nothing did.
    pub(super) fn complaint(&self) -> Option<String> {
        Some(format!("{}: {}; --report has the counts", self.bdf, self.failures.complaint()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_failed_is_nothing_to_say() {
        assert_eq!(FailureReport::default().complaint(), None);
    }

    #[test]
    fn what_failed_is_said_in_one_line_with_the_last_error() {
        let failures =
            FailureReport { steps: 2, last_step_error: Some("EIO".into()), ..FailureReport::default() };
        let text = "2 steps and accesses failed while the guest ran, lastly: EIO";
        assert_eq!(failures.complaint().as_deref(), Some(text));
    }

    /// A report with one of everything.
    fn report() -> DeviceReport {
        let piece = PieceReport {
            first: 0,
            last: 0xfff,
            treatment: "trapped".into(),
            reason: String::new(),
            reads: 1,
            writes: 2,
        };
        let (address, pending) = (0xfee0_0000, Some(true));
        let entry = EntryReport { vector: 3, address, data: 0x21, masked: false, pending, event: true };
        DeviceReport {
            bdf: "0000:04:00.0".into(),
            backend: "group".into(),
            findings: Vec::new(),
            bars: vec![BarReport { index: 0, size: 0x1000, pieces: vec![piece] }],
            interrupt_mode: Some("MSI-X".into()),
            vectors: VectorReport { offered: 65, wired: 1, armed: 1 },
            msix: Some(MsixReport { enabled: true, function_mask: false, entries: vec![entry] }),
            counters: BTreeMap::new(),
            failures: FailureReport::default(),
            resets: ResetReport { last: None, last_error: None, failed: 0 },
            events: EventReport { errors: 0, release_requests: 0 },
            quarantined: false,
            host_calls: BTreeMap::new(),
        }
    }

    #[test]
    fn every_member_is_described() {
        let document = include_str!("../../../../docs/json.md");
        let (_, section) = document.split_once("### A device in its guest\n").expect("the section");
        let section = section.split("\n#").next().unwrap();
        let documented: Vec<&str> = section.split('`').skip(1).step_by(2).collect();
        let report = serde_json::to_value(report()).unwrap();
        let (bar, entry) = (&report["bars"][0], &report["msix"]["entries"][0]);
        for part in [&report, bar, &bar["pieces"][0], &report["vectors"], &report["msix"], entry] {
            for name in part.as_object().unwrap().keys() {
                assert!(documented.contains(&name.as_str()), "`{name}` is not in docs/json.md");
            }
        }
        let rows =
            section.lines().filter(|line| line.starts_with("| `")).filter_map(|row| row.split('|').nth(1));
        for name in rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
            assert!(report.get(name).is_some(), "there is no `{name}`");
        }
    }
}
