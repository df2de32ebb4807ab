//! A device's shape as text: what `docs/captures.md` describes, read and written.
//!
//! A capture holds what a device looks like and never what is in it. Lines of `lspci -xxxx` are lines of a capture.

mod read;

use super::shape::Shape;
use crate::addr::{Bdf, PageSize};
use crate::windows::MmapArea;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// A region as VFIO tells it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CapturedRegion {
    /// Its size in bytes; 0 is an absent region.
    pub size: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether it can be mapped.
    pub mappable: bool,
    /// Whether its MSI-X pages can be mapped, too.
    pub msix_mappable: bool,
    /// The list of what can be mapped, if there is one; else it is all.
    pub areas: Option<Vec<MmapArea>>,
}

/// A kind of interrupt as VFIO tells it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CapturedInterrupts {
    /// How many there are.
    pub count: u16,
    /// More cannot be added while some are in use.
    pub noresize: bool,
}

/// The shape of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capture {
    /// Where it was.
    pub device: Option<Bdf>,
    /// What it was called there.
    pub name: Box<str>,
    /// Configuration space, 256 or 4096 bytes.
    pub config: Vec<u8>,
    /// The host's page size.
    pub page_size: PageSize,
    /// BARs 0 to 5, and the ROM.
    pub regions: [CapturedRegion; 7],
    /// INTx, MSI, MSI-X, error and request interrupts.
    pub interrupts: [CapturedInterrupts; 5],
    /// Whether VFIO can reset it.
    pub resettable: bool,
    /// Whether it is a virtual function.
    pub virtual_function: bool,
}

/// What is wrong with a line of a capture.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureProblem {
    /// The first line is not `capture 1`.
    #[error("a capture begins with the line `capture 1`")]
    NotACapture,
    /// The line begins with a word that no line begins with.
    #[error("no line begins with `{0}`")]
    UnknownLine(Box<str>),
    /// Something is missing at the end of the line.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A word is not what belongs there.
    #[error("`{word}` is no {expected}")]
    Word {
        /// The word.
        word: Box<str>,
        /// What belongs there.
        expected: &'static str,
    },
    /// A number is larger than it can be.
    #[error("`{word}` is larger than {most:#x}")]
    TooLarge {
        /// The word.
        word: Box<str>,
        /// The most.
        most: u64,
    },
    /// More than 16 bytes of configuration space in one line.
    #[error("more than 16 bytes in one line")]
    LongLine,
    /// Something is told a second time.
    #[error("{0} is told twice")]
    Twice(&'static str),
    /// An area stands before any region, or behind one that cannot be mapped.
    #[error("an area belongs behind a region that has `mmap`")]
    StrayArea,
    /// There are too many areas.
    #[error("more than {0} areas")]
    TooManyAreas(usize),
    /// The text ends without a byte of configuration space.
    #[error("there is no configuration space")]
    NoConfig,
    /// The text ends before its end.
    #[error("the line `end` is missing: this is not all of the capture")]
    NoEnd,
    /// Something stands behind the end.
    #[error("nothing belongs behind the line `end`")]
    AfterEnd,
}

/// Why a text is no capture.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct CaptureError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: CaptureProblem,
}

/// How regions are called, by [`BarIndex`](crate::BarIndex).
const REGIONS: [&str; 7] = ["bar0", "bar1", "bar2", "bar3", "bar4", "bar5", "rom"];

/// How kinds of interrupts are called, by VFIO's index.
const INTERRUPTS: [&str; 5] = ["intx", "msi", "msix", "err", "req"];

impl Capture {
    /// The device and its host that a fake host is made from.
    pub fn shape(&self) -> Shape {
        let mut shape = Shape::new();
        shape.config.clone_from(&self.config);
        for ((size, areas), region) in shape.sizes.iter_mut().zip(&mut shape.areas).zip(&self.regions) {
            *size = region.size;
            *areas = match &region.areas {
                _ if !region.mappable => Vec::new(),
                Some(listed) => listed.clone(),
                None => vec![MmapArea { offset: 0, size: region.size }],
            };
        }
        let [intx, msi, msix, ..] = self.interrupts;
        shape.page_size = self.page_size;
        shape.resizable = !msix.noresize;
        shape.carried = [intx, msi, msix].map(|kind| kind.count != 0);
        shape.resettable = self.resettable;
        shape.virtual_function = self.virtual_function;
        shape.msix_mappable = self.regions.iter().any(|region| region.msix_mappable);
        shape
    }
}

impl From<&Capture> for Shape {
    fn from(capture: &Capture) -> Self {
        capture.shape()
    }
}

