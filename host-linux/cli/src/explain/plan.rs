//! What a guest would be given of a device, as data: what text, JSON and picture are made from.

use serde::Serialize;
use vfio_assign_core::fake::Capture;
use vfio_assign_core::host::InterruptKind;
use vfio_assign_core::{
    AssignedFunction, BarIndex, BarKind, ConfigImage, DescriptionError, InterruptReason, Vector, VectorIndex,
    Window,
};

use crate::help::Help;
use crate::host::{class_name, device_name};
use crate::shape::{DeviceShape, Source};

/// The plan for a device.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) device: Option<String>,
    pub(crate) name: String,
    pub(crate) vendor: String,
    pub(crate) device_id: String,
    pub(crate) class: String,
    pub(crate) class_name: String,
    pub(crate) source: &'static str,
    pub(crate) page_size: u64,
    pub(crate) resettable: bool,
    pub(crate) virtual_function: bool,
    pub(crate) interrupts: Vec<InterruptLine>,
    pub(crate) bars: Vec<BarPlan>,
    pub(crate) config_size: usize,
    pub(crate) config: Vec<ConfigRun>,
    /// What is odd about the device.
    pub(crate) findings: Vec<String>,
}

/// A kind of interrupt.
#[derive(Debug, Serialize)]
pub(crate) struct InterruptLine {
    pub(crate) kind: String,
    pub(crate) vectors: u16,
    pub(crate) offered: bool,
    pub(crate) reason: String,
}

/// A BAR.
#[derive(Debug, Serialize)]
pub(crate) struct BarPlan {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) prefetchable: bool,
    pub(crate) size: u64,
    pub(crate) pieces: Vec<Piece>,
}

/// A part of a BAR.
#[derive(Debug, Serialize)]
pub(crate) struct Piece {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) treatment: String,
    pub(crate) reason: String,
    /// The largest pages that a mapping of it can use.
    pub(crate) page_size: Option<u64>,
}

/// A run of configuration space that is treated alike.
#[derive(Debug, Serialize)]
pub(crate) struct ConfigRun {
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) source: String,
    pub(crate) writes: String,
    pub(crate) rule: &'static str,
}

/// The device cannot be given to a guest.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be given to a guest: {source}")]
pub(crate) struct NoPlan {
    what: String,
    source: DescriptionError,
}

impl NoPlan {
    /// Of a device that cannot be described.
    pub(crate) fn new(capture: &Capture, source: DescriptionError) -> Self {
        Self { what: title(capture), source }
    }
}

impl Help for NoPlan {
    fn help(&self) -> Option<String> {
        Some("the device says of itself what cannot be; `lspci -vvv` shows it".into())
    }
}

impl Piece {
    /// How many bytes.
    pub(crate) fn size(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

impl Plan {
    /// The plan for this device.
    pub(crate) fn of(shape: &DeviceShape) -> Result<Self, NoPlan> {
        let DeviceShape { capture, source } = shape;
        let fake = capture.shape();
        let description = fake.description();
        let mut findings = Vec::new();
        let vectors = vec![Vector::RESET; usize::from(VectorIndex::LIMIT)];
        // Each area is cut by the MSI-X table and the Pending Bit Array at most, here and in the device.
        let areas = description.regions.iter().map(|region| region.areas.len()).sum::<usize>();
        let windows = vec![Window::default(); 5 * areas];
        let finding = |finding: vfio_assign_core::Finding| findings.push(finding.to_string());
        let function = AssignedFunction::new(&description, vectors, windows, finding)
            .map_err(|source| NoPlan::new(capture, source))?;
        let explained = function.explain(&description);
        let interrupts = explained.interrupts().into_iter().map(|plan| InterruptLine {
            kind: plan.kind.to_string(),
            vectors: plan.vectors,
            offered: plan.reason == InterruptReason::Offered,
            reason: match plan.reason {
                InterruptReason::NotInDevice
                    if *source == Source::SysfsHeader && plan.kind != InterruptKind::Intx =>
                {
                    "only root sees whether the device has it".into()
                }
                reason => reason.to_string(),
            },
        });
        let bars = function.bars().iter().map(|(index, bar)| {
            let pieces = explained.bar(index).map(|piece| Piece {
                first: piece.span.first().get(),
                last: piece.span.last().get(),
                treatment: piece.treatment.to_string(),
                reason: piece.reason.to_string(),
                page_size: piece.page_size.map(|page| page.get()),
            });
            let (kind, prefetchable) = kind(bar.kind);
            BarPlan { name: name(index), kind, prefetchable, size: bar.size, pieces: pieces.collect() }
        });
        let (interrupts, bars) = (interrupts.rev().collect(), bars.collect());
        let config = explained.config().map(|piece| ConfigRun {
            first: piece.first.get(),
            last: piece.last.get(),
            source: source_text(piece.source),
            writes: writes_text(piece.writes),
            rule: piece.rule,
        });
        let config = config.collect();
        Ok(Self { interrupts, bars, config, findings, ..Self::empty(capture, *source) })
    }

    fn empty(capture: &Capture, source: Source) -> Self {
        let image = ConfigImage::new(&capture.config);
        let id = image.dword(vfio_assign_core::regs::header::ID);
        let class = image.dword(vfio_assign_core::regs::header::REVISION_AND_CLASS) >> 8;
        Self {
            device: capture.device.map(|bdf| bdf.to_string()),
            name: title(capture),
            vendor: format!("{:04x}", id & 0xffff),
            device_id: format!("{:04x}", id >> 16),
            class: format!("{class:06x}"),
            class_name: class_name(class),
            source: source.text(),
            page_size: capture.page_size.get(),
            resettable: capture.resettable,
            virtual_function: capture.virtual_function,
            interrupts: Vec::new(),
            bars: Vec::new(),
            config_size: capture.config.len(),
            config: Vec::new(),
            findings: Vec::new(),
        }
    }
}

/// What to call the device.
fn title(capture: &Capture) -> String {
    let id = ConfigImage::new(&capture.config).dword(vfio_assign_core::regs::header::ID);
    let known = device_name(id as u16, (id >> 16) as u16);
    if capture.name.is_empty() {
        known.unwrap_or_else(|| "a device".into())
    } else {
        known.unwrap_or_else(|| capture.name.to_string())
    }
}

fn name(index: BarIndex) -> String {
    if index == BarIndex::ROM { "ROM".into() } else { format!("BAR{}", index.get()) }
}

fn kind(kind: BarKind) -> (&'static str, bool) {
    match kind {
        BarKind::Io => ("I/O ports", false),
        BarKind::Memory32 { prefetchable } => ("32-bit memory", prefetchable),
        BarKind::Memory64 { prefetchable } => ("64-bit memory", prefetchable),
        BarKind::Rom => ("Expansion ROM", false),
    }
}

fn source_text(source: vfio_assign_core::Source) -> String {
    use vfio_assign_core::Source as S;
    match source {
        S::Hardware => "hardware",
        S::Virtual => "virtual",
        S::Merged => "merged",
        S::Hidden => "hidden",
    }
    .into()
}

fn writes_text(writes: vfio_assign_core::Writes) -> String {
    use vfio_assign_core::Writes as W;
    match writes {
        W::Forwarded => "forwarded",
        W::Virtual => "virtual",
        W::Both => "both",
        W::Dropped => "dropped",
    }
    .into()
}