/// The text that reads as this capture.
impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "capture 1")?;
        if let Some(device) = self.device {
            writeln!(f, "{device} {}", self.name)?;
        }
        writeln!(f, "config {}", self.config.len())?;
        for (line, bytes) in self.config.chunks(16).enumerate() {
            // A first line keeps a space of zeros from being none.
            if line == 0 || bytes.iter().any(|byte| *byte != 0) {
                write!(f, "{:02x}:", line * 16)?;
                bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                writeln!(f)?;
            }
        }
        writeln!(f, "page {:#x}", self.page_size.get())?;
        for (name, region) in REGIONS.iter().zip(&self.regions) {
            write_region(f, name, region)?;
        }
        for (name, kind) in INTERRUPTS.iter().zip(&self.interrupts).filter(|(_, kind)| kind.count != 0) {
            writeln!(f, "interrupts {name} {}{}", kind.count, if kind.noresize { " noresize" } else { "" })?;
        }
        for (name, set) in [("reset", self.resettable), ("virtual-function", self.virtual_function)] {
            if set {
                writeln!(f, "{name}")?;
            }
        }
        writeln!(f, "end")
    }
}

fn write_region(f: &mut fmt::Formatter<'_>, name: &str, region: &CapturedRegion) -> fmt::Result {
    if region.size == 0 {
        return Ok(());
    }
    write!(f, "region {name} {:#x}", region.size)?;
    let flags = [
        ("read", region.readable),
        ("write", region.writable),
        ("mmap", region.mappable),
        ("sparse", region.areas.is_some()),
        ("msix-mappable", region.msix_mappable),
    ];
    for (flag, _) in flags.into_iter().filter(|(_, set)| *set) {
        write!(f, " {flag}")?;
    }
    writeln!(f)?;
    let areas = region.areas.as_deref().unwrap_or_default();
    areas.iter().try_for_each(|area| writeln!(f, "area {:#x} {:#x}", area.offset, area.size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    /// What is wrong with the line `line` of a capture that is right otherwise.
    fn problem(line: &str) -> CaptureProblem {
        let text = std::format!("capture 1\n00: 36 1b\n{line}\n");
        let error = text.parse::<Capture>().unwrap_err();
        assert_eq!(error.line, 2 + line.lines().count());
        error.problem
    }

    fn capture(lines: &str) -> Capture {
        std::format!("capture 1\n00: 36 1b\n{lines}\nend\n").parse().unwrap()
    }

    fn word(word: &str, expected: &'static str) -> CaptureProblem {
        CaptureProblem::Word { word: word.into(), expected }
    }

    #[test]
    fn a_text_of_another_kind_is_none() {
        let error = CaptureError { line: 2, problem: CaptureProblem::NotACapture };
        assert_eq!("\nhello".parse::<Capture>(), Err(error));
    }

    #[test]
    fn nothing_is_no_capture() {
        let error = CaptureError { line: 1, problem: CaptureProblem::NotACapture };
        assert_eq!("".parse::<Capture>(), Err(error));
    }

    #[test]
    fn lines_of_zeros_are_left_out_except_the_first() {
        let zeros = " 00".repeat(15);
        let text = std::format!("capture 1\n00: 00{zeros}\n10: 00{zeros}\n20: 01{zeros}\nend\n");
        let shown = text.parse::<Capture>().unwrap().to_string();
        let lines: Vec<_> =
            shown.lines().filter_map(|line| line.split_once(": ").map(|(at, _)| at)).collect();
        assert_eq!(lines, ["00", "20"]);
    }

    #[test]
    fn a_shape_is_made_from_a_capture() {
        let capture = capture("region bar0 0x1000 read write mmap\nreset");
        let shape = Shape::from(&capture);
        assert_eq!((shape.config.get(0..2), shape.resettable), (Some(&[0x36, 0x1b][..]), true));
        assert_eq!(shape.sizes[0], 0x1000);
    }

    #[test]
    fn another_version_is_refused() {
        assert_eq!("capture 2".parse::<Capture>().unwrap_err().problem, CaptureProblem::NotACapture);
    }

    #[test]
    fn without_bytes_there_is_no_configuration_space() {
        let error = CaptureError { line: 3, problem: CaptureProblem::NoConfig };
        assert_eq!("capture 1\nreset\nend".parse::<Capture>(), Err(error));
    }

    #[test]
    fn a_text_that_ends_too_early_is_none() {
        let error = CaptureError { line: 2, problem: CaptureProblem::NoEnd };
        assert_eq!("capture 1\n00: 36 1b\n".parse::<Capture>(), Err(error));
    }

    #[test]
    fn nothing_stands_behind_the_end() {
        assert_eq!(problem("end\nreset"), CaptureProblem::AfterEnd);
    }

    #[test]
    fn lines_of_lspci_are_lines_of_a_capture() {
        let capture = capture("00:04.0 Some controller: of whom\n10: 04 00 00 c0 00\n100: 01");
        assert_eq!(
            (
                capture.device,
                &*capture.name,
                capture.config.len(),
                capture.config[0x13],
                capture.config[0x100]
            ),
            (Bdf::new(0, 0, 4, 0), "Some controller: of whom", 4096, 0xc0, 1)
        );
    }

    #[test]
    fn configuration_space_has_256_bytes_unless_it_needs_more() {
        assert_eq!((capture("f0: 1").config.len(), capture("config 4096").config.len()), (256, 4096));
    }

    #[test]
    fn regions_without_a_list_are_mapped_whole() {
        let shape = capture("region bar2 0x4000 read mmap").shape();
        assert_eq!(
            (shape.sizes[2], &shape.areas[2][..]),
            (0x4000, &[MmapArea { offset: 0, size: 0x4000 }][..])
        );
    }

    #[test]
    fn regions_with_an_empty_list_are_not_mapped() {
        assert_eq!(capture("region bar2 0x4000 mmap sparse").shape().areas[2], []);
    }

    #[test]
    fn areas_are_kept_as_they_are() {
        let shape = capture("region bar0 0x4000 mmap\narea 0x3000 4096\narea 0 0").shape();
        let areas = [MmapArea { offset: 0x3000, size: 0x1000 }, MmapArea { offset: 0, size: 0 }];
        assert_eq!(shape.areas[0], areas);
    }

    #[test]
    fn vectors_that_cannot_be_added_are_said() {
        let shape = capture("interrupts msix 65 noresize\ninterrupts intx 1").shape();
        assert_eq!((shape.resizable, shape.carried), (false, [true, false, true]));
    }

    #[test]
    fn unknown_lines_are_errors() {
        assert_eq!(problem("regions bar0"), CaptureProblem::UnknownLine("regions".into()));
    }

    #[test]
    fn offsets_and_bytes_are_hexadecimal() {
        assert_eq!(problem("1g: 00"), word("1g", "offset in hexadecimal digits"));
        assert_eq!(problem("10: +1"), word("+1", "byte in two hexadecimal digits"));
        assert_eq!(problem(": 00"), word("", "offset in hexadecimal digits"));
    }

    #[test]
    fn bytes_past_the_end_are_errors() {
        let error = |word: &str, most| CaptureProblem::TooLarge { word: word.into(), most };
        assert_eq!(problem("1000: 00"), error("1000", 4095));
        assert_eq!(problem("fff: 00 01"), error("01", 4095));
        assert_eq!(problem("10: 100"), error("100", 0xff));
        assert_eq!(problem("99999999999999999999: 0"), error("99999999999999999999", 4095));
    }

    #[test]
    fn seventeen_bytes_are_too_many() {
        assert_eq!(problem("00: 0 1 2 3 4 5 6 7 8 9 a b c d e f 0"), CaptureProblem::LongLine);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(problem("region bar0"), CaptureProblem::Missing("the region's size"));
        assert_eq!(problem("region bar0 0x1000 mmap\narea 0").to_string(), "the area's size is missing");
    }

    #[test]
    fn areas_need_a_region_that_can_be_mapped() {
        assert_eq!(problem("area 0 0x1000"), CaptureProblem::StrayArea);
    }

    #[test]
    fn what_is_told_twice_is_an_error() {
        assert_eq!(problem("reset\nreset").to_string(), "reset is told twice");
    }

    #[test]
    fn sizes_that_are_none_are_errors() {
        assert_eq!(problem("page 4095"), word("4095", "page size in bytes"));
        assert_eq!(problem("config 100"), word("100", "size of configuration space: 256 or 4096"));
        assert_eq!(problem("interrupts msix many"), word("many", "number of interrupts"));
    }

    #[test]
    fn words_at_the_end_are_errors() {
        assert_eq!(problem("reset now"), word("now", "end of the line"));
    }

    #[test]
    fn what_is_written_reads_as_the_same() {
        let capture = capture(
            "00:04.0 A name\nregion bar0 0x4000 read write mmap msix-mappable\narea 0 0x2000\n\
             region rom 2048 read\nregion bar1 16 mmap sparse\ninterrupts msi 4 noresize\nreset\nvirtual-function\npage 16384",
        );
        assert_eq!(capture.to_string().parse(), Ok(capture));
    }
}
